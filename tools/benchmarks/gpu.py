"""`make bench-gpu`: teacher alone, stage one, student alone, stage two, and the teacher online, on one GPU in bf16.

Batches are of 1,024 views, or what of it fits. All run under the numerics that the teacher sets (no TF32, no
autotuning). Each comparison comes with and without torch.compile.
"""

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from student.model import build_model, heads
from student.recipe import load_recipe
from teacher_cache.messages.shown import counted
from teacher_cache.replay.policy import load_policy
from teacher_cache.store.store import Store
from teacher_cache.teacher.models import ModelSpec, build_module
from teacher_cache.teacher.names import GivenModel
from teacher_cache.teacher.settings import TeacherSettings
from tools.benchmarks.photographs import make_photographs
from tools.benchmarks.pipeline import SETTLE, forward_rate
from tools.benchmarks.renderer import kernels_rate, renderers_share
from tools.benchmarks.rendering import photographs
from tools.benchmarks.row import Bench, Measurement, RowPlan, UnavailableError, cores, torch_threads
from tools.benchmarks.scale import MODELS
from tools.benchmarks.stores import CLASSES, NEGLIGIBLE, fill_rate, fill_views, make_store, open_model, training_store
from tools.benchmarks.timm_train import train_rate, write_folders
from tools.benchmarks.training import Training

SHARD_SAMPLES = 512
TIMM_S = 55.0  # that timm's script runs
MEMORY_SHARE = 0.8  # of the device's that a batch may take where it is tried alone


def plans() -> list[RowPlan]:
    return [*_renderer_plans(), *_stage_two_plans(), *_small_plans(), *_stage_one_plans(), *_comparisons()]


def _stage_two_plans() -> list[RowPlan]:
    return [
        RowPlan(
            name=f"GPU: stage two, {student}, R = {repeats}{', compiled' if compiled else ''}",
            against="that student on one resident batch, labels given",
            unit="views/s",
            measure=partial(stage_two, recipe=recipe, repeats=repeats, compiled=compiled),
            prepare=partial(_prepare, recipe=recipe),
            reach=reach,
        )
        for student, recipe, repeats, compiled, reach in (
            ("DeiT-Ti", "deit_tiny_distilled", 3, False, 0.94),
            ("DeiT-Ti", "deit_tiny_distilled", 3, True, 0.80),
            ("DeiT-S", "deit_small_distilled", 3, False, 0.98),
            ("DeiT-B", "deit_base_distilled", 3, False, 0.98),
            ("DeiT-Ti", "deit_tiny_distilled", 1, False, 0.40),
        )
    ]


def _small_plans() -> list[RowPlan]:
    convnets = [
        RowPlan(
            name=f"GPU: stage two, ResNet-18, 32 pixels{', compiled' if compiled else ''}",
            against="that student on one resident batch, labels given",
            unit="views/s",
            measure=partial(stage_two_small, compiled=compiled),
            prepare=small_views,
            reach=0.9,
        )
        for compiled in (False, True)
    ]
    start = RowPlan(
        name="GPU: first batch trained",
        against="limit: 5 s after imports",
        unit="s",
        measure=first_batch,
        prepare=_prepare,
        lower=True,
        limit=5.0,
    )
    return [*convnets, start]


def _stage_one_plans() -> list[RowPlan]:
    with_teachers = [
        RowPlan(
            name=f"GPU: stage one, {name}",
            against="that teacher on resident random batches",
            unit="views/s",
            measure=partial(stage_one, cheaper=cheaper, processes=processes, compiled=compiled),
            prepare=photographs,
            reach=reach,
        )
        for name, cheaper, processes, compiled, reach in (
            ("RegNetY-16GF", False, None, False, 0.98),
            ("RegNetY-16GF, compiled, 3 processes", False, 3, True, 0.98),
            ("ResNet-50", True, None, False, 0.95),
        )
    ]
    negligible = RowPlan(
        name="GPU: stage one, one-layer teacher",
        against="limit: 60 thousand views/s",
        unit="views/s",
        measure=stage_one_negligible,
        prepare=photographs,
        limit=60_000.0,
    )
    return [*with_teachers, negligible]


def _comparisons() -> list[RowPlan]:
    online = [
        RowPlan(
            name=f"GPU: stage two step, cached{', compiled' if compiled else ''}",
            against="the same with RegNetY-16GF online, at its batch shape",
            unit="views/s",
            measure=partial(cached_step, compiled=compiled),
            prepare=_prepare,
            reach=reach,
        )
        for compiled, reach in ((False, 4.2), (True, 3.5))
    ]
    timm = [
        RowPlan(
            name=f"GPU: stage two, DeiT-Ti{', compiled' if compiled else ''}, vs timm's train.py",
            against=f"timm's train.py{words}, RegNetY-16GF online, token distillation",
            unit="views/s",
            measure=partial(against_timm, compiled=compiled),
            prepare=_prepare,
            reach=4.0,
        )
        for compiled, words in ((False, ""), (True, " --torchcompile"))
    ]
    return [*online, *timm]


def _renderer_plans() -> list[RowPlan]:
    share = RowPlan(
        name="GPU: renderer's share of the device in stage two",
        against="limit: 5 %",
        unit="%",
        measure=renderer_beside_a_student,
        prepare=_prepare,
        lower=True,
        limit=5.0,
    )
    alone = [
        RowPlan(
            name=f"GPU: rendering kernels alone, R = {repeats}",
            against=f"limit: {limit / 1000:.0f} thousand views/s",
            unit="views/s",
            measure=partial(kernels_rate, repeats=repeats),
            prepare=photographs,
            limit=limit,
        )
        for repeats, limit in ((3, 300_000.0), (16, 350_000.0))
    ]
    return [share, *alone]


def workers(bench: Bench) -> int:
    """Rendering processes: every core but the one that feeds the GPU."""
    return bench.processes(max(1, cores() - 1))


def stage_one(bench: Bench, cheaper: bool, processes: int | None, compiled: bool) -> Measurement:
    """A group of views a turn. processes: None for `workers`."""
    scale = bench.scale
    spec, copies = scale.cheaper_teacher if cheaper else scale.teacher, scale.gpu_teacher_copies
    beside = workers(bench) if processes is None else bench.processes(min(processes, max(1, cores() - 1)))
    batch = teacher_batch(bench, spec)
    store, group = _empty_store(bench, copies), scale.gpu_views
    with torch_threads(1):
        teacher = open_model(bench, store, spec, batch, compiled=compiled)
        fill_views(store, teacher, store.layout.group_views(0), beside)
        model = build_module(ModelSpec(spec), CLASSES, store.policy.size)
        labelled = group * store.index.num_samples
        alone = forward_rate(bench, model, batch, store.policy.size, labelled // 4, compiled=compiled)
        found = bench.turns(
            lambda turn: fill_rate(store, teacher, store.layout.group_views(turn + 1), beside, SETTLE),
            lambda turn: alone(),
        )
    bench.made[f"rate of {spec}"] = statistics.median(found[0])
    return Measurement(
        *found,
        f"batch {batch}, {_dtype(bench)}, {counted(beside, 'rendering process')}, {counted(group, 'view')} a decode",
    )


def stage_one_negligible(bench: Bench) -> Measurement:
    store, batch = _empty_store(bench, bench.scale.gpu_copies), bench.scale.gpu_batch
    with torch_threads(1):
        teacher = open_model(bench, store, NEGLIGIBLE, batch)
        found, _ = bench.turns(
            lambda turn: fill_rate(store, teacher, store.layout.group_views(turn), workers(bench), SETTLE), None
        )
    group = bench.scale.gpu_views
    return Measurement(
        found, note=f"batch {batch}, {counted(workers(bench), 'rendering process')}, {counted(group, 'view')} a decode"
    )


def stage_two(bench: Bench, recipe: str, repeats: int, compiled: bool) -> Measurement:
    batch = student_batch(bench, recipe)
    training = partial(Training, bench, training_views(bench), batch, workers(bench), recipe=recipe, repeats=repeats)
    return _beside_resident(bench, partial(training, compiled=compiled), batch, f"{counted(repeats, 'view')} a decode")


def stage_two_small(bench: Bench, compiled: bool) -> Measurement:
    return _beside_resident(
        bench, partial(small_training, bench, compiled=compiled), bench.scale.small_batch, "1 view a decode"
    )


def small_training(bench: Bench, *, compiled: bool = False) -> Training:
    """Of a small convnet, on pictures as large as CIFAR's."""
    return Training(
        *(bench, small_views(bench), bench.scale.small_batch, workers(bench)),
        compiled=compiled,
        recipe="cifar_teacher",
        repeats=1,
        settings=(f"model={MODELS}:{bench.scale.small_model}", "distill=hard"),
    )


def _beside_resident(bench: Bench, begin: Callable[[], Training], batch: int, note: str) -> Measurement:
    """A training's steps from its loader, and on a batch that stays where it is."""
    with torch_threads(1):
        training = begin()
        steps = training.steps_within(bench.scale.gpu_turn_s)
        found = bench.turns(
            lambda turn: batch / training.loader_s(steps),
            lambda turn: batch / training.resident_s(steps),
        )
        training.close()
    return Measurement(
        *found, f"batch {batch}, {_dtype(bench)}, {counted(workers(bench), 'rendering process')}, {note}"
    )


def first_batch(bench: Bench) -> Measurement:
    """A training's start, of a process of its own each turn; in the first one kernels are compiled."""
    store, batch = training_views(bench), student_batch(bench, bench.scale.recipe)
    compiled = bench.scratch / "triton"
    shutil.rmtree(compiled, ignore_errors=True)
    environment = {**os.environ, "TRITON_CACHE_DIR": str(compiled), "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [str(store.path), bench.scale.recipe, str(batch), str(workers(bench)), str(bench.device)]
    taken = list[float]()

    def start(turn: int) -> float:
        command = [sys.executable, "-m", "tools.benchmarks.first_batch", *words, *bench.scale.student]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise UnavailableError((done.stderr.strip().splitlines() or ["no message"])[-1])
        taken.append(float(done.stdout))
        return taken[-1]

    found, _ = bench.turns(start, None)
    return Measurement(
        found,
        note=f"DeiT-Ti, batch {batch}, {counted(workers(bench), 'rendering process')}; "
        f"{taken[0]:.1f} s the first time, when kernels are compiled",
    )


def cached_step(bench: Bench, compiled: bool) -> Measurement:
    store, batch, turn_s = training_views(bench), student_batch(bench, bench.scale.recipe), bench.scale.gpu_turn_s
    shape = min(batch, teacher_batch(bench, bench.scale.teacher))
    teacher = TeacherSettings(spec=bench.scale.teacher, batch_size=shape, compile=compiled)
    with torch_threads(1):
        # the rendering processes of the one that waits have nothing to do
        cached, online = (
            Training(bench, store, batch, workers(bench), teacher=asked, compiled=compiled) for asked in (None, teacher)
        )
        steps = [cached.steps_within(turn_s), online.steps_within(turn_s)]
        found = bench.turns(
            lambda turn: batch / cached.loader_s(steps[0]),
            lambda turn: batch / online.loader_s(steps[1]),
        )
        cached.close()
        online.close()
    return Measurement(
        *found,
        f"batch {batch}, the teacher's shape {shape}, {_dtype(bench)}, {counted(workers(bench), 'rendering process')}",
    )


def against_timm(bench: Bench, compiled: bool) -> Measurement:
    """timm runs once: its processes take long to start, and its log has a figure of every few steps. Its
    --torchcompile compiles the student, as our compile = true does."""
    store, batch = training_views(bench), student_batch(bench, bench.scale.recipe)
    images = photographs(bench)
    folder = write_folders(bench.scratch / "timm", images, bench.scale.gpu_copies, min(CLASSES, len(images)))
    limit_s = max(TIMM_S, 0.0 if bench.row_s is None else bench.row_s)
    theirs = train_rate(
        bench.timm_train,
        folder,
        bench.scratch / "timm-run",
        batch=batch,
        workers=max(1, workers(bench)),
        device=str(bench.device),
        compiled=compiled,
        limit_s=limit_s,
    )
    with torch_threads(1):
        training = Training(bench, store, batch, workers(bench), compiled=compiled)
        steps = training.steps_within(bench.scale.gpu_turn_s)
        ours, _ = bench.turns(lambda turn: batch / training.loader_s(steps), None)
        training.close()
    note = f"batch {batch}, {counted(workers(bench), 'process')} on either side"
    if (fill := bench.made.get(f"rate of {bench.scale.teacher}")) is not None:
        note = f"{note}; {both_stages(fill, statistics.median(ours), theirs)}"
    return Measurement(ours, (theirs,) * len(ours), note)


def both_stages(fill: float, cached: float, online: float) -> str:
    """What both stages cost beside training online, each view trained on once. Rates in views a second."""
    one, five = ((students / online) / (1 / fill + students / cached) for students in (1, 5))
    text = f"both stages: {one:.2f} times as fast for one student, {five:.2f} for five"
    if cached <= online:
        return f"{text}, never even"
    return f"{text}, even from {(1 / fill) / (1 / online - 1 / cached):.1f} students on"


def renderer_beside_a_student(bench: Bench) -> Measurement:
    store, batch = training_views(bench), student_batch(bench, bench.scale.recipe)
    with torch_threads(1):
        training = Training(bench, store, batch, workers(bench))
        steps = training.steps_within(bench.scale.gpu_turn_s)
        try:
            found, _ = bench.turns(
                lambda turn: 100 * renderers_share(bench.device, lambda: training.loader_s(steps)), None
            )
        finally:
            training.close()
    return Measurement(
        found, note=f"DeiT-Ti, batch {batch}, {counted(workers(bench), 'rendering process')}; by the profiler"
    )


def teacher_batch(bench: Bench, spec: GivenModel) -> int:
    """The largest batch of a teacher that fits."""

    def find() -> int:
        size = (bench.scale.view_px, bench.scale.view_px)
        model = build_module(ModelSpec(spec), CLASSES, size)
        model = model.to(bench.device).to(memory_format=torch.channels_last).eval()

        def run(images: torch.Tensor) -> None:
            with torch.inference_mode():
                model(images)

        return largest_batch(bench, run)

    batch: int = bench.shared(f"batch of {spec}", find)
    return batch


def student_batch(bench: Bench, recipe_name: str) -> int:
    """The largest batch of a student that fits beside the teacher."""

    def find() -> int:
        size = (bench.scale.view_px, bench.scale.view_px)
        beside: nn.Module = build_module(ModelSpec(bench.scale.teacher), CLASSES, size)
        beside.to(bench.device)
        recipe = load_recipe(recipe_name, list(bench.scale.student))
        model = build_model(recipe, CLASSES, size).to(bench.device)

        def run(images: torch.Tensor) -> None:
            outputs = heads(model, images)
            total = outputs.class_logits.float().square().mean()
            if outputs.distill_logits is not None:
                total = total + outputs.distill_logits.float().square().mean()
            total.backward()
            model.zero_grad(set_to_none=True)

        return largest_batch(bench, run)

    batch: int = bench.shared(f"batch of {recipe_name}", find)
    return batch


def largest_batch(bench: Bench, run: Callable[[torch.Tensor], None]) -> int:
    """Halve the batch until it runs within MEMORY_SHARE of the device. UnavailableError where one image does not."""
    batch = bench.scale.gpu_batch
    while batch and not runs_within_memory(bench.device, run, batch, bench.scale.view_px):
        batch //= 2
    if not batch:
        raise UnavailableError("not one image fits into the device's memory")
    return batch


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


def training_views(bench: Bench) -> Store:
    images = photographs(bench) * bench.scale.gpu_copies
    return training_store(bench, images, workers(bench), shard_samples=SHARD_SAMPLES, batch=bench.scale.gpu_batch)


def _prepare(bench: Bench, recipe: str | None = None) -> None:
    """The store that students are trained from, and a recipe's batch. recipe: None for the scale's."""
    training_views(bench)
    student_batch(bench, recipe or bench.scale.recipe)


def small_views(bench: Bench) -> Store:
    """Of pictures as large as CIFAR's."""

    def make() -> Store:
        size, num_bytes = bench.scale.small_pictures
        images = make_photographs(bench.scale.images, size, num_bytes) * bench.scale.small_copies
        store = make_store(
            *(bench, "small pictures", images),
            shard_samples=SHARD_SAMPLES,
            views=bench.scale.gpu_views,
            group=bench.scale.gpu_views,
            policy=load_policy("cifar"),
        )
        fill_views(
            store, open_model(bench, store, NEGLIGIBLE, bench.scale.gpu_batch), range(store.views), workers(bench)
        )
        return store

    store: Store = bench.shared("small pictures", make)
    return store


def _empty_store(bench: Bench, copies: int) -> Store:
    """With a group of views for each turn."""
    images, group = photographs(bench) * copies, bench.scale.gpu_views
    views = group * (bench.repeats + 2)
    return make_store(bench, "gpu", images, shard_samples=min(SHARD_SAMPLES, len(images)), views=views, group=group)


def _dtype(bench: Bench) -> str:
    return "bf16" if bench.device.type == "cuda" else "fp32"
