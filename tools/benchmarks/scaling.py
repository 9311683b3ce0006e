"""How costs grow: with rendering processes, and with the number of samples."""

import time

import numpy as np

from student.plan import PlanSettings, epoch_plan, pass_blocks
from teacher_cache.messages.shown import counted
from teacher_cache.replay import BLOCK_SAMPLES
from tools.benchmarks.pipeline import loader_rate, plain_loader
from tools.benchmarks.rendering import photographs
from tools.benchmarks.row import Bench, Measurement, RowPlan, UnavailableError, cores, in_turns, torch_threads
from tools.benchmarks.stores import training_store

SHARD_SAMPLES = 1251
BATCH = 1024


def plans() -> list[RowPlan]:
    return [
        RowPlan(
            name="loader, 2 workers",
            against="the same with 1 worker",
            unit="views/s",
            measure=two_workers,
            reach=1.85,
        ),
        RowPlan(
            name="time of planning a sample, 10^6 samples over 10^4",
            against="limit: 1.5 times",
            unit="times",
            measure=plan_growth,
            lower=True,
            limit=1.5,
        ),
        RowPlan(
            name="plan of an epoch of ImageNet",
            against="limit: 2 s",
            unit="s",
            measure=plan_time,
            lower=True,
            limit=2.0,
        ),
    ]


def two_workers(bench: Bench) -> Measurement:
    """A new loader each turn; what it renders ahead is taken before the clock starts."""
    if cores() < 2:
        raise UnavailableError("there is one core")
    store = training_store(bench, photographs(bench))
    batch = 3 * bench.scale.block_samples

    def rate(workers: int) -> float:
        settle = (workers + 2) * BLOCK_SAMPLES * 3 // batch + 4
        with plain_loader(store, batch, workers) as loader:
            batches = iter(loader)
            for _ in range(settle):
                next(batches)
            return loader_rate(lambda: next(batches).views, 4 * bench.scale.loader_batches, time.perf_counter)

    with torch_threads(1):
        found = in_turns(
            bench.repeats, lambda turn: rate(bench.processes(2)), lambda turn: rate(bench.processes(1)), warm_up=False
        )
    return Measurement(*found, f"{counted(cores(), 'core')}; the process that takes the batches uses one of them too")


def plan_growth(bench: Bench) -> Measurement:
    """Each turn plans both, the few samples as often as makes as many."""
    few, many, _ = bench.scale.plan_samples
    turns = []
    for turn in range(bench.repeats):
        small = sum(plan_s(few, turn) for _ in range(many // few)) / (many // few) / few
        turns.append(plan_s(many, turn) / many / small)
    return Measurement(tuple(turns), note=f"an epoch, three repeats, batch {BATCH}, {few} and {many} samples")


def plan_time(bench: Bench) -> Measurement:
    samples = bench.scale.plan_samples[2]
    turns = tuple(plan_s(samples, turn) for turn in range(bench.repeats))
    return Measurement(turns, note=f"{samples} samples, three repeats, batch {BATCH}, blocks enumerated too")


def plan_s(num_samples: int, epoch: int) -> float:
    """Seconds of enumerating the blocks and planning an epoch."""
    counts = [SHARD_SAMPLES] * (num_samples // SHARD_SAMPLES) + [num_samples % SHARD_SAMPLES]
    settings = PlanSettings(
        seed=0,
        batch_size=min(BATCH, num_samples // 3),
        world_size=1,
        rank=0,
        repeats=3,
        order="together",
        views_in_use=304,
        pool_batches=12,
    )
    started = time.perf_counter()
    epoch_plan(settings, pass_blocks(np.array(counts)), epoch)
    return time.perf_counter() - started
