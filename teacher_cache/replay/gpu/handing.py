"""From the process that decodes to the one that has the device: batches of a block's views, with what their crops need
of the pictures in a piece of memory of a given size. NumPy alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from teacher_cache.replay.block import DecodedBlock, view_mix, view_params
from teacher_cache.replay.geometry import cut
from teacher_cache.replay.gpu.batch import Batch, Run, prepare_batch
from teacher_cache.replay.gpu.plan import ALIGNED, PlannedView, RenderPlan, Source, plan_views
from teacher_cache.replay.mix import MixPlan, class_pairs
from teacher_cache.replay.params import Box, ViewParams
from teacher_cache.replay.policy import Policy
from teacher_cache.replay.render import render_pixels

_NOWHERE = np.empty(0, np.uint8)


@dataclass(frozen=True)
class HandedViews:
    """Views of a block: batch.pictures lie in the first num_bytes of the memory that they were packed into, and nowhere
    else. damaged: as in ReplayedBlock."""

    views: tuple[int, ...]
    batch: Batch
    num_bytes: int
    skipped: frozenset[int]
    damaged: tuple[tuple[int, str], ...]


def least_room(num_samples: int, size: tuple[int, int]) -> int:
    """Bytes into which one view of a block of so many samples always fits, however large its pictures are."""
    return num_samples * _view_bytes(size)


def hand_over(
    policy: Policy, store_seed: int, decoded: DecodedBlock, views: Sequence[int], rooms: Iterator[np.ndarray]
) -> Iterator[HandedViews]:
    """Draw and plan views of a block, in order, and pack each batch of them into the next of the rooms, (bytes,) uint8,
    of at least `least_room`. A room is asked for when it is needed.

    Mostly all views are one batch. Where pictures are so large that their parts do not fit, views of the largest are
    rendered here and handed over as pictures of the views' size, whose crop is the whole; where even that does not fit,
    views come in several batches.
    """
    room = next(rooms)
    try:
        batch = prepare_batch(policy, store_seed, [decoded], views, lambda num_bytes: _within(room, num_bytes))
    except _TooLarge:
        yield from _hand_over_large(_Drawn(policy, store_seed, decoded, views), room, rooms)
        return
    yield _handed(decoded, views, batch)


class _TooLarge(Exception):  # noqa: N818
    """Parts of pictures do not fit into their room."""


def _within(room: np.ndarray, num_bytes: int) -> np.ndarray:
    if num_bytes > len(room):
        raise _TooLarge
    return room[:num_bytes]


def _handed(decoded: DecodedBlock, views: Sequence[int], batch: Batch) -> HandedViews:
    plan = replace(batch.plan, parts=[(0, _written(batch.plan))])  # one array is sent faster than many
    handed = replace(batch, plan=plan, pictures=_NOWHERE)
    return HandedViews(tuple(views), handed, len(batch.pictures), decoded.skipped, decoded.damaged)


def _written(plan: RenderPlan) -> np.ndarray:
    small = np.zeros(plan.num_bytes, np.uint8)
    plan.write(small, np.zeros((*plan.sides.shape[:2], 4), np.int64))
    return small


# -- pictures that are too large ---------------------------------------------------------------------------------------


def _hand_over_large(drawn: "_Drawn", room: np.ndarray, rooms: Iterator[np.ndarray]) -> Iterator[HandedViews]:
    waiting, taken = [range(len(drawn.views))], False
    while waiting:
        run = waiting.pop()
        if drawn.rendered_here(run, len(room)) is None:
            middle = (run.start + run.stop) // 2
            waiting += [range(middle, run.stop), range(run.start, middle)]
            continue
        room = next(rooms) if taken else room
        taken = True
        yield _handed(drawn.decoded, [drawn.views[number] for number in run], drawn.batch(run, room))


class _Drawn:
    """Views of a block with their parameters."""

    def __init__(self, policy: Policy, store_seed: int, decoded: DecodedBlock, views: Sequence[int]) -> None:
        self.decoded, self.views = decoded, tuple(views)
        self._policy, self._seed = policy, store_seed
        self._params = [self._draw(position) for position in range(decoded.num_samples)]

    def rendered_here(self, run: range, room: int) -> frozenset[int] | None:
        """Positions whose views are rendered here so that a run of the views fits; None where it does not."""
        parts = {
            position: _aligned(3 * part.height * part.width)
            for position, drawn in enumerate(self._params)
            if drawn
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

    def batch(self, run: range, room: np.ndarray) -> Batch:
        """A run of the views, planned and packed."""
        here = self.rendered_here(run, len(room))
        assert here is not None
        planned: list[list[PlannedView]] = []  # by position
        place = 0
        for position, drawn in enumerate(self._params):
            wanted = [drawn[number] for number in run] if drawn else []
            if not wanted:
                views = [PlannedView(None, None)] * len(run)
            elif position in here:
                views, place = self._pack_rendered(position, wanted, room, place)
            else:
                part = spanned([params.crop for params in wanted])
                views = [PlannedView(Source(place, part), params) for params in wanted]
                place = _put(cut(self.decoded.image(position), part), room, place)
            planned.append(views)
        samples = self.decoded.num_samples
        firsts = range(0, samples * len(run), samples)
        mixes = [self._mix(self.views[number]) for number in run]
        plan = plan_views(
            [of_position[number] for number in range(len(run)) for of_position in planned],
            list(zip(firsts, mixes, strict=True)),
            self._policy.size,
            self._policy.crop.interpolation,
        )
        classes, skipped = self.decoded.block.classes, self.decoded.skipped
        return Batch(
            plan,
            room[: max(place, ALIGNED)],
            [Run(first, samples, skipped) for first in firsts],
            np.concatenate([class_pairs(classes, mix, skipped) for mix in mixes]),
            np.concatenate([mix.lambdas for mix in mixes]),
        )

    def _draw(self, position: int) -> list[ViewParams]:
        """The parameters of each view; none of a skipped sample."""
        decoded = self.decoded
        if position in decoded.skipped:
            return []
        size = decoded.image(position).shape[:2]
        shard, key = decoded.block.shard, decoded.block.keys[position]
        return [view_params(self._policy, self._seed, shard, key, view, size) for view in self.views]

    def _mix(self, view: int) -> MixPlan:
        block = self.decoded.block
        return view_mix(
            self._policy,
            self._seed,
            shard=block.shard,
            block=block.number,
            num_samples=self.decoded.num_samples,
            skipped=self.decoded.skipped,
            view=view,
        )

    def _pack_rendered(
        self, position: int, wanted: Sequence[ViewParams], room: np.ndarray, place: int
    ) -> tuple[list[PlannedView], int]:
        """Render views of a picture, and pack them as pictures of which nothing is left to do."""
        size, planned = self._policy.size, []
        whole, image = Box(0, 0, *size), self.decoded.image(position)
        for params in wanted:
            done = replace(params, crop=whole, resized=size, window=whole, flip=False, operations=(), erased=())
            planned.append(PlannedView(Source(place, whole), done))
            place = _put(render_pixels(image, params), room, place)
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
