"""Views rendered on a device, or by Triton's interpreter, against those of the CPU: what the tests and the experiment
under docs/ both run. Every function yields its comparisons one by one."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from teacher_cache.device import Normalise
from teacher_cache.replay.block import DecodedBlock, replay_view, sample_digest
from teacher_cache.replay.gpu import render as gpu
from teacher_cache.replay.gpu.batch import Batch, Run
from teacher_cache.replay.gpu.hashing import PixelHasher
from teacher_cache.replay.gpu.joined import Piece, join_plans
from teacher_cache.replay.gpu.normalise import normalised as kernel_normalised
from teacher_cache.replay.gpu.plan import Sources, plan_views
from teacher_cache.replay.mix import LAMBDA_ONE, MixPlan
from teacher_cache.replay.params import ViewParams
from teacher_cache.replay.policy import Policy
from tests.replay.equality import SEED, Compared, compared, gathered


def rendered(device: torch.device, policy: Policy, pictures: list[np.ndarray], views: list[ViewParams]) -> np.ndarray:
    """Each picture by its view parameters, unmixed, on the device."""
    renderer = gpu.Renderer(policy, device)
    sizes = [-(-pixels.size // 16) * 16 for pixels in pictures]
    packed = np.zeros(sum(sizes), np.uint8)
    offsets = np.cumsum([0, *sizes])
    for place, pixels in zip(offsets.tolist(), pictures, strict=False):
        packed[place : place + pixels.size] = pixels.ravel()
    num = len(views)
    sources = Sources(offsets[:-1], np.array([(0, 0, *pixels.shape[:2]) for pixels in pictures]))
    alone = MixPlan(np.arange(num), np.full(num, LAMBDA_ONE, np.uint32), np.zeros((num, 4), np.int32))
    plan = plan_views(gathered(policy, views), np.arange(num), sources, [alone], num)
    batch = Batch(plan, packed, [Run(0, num, frozenset())], np.zeros((num, 2), np.int32), alone.lambdas)
    return renderer.render(plan, *renderer.upload(batch)).cpu().numpy()


def blocks(
    policy: Policy, decoded: list[DecodedBlock], views: list[int], name: str, device: torch.device
) -> Iterator[Compared]:
    """Whole policies: pixels of blocks, then class pairs, lambdas and digests."""
    found = gpu.render_blocks(gpu.Renderer(policy, device), SEED, decoded, views)
    replayed = [replay_view(policy, SEED, block, view) for block in decoded for view in views]
    theirs = np.concatenate([view.pixels for view in replayed])
    yield compared(f"{name}: pixels", found.pixels.cpu().numpy(), theirs)
    digests = np.array([view.digest for view in replayed], np.uint64)
    same = (found.digests.ravel() == digests).sum()
    pairs = np.array_equal(found.class_pairs, np.concatenate([view.class_pairs for view in replayed]))
    lambdas = np.array_equal(found.lambdas, np.concatenate([view.lambdas for view in replayed]))
    yield Compared(f"{name}: digests, class pairs, lambdas", int(same), len(digests), int(not (pairs and lambdas)))


def joined(
    policy: Policy, decoded: Sequence[DecodedBlock], views: list[int], name: str, device: torch.device
) -> Iterator[Compared]:
    """Blocks whose plans are joined, the last one's views apart: the pixels that each gives alone."""
    renderer = gpu.Renderer(policy, device)
    batches = [renderer.prepare(SEED, [block], views) for block in decoded]
    alone = [renderer.render(batch.plan, *renderer.upload(batch)).cpu().numpy() for batch in batches]
    places = np.cumsum([0, *(len(batch.pictures) for batch in batches)]).tolist()
    pieces = [
        Piece(batch.plan, range(batch.plan.num_views), place)
        for batch, place in zip(batches[:-1], places, strict=False)
    ]
    last, cut = batches[-1], batches[-1].runs[-1].first
    pieces += [Piece(last.plan, part, places[-2]) for part in (range(cut, last.plan.num_views), range(cut))]
    plan = join_plans(pieces)
    pictures = torch.from_numpy(np.concatenate([batch.pictures for batch in batches])).to(device)
    found = renderer.render(plan, pictures, renderer.send(plan)).cpu().numpy()
    yield compared(f"{name}: joined", found, np.concatenate([*alone[:-1], alone[-1][cut:], alone[-1][:cut]]))


def hashes(device: torch.device) -> Iterator[Compared]:
    """Views of all kinds of length: hashed there, and those that are too short or of no whole words."""
    random = np.random.default_rng(0)
    hasher = PixelHasher(device)
    for shape in [(1, 1), (5, 7), (9, 9), (10, 8), (11, 8), (42, 8), (43, 8), (64, 8), (86, 8), (128, 8), (700, 8)]:
        views = random.integers(0, 256, (5, *shape, 3), dtype=np.uint8)
        found = hasher.digests(torch.from_numpy(views).to(device)).cpu().numpy().view(np.uint64)
        expected = np.array([sample_digest(view) for view in views], np.uint64)
        yield Compared(f"hash of {views[0].nbytes} bytes", int((found == expected).sum()), len(views), 0)


def normalised(device: torch.device) -> Iterator[Compared]:
    """All 256 levels of each channel as the CPU normalises them, to the bit, in views of odd sizes too; for the means
    that teachers and students have, in each dtype."""
    levels = np.arange(256, dtype=np.uint8)
    whole = np.stack([np.roll(levels, shift) for shift in (0, 100, 200)], axis=1).reshape(1, 16, 16, 3)
    drawn = np.random.default_rng(0).integers(0, 256, (3, 29, 53, 3), dtype=np.uint8)
    for name, mean, std in (
        ("ImageNet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("Inception", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("CLIP", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            normalise = Normalise(mean, std, torch.device("cpu"), dtype)
            values = normalise.values.to(device)
            for views in (torch.from_numpy(whole), torch.from_numpy(drawn)):
                found, expected = kernel_normalised(views.to(device), values).cpu(), normalise(views)
                assert found.dtype == expected.dtype == dtype
                assert found.is_contiguous(memory_format=torch.channels_last)
                bits = [
                    images.permute(0, 2, 3, 1).contiguous().view(torch.uint8).numpy() for images in (found, expected)
                ]
                yield compared(f"normalised, {name}, {dtype}, {tuple(views.shape)}", *bits)
