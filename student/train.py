"""Stage two: replayed views and cached labels -> a trained student."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from student.checkpoint import NEWEST, check_resumable, find_checkpoint, settle_on, taking_up
from student.evaluate import Accuracy
from student.log import RunLog
from student.meter import describe_speed
from student.options import TrainOptions
from student.ranks import check_same
from student.recipe import Recipe
from student.results import RESULTS, final_accuracy
from student.run import Run
from student.tracker import Tracker, new_curve
from student.validation import ValidationSet, index_validation
from teacher_cache.errors import CheckpointError, RecipeError, ShardError
from teacher_cache.files import replacing, writing
from teacher_cache.job import Job, join_job
from teacher_cache.processes.lock import alone
from teacher_cache.processes.signals import Stopped, stop_signals
from teacher_cache.rendering.choice import choose_rendering
from teacher_cache.shards.check import check_are_there
from teacher_cache.store.store import Store

STOPPED = 75  # exit code of a run that a signal stopped after it wrote a checkpoint (EX_TEMPFAIL: run it again)
LOCK = ".lock"  # held while a run writes to its folder
TOLD_EVERY_S = 60.0  # within an epoch
LOG_STEPS = 50  # losses are fetched from the device and written this often


def train(
    store: Store,
    recipe: Recipe,
    options: TrainOptions,
    say: Callable[[str], None],
    *,
    initial: Mapping[str, Tensor] | None = None,
) -> Accuracy:
    """Train a student from a store and evaluate it; the same `out` goes on where it stopped.

    initial: the model's weights at the start, evaluated before the first step; None: fresh ones. Returns the final
    accuracy by head, of the EMA too under "ema_..." where the recipe keeps one; empty without validation shards, and on
    all ranks but the first. Raises Stopped after a signal (see stop_signals), when the checkpoint is written; BusyError
    where another run writes to `out`.
    """
    with (
        join_job(options.device, workers=options.workers, timeout_s=options.rank_timeout_s, group=True) as job,
        stop_signals() as stop_asked,
        only_run(options.out, job, say),
    ):
        heard, say = say, say if job.first else lambda message: None
        run = Run(store, recipe, options, job, initial)
        resumed, finished = resume(run, say), run.is_finished()
        if not finished:
            check_shards(run)
            run.announce(say)
            tell_worse_off(run, heard)
            with job.told_to_all("the start"):
                if job.first:
                    remove_results(options.out)
        with run.loader, open_validation(run, say, heard) as validation, open_log(run, say) as log:
            if initial is not None and not resumed and validation is not None:
                say(f"before the first step  {describe_accuracy(run.accuracy(validation))}")
            run.begin_epoch()
            accuracy = train_epochs(run, validation, log, stop_asked, say)
        if job.first and not (finished and validation is None and has_results(options.out)):
            write_results(options.out, run, accuracy)
        return accuracy if job.first else {}


@contextmanager
def only_run(out: Path, job: Job, say: Callable[[str], None]) -> Iterator[None]:
    """The first rank makes the run's folder and holds it for its job; BusyError, on every rank, where another job
    does."""
    with ExitStack() as held:
        with job.told_to_all("the start"):
            if job.first:
                with writing(out):
                    out.mkdir(parents=True, exist_ok=True)
                advice = "wait for its end, stop it, or give this one another --out"
                held.enter_context(alone(out / LOCK, f"another run writes to {out}", advice, say))
        yield


def resume(run: Run, say: Callable[[str], None]) -> bool:
    """Go on where the first rank's folder says that an earlier run stopped, on all ranks; False where there was none.
    CheckpointError, on all ranks."""
    out, job = run.options.out, run.job
    there = job.gather((out / NEWEST).exists(), "the start")
    checkpoint: dict[str, Any] | None = None
    notes: list[str] = []
    with job.told_to_all("the start"):
        if job.first and (checkpoint := find_checkpoint(out, job.world_size)) is not None:
            notes = check_resumable(out, checkpoint, run.identity())
        if any(there) and not there[0]:
            raise CheckpointError(
                f"rank {there.index(True)} finds a {NEWEST} in {out}, the first rank, which reads and writes there, "
                "finds none: give an --out that all hosts share, or copy the folder to the first rank's host"
            )
    checkpoint = job.share(checkpoint)
    if checkpoint is None:
        return False
    for note in notes:
        say(note)
    with taking_up(out):
        run.load(checkpoint)
    given_up = None
    with job.told_to_all("the start"):
        if job.first:
            given_up = settle_on(out, checkpoint)
    say(run.describe_resumption())
    if given_up is not None:
        say(given_up)
    return True


def check_shards(run: Run) -> None:
    """ShardError, on all ranks, where one of them misses training shards of its machine."""
    job, index = run.job, run.store.index
    with job.told_to_all("the start"):
        try:
            check_are_there(index, range(index.num_shards))
        except ShardError as error:
            raise ShardError(f"rank {job.rank}: {error}" if job.world_size > 1 else str(error)) from error


def tell_worse_off(run: Run, say: Callable[[str], None]) -> None:
    """Say, on a rank that renders on the CPU or has its pool in memory where the first does not, why."""
    loader, job = run.loader, run.job
    in_memory = loader.rows_device.type == "cpu"
    worse = 2 * (loader.rendering.device is None) + in_memory if loader.placed() else 0
    if job.is_worse_off("rendering", worse):
        for line in loader.placed():
            say(f"rank {job.rank}: {line}")


def open_validation(
    run: Run, say: Callable[[str], None], warn: Callable[[str], None]
) -> AbstractContextManager[ValidationSet | None]:
    """The validation shards, held open for the whole run, their views rendered where those of training are; None
    without such. warn hears, on every rank, where a device has less room than it had."""
    store, options = run.store, run.options
    index = None
    if options.val:
        index = index_validation(
            options.val,
            store.class_names,
            store.index.class_from,
            image_from=store.index.image_from,
            cache=options.cache,
        )
    shards = [] if index is None else [(shard.name, shard.hash) for shard in index.shards]
    check_same(run.job, {"validation": {"shards": shards}})
    if index is None:
        return nullcontext()
    rendering = run.loader.rendering
    if rendering.device is not None:
        rendering = choose_rendering(options.render, run.preprocessing.policy(), rendering.device)
        if rendering.device is None:
            say(f"validation: {rendering.said}")
    return ValidationSet(
        index,
        run.preprocessing,
        workers=options.workers,
        rank=run.job.rank,
        world_size=run.job.world_size,
        worker_timeout_s=options.worker_timeout_s,
        cache=options.cache,
        rendering=rendering,
        warn=warn,
    )


def open_log(run: Run, say: Callable[[str], None]) -> AbstractContextManager[RunLog | None]:
    """The run's logs, which the first rank writes; None on the others. What is wrong with them ends all ranks."""
    log: RunLog | None = None
    with run.job.told_to_all("the start"):
        if run.job.first:
            tracker = open_tracker(run, say)
            out, steps, epochs = run.options.out, run.steps_done(), run.epoch
            log = RunLog(out, steps_done=steps, epochs_done=epochs, tracker=tracker, say=say)
    return nullcontext() if log is None else log


def open_tracker(run: Run, say: Callable[[str], None]) -> Tracker | None:
    """The run's curve in the library that is asked for, or None. RecipeError where it cannot begin; one that a resumed
    run cannot go on with is no reason to leave off training."""
    library = run.options.log
    if library is None or run.is_finished():
        return None
    run.curve = run.curve or new_curve()
    config = {**run.identity(), "teacher": run.answers.teacher_name}
    try:
        return Tracker(library, run.options.out, run.curve, config, say)
    except RecipeError as error:
        if not run.steps_done():
            raise
        say(f"{error}; this run goes on without")
        return None


def train_epochs(
    run: Run,
    validation: ValidationSet | None,
    log: RunLog | None,
    stop_asked: Callable[[], bool],
    say: Callable[[str], None],
) -> Accuracy:
    """Train until the plan is through, or a signal comes. The accuracy at the end."""
    accuracy: Accuracy | None = None
    saved_at = told_at = time.monotonic()
    for batch in run.loader:
        run.train_step(batch)
        ended = run.step == 0
        overdue = time.monotonic() - saved_at > run.options.checkpoint_every_s
        if not ended and time.monotonic() - told_at > TOLD_EVERY_S:
            say(run.describe_position())
            told_at = time.monotonic()
        stopping, due = run.job.any([stop_asked(), overdue])
        saving = ended or due or stopping
        if saving or run.unlogged() >= LOG_STEPS:
            run.flush_steps(log)
        if not saving:
            continue
        run.prove(batch)
        if ended:
            accuracy = end_epoch(run, validation, log, say)
            told_at = time.monotonic()
        run.save()
        saved_at = time.monotonic()
        if stopping and not run.is_finished():
            raise Stopped(f"stopped at epoch {run.epoch + 1}, step {run.step}; the same command goes on")
    if accuracy is None:
        return run.accuracy(validation)
    say(run.loader.describe_checks())
    return accuracy


def end_epoch(run: Run, validation: ValidationSet | None, log: RunLog | None, say: Callable[[str], None]) -> Accuracy:
    """Evaluate the epoch that has just ended, log it and say it. Its accuracy."""
    row = run.end_epoch()
    accuracy = run.accuracy(validation)
    row |= {f"{head}_top1": values["top1"] for head, values in accuracy.items()}
    run.begin_epoch()
    with run.job.told_to_all("an epoch's end"):
        if log is not None:
            log.write_epoch(row, run.steps_done())
    say(describe_epoch(row, run.recipe.epochs))
    return accuracy


def has_results(out: Path) -> bool:
    """Whether there are those of an earlier run, which can be read."""
    try:
        final_accuracy(out / RESULTS)
    except CheckpointError:
        return False
    return True


def remove_results(out: Path) -> None:
    """Those of an earlier run, as a training that goes on has none. DiskError."""
    with writing(out / RESULTS):
        (out / RESULTS).unlink(missing_ok=True)


def write_results(out: Path, run: Run, accuracy: Accuracy) -> None:
    """Publish results.json: what was trained, on what, by which teacher, and how good it is."""
    results = {
        **run.identity(),
        "teacher": run.answers.teacher_name,
        "accuracy": accuracy,
        "model": run.weights_sha256(),
        "steps": run.steps_done(),
        "views": list(run.loader.views_needed),
        "views_drifted": run.views_drifted,
    }
    with replacing(out / RESULTS, "the trained model is in its checkpoint") as aside:
        aside.write_text(json.dumps(results, indent=2) + "\n")


def describe_epoch(row: Mapping[str, Any], epochs: int) -> str:
    """One line for the console."""
    parts = [f"epoch {row['epoch'] + 1}/{epochs}", f"loss {row['loss']:.3f}"]
    if row["teacher_agreement"] is not None:
        parts.append(f"(class {row['class_loss']:.3f}, distillation {row['distill_loss']:.3f})")
        parts.append(f"agrees with teacher {100 * row['teacher_agreement']:.1f} %")
    parts += [f"{name.removesuffix('_top1')} {100 * row[name]:.2f} %" for name in row if name.endswith("_top1")]
    parts.append(describe_speed(row))
    return "  ".join(parts)


def describe_accuracy(accuracy: Accuracy) -> str:
    return "  ".join(f"{head} {100 * values['top1']:.2f} %" for head, values in accuracy.items())
