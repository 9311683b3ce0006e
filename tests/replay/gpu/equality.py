"""Views rendered on a device, or by Triton's interpreter, against those of the CPU: what the tests and the experiment
under docs/ both run. Every function yields its comparisons one by one."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from teacher_cache.device import Normalise
from teacher_cache.replay.block import DecodedBlock, replay_view, sample_digest, view_params
from teacher_cache.replay.gpu import render as gpu
from teacher_cache.replay.gpu.batch import Batch, Run
from teacher_cache.replay.gpu.hashing import PixelHasher
from teacher_cache.replay.gpu.joined import Piece, join_plans
from teacher_cache.replay.gpu.normalise import normalised as kernel_normalised
from teacher_cache.replay.gpu.plan import Sources, plan_views
from teacher_cache.replay.mix import LAMBDA_ONE, MixPlan
from teacher_cache.replay.params import NAMES, NONE, Box, DrawnViews, Operation, ViewParams
from teacher_cache.replay.policy import Policy, load_policy
from teacher_cache.replay.render import render_pixels
from tests.support import images

SEED = 7
ON_GRID = 1 << 20


class Compared(NamedTuple):
    """largest: difference of a level."""

    name: str
    equal: int
    views: int
    largest: int

    @property
    def is_equal(self) -> bool:
        return self.equal == self.views > 0 and not self.largest


def compared(name: str, ours: np.ndarray, theirs: np.ndarray) -> Compared:
    differing = (ours != theirs).reshape(len(ours), -1).any(axis=1)
    largest = int(np.abs(ours.astype(int) - theirs).max(initial=0))
    return Compared(name, len(ours) - int(differing.sum()), len(ours), largest)


def rendered(policy: Policy, pictures: list[np.ndarray], views: list[ViewParams], device: torch.device) -> np.ndarray:
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


def gathered(policy: Policy, views: list[ViewParams]) -> DrawnViews:
    """Views that were changed one by one, as if drawn together."""
    num = len(views)
    operations = np.full((num, max(len(params.operations) for params in views)), NONE)
    values = np.zeros(operations.shape)
    erased = np.zeros((num, max(len(params.erased) for params in views), 4), np.int64)
    noise = np.zeros((num, 32), np.uint8)
    for number, params in enumerate(views):
        for place, (name, value) in enumerate(params.operations):
            operations[number, place], values[number, place] = NAMES.index(name), value or 0
        for place, box in enumerate(params.erased):
            erased[number, place] = box
            noise[number] = np.frombuffer(bytes.fromhex(params.noise), np.uint8)
    crops, resized, windows = (
        np.array([getattr(params, name) for params in views]) for name in ("crop", "resized", "window")
    )
    flips = np.array([params.flip for params in views])
    found = DrawnViews(policy, crops, resized, windows, flips, operations, values, erased, noise)
    assert list(found) == views
    return found


def on_grid(value: float) -> float:
    return round(value * ON_GRID) / ON_GRID


VALUES: dict[str, Callable[[np.random.Generator], float | int | None]] = {
    "autocontrast": lambda random: None,
    "equalize": lambda random: None,
    "invert": lambda random: None,
    "posterize": lambda random: int(random.integers(0, 10)),
    "solarize": lambda random: int(random.integers(0, 257)),
    "solarize_add": lambda random: int(random.integers(0, 129)),
    "hue": lambda random: on_grid(random.uniform(-0.5, 0.5)),
    **{name: lambda random: on_grid(random.uniform(0, 5)) for name in ("brightness", "contrast", "color", "sharpness")},
    **{name: lambda random: on_grid(random.uniform(-0.4, 0.4)) for name in ("shear_x", "shear_y")},
    **{name: lambda random: on_grid(random.uniform(-0.6, 0.6)) for name in ("translate_x", "translate_y")},
    "rotate": lambda random: on_grid(random.uniform(-60, 60)),
}


def pictures(num: int, height: int, width: int) -> list[np.ndarray]:
    """Of about that size, photograph-like; a grey one and one of few levels among them."""
    made = [images.picture(number, height + 7 * number % 31, width + 11 * number % 43) for number in range(num)]
    if num > 2:
        made[1] = np.repeat(made[1][:, :, :1], 3, axis=2)
        made[2] = (made[2] // 3 + 60).astype(np.uint8)
    return made


def operations(sources: list[np.ndarray], size: tuple[int, int], num: int, device: torch.device) -> Iterator[Compared]:
    """Each operation alone, after a crop and a resize; geometry with either interpolation."""
    plain = [f"size={list(size)}", "rand_augment.probability=0", "erase=none", "mix=none"]
    for name, value in VALUES.items():
        random = np.random.default_rng(len(name))
        ours, theirs = [], []
        for odd, geometry in enumerate(("bicubic", "bilinear")):
            policy = load_policy("deit", [*plain, f"rand_augment.interpolation={geometry}"])
            used = [sources[number % len(sources)] for number in range(odd, num, 2)]
            views = []
            for number, pixels in zip(range(odd, num, 2), used, strict=True):
                drawn = (Operation(name, value(random)),)
                if name in ("autocontrast", "equalize") and odd:
                    drawn = (Operation("contrast", on_grid(0.3)), *drawn)
                params = view_params(policy, SEED, "operations", name, number, pixels.shape[:2])
                assert (params.operations, params.geometry) == ((), geometry)
                views.append(dataclasses.replace(params, operations=drawn))
            ours.append(rendered(policy, used, views, device))
            theirs.append(np.stack([render_pixels(*pair) for pair in zip(used, views, strict=True)]))
        yield compared(name, np.concatenate(ours), np.concatenate(theirs))


def crops(sources: list[np.ndarray], size: tuple[int, int], num: int, device: torch.device) -> Iterator[Compared]:
    """Random and centre crops, with either interpolation; windows, whole pictures and crops of a pixel."""
    for interpolation in ("bicubic", "bilinear"):
        overrides = [f"size={list(size)}", "rand_augment=none", "erase=none", "mix=none", "flip=0.5"]
        overrides.append(f"crop.interpolation={interpolation}")
        policy = load_policy("deit", overrides)
        used = [sources[number % len(sources)] for number in range(num)]
        views = [
            view_params(policy, SEED, "crops", str(number), number, pixels.shape[:2])
            for number, pixels in enumerate(used)
        ]
        whole = used[0].shape[:2]
        views[0] = dataclasses.replace(views[0], crop=Box(0, 0, *whole))
        views[1] = dataclasses.replace(views[1], crop=Box(*(side - 1 for side in used[1].shape[:2]), 1, 1))
        views[2] = dataclasses.replace(views[2], crop=Box(1, used[2].shape[1] - 3, 9, 3))
        theirs = np.stack([render_pixels(*pair) for pair in zip(used, views, strict=True)])
        yield compared(f"crops, {interpolation}", rendered(policy, used, views, device), theirs)
        centre = load_policy("none", [f"size={list(size)}", "crop.crop_pct=0.875", overrides[-1], "flip=0.5"])
        views = [
            view_params(centre, SEED, "crops", str(number), number, pixels.shape[:2])
            for number, pixels in enumerate(used)
        ]
        theirs = np.stack([render_pixels(*pair) for pair in zip(used, views, strict=True)])
        yield compared(f"centre crops, {interpolation}", rendered(centre, used, views, device), theirs)


def erasing(sources: list[np.ndarray], size: tuple[int, int], num: int, device: torch.device) -> Iterator[Compared]:
    for mode in ("const", "pixel", "rand"):
        settings = ["rand_augment=none", "mix=none", "erase.probability=1", "erase.count=3", f"erase.mode={mode}"]
        policy = load_policy("deit", [f"size={list(size)}", *settings])
        used = [sources[number % len(sources)] for number in range(num)]
        views = [
            view_params(policy, SEED, "erased", str(number), number, pixels.shape[:2])
            for number, pixels in enumerate(used)
        ]
        assert max(len(params.erased) for params in views) > 1
        theirs = np.stack([render_pixels(*pair) for pair in zip(used, views, strict=True)])
        yield compared(f"erasing, {mode}", rendered(policy, used, views, device), theirs)


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


def policies(size: tuple[int, int]) -> dict[str, Policy]:
    side = f"size={list(size)}"
    every = "jitter={brightness=0.4,contrast=0.4,saturation=0.4,hue=0.1}"
    return {
        "deit": load_policy("deit", [side]),
        "deit, six operations": load_policy("deit", [side, "rand_augment.num_ops=6", "rand_augment.probability=0.9"]),
        "AutoAugment and jitter, bilinear": load_policy(
            "deit",
            [
                *(side, "rand_augment=none", "auto_augment={magnitude_std=0.5,interpolation='bilinear'}", every),
                *("crop.interpolation=bilinear", "erase.count=3", "erase.mode=rand", "erase.probability=0.8"),
            ],
        ),
        "transfer": load_policy("transfer", [side]),
        "none": load_policy("none", [side]),
    }
