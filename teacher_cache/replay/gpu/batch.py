"""Blocks and views -> Batch: drawn, planned and packed without torch, in whatever process has the pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from teacher_cache.replay.block import DecodedBlock, block_digest, draw_blocks, mix_of
from teacher_cache.replay.geometry import spanned
from teacher_cache.replay.gpu.plan import ALIGNED, RenderPlan, Sources
from teacher_cache.replay.mix import MixPlan, class_pairs
from teacher_cache.replay.native.plans import plan_views
from teacher_cache.replay.params import Box
from teacher_cache.replay.policy import Policy


@dataclass(frozen=True)
class Run:
    """Of a batch's views those of one block at one view: num views from number `first` on."""

    first: int
    num: int
    skipped: frozenset[int]  # positions in the block


@dataclass(frozen=True)
class Batch:
    """Views of blocks in the order block, view, position: what a device renders them from."""

    plan: RenderPlan
    pictures: np.ndarray  # (bytes,) uint8, the parts of pictures that the views' crops need
    runs: list[Run]
    class_pairs: np.ndarray  # (n, 2) int32
    lambdas: np.ndarray  # (n,) uint32

    def digests(self, of_samples: np.ndarray) -> np.ndarray:
        """The digest of each run, (runs,) uint64. of_samples: (n,) uint64, those of each view's pixels."""
        digests = np.empty(len(self.runs), np.uint64)
        for number, run in enumerate(self.runs):
            rows = slice(run.first, run.first + run.num)
            digests[number] = block_digest(self.class_pairs[rows], self.lambdas[rows], of_samples[rows], run.skipped)
        return digests


def prepare_batch(
    policy: Policy,
    store_seed: int,
    blocks: Sequence[DecodedBlock],
    views: Sequence[int],
    empty: Callable[[int], np.ndarray] = lambda num_bytes: np.empty(num_bytes, np.uint8),
) -> Batch:
    """Draw and plan views of blocks, and pack what they need of the pictures. empty: gives the memory for that, a
    number of bytes. Raises ImageError, as `replay_view`."""
    drawn = draw_blocks(policy, store_seed, blocks, views)
    runs, mixes, pairs, numbers = list[Run](), list[MixPlan](), list[np.ndarray](), list[int]()
    for decoded in blocks:
        block = decoded.block
        for view in views:
            mix = mix_of(policy, store_seed, decoded, view)
            first = runs[-1].first + runs[-1].num if runs else 0
            runs.append(Run(first, decoded.num_samples, decoded.skipped))
            mixes.append(mix)
            pairs.append(class_pairs(block.classes, mix, decoded.skipped))
            numbers += [first + position for position in decoded.present]
    parts = Parts(blocks, len(views), drawn.crops)
    num_views = sum(run.num for run in runs)
    plan = plan_views(drawn, np.array(numbers, np.int64), parts.sources, mixes, num_views)
    lambdas = np.concatenate([mix.lambdas for mix in mixes])
    return Batch(plan, parts.packed(empty), runs, np.concatenate(pairs), lambdas)


class Parts:
    """Of each picture the part that holds all crops asked for, one after another."""

    def __init__(self, blocks: Sequence[DecodedBlock], num_views: int, crops: np.ndarray) -> None:
        """crops: (n, 4), of the views of blocks in the order block, view, position."""
        self._pictures = [(decoded, position) for decoded in blocks for position in decoded.present]
        self._num_bytes = first = 0
        self._places: list[tuple[int, list[int]]] = []  # of each picture: where its part begins, the part's box
        offsets, parts = [], []
        for decoded in blocks:
            num = len(decoded.present)
            of_block = crops[first : first + num_views * num].reshape(num_views, num, 4)
            first += num_views * num
            boxes = spanned(of_block)
            sizes = -(-3 * boxes[:, 2] * boxes[:, 3] // ALIGNED) * ALIGNED
            begin = self._num_bytes + np.cumsum(sizes) - sizes
            self._num_bytes += int(sizes.sum())
            self._places += zip(begin.tolist(), boxes.tolist(), strict=True)
            offsets.append(np.tile(begin, num_views))
            parts.append(np.tile(boxes, (num_views, 1)))
        self.sources = Sources(np.concatenate(offsets), np.concatenate(parts))

    def packed(self, empty: Callable[[int], np.ndarray]) -> np.ndarray:
        flat = empty(max(self._num_bytes, ALIGNED))
        for (decoded, position), (place, box) in zip(self._pictures, self._places, strict=True):
            pixels = decoded.cut(position, Box(*box))
            flat[place : place + pixels.size].reshape(pixels.shape)[:] = pixels
        return flat
