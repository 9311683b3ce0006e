"""From the process that decodes to the one that has the device: batches of a block's views, with what their crops need
of the pictures in a piece of memory of a given size. NumPy alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from teacher_cache.replay.block import DecodedBlock, draw_blocks, mix_of
from teacher_cache.replay.geometry import spanned
from teacher_cache.replay.gpu.batch import Batch, Run, prepare_batch
from teacher_cache.replay.gpu.joined import Piece, join_plans
from teacher_cache.replay.gpu.plan import ALIGNED, Sources
from teacher_cache.replay.mix import class_pairs
from teacher_cache.replay.native.plans import plan_views
from teacher_cache.replay.params import NONE, Box, DrawnViews
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

    def some(self, chosen: range) -> "HandedViews":
        """Those of some numbers in `views`, of the same memory."""
        batch, runs = self.batch, self.batch.runs[chosen.start : chosen.stop]
        first, end = runs[0].first, runs[-1].first + runs[-1].num
        part = Batch(
            plan=join_plans([Piece(batch.plan, range(first, end))]),
            pictures=batch.pictures,
            runs=[replace(run, first=run.first - first) for run in runs],
            class_pairs=batch.class_pairs[first:end],
            lambdas=batch.lambdas[first:end],
        )
        return replace(self, views=self.views[chosen.start : chosen.stop], batch=part)


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
    except _TooLargeError:
        yield from _hand_over_large(policy, store_seed, decoded, views, room, rooms)
        return
    yield _handed(decoded, views, batch)


class _TooLargeError(Exception):
    """Parts of pictures do not fit into their room."""


def _within(room: np.ndarray, num_bytes: int) -> np.ndarray:
    if num_bytes > len(room):
        raise _TooLargeError
    return room[:num_bytes]


def _handed(decoded: DecodedBlock, views: Sequence[int], batch: Batch) -> HandedViews:
    plan = replace(batch.plan, parts=[(0, batch.plan.written())])  # one array is sent faster than many
    handed = replace(batch, plan=plan, pictures=_NOWHERE)
    return HandedViews(tuple(views), handed, len(batch.pictures), decoded.skipped, decoded.damaged)


# -- pictures that are too large ---------------------------------------------------------------------------------------


def _hand_over_large(
    policy: Policy,
    store_seed: int,
    decoded: DecodedBlock,
    views: Sequence[int],
    room: np.ndarray,
    rooms: Iterator[np.ndarray],
) -> Iterator[HandedViews]:
    waiting, taken = [tuple(views)], False
    while waiting:
        run = waiting.pop()
        drawn = draw_blocks(policy, store_seed, [decoded], run)
        here = _rendered_here(drawn, len(run), len(room))
        if here is None:
            waiting += [run[len(run) // 2 :], run[: len(run) // 2]]
            continue
        room = next(rooms) if taken else room
        taken = True
        yield _handed(decoded, run, _packed(policy, store_seed, decoded, run, drawn, here, room))


def _rendered_here(drawn: DrawnViews, num_views: int, room: int) -> np.ndarray | None:
    """Which of the pictures, (n,) bool, have their views rendered here so that all fit; None where they do not."""
    parts = _spans(drawn, num_views)
    sizes = np.array([_aligned(3 * height * width) for height, width in parts[:, 2:].tolist()], np.int64)
    rendered = num_views * _view_bytes(drawn.policy.size)
    here = np.zeros(len(parts), bool)
    for number in np.argsort(-sizes, kind="stable").tolist():
        if sizes.sum() <= room or sizes[number] <= rendered:
            break
        here[number], sizes[number] = True, rendered
    return here if sizes.sum() <= room else None


def _packed(
    policy: Policy,
    store_seed: int,
    decoded: DecodedBlock,
    views: Sequence[int],
    drawn: DrawnViews,
    here: np.ndarray,
    room: np.ndarray,
) -> Batch:
    """Pack pictures' parts, or their views where they are rendered here, and plan what is left to do."""
    num, place = len(decoded.present), 0
    offsets, parts = np.zeros((len(views), num), np.int64), np.zeros((len(views), num, 4), np.int64)
    parts[:] = _spans(drawn, len(views))
    parts[:, here] = (0, 0, *policy.size)
    placed = decoded.placed(drawn)
    for number, position in enumerate(decoded.present):
        if not here[number]:
            offsets[:, number] = place
            place = _put(decoded.cut(position, Box(*parts[0, number].tolist())), room, place)
            continue
        for of_view in range(len(views)):
            offsets[of_view, number] = place
            place = _put(render_pixels(decoded.image(position), placed[of_view * num + number]), room, place)
    mixes = [mix_of(policy, store_seed, decoded, view) for view in views]
    firsts = np.arange(len(views)) * decoded.num_samples
    plan = plan_views(
        _without_work(drawn, np.tile(here, len(views))),
        (firsts[:, None] + np.array(decoded.present, np.int64)).reshape(-1),
        Sources(offsets.reshape(-1), parts.reshape(-1, 4)),
        mixes,
        len(views) * decoded.num_samples,
    )
    return Batch(
        plan,
        room[: max(place, ALIGNED)],
        [Run(first, decoded.num_samples, decoded.skipped) for first in firsts.tolist()],
        np.concatenate([class_pairs(decoded.block.classes, mix, decoded.skipped) for mix in mixes]),
        np.concatenate([mix.lambdas for mix in mixes]),
    )


def _without_work(drawn: DrawnViews, done: np.ndarray) -> DrawnViews:
    """Some of the views, (n,) bool, are pictures of which nothing is left to do but to take them whole."""
    height, width = drawn.policy.size
    box = np.array([0, 0, height, width])
    return replace(
        drawn,
        crops=np.where(done[:, None], box, drawn.crops),
        resized=np.where(done[:, None], box[2:], drawn.resized),
        windows=np.where(done[:, None], box, drawn.windows),
        flips=drawn.flips & ~done,
        operations=np.where(done[:, None], NONE, drawn.operations),
        erased=np.where(done[:, None, None], 0, drawn.erased),
    )


def _spans(drawn: DrawnViews, num_views: int) -> np.ndarray:
    """Of each picture the smallest box that holds its crops, (n, 4)."""
    return spanned(drawn.crops.reshape(num_views, -1, 4))


def _put(pixels: np.ndarray, memory: np.ndarray, place: int) -> int:
    """Write pixels (H, W, 3) at a place. -> where the next ones go."""
    memory[place : place + pixels.size].reshape(pixels.shape)[:] = pixels
    return place + _aligned(pixels.size)


def _view_bytes(size: tuple[int, int]) -> int:
    return _aligned(3 * size[0] * size[1])


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNED) * ALIGNED
