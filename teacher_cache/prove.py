"""Whether a teacher may label: its answer to a view must depend on that view alone, and be the one that it gave when
the store was bound to it. What is compared are answers, not names of libraries."""

import itertools
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from teacher_cache.errors import DriftError, StoreError, TeacherError
from teacher_cache.messages.shown import counted
from teacher_cache.rendering.crew import RenderTask
from teacher_cache.replay.seeds import Stream, derive
from teacher_cache.store.drift import drift_message
from teacher_cache.store.labels import LabelReader
from teacher_cache.store.proof import Proof, Replay, describe_build, device_hash, make_proof
from teacher_cache.store.store import Store
from teacher_cache.store.topk import top_classes
from teacher_cache.store.unit import Unit
from teacher_cache.teacher.teacher import Teacher

if TYPE_CHECKING:
    from teacher_cache.rendering.choice import AnyPool

# What a logit may differ by where the same view is answered again, as a share of the batch's largest: some units in the
# last place of its dtype. Measured on CPUs and one GPU the bits are equal; reductions that race may move the last ones.
ROUNDING = {"fp32": 2.0**-16, "fp16": 2.0**-8, "bf16": 2.0**-5}

Warn = Callable[[str], None]


class Row(NamedTuple):
    """A view of a batch: block in the shard, position in the block."""

    block: int
    view: int
    position: int


@dataclass(frozen=True, eq=False)
class Batch:
    """Views of a unit by (block, view): pixels (n, H, W, 3) uint8, and what each row is."""

    unit: Unit
    replays: tuple[Replay, ...]
    rows: tuple[Row, ...]
    pixels: np.ndarray

    def where(self, store: Store, row: int) -> str:
        """A row as messages name it."""
        block, view, position = self.rows[row]
        sample = store.layout.block(self.unit.shard, block).samples[position]
        return f"shard {store.shard_name(self.unit.shard)}, key {store.index.key(sample)}, view {view}"


def first_batch(store: Store, pool: "AnyPool", size: int) -> Batch:
    """The first `size` views of a store's first unit, or all where it has fewer; the same whichever are filled."""
    unit = store.units()[0]
    return _replay_batch(store, pool, unit, _block_views(store, unit), size)


def _block_views(store: Store, unit: Unit) -> list[tuple[int, int]]:
    return [(block, view) for block in store.layout.blocks(unit) for view in store.layout.group_views(unit.group)]


def _replay_batch(
    store: Store,
    pool: "AnyPool",
    unit: Unit,
    block_views: Sequence[tuple[int, int]],
    size: int,
    skipped: Mapping[int, frozenset[int]] | None = None,
) -> Batch:
    """Replay (block, view)s of a unit, in this order, until there are `size` views. skipped: positions by block."""
    replays: list[Replay] = []
    rows: list[Row] = []
    pixels = [np.empty((0, *store.policy.size, 3), np.uint8)]
    for block, members in itertools.groupby(block_views, key=lambda block_view: block_view[0]):
        place = store.index.place(unit.shard, block, (skipped or {}).get(block, frozenset()))
        left = [view for _, view in members]
        while left and len(rows) < size:  # again where samples are skipped; a block is decoded once for views
            wanted = tuple(left[: -(-(size - len(rows)) // len(place.keys))])
            del left[: len(wanted)]
            pool.submit(RenderTask(len(replays), place, wanted))
            for view in wanted:
                rendered = pool.get()
                replayed = rendered.block
                taken = [p for p in range(len(replayed.lambdas)) if p not in replayed.skipped][: size - len(rows)]
                pixels.append(rendered.pixels[taken].cpu().numpy())  # a copy
                rendered.release()
                replays.append(Replay(block, view, replayed.digest, tuple(sorted(replayed.skipped))))
                rows += [Row(block, view, position) for position in taken]
    return Batch(unit, tuple(replays), tuple(rows), np.concatenate(pixels))


# -- of its view alone -----------------------------------------------------------------------------------------------


def check_steady(store: Store, teacher: Teacher, batch: Batch, warn: Warn) -> np.ndarray:
    """The teacher's logits of a batch, (n, C) float32: once more as it is, in another order, and beside other views.

    TeacherError, naming the first view, where a label or a logit beyond rounding differs.
    """
    views = batch.pixels
    logits = _logits(store, teacher, batch)
    rounding = _rounding(teacher, logits)
    largest = 0.0
    for how, rows, again in (
        ("when it is asked a second time", slice(None), teacher.logits(views)),
        ("when the views of its batch change places", slice(None), teacher.logits(views[::-1].copy())[::-1]),
        ("when other views are beside it", slice(0, None, 2), _beside_others(teacher, views)),
    ):
        difference = np.abs(again - logits[rows]).max(axis=1, initial=0)
        largest = max(largest, float(difference.max(initial=0)))
        other = (again.argmax(1) != logits[rows].argmax(1)) | (difference > rounding)
        for number in np.flatnonzero(other)[:1]:
            row = range(len(views))[rows][number]
            raise TeacherError(
                f"{batch.where(store, row)}: teacher {teacher.identity.name} gives another answer {how} (label "
                f"{logits[row].argmax()}, then {again[number].argmax()}; logits differ by {difference[number]:.2g}, "
                f"{rounding:.2g} is what {teacher.identity.dtype} may round): a label must depend on its view "
                "alone, so take dropout, noise and batch statistics out of the model"
            )
    if largest > 0:
        warn(
            f"teacher {teacher.identity.name}: logits move by up to {largest:.2g} with the batch that a view is in; "
            "a label may change where the two largest are that close"
        )
    return logits


def _logits(store: Store, teacher: Teacher, batch: Batch) -> np.ndarray:
    return teacher.logits(batch.pixels, lambda row: batch.where(store, row))


def _beside_others(teacher: Teacher, views: np.ndarray) -> np.ndarray:
    """Logits of every second view, from the first on, in a full batch whose other views are something else."""
    whole = np.resize(255 - views, (teacher.batch_size, *views.shape[1:]))
    whole[: len(views) : 2] = views[::2]
    return teacher.logits(whole)[: len(views) : 2]


def _rounding(teacher: Teacher, logits: np.ndarray) -> float:
    return ROUNDING[teacher.identity.dtype] * float(np.abs(logits).max(initial=0))


# -- the same as then ------------------------------------------------------------------------------------------------


def check_same_answers(store: Store, teacher: Teacher, pool: "AnyPool", warn: Warn, draw: int | None = None) -> None:
    """Have a bound store's teacher label the proof's batch again, and a committed batch drawn at random (by `draw`).

    Other labels than then are refused with TeacherError, other pixels with DriftError; logits that are equal but for
    their last bits are told, and noted in the store with this build. A device that a store of any device has not seen
    yet leaves its own proof, and how many labels differ is told.
    """
    _check_proof(store, teacher, pool, warn)
    committed = np.argwhere(store.committed())
    if len(committed):
        stream = Stream(derive(secrets.randbits(64) if draw is None else draw, "drawn batch"))
        unit = Unit(*committed[stream.integer(len(committed))].tolist())
        _check_drawn_batch(store, teacher, pool, unit, stream, warn)


def check_online(store: Store, teacher: Teacher, pool: "AnyPool") -> bool:
    """Whether a teacher that is to answer online gives the labels of its proof; TeacherError where it gives others.
    False where this device has left no proof. Nothing is written."""
    proof = store.proofs.read(teacher.identity.device)
    if proof is None:
        return False
    batch = _replay_proof(store, teacher, pool, proof)
    _check_labels(store, teacher, proof, batch, _logits(store, teacher, batch))
    return True


def _check_proof(store: Store, teacher: Teacher, pool: "AnyPool", warn: Warn) -> None:
    device = teacher.identity.device
    own = store.proofs.read(device)
    proof = own or (store.proofs.first() if store.any_device else None)
    if proof is None:
        raise StoreError(
            f"{store.path} holds no proof of its teacher (teacher/device-*): restore teacher/ from a copy, or make a "
            "new store"
        )
    batch = _replay_proof(store, teacher, pool, proof)
    logits, build = check_steady(store, teacher, batch, warn), teacher.build()
    if own is None:
        differing = logits.argmax(1) != proof.labels
        if differing.any():
            warn(_other_device_note(int(differing.sum()), len(differing), logits[differing]))
        store.proofs.publish(device, make_proof(proof.unit, batch.replays, logits, build))
        store.proofs.note_build(build, "a proof of its own")
        return
    _check_labels(store, teacher, proof, batch, logits)
    store.proofs.note_build(build, _compare_logits(store, teacher, proof, logits, warn))


def _replay_proof(store: Store, teacher: Teacher, pool: "AnyPool", proof: Proof) -> Batch:
    """A proof's batch, rendered again."""
    block_views = [(each.block, each.view) for each in proof.replays]
    known = set(_block_views(store, proof.unit)) if proof.unit in store.units() else set()
    if known.issuperset(block_views):
        skipped = {each.block: frozenset(each.skipped) for each in proof.replays}
        batch = _replay_batch(store, pool, proof.unit, block_views, teacher.batch_size, skipped)
        if len(batch.rows) == len(proof.labels):
            _check_pixels(store, proof.unit, batch, [each.digest for each in proof.replays])
            return batch
    raise StoreError(
        f"the teacher's proof in {store.path} says {counted(len(proof.labels), 'view')} of shard "
        f"{proof.unit.shard}, unit "
        f"{proof.unit.unit}, which are not a batch of it: restore teacher/ from a copy, or make a new store"
    )


def _check_labels(store: Store, teacher: Teacher, proof: Proof, batch: Batch, logits: np.ndarray) -> None:
    found = logits.argmax(1)
    differing = np.flatnonzero(found != proof.labels)
    if not len(differing):
        return
    row = int(differing[0])
    then = f" (top-2 margin {_margin(proof.logits[row]):.2g})" if row < len(proof.logits) else ""
    raise TeacherError(
        f"{counted(len(differing), 'label', 'is', of=len(found))} not what the teacher gave when {store.path} was "
        f"bound to it, first {batch.where(store, row)}: {proof.labels[row]} then{then}, {found[row]} now (top-2 "
        f"margin {_margin(logits[row]):.2g}); bound with {describe_build(proof.build)}; here "
        f"{describe_build(teacher.build())}: use the code and libraries that it was filled with, or fill another store"
    )


def _compare_logits(store: Store, teacher: Teacher, proof: Proof, logits: np.ndarray, warn: Warn) -> str:
    """How logits stand to the proof's, in words; TeacherError where they would make other soft labels."""
    difference = np.abs(logits[: len(proof.logits)] - proof.logits)
    if not difference.any():
        return "equal to the proof's"
    largest = float(difference.max())
    words = (
        f"differ from the proof's by up to {largest:.2g} in {difference.any(1).sum()} of "
        f"{counted(len(difference), 'view')}"
    )
    here, there = describe_build(teacher.build()), describe_build(proof.build)
    if store.topk and not store.any_device and largest > _rounding(teacher, logits):
        raise TeacherError(
            f"{store.path}: labels are those of binding, but logits {words}, so the stored probabilities would be "
            f"others; bound with {there}; here {here}: use what it was filled with, or fill another store"
        )
    warn(f"{store.path}: logits {words}, every label is the same; bound with {there}; here {here}")
    return words


def _check_drawn_batch(store: Store, teacher: Teacher, pool: "AnyPool", unit: Unit, stream: Stream, warn: Warn) -> None:
    reader = LabelReader(store)
    block_views = _block_views(store, unit)
    skipped = {block: reader.skipped(unit.shard, block, view) for block, view in block_views}
    first = stream.integer(len(block_views))
    batch = _replay_batch(store, pool, unit, block_views[first:], teacher.batch_size, skipped)
    _check_pixels(store, unit, batch, [reader.digest(unit.shard, each.block, each.view) for each in batch.replays])
    if not batch.rows:
        return
    samples = np.array([store.layout.block(unit.shard, row.block).samples[row.position] for row in batch.rows])
    views = np.array([row.view for row in batch.rows])
    logits, labels = _logits(store, teacher, batch), reader.labels(samples, views)
    differing = np.flatnonzero(labels != logits.argmax(1))
    if store.any_device and store.records.read_one(unit).device != device_hash(teacher.identity.device):
        if len(differing):
            warn(_other_device_note(len(differing), len(labels), logits[differing]))
        return
    if len(differing):
        row = int(differing[0])
        raise TeacherError(
            f"{counted(len(differing), 'label', of=len(labels))} drawn from {store.path} "
            f"{'is' if len(differing) == 1 else 'are'} not this teacher's, first "
            f"{batch.where(store, row)}: {labels[row]} is stored, it says {logits[row].argmax()} (top-2 margin "
            f"{_margin(logits[row]):.2g}); filled with {'; or with '.join(map(describe_build, store.proofs.builds))}; "
            f"here {describe_build(teacher.build())}: use the code and libraries that it was filled with, or fill "
            "another store"
        )
    if store.tau is not None:
        stored = store.read_array("topk_probabilities", unit)
        rows, columns = samples - store.layout.samples(unit).start, store.layout.locate_views(views)[1]
        if (stored[rows, columns] != top_classes(logits, store.topk, store.tau)[1]).any():
            warn(f"{store.path}: stored probabilities of {batch.where(store, 0)} and after differ in their last bits")


def _check_pixels(store: Store, unit: Unit, batch: Batch, digests: Sequence[int | None]) -> None:
    for replayed, digest in zip(batch.replays, digests, strict=True):
        if replayed.digest != digest:
            raise DriftError(drift_message(store, unit.shard, replayed.block, replayed.view))


def _margin(logits: np.ndarray) -> float:
    """The largest logit's lead."""
    top = np.sort(logits)[-2:]
    return float(top[-1] - top[0])


def _other_device_note(differing: int, labels: int, logits: np.ndarray) -> str:
    margins = sorted(_margin(row) for row in logits)
    return (
        f"{differing:,} of {counted(labels, 'label')} differ on this device; their top-2 margins: median "
        f"{margins[len(margins) // 2]:.3g}, largest {margins[-1]:.3g} (logits)"
    )
