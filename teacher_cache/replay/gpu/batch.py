"""Blocks and views -> Batch: drawn, planned and packed without torch, in whatever process has the pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from teacher_cache.replay.block import DecodedBlock, block_digest, view_mix, view_params
from teacher_cache.replay.geometry import cut
from teacher_cache.replay.gpu.plan import ALIGNED, PlannedView, RenderPlan, Source, plan_views
from teacher_cache.replay.mix import class_pairs
from teacher_cache.replay.params import Box, ViewParams
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
            digests[number] = block_digest(
                self.class_pairs[rows], self.lambdas[rows], of_samples[rows].tolist(), run.skipped
            )
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
    planned: list[PlannedView] = []
    runs, mixes, pairs, parts = [], [], [], _Parts()
    for decoded in blocks:
        drawn = _drawn(policy, store_seed, decoded, views)
        sources = [parts.add(decoded, position, drawn) for position in range(decoded.num_samples)]
        for number, view in enumerate(views):
            block = decoded.block
            mix = view_mix(
                policy,
                store_seed,
                shard=block.shard,
                block=block.number,
                num_samples=decoded.num_samples,
                skipped=decoded.skipped,
                view=view,
            )
            runs.append(Run(len(planned), decoded.num_samples, decoded.skipped))
            mixes.append((len(planned), mix))
            pairs.append(class_pairs(block.classes, mix, decoded.skipped))
            planned += [
                PlannedView(source, drawn[position][number] if source else None)
                for position, source in enumerate(sources)
            ]
    plan = plan_views(planned, mixes, policy.size, policy.crop.interpolation)
    lambdas = np.concatenate([mix.lambdas for _, mix in mixes])
    return Batch(plan, parts.packed(empty), runs, np.concatenate(pairs), lambdas)


def _drawn(policy: Policy, store_seed: int, decoded: DecodedBlock, views: Sequence[int]) -> list[list[ViewParams]]:
    """For each position the parameters of each view; none of a skipped one."""
    block = decoded.block
    return [
        []
        if position in decoded.skipped
        else [
            view_params(policy, store_seed, block.shard, key, view, decoded.image(position).shape[:2]) for view in views
        ]
        for position, key in enumerate(block.keys)
    ]


class _Parts:
    """Of each picture the part that holds all crops asked for, one after another."""

    def __init__(self) -> None:
        self._pixels: list[np.ndarray] = []
        self._num_bytes = 0

    def add(self, decoded: DecodedBlock, position: int, drawn: list[list[ViewParams]]) -> Source | None:
        if not drawn[position]:
            return None
        part = _spanned([params.crop for params in drawn[position]])
        source = Source(self._num_bytes, part)
        self._pixels.append(cut(decoded.image(position), part))
        self._num_bytes += -(-self._pixels[-1].size // ALIGNED) * ALIGNED
        return source

    def packed(self, empty: Callable[[int], np.ndarray]) -> np.ndarray:
        flat, place = empty(max(self._num_bytes, ALIGNED)), 0
        for pixels in self._pixels:
            flat[place : place + pixels.size].reshape(pixels.shape)[:] = pixels
            place += -(-pixels.size // ALIGNED) * ALIGNED
        return flat


def _spanned(boxes: list[Box]) -> Box:
    """The smallest box that holds them all."""
    top, left = min(box.top for box in boxes), min(box.left for box in boxes)
    bottom, right = max(box.top + box.height for box in boxes), max(box.left + box.width for box in boxes)
    return Box(top, left, bottom - top, right - left)
