"""What rendering on the CPU costs as both stages do it, and what the native library saves of it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from unittest import mock

from teacher_cache.rendering.choice import render_all
from teacher_cache.rendering.crew import PoolSettings
from teacher_cache.rendering.workers import RenderPool, RenderTask
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.replay.native.library import SWITCH, lacking
from teacher_cache.replay.policy import load_policy
from tools.benchmarks.internals import private_bytes
from tools.benchmarks.rendering import as_blocks, photographs, rate, render_ours
from tools.benchmarks.row import Bench, Measurement, RowPlan, UnavailableError, in_turns, one_pinned_core
from tools.benchmarks.stores import make_store

VIEWS = 3  # a decode, as the deit_* recipes ask for
LIMIT_US = 900.0
LIMIT_MB = 250.0


def plans() -> list[RowPlan]:
    return [
        RowPlan(
            name="views/s per core, the whole deit policy, 3 views a decode",
            against="the same without the native library",
            unit="views/s",
            measure=against_numpy,
            reach=1.5,
        ),
        RowPlan(
            name="a view of the whole deit policy, 3 a decode",
            against=f"limit: {LIMIT_US:.0f} us",
            unit="us",
            measure=time_of_a_view,
            lower=True,
            limit=LIMIT_US,
        ),
        RowPlan(
            name="memory of a rendering process",
            against=f"limit: {LIMIT_MB:.0f} MB that it shares with no other",
            unit="MB",
            measure=memory_of_a_process,
            lower=True,
            limit=LIMIT_MB,
        ),
    ]


@contextmanager
def without_library() -> Iterator[None]:
    with mock.patch.dict(os.environ, {SWITCH: "off"}):
        yield


def whole_policy(bench: Bench) -> Callable[[int], float]:
    """Views a second in a turn: decoded, erased, mixed, with their digests."""
    policy = load_policy("deit", [f"size={bench.scale.view_px}"])
    return partial(rate, partial(render_ours, policy, as_blocks(photographs(bench)), VIEWS))


def against_numpy(bench: Bench) -> Measurement:
    if why := lacking():
        raise UnavailableError(why)
    made = whole_policy(bench)

    def by_numpy(turn: int) -> float:
        with without_library():
            return made(turn)

    with one_pinned_core():
        return Measurement(*in_turns(bench.repeats, made, by_numpy), "one pinned core; seconds of the processor")


def time_of_a_view(bench: Bench) -> Measurement:
    made = whole_policy(bench)
    with one_pinned_core():
        found, _ = in_turns(bench.repeats, lambda turn: 1e6 / made(turn), None)
    return Measurement(found, note="one pinned core; crop, flip, RandAugment, erasing, mixing, digest; the processor's")


def memory_of_a_process(bench: Bench) -> Measurement:
    """The most that it holds alone, looked at after each of its views."""
    images = photographs(bench)
    store = make_store(bench, "memory", images, shard_samples=BLOCK_SAMPLES, views=VIEWS, group=VIEWS)
    index, views = store.index, tuple(range(VIEWS))
    tasks = [
        RenderTask(number, index.place(shard, block), views)
        for number, (shard, block) in enumerate(
            (shard, block) for shard in range(index.num_shards) for block in range(index.num_blocks(shard))
        )
    ]

    def turn(_: int) -> float:
        with RenderPool(PoolSettings(store.policy, store.seed, workers=1)) as pool:
            return max(private_bytes(pool) for _ in render_all(pool, tasks)) / 1e6

    found, _ = in_turns(bench.repeats, turn, None)
    return Measurement(found, note="private pages; blocks of 64 photographs, whose decoded pictures are held")
