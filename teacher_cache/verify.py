"""The audit of a store's exactness: records against values, digests against pixels, labels against the teacher."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from teacher_cache.drift import drift_message
from teacher_cache.errors import StoreError
from teacher_cache.fill import skipped_in_block
from teacher_cache.replay.block import BLOCK_SAMPLES
from teacher_cache.replay.seeds import Stream, derive
from teacher_cache.store import Store, Unit
from teacher_cache.teacher import Teacher, classify_views
from teacher_cache.workers import Rendered, RenderPool, RenderTask


@dataclass
class VerifyReport:
    """What was checked, and every difference as one line."""

    units: int = 0
    block_views: int = 0
    labels: int = 0
    differences: list[str] = field(default_factory=list)
    foreign_labels: list[float] = field(default_factory=list)  # top-2 margins of labels that differ on another device

    @property
    def exact(self) -> bool:
        return not self.differences


def verify(
    store: Store,
    fraction: float,
    *,
    seed: int = 0,
    teacher: Teacher | None = None,
    same_kind: bool = True,
    workers: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> VerifyReport:
    """Check every committed unit's record, and replay a random fraction of the committed (block, group)s.

    With a teacher the replayed views are labelled again. same_kind says that it runs on the store's device and
    dtype: then a label that differs is a difference; else it is counted with its top-2 margin (in logits).
    """
    report = VerifyReport()
    atoms: list[tuple[Unit, int]] = []
    for numbers in np.argwhere(store.committed()):
        unit = Unit(*(int(number) for number in numbers))
        report.units += 1
        try:
            store.check_unit(unit)
        except StoreError as error:
            report.differences.append(str(error))
            continue
        atoms += [(unit, number) for number in range(len(store.unit_blocks(unit)))]
    chosen = _choose(atoms, fraction, seed)
    with RenderPool(store.policy, store.seed, workers=workers) as pool:
        views = _replay(store, pool, chosen, report, on_progress)
        if teacher is None:
            for _ in views:
                pass
        else:
            for (unit, rows, column), logits in classify_views(teacher, views):
                _compare_labels(store, unit, rows, column, logits, same_kind, report)
    return report


def _choose(atoms: list[tuple[Unit, int]], fraction: float, seed: int) -> list[tuple[Unit, int]]:
    """A random fraction of the atoms, at least one of them, in the store's order."""
    if not atoms:
        return []
    count = max(1, round(fraction * len(atoms)))
    order = Stream(derive(seed, "verify")).permutation(len(atoms))
    return [atoms[number] for number in sorted(order[:count])]


def _replay(
    store: Store,
    pool: RenderPool,
    atoms: list[tuple[Unit, int]],
    report: VerifyReport,
    on_progress: Callable[[int, int], None],
) -> Iterator[tuple[tuple[Unit, np.ndarray, int], np.ndarray]]:
    for task_id, (unit, number) in enumerate(atoms):
        block = store.unit_blocks(unit)[number]
        place = store.index.place(unit.shard, block, skipped_in_block(store, unit, number))
        pool.submit(RenderTask(task_id, place, tuple(store.group_views(unit.group))))
    total = pool.pending
    while pool.pending:
        rendered = pool.get()
        unit, number = atoms[rendered.task.id]
        yield _check_pixels(store, unit, number, rendered, report)
        rendered.release()
        report.block_views += 1
        on_progress(report.block_views, total)


def _check_pixels(
    store: Store, unit: Unit, number: int, rendered: Rendered, report: VerifyReport
) -> tuple[tuple[Unit, np.ndarray, int], np.ndarray]:
    """Compare a replayed block's digest; its labelled rows and their pixels."""
    column = rendered.view - store.group_views(unit.group)[0]
    if rendered.block.digest != int(store.read_digests(unit)[number, column]):
        report.differences.append(drift_message(store, unit.shard, rendered.task.place.number, rendered.view))
    kept = np.array([p for p in range(len(rendered.block.lambdas)) if p not in rendered.block.skipped], np.int64)
    return (unit, kept + number * BLOCK_SAMPLES, column), rendered.block.pixels[kept]


def _compare_labels(
    store: Store, unit: Unit, rows: np.ndarray, column: int, logits: np.ndarray, same_kind: bool, report: VerifyReport
) -> None:
    stored, found = store.read_labels(unit)[rows, column], logits.argmax(1)
    report.labels += len(rows)
    first_row = store.unit_rows(unit)[0]
    for number in np.flatnonzero(stored != found):
        top = np.sort(logits[number])[-2:]
        if not same_kind:
            report.foreign_labels.append(float(top[1] - top[0]))
            continue
        place = store.index.place(unit.shard, (first_row + int(rows[number])) // BLOCK_SAMPLES)
        report.differences.append(
            f"shard {place.shard}, key {place.keys[rows[number] % BLOCK_SAMPLES]}, view "
            f"{store.group_views(unit.group)[column]}: stored label {stored[number]}, the teacher says "
            f"{found[number]} (top-2 margin {top[1] - top[0]:.2g}): the store is not this teacher's"
        )
