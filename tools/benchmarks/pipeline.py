"""Whole stages against their most expensive part alone."""

import time
from collections.abc import Callable

import torch

from student.loader import ViewLoader
from teacher_cache.messages.shown import counted
from teacher_cache.rendering.choice import render_all
from teacher_cache.rendering.crew import PoolSettings
from teacher_cache.rendering.workers import RenderPool, RenderTask
from teacher_cache.store.store import Store
from teacher_cache.teacher.models import ModelSpec, build_module
from teacher_cache.teacher.settings import TeacherSettings
from tools.benchmarks.internals import without_digests
from tools.benchmarks.rendering import photographs
from tools.benchmarks.row import (
    Bench,
    Measurement,
    RowPlan,
    cores,
    in_turns,
    now_s,
    one_pinned_core,
    steady_rate,
    torch_threads,
)
from tools.benchmarks.stores import NEGLIGIBLE, fill_rate, fill_views, make_store, open_model, training_store
from tools.benchmarks.training import Training

# On a CPU a network takes a hundred times as long as rendering its views: torch gets every core, and the process that
# trains renders between its steps.
WORKERS_BESIDE_A_NETWORK = 0
GROUP = 16
SETTLE = 0.25  # of a turn, in which rendering processes start one after the other
RENDERED_BATCH = 64


def plans() -> list[RowPlan]:
    return [
        RowPlan(
            name="stage one, teacher negligible",
            against="rendering alone, as many processes",
            unit="views/s",
            measure=stage_one_negligible,
            reach=0.9,
        ),
        RowPlan(
            name="stage one, RegNetY-16GF",
            against="that teacher on resident random batches, all cores",
            unit="views/s",
            measure=stage_one_teacher,
            reach=0.95,
        ),
        RowPlan(
            name="stage two, DeiT-Ti",
            against="that student on one resident batch, labels given, all cores",
            unit="views/s",
            measure=stage_two,
            reach=0.95,
        ),
        RowPlan(
            name="stage two step, cached",
            against="the same with RegNetY-16GF online, at its batch shape",
            unit="views/s",
            measure=cached_step,
            reach=3.0,
        ),
        RowPlan(
            name="loader with its digest check",
            against="the loader without, 2 % slower at most",
            unit="views/s",
            measure=digest_check,
            reach=0.98,
        ),
    ]


def stage_one_negligible(bench: Bench) -> Measurement:
    """A group of views a turn. The peer's processes wait while ours render, and ours are new ones each turn.

    A core is left to the process that feeds the teacher, as `fill` shares them out.
    """
    images, workers = photographs(bench), bench.processes(max(1, cores() - 1))
    views = GROUP * (bench.repeats + 2)
    store = make_store(bench, "negligible", images, shard_samples=len(images), views=views, group=GROUP)
    with torch_threads(1), RenderPool(PoolSettings(store.policy, store.seed, workers=workers)) as pool:
        teacher = open_model(bench, store, NEGLIGIBLE, RENDERED_BATCH)
        fill_views(store, teacher, store.layout.group_views(0), workers=0)  # the first unit binds the teacher
        found = in_turns(
            bench.repeats,
            lambda turn: fill_rate(store, teacher, store.layout.group_views(turn + 1), workers, SETTLE),
            lambda turn: render_rate(store, pool, store.layout.group_views(turn + 1)),
            warm_up=False,
        )
    note = (
        f"{counted(workers, 'rendering process')}, {GROUP} views a decode, mixed and erased; without the processes' "
        "start; commits are in it"
    )
    return Measurement(*found, note)


def render_rate(store: Store, pool: RenderPool, views: range) -> float:
    """Views a second of the rendering processes alone."""
    index = store.index
    places = [(shard, block) for shard in range(index.num_shards) for block in range(index.num_blocks(shard))]
    tasks = [RenderTask(number, store.index.place(*place), tuple(views)) for number, place in enumerate(places)]
    arrived: list[tuple[float, int]] = []
    views_done = 0
    for rendered in render_all(pool, tasks):
        views_done += len(rendered.block.lambdas)
        arrived.append((time.perf_counter(), views_done))
    return steady_rate(arrived, SETTLE)


def stage_one_teacher(bench: Bench) -> Measurement:
    """A group of three views a turn, of which the last two are timed: as many images on both sides."""
    scale, group = bench.scale, 3
    images = photographs(bench)[: scale.teacher_images]
    views = group * (bench.repeats + 2)
    store = make_store(bench, "teacher", images, shard_samples=len(images), views=views, group=group)
    with torch_threads(cores()):
        teacher = open_model(bench, store, scale.teacher, scale.teacher_batch)
        fill_views(store, teacher, store.layout.group_views(0), workers=0)
        model = build_module(ModelSpec(scale.teacher), store.num_classes, store.policy.size)
        alone = forward_rate(bench, model, scale.teacher_batch, store.policy.size, (group - 1) * len(images))
        found = in_turns(
            bench.repeats,
            lambda turn: fill_rate(store, teacher, store.layout.group_views(turn + 1), WORKERS_BESIDE_A_NETWORK),
            lambda turn: alone(),
        )
    return Measurement(
        *found,
        f"random weights, batches of {scale.teacher_batch}, fp32, {counted(cores(), 'thread')}; the peer's "
        "input is normalised and laid out already",
    )


def forward_rate(
    bench: Bench,
    model: torch.nn.Module,
    batch: int,
    size: tuple[int, int],
    num_images: int,
    *,
    compiled: bool = False,
) -> Callable[[], float]:
    """Images a second of a network in evaluation mode on one batch of noise that lies ready; bf16 on a GPU."""
    device, batches = bench.device, -(-num_images // batch)
    model = model.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    run = torch.compile(model) if compiled else model
    images = torch.randn(batch, 3, *size, device=device).contiguous(memory_format=torch.channels_last)

    def rate() -> float:
        started = now_s(device)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            for _ in range(batches):
                run(images)
        return batches * batch / (now_s(device) - started)

    return rate


def stage_two(bench: Bench) -> Measurement:
    scale = bench.scale
    store = training_store(bench, photographs(bench))
    batch, steps = scale.teacher_batch, scale.window_views // scale.teacher_batch
    with torch_threads(cores()):
        training = Training(bench, store, batch, WORKERS_BESIDE_A_NETWORK)
        rendered = training.run.loader.views_checked
        found = in_turns(
            bench.repeats,
            lambda turn: batch / training.loader_s(steps),
            lambda turn: batch / training.resident_s(steps),
        )
        rendered = training.run.loader.views_checked - rendered
        training.close()
    trained = (bench.repeats + 1) * steps * batch
    return Measurement(
        *found,
        f"batch {batch}, fp32, {counted(cores(), 'thread')}; {counted(rendered, 'view')} were rendered and "
        f"checked while {trained} were trained",
    )


def cached_step(bench: Bench) -> Measurement:
    """Ours as in the row before; online a step a turn, in which a block is rendered now and then."""
    scale = bench.scale
    store = training_store(bench, photographs(bench))
    batch, steps = scale.teacher_batch, scale.window_views // scale.teacher_batch
    teacher = TeacherSettings(spec=scale.teacher, batch_size=batch)
    with torch_threads(cores()):
        cached = Training(bench, store, batch, WORKERS_BESIDE_A_NETWORK)
        online = Training(bench, store, batch, WORKERS_BESIDE_A_NETWORK, teacher=teacher)
        found = in_turns(
            bench.repeats,
            lambda turn: batch / cached.loader_s(steps),
            lambda turn: batch / online.loader_s(1),
        )
        cached.close()
        online.close()
    return Measurement(*found, f"batch {batch}, the teacher's shape too; fp32, {counted(cores(), 'thread')}")


def digest_check(bench: Bench) -> Measurement:
    """Batches of three views of a block, so that each batch renders as much as it takes."""
    scale = bench.scale
    store = training_store(bench, photographs(bench))
    checked, unchecked = (plain_loader(store, 3 * scale.block_samples, workers=0) for _ in range(2))
    with one_pinned_core():
        ours, peer = iter(checked), iter(unchecked)

        def with_check(turn: int) -> float:
            return loader_rate(lambda: next(ours).views, scale.loader_batches)

        def without_check(turn: int) -> float:
            with without_digests(unchecked):
                return loader_rate(lambda: next(peer).views, scale.loader_batches)

        found = in_turns(max(bench.repeats, scale.digest_turns), with_check, without_check)
        for loader in (checked, unchecked):
            loader.close()
    return Measurement(
        *found,
        f"one pinned core, seconds of the processor; views compared: "
        f"{checked.views_checked} and {unchecked.views_checked}",
    )


def plain_loader(store: Store, batch: int, workers: int) -> ViewLoader:
    """Three repeats together, as DeiT has them, and a small pool."""
    return ViewLoader(
        store,
        batch,
        epochs=1_000_000,
        repeats=3,
        order="together",
        pool_batches=1,
        workers=workers,
        warn=lambda _: None,
    )


def loader_rate(
    take: Callable[[], torch.Tensor], batches: int, clock: Callable[[], float] = time.process_time
) -> float:
    """Views a second of a loader."""
    started, views = clock(), 0
    for _ in range(batches):
        views += len(take())
    return views / (clock() - started)
