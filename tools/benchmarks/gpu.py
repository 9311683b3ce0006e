"""`make bench-gpu`: teacher alone, stage one, student alone, stage two, and the teacher online, on one GPU in bf16.

Batches are the largest powers of two that fit. All run under the numerics that the teacher sets (no TF32, no
autotuning). Each comparison comes with and without torch.compile.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from student.model import build_model, heads
from student.recipe import load_recipe
from teacher_cache.store.store import Store
from teacher_cache.teacher.models import ModelSpec, build_module
from teacher_cache.teacher.settings import TeacherSettings
from tools.benchmarks.pipeline import SETTLE, forward_rate
from tools.benchmarks.rendering import photographs
from tools.benchmarks.row import Bench, Measurement, RowPlan, UnavailableError, cores, in_turns, torch_threads
from tools.benchmarks.stores import CLASSES, fill_rate, fill_views, make_store, open_model, training_store
from tools.benchmarks.training import Training

SHARD_SAMPLES = 512
MEMORY_SHARE = 0.8  # of the device's that a batch may take where it is tried alone


def plans() -> list[RowPlan]:
    return [
        RowPlan(
            name=f"{name}{', compiled' if compiled else ''}",
            against=against,
            unit="views/s",
            measure=partial(measure, compiled=compiled),
            reach=reach,
        )
        for compiled in (False, True)
        for name, against, measure, reach in (
            ("GPU: stage one, RegNetY-16GF", "that teacher on resident random batches", stage_one, 0.95),
            ("GPU: stage two, DeiT-Ti", "that student on one resident batch, labels given", stage_two, 0.95),
            ("GPU: stage two step, cached", "the same with RegNetY-16GF online, at its batch shape", cached_step, 3.5),
        )
    ]


def workers(bench: Bench) -> int:
    """Rendering processes: every core but the one that feeds the GPU."""
    return bench.processes(max(1, cores() - 1))


def stage_one(bench: Bench, compiled: bool) -> Measurement:
    scale, batch = bench.scale, teacher_batch(bench)
    images = photographs(bench) * scale.gpu_copies
    group, turns = scale.gpu_views, bench.repeats + 2
    store = make_store(
        bench, "gpu", images, shard_samples=min(SHARD_SAMPLES, len(images)), views=group * turns, group=group
    )
    with torch_threads(1):
        teacher = open_model(bench, store, scale.teacher, batch, compiled=compiled)
        fill_views(store, teacher, store.layout.group_views(0), workers(bench))
        model = build_module(ModelSpec(scale.teacher), CLASSES, store.policy.size)
        alone = forward_rate(bench, model, batch, store.policy.size, group * len(images) // 4, compiled=compiled)
        found = in_turns(
            bench.repeats,
            lambda turn: fill_rate(store, teacher, store.layout.group_views(turn + 1), workers(bench), SETTLE),
            lambda turn: alone(),
        )
    return Measurement(
        *found, f"batch {batch}, {_dtype(bench)}, {workers(bench)} rendering processes, {group} views a decode"
    )


def stage_two(bench: Bench, compiled: bool) -> Measurement:
    store, batch, steps = _store(bench), student_batch(bench), bench.scale.gpu_steps
    with torch_threads(1):
        training = Training(bench, store, batch, workers(bench), compiled=compiled)
        found = in_turns(
            bench.repeats,
            lambda turn: batch / training.loader_s(steps),
            lambda turn: batch / training.resident_s(steps),
        )
        training.close()
    return Measurement(
        *found, f"batch {batch}, {_dtype(bench)}, {workers(bench)} rendering processes, 3 views a decode"
    )


def cached_step(bench: Bench, compiled: bool) -> Measurement:
    store, batch, steps = _store(bench), student_batch(bench), bench.scale.gpu_steps
    shape = min(batch, teacher_batch(bench))
    teacher = TeacherSettings(spec=bench.scale.teacher, batch_size=shape, compile=compiled)

    # each turn is a run of its own: two with rendering processes at once would share the cores
    def run(online: TeacherSettings | None) -> float:
        training = Training(bench, store, batch, workers(bench), teacher=online, compiled=compiled)
        try:
            return batch / training.loader_s(steps)
        finally:
            training.close()

    with torch_threads(1):
        found = in_turns(bench.repeats, lambda turn: run(None), lambda turn: run(teacher))
    return Measurement(
        *found, f"batch {batch}, the teacher's shape {shape}, {_dtype(bench)}, {workers(bench)} rendering processes"
    )


def teacher_batch(bench: Bench) -> int:
    """The largest batch of the teacher that fits."""

    def find() -> int:
        size = (bench.scale.view_px, bench.scale.view_px)
        model = build_module(ModelSpec(bench.scale.teacher), CLASSES, size)
        model = model.to(bench.device).to(memory_format=torch.channels_last).eval()

        def run(images: torch.Tensor) -> None:
            with torch.inference_mode():
                model(images)

        return largest_batch(bench, run)

    batch: int = bench.shared("teacher's batch", find)
    return batch


def student_batch(bench: Bench) -> int:
    """The largest batch of the student that fits beside the teacher, and into an epoch."""

    def find() -> int:
        size = (bench.scale.view_px, bench.scale.view_px)
        beside: nn.Module = build_module(ModelSpec(bench.scale.teacher), CLASSES, size)
        beside.to(bench.device)
        recipe = load_recipe(bench.scale.recipe, list(bench.scale.student))
        model = build_model(recipe, CLASSES, size).to(bench.device)

        def run(images: torch.Tensor) -> None:
            outputs = heads(model, images)
            total = outputs.class_logits.float().square().mean()
            if outputs.distill_logits is not None:
                total = total + outputs.distill_logits.float().square().mean()
            total.backward()
            model.zero_grad(set_to_none=True)

        return largest_batch(bench, run, at_most=_store(bench).index.num_samples)

    batch: int = bench.shared("student's batch", find)
    return batch


def largest_batch(bench: Bench, run: Callable[[torch.Tensor], None], at_most: int | None = None) -> int:
    """Double the batch while it runs within MEMORY_SHARE of the device. UnavailableError where one image does not."""
    device, px = bench.device, bench.scale.view_px
    largest = min(bench.scale.gpu_largest_batch, at_most or bench.scale.gpu_largest_batch)
    fits, batch = 0, 1
    while batch <= largest and runs_within_memory(device, run, batch, px):
        fits, batch = batch, 2 * batch
    if not fits:
        raise UnavailableError("not one image fits into the device's memory")
    return fits


def runs_within_memory(device: torch.device, run: Callable[[torch.Tensor], None], batch: int, px: int) -> bool:
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=on_cuda):
            run(torch.randn(batch, 3, px, px, device=device).contiguous(memory_format=torch.channels_last))
    except torch.OutOfMemoryError:
        return False
    if not on_cuda:
        return True
    total = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.max_memory_allocated(device) <= MEMORY_SHARE * total


def _store(bench: Bench) -> Store:
    return training_store(bench, photographs(bench) * bench.scale.gpu_copies, workers(bench))


def _dtype(bench: Bench) -> str:
    return "bf16" if bench.device.type == "cuda" else "fp32"
