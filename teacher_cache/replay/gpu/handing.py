"""From the process that decodes to the one that has the device: the part of each picture that the crops of its views
need, and what was drawn. NumPy alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from teacher_cache.replay.block import DecodedBlock, view_mix, view_params
from teacher_cache.replay.geometry import cut
from teacher_cache.replay.gpu.plan import ALIGNED, PlannedView, Source
from teacher_cache.replay.mix import MixPlan, class_pairs
from teacher_cache.replay.params import Box, ViewParams
from teacher_cache.replay.policy import Policy
from teacher_cache.replay.render import render_pixels


@dataclass(frozen=True)
class HandedViews:
    """Views of a block, in the order view, position. Their sources' offsets are in the piece of memory that the pixels
    were packed into. damaged: as in ReplayedBlock."""

    views: tuple[int, ...]
    planned: tuple[PlannedView, ...]
    mixes: tuple[MixPlan, ...]  # one a view, as the class pairs (n, 2) int32
    class_pairs: tuple[np.ndarray, ...]
    num_bytes: int
    skipped: frozenset[int]
    damaged: tuple[tuple[int, str], ...]

    def planned_from(self, offset: int) -> list[PlannedView]:
        """The same where the pixels lie that many bytes further on."""
        return [
            PlannedView(Source(offset + view.source.offset, view.source.part) if view.source else None, view.params)
            for view in self.planned
        ]


def least_room(num_samples: int, size: tuple[int, int]) -> int:
    """Bytes into which one view of a block of so many samples always fits, however large its pictures are."""
    return num_samples * _view_bytes(size)


class Handing:
    """Views of a decoded block on their way. Where pictures are so large that their parts do not fit into the room that
    there is, views of the largest are rendered here and handed over as pictures of the views' size, whose crop is the
    whole; where even that does not fit, views come in several runs.
    """

    def __init__(self, policy: Policy, store_seed: int, decoded: DecodedBlock, views: Sequence[int]) -> None:
        assert policy.own_operations is None
        self._policy, self._seed, self._decoded, self._views = policy, store_seed, decoded, tuple(views)
        self._drawn = [self._draw(position) for position in range(decoded.num_samples)]

    def runs(self, room: int) -> Iterator[range]:
        """Runs of the views, by number, each of which fits into `room` bytes: at least `least_room`."""
        waiting = [range(len(self._views))]
        while waiting:
            run = waiting.pop()
            if self._rendered_here(run, room) is None:
                middle = (run.start + run.stop) // 2
                waiting += [range(middle, run.stop), range(run.start, middle)]
            elif run:
                yield run

    def pack(self, run: range, memory: np.ndarray) -> HandedViews:
        """Write what the views of a run need into memory, (bytes,) uint8."""
        here = self._rendered_here(run, len(memory))
        assert here is not None, "a run of another room"
        sources: list[list[PlannedView]] = []
        place = 0
        for position, drawn in enumerate(self._drawn):
            wanted = [drawn[number] for number in run] if drawn else []
            if not wanted:
                sources.append([PlannedView(None, None)] * len(run))
                continue
            image = self._decoded.image(position)
            if position in here:
                planned, place = self._pack_rendered(image, wanted, memory, place)
            else:
                part = spanned([params.crop for params in wanted])
                planned = [PlannedView(Source(place, part), params) for params in wanted]
                place = _put(cut(image, part), memory, place)
            sources.append(planned)
        views = [self._views[number] for number in run]
        mixes = [self._mix(view) for view in views]
        decoded = self._decoded
        return HandedViews(
            views=tuple(views),
            planned=tuple(sources[position][number] for number in range(len(run)) for position in range(len(sources))),
            mixes=tuple(mixes),
            class_pairs=tuple(class_pairs(decoded.block.classes, mix, decoded.skipped) for mix in mixes),
            num_bytes=place,
            skipped=decoded.skipped,
            damaged=decoded.damaged,
        )

    def _draw(self, position: int) -> list[ViewParams]:
        """The parameters of each view; none of a skipped sample."""
        decoded = self._decoded
        if position in decoded.skipped:
            return []
        size = decoded.image(position).shape[:2]
        shard, key = decoded.block.shard, decoded.block.keys[position]
        return [view_params(self._policy, self._seed, shard, key, view, size) for view in self._views]

    def _mix(self, view: int) -> MixPlan:
        block = self._decoded.block
        return view_mix(
            self._policy,
            self._seed,
            shard=block.shard,
            block=block.number,
            num_samples=self._decoded.num_samples,
            skipped=self._decoded.skipped,
            view=view,
        )

    def _rendered_here(self, run: range, room: int) -> frozenset[int] | None:
        """Positions whose views are rendered here so that the run fits; None where it does not."""
        parts = {
            position: _aligned(3 * part.height * part.width)
            for position, drawn in enumerate(self._drawn)
            if drawn and run
            for part in (spanned([drawn[number].crop for number in run]),)
        }
        total, rendered = sum(parts.values()), len(run) * _view_bytes(self._policy.size)
        here = set()
        for position, num_bytes in sorted(parts.items(), key=lambda part: -part[1]):
            if total <= room or num_bytes <= rendered:
                break
            total += rendered - num_bytes
            here.add(position)
        return frozenset(here) if total <= room else None

    def _pack_rendered(
        self, image: np.ndarray, wanted: Sequence[ViewParams], memory: np.ndarray, place: int
    ) -> tuple[list[PlannedView], int]:
        size = self._policy.size
        whole, planned = Box(0, 0, *size), []
        for params in wanted:
            done = replace(
                params,
                crop=whole,
                resized=size,
                window=whole,
                flip=False,
                operations=(),
                erased=(),
                erase_mode=None,
                noise="",
            )
            planned.append(PlannedView(Source(place, whole), done))
            place = _put(render_pixels(image, params), memory, place)
        return planned, place


def spanned(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds them all."""
    top, left = min(box.top for box in boxes), min(box.left for box in boxes)
    bottom, right = max(box.top + box.height for box in boxes), max(box.left + box.width for box in boxes)
    return Box(top, left, bottom - top, right - left)


def _put(pixels: np.ndarray, memory: np.ndarray, place: int) -> int:
    """Write pixels (H, W, 3) at a place. -> where the next ones go."""
    memory[place : place + pixels.size].reshape(pixels.shape)[:] = pixels
    return place + _aligned(pixels.size)


def _view_bytes(size: tuple[int, int]) -> int:
    return _aligned(3 * size[0] * size[1])


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNED) * ALIGNED
