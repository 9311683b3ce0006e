"""Views a second of one core: bytes in memory -> uint8 views, nothing mixed and nothing erased on any side.

Ours is the path of both stages, digests included. A side's time is the processor time of this process on one pinned
core, so other work on the machine counts for nobody. Of every view a row of pixels is summed: it is there.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np

from teacher_cache.errors import ShardError
from teacher_cache.messages.shown import counted
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.replay.block import Block, decode_parts, replay, replay_view
from teacher_cache.replay.policy import Policy, load_policy
from tools.benchmarks.internals import timed_steps
from tools.benchmarks.peers import DaliViews, TimmViews
from tools.benchmarks.photographs import make_photographs, read_photographs
from tools.benchmarks.row import Bench, Measurement, RowPlan, UnavailableError, in_turns, one_pinned_core
from tools.restart_markers import RestartMarkers

SEED = 0
TIMM, DALI = "timm's transforms on Pillow, one view a decode", "DALI on the CPU with RandAugment, one thread"
REACH = {TIMM: {8: 9.0, 3: 5.2, 1: 2.5}, DALI: {8: 7.5, 3: 4.8, 1: 3.6}}
MARKED_VIEWS = 1  # a decode, at which restart markers pay
IN_IT = "one pinned core; crop, flip and RandAugment on both sides, no erasing, no mixing; seconds of the processor"
MARKERS = "our files have restart markers, and of each what its crops need is decoded"


class ViewCount(NamedTuple):
    """Views that were made, and the sum of their middle rows."""

    views: int
    total: int


def plans() -> list[RowPlan]:
    rows = [(views, against, reach, False) for against in REACH for views, reach in REACH[against].items()]
    marked = [(MARKED_VIEWS, against, REACH[against][MARKED_VIEWS], True) for against in REACH]
    return [
        RowPlan(
            name=f"views/s per core, {counted(views, 'view')} a decode{', restart markers' if is_marked else ''}, "
            f"vs {'timm' if against == TIMM else 'DALI'}",
            against=against,
            unit="views/s",
            measure=partial(measure_views, views=views, against=against, is_marked=is_marked),
            reach=reach,
        )
        for views, against, reach, is_marked in rows + marked
    ]


def photographs(bench: Bench) -> list[bytes]:
    """The images of all rows."""
    scale = bench.scale

    def get() -> list[bytes]:
        if bench.shards:
            return read_photographs(bench.shards, scale.images)
        return make_photographs(scale.images, scale.image_size, scale.image_bytes)

    images: list[bytes] = bench.shared("photographs", get)
    return images


def marked_photographs(bench: Bench) -> list[bytes]:
    """The same with restart markers. UnavailableError where nothing is installed that puts them in."""

    def get() -> list[bytes]:
        try:
            markers = RestartMarkers()
        except ShardError as error:
            raise UnavailableError(str(error)) from None
        return [markers.mark(image) for image in photographs(bench)]

    images: list[bytes] = bench.shared("marked photographs", get)
    return images


def measure_views(bench: Bench, views: int, against: str, *, is_marked: bool = False) -> Measurement:
    """is_marked: our images have restart markers, the peer's are as they were given."""
    images, size_px = photographs(bench), bench.scale.view_px
    policy = rendering_policy(size_px)
    blocks = as_blocks(marked_photographs(bench) if is_marked else images)
    render, note = (render_parts, f"{IN_IT}; {MARKERS}") if is_marked else (render_ours, IN_IT)
    with one_pinned_core():
        peer: Callable[[int], ViewCount] | None = None
        if against == TIMM:
            peer, note = partial(_timms_turn, TimmViews(size_px), images), f"{note}; {TimmViews.note}"
        else:
            try:
                dali_views, how = faster_dali(images, size_px, bench.scale.dali_batch)
                peer, note = partial(_dalis_turn, dali_views), f"{note}; DALI {how}, its warps bilinear"
            except UnavailableError as why:
                note = str(why)
        ours = partial(render, policy, blocks, views)
        found, others = in_turns(
            bench.repeats, lambda turn: rate(ours, turn), None if peer is None else partial(rate, peer)
        )
        if against == TIMM:
            note = f"{note}; ours: {shares(ours)}"
    return Measurement(found, others, note)


def shares(ours: Callable[[int], ViewCount]) -> str:
    """Of our time, the share of each step, the largest first."""
    with timed_steps() as seconds:
        ours(0)
    whole = seconds.pop("all")
    seconds["the rest"] = whole - sum(seconds.values())
    largest_first = sorted(seconds.items(), key=lambda entry: -entry[1])
    return ", ".join(f"{step} {part / whole:.0%}" for step, part in largest_first)


def rate(make: Callable[[int], ViewCount], turn: int) -> float:
    """Views a second of processor time."""
    started = time.process_time()
    made = make(turn)
    return made.views / (time.process_time() - started)


def rendering_policy(size_px: int) -> Policy:
    return load_policy("deit", [f"size={size_px}", "mix=none", "erase=none"])


def as_blocks(images: list[bytes]) -> list[Block]:
    return [
        Block(
            shard="benchmark.tar",
            number=number,
            keys=tuple(f"{position:06d}" for position in range(first, min(first + BLOCK_SAMPLES, len(images)))),
            classes=np.zeros(min(BLOCK_SAMPLES, len(images) - first), np.int32),
            images=tuple(images[first : first + BLOCK_SAMPLES]),
        )
        for number, first in enumerate(range(0, len(images), BLOCK_SAMPLES))
    ]


def render_ours(policy: Policy, blocks: list[Block], views: int, turn: int) -> ViewCount:
    """The turn's views of every sample: each image is decoded once for all of them."""
    wanted = range(turn * views, (turn + 1) * views)
    return count_blocks(replayed.pixels for block in blocks for replayed in replay(policy, SEED, block, wanted))


def render_parts(policy: Policy, blocks: list[Block], views: int, turn: int) -> ViewCount:
    """As render_ours, of what the crops need, as in training."""
    wanted = range(turn * views, (turn + 1) * views)
    decoded = (decode_parts(policy, SEED, block, wanted) for block in blocks)
    return count_blocks(replay_view(policy, SEED, block, view).pixels for block in decoded for view in wanted)


def count_blocks(blocks: Iterable[np.ndarray]) -> ViewCount:
    """Of (B, H, W, 3) uint8s."""
    views = total = 0
    for pixels in blocks:
        views += len(pixels)
        total += int(pixels[:, pixels.shape[1] // 2].sum())
    return ViewCount(views, total)


def count_one_by_one(found: Iterable[np.ndarray]) -> ViewCount:
    """Of (3, H, W) uint8s."""
    views = total = 0
    for pixels in found:
        views += 1
        total += int(pixels[:, pixels.shape[1] // 2].sum())
    return ViewCount(views, total)


def _timms_turn(timm: TimmViews, images: list[bytes], turn: int) -> ViewCount:
    return count_one_by_one(timm.views(images))


def _dalis_turn(dali: DaliViews, turn: int) -> ViewCount:
    return count_blocks(dali.views())


def faster_dali(images: list[bytes], size_px: int, batch: int) -> tuple[DaliViews, str]:
    """DALI's pipeline, cropping while or after decoding: whichever is faster here, and what it does."""
    timed = []
    for fused in (True, False):
        found = DaliViews(images, size_px, batch, fused=fused)
        count_blocks(found.views())
        timed.append((max(rate(partial(_dalis_turn, found), turn) for turn in range(2)), fused, found))
    _, fused, found = max(timed, key=lambda entry: entry[0])
    return found, "crops while decoding (the faster way here)" if fused else "decodes, then crops (the faster way here)"
