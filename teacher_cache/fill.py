"""Stage one: units without labels -> replayed views -> teacher -> store."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from teacher_cache.claims import POLL_S, Claims, open_claims, sweep_claims
from teacher_cache.committing import committing
from teacher_cache.errors import AgreementError, DriftError, StoreError, TeacherError
from teacher_cache.job import Job, join_job
from teacher_cache.labelling import LabelledUnit, describe, label_units
from teacher_cache.messages.shown import counted
from teacher_cache.processes.signals import Stopped, stop_signals
from teacher_cache.processes.timeouts import LEASE_S, RANK_TIMEOUT_S, TIMEOUT_S
from teacher_cache.prove import Batch, check_same_answers, check_steady, first_batch
from teacher_cache.rendering.choice import RENDER_DEFAULT, Render, Rendering, choose_rendering, open_render_pool
from teacher_cache.rendering.crew import PoolSettings
from teacher_cache.shards.check import check_are_there
from teacher_cache.storage.cache import NodeCache
from teacher_cache.store.agreement import (
    NEAR_CHANCE,
    RENAMING_GAIN,
    agreement_above_chance,
    renaming_gain,
)
from teacher_cache.store.drift import unsteady_message
from teacher_cache.store.proof import Proof, make_proof
from teacher_cache.store.status import nobodys_labels
from teacher_cache.store.store import Store
from teacher_cache.store.unit import Unit
from teacher_cache.teacher.identity import check_same_teacher
from teacher_cache.teacher.teacher import Teacher

if TYPE_CHECKING:
    from teacher_cache.rendering.choice import AnyPool

LISTED_S = 20.0  # how old a listing of what is committed may be; of a store in a bucket one takes a second
MOVING = ("views", "labelled")  # the job's counters that show that somebody works


@dataclass(frozen=True)
class FillOptions:
    workers: int
    skip_bad: bool = False
    allow_low_agreement: bool = False
    render: Render = RENDER_DEFAULT  # where views are: see choose_rendering
    worker_timeout_s: float = TIMEOUT_S
    rank_timeout_s: float = RANK_TIMEOUT_S
    claim: bool = False  # share units with other jobs; a job of several ranks claims its own anyway
    lease_s: float = LEASE_S
    cache: NodeCache | None = None  # where blocks of shards far away are kept


@dataclass(frozen=True)
class FillProgress:
    """What all ranks have done so far in this fill."""

    views: int
    labelled: int
    larger: int  # labels equal to the class with the larger lambda

    @property
    def agreement(self) -> float:
        """Share of committed labels that equal the class with the larger lambda; nan before the first unit."""
        return self.larger / self.labelled if self.labelled else float("nan")


@dataclass(frozen=True)
class OpenFill:
    """What one rank holds open while it fills."""

    store: Store
    teacher: Teacher
    pool: "AnyPool"
    job: Job
    claims: Claims | None  # None: a job of one rank, to which no other matters
    allow_low_agreement: bool
    on_moved: Callable[[], None]  # called whenever the job has moved on
    warn: Callable[[str], None]

    def advance(self, views: int) -> None:
        """Count views that got their labels."""
        self.job.add("views", views)
        self.on_moved()


def fill(
    store: Store,
    teacher: Teacher,
    options: FillOptions,
    views: range,
    *,
    on_start: Callable[[int], None] = lambda num_views: None,
    on_progress: Callable[[FillProgress], None] = lambda progress: None,
    warn: Callable[[str], None] = lambda message: None,
    say: Callable[[str], None] = lambda message: None,
) -> int:
    """Label every unit of the given views that is not committed. The number of units that this job has committed.

    Every rank of the job calls it, and any number of jobs may at the same time. Ranks, and with options.claim jobs,
    claim the units that they label. One of them labels the first unit of a fresh store alone, and binds the store to
    the teacher only if its answers depend on a view alone and that unit agrees with the ground truth better than
    chance. Every other rank, and every later fill, answers again what was answered then. on_start is called on rank 0
    with the views that the job has to label, again as other jobs take some of them; so is on_progress. say hears where
    views are rendered, on another rank too where it is worse off than the first.

    Raises AgreementError, TeacherError for another teacher than the store's or one that answers otherwise, DriftError
    if this machine renders other pixels than the store's, ImageError for an undecodable image unless options.skip_bad,
    ShardError for shards that are not there, before anything is labelled, or that are not those that were indexed,
    StoreError if a unit is missing at the end, DeviceError where options.render asks for what is not there, RenderError
    where a rendering process dies or hangs, RankError where another rank does; Stopped after a signal (see
    stop_signals), between two blocks' views.
    """
    with (
        join_job(teacher.device, workers=options.workers, timeout_s=options.rank_timeout_s) as job,
        stop_signals() as stop_asked,
    ):
        claims: Claims | None = None

        def on_moved() -> None:
            if claims is not None:
                claims.moved()
            if stop_asked():
                raise Stopped("stopped: committed units are kept, units in flight are lost; run again to go on")
            if job.first:
                on_progress(read_progress(job))

        rendering = choose_rendering(options.render, store.policy, teacher.device)
        rendering.tell(job, say)
        with open_pool(store, options, rendering, warn) as pool, ExitStack() as claimed:
            if options.claim or job.world_size > 1:
                claims = claimed.enter_context(open_claims(store, options.lease_s, options.worker_timeout_s))
            held = OpenFill(store, teacher, pool, job, claims, options.allow_low_agreement, on_moved, warn)
            fill_views(held, views, on_start)
        job.wait_for_all("finished", moving=MOVING, meanwhile=on_moved)
        if job.first:
            end_fill(store, views)
        return job.add("units", 0)


def end_fill(store: Store, views: range) -> None:
    """Remove what workers that were killed have left beside the store. StoreError where a unit is not committed that
    should be."""
    if left := store.missing_units(views):
        raise StoreError(
            f"{counted(len(left), 'unit')} still missing, the first is {describe(store, left[0])}: run the same "
            "command again"
        )
    store.finish_pending()
    sweep_claims(store)


def fill_views(held: OpenFill, views: range, on_start: Callable[[int], None]) -> None:
    """This rank's part of a fill, until every unit is committed."""
    store, teacher, pool = held.store, held.teacher, held.pool
    store.finish_pending()
    missing = store.missing_units(views)
    check_are_there(store.index, sorted({unit.shard for unit in missing}))
    if held.job.first:
        on_start(sum(store.layout.num_views(unit) for unit in missing))
    device = teacher.identity.device
    with committing(store, device, held.job, held.claims, held.on_moved, held.warn) as units:

        def advance(views: int) -> None:
            held.advance(views)
            units.look()

        if missing and store.teacher is None and (first := bind_with_first_unit(held, missing[0])) is not None:
            units.begin(first)
            units.finish()
        elif store.teacher is not None:
            check_same_teacher(store.teacher, teacher.identity, may_differ=may_differ(store))
            if missing:
                check_same_answers(store, teacher, pool, held.warn)
        patience = held.job.patience(MOVING)
        while left := store.missing_units(views):
            if held.job.first and held.claims is not None:
                on_start(held.job.add("views", 0) + sum(map(store.layout.num_views, left)))
            none_is_free = True
            for labelled in label_units(store, teacher, pool, free_units(held, views), advance):
                none_is_free = False
                units.begin(labelled)
            units.finish()
            if none_is_free:
                patience.check(lambda: "what is missing is with other ranks", len(left), others_work(held))
                wait(held)


def check_teacher_is_known(store: Store) -> None:
    """StoreError where units are committed and no teacher is there, as in a copy that broke off: whoever fills it would
    be bound to it in place of the one whose labels they are."""
    if nobodys_labels(store) is not None:
        raise StoreError(
            f"{store.path} has {counted(int(store.committed().sum()), 'labelled unit')}, and its teacher/ is absent: "
            "restore that from a copy, or fill another store"
        )


def bind_with_first_unit(held: OpenFill, unit: Unit) -> LabelledUnit | None:
    """The first unit of a fresh store, once the store is bound by it. None where another rank or job has bound it.
    StoreError where it is not fresh, and its teacher lost."""
    store, teacher = held.store, held.teacher
    check_teacher_is_known(store)
    patience = held.job.patience(MOVING)
    while store.teacher is None:
        if held.claims is None or unit in held.claims.take([unit]):
            first, proof = label_first_unit(held, unit)
            if bind_teacher(store, teacher, proof):
                return first
            release(held, unit)
        else:
            patience.check(lambda: "the first unit is not labelled", others_work(held))
            wait(held)
    return None


def free_units(held: OpenFill, views: range) -> Iterator[Unit]:
    """Units that this rank is to label, one after the other as it is ready for the next, until none is free: each time
    the first that is not committed and that nobody holds, so that one whose worker was killed is not left to the end.
    """
    store, claims = held.store, held.claims
    if claims is None:
        yield from store.missing_units(views)
        return
    left, listed_at = store.missing_units(views), time.monotonic()
    while (unit := next(claims.take(left), None)) is not None:
        store.finish_unit(unit)
        if store.records.read_one(unit).committed:
            claims.release(unit)
        else:
            yield unit
        left.remove(unit)
        if time.monotonic() - listed_at > LISTED_S:
            left, listed_at = store.missing_units(views), time.monotonic()


def wait(held: OpenFill) -> None:
    """Let some time pass until another look at what others do."""
    held.on_moved()
    time.sleep(POLL_S)


def others_work(held: OpenFill) -> int:
    """What changes while somebody else, of this job or another, works on a unit."""
    return 0 if held.claims is None else held.claims.changes


def release(held: OpenFill, unit: Unit) -> None:
    if held.claims is not None:
        held.claims.release(unit)


def open_pool(store: Store, options: FillOptions, rendering: Rendering, warn: Callable[[str], None]) -> "AnyPool":
    """What renders a store's blocks for its teacher."""
    settings = PoolSettings(
        store.policy,
        store.seed,
        workers=options.workers,
        skip_bad=options.skip_bad,
        max_pixels=store.max_pixels,
        timeout_s=options.worker_timeout_s,
        cache=options.cache,
    )
    return open_render_pool(rendering, settings, warn)


def label_first_unit(held: OpenFill, unit: Unit) -> tuple[LabelledUnit, Proof]:
    """Label one unit, with the proof of the teacher that does it. Raises TeacherError where an answer depends on more
    than its view, AgreementError where labels say nothing about the pictures."""
    store, teacher = held.store, held.teacher
    batch = first_batch(store, held.pool, teacher.batch_size)
    logits = check_steady(store, teacher, batch, held.warn)
    (labelled,) = label_units(store, teacher, held.pool, [unit], held.advance)
    above_chance = agreement_above_chance(
        labelled.labels.reshape(-1), labelled.class_pairs.reshape(-1, 2), store.num_classes
    )
    if above_chance < NEAR_CHANCE:
        message = (
            f"{describe(store, unit)}: the teacher's labels agree with the ground truth no better than chance "
            f"({above_chance:.3f} above it, of 1): its class order or its --mean/--std is probably wrong"
        )
        if not held.allow_low_agreement:
            raise AgreementError(message + "; nothing was written; --allow-low-agreement fills all the same")
        held.warn(message)
    gain = renaming_gain(labelled.labels, labelled.class_pairs, labelled.lambdas, store.num_classes)
    if gain >= RENAMING_GAIN:
        held.warn(
            f"{describe(store, unit)}: agreement would rise by {100 * gain:.0f} points if classes were renamed as the "
            "teacher mostly calls them: compare its class list with the store's (a shifted list looks like this)"
        )
    if batch.unit == unit:
        check_labelled_alike(store, batch, logits, labelled)
    return labelled, make_proof(batch.unit, batch.replays, logits, teacher.build())


def check_labelled_alike(store: Store, batch: Batch, logits: np.ndarray, labelled: LabelledUnit) -> None:
    """Refuse, with TeacherError, a teacher whose labels in the unit are not those of its proof, and with DriftError
    pixels that are others each time they are rendered."""
    shard = labelled.unit.shard
    for replay in batch.replays:
        number = store.layout.block(shard, replay.block).number
        if labelled.digests[number, replay.view - labelled.first_view] != replay.digest:
            raise DriftError(unsteady_message(store, shard, replay.block, replay.view))
    for number, row in enumerate(batch.rows):
        position = store.layout.block(shard, row.block).rows[row.position]
        label = labelled.labels[position, row.view - labelled.first_view]
        if label != logits[number].argmax():
            raise TeacherError(
                f"{batch.where(store, number)}: the teacher gave label {label} in the course of filling, and "
                f"{logits[number].argmax()} before: a label must depend on its view alone, so take dropout, noise and "
                "batch statistics out of the model"
            )


def bind_teacher(store: Store, teacher: Teacher, proof: Proof) -> bool:
    """Write the teacher's identity and proof to the store; False where another job was first. TeacherError where that
    was with another teacher."""
    try:
        store.publish_teacher(teacher.identity, proof)
    except TeacherError:
        assert store.teacher is not None
        check_same_teacher(store.teacher, teacher.identity, may_differ=may_differ(store))
        return False
    return True


def may_differ(store: Store) -> tuple[str, ...]:
    """What another fill's teacher may have other than the store's."""
    return ("device",) if store.any_device else ()


def read_progress(job: Job) -> FillProgress:
    return FillProgress(job.add("views", 0), job.add("labelled", 0), job.add("larger", 0))
