"""Units -> replayed views -> a teacher's labels, unit by unit: what stage one does, and stores nothing."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from teacher_cache.rendering.crew import RenderTask
from teacher_cache.replay.gpu.sent import sent
from teacher_cache.store.agreement import count_agreement
from teacher_cache.store.layout import BlockSpan
from teacher_cache.store.store import Store
from teacher_cache.store.topk import top_classes
from teacher_cache.store.unit import Unit, UnitCounts, UnitValues
from teacher_cache.teacher.teacher import Teacher, classify_views

if TYPE_CHECKING:
    from teacher_cache.rendering.choice import AnyPool
    from teacher_cache.rendering.workers import BlockView


@dataclass(eq=False)
class LabelledUnit:
    """A unit while its labels come in. Arrays are (samples of the unit, views of the group)."""

    unit: Unit
    first_view: int
    labels: np.ndarray
    class_pairs: np.ndarray  # (samples, views, 2)
    lambdas: np.ndarray
    digests: np.ndarray  # (blocks, views) uint64
    missing: int  # (block, view)s still to come
    damaged: dict[int, str] = field(default_factory=dict)  # row -> what a decoder warned of in its image
    topk_classes: np.ndarray | None = None  # (samples, views, K)
    topk_probabilities: np.ndarray | None = None  # (samples, views, K + 1) float16

    def values(self) -> UnitValues:
        return UnitValues(self.labels, self.digests, self.topk_classes, self.topk_probabilities)

    def counts(self) -> UnitCounts:
        counts = count_agreement(self.labels.reshape(-1), self.class_pairs.reshape(-1, 2), self.lambdas.reshape(-1))
        return replace(counts, damaged=len(self.damaged) * self.labels.shape[1])


def label_units(
    store: Store,
    teacher: Teacher,
    pool: "AnyPool",
    units: Iterable[Unit],
    advance: Callable[[int], None],
) -> Iterator[LabelledUnit]:
    """Replay and label units, each yielded when it is whole. Batches run across units, labels do not depend on that."""
    coming = iter(units)
    blocks: dict[int, tuple[LabelledUnit, BlockSpan]] = {}  # task id -> its unit, and where its block is in that

    def rendered_views() -> Iterator[tuple[tuple[LabelledUnit, np.ndarray, int], torch.Tensor]]:
        task_id = 0
        while True:
            while pool.wants_tasks():
                unit = next(coming, None)
                if unit is None:
                    break
                labelled = begin_unit(store, unit, teacher)
                for block in store.layout.blocks(unit):
                    blocks[task_id] = (labelled, store.layout.block(unit.shard, block))
                    views = tuple(store.layout.group_views(unit.group))
                    pool.submit(RenderTask(task_id, store.index.place(unit.shard, block), views))
                    task_id += 1
            if not pool.pending:
                return
            rendered = pool.get()
            labelled, span = blocks[rendered.task.id]
            if rendered.view == rendered.task.views[-1]:
                del blocks[rendered.task.id]
            rows = take_replay(labelled, span, rendered)
            pixels = rendered.pixels
            if rendered.block.skipped:
                pixels = pixels[sent(rows - span.rows.start, pixels.device)]
            yield (labelled, rows, rendered.view - labelled.first_view), pixels
            rendered.release()

    def where(tag: tuple[LabelledUnit, np.ndarray, int], row: int) -> str:
        labelled, rows, column = tag
        shard, view = labelled.unit.shard, labelled.first_view + column
        sample = store.layout.samples(labelled.unit)[rows[row]]
        return f"shard {store.shard_name(shard)}, key {store.index.key(sample)}, view {view}"

    for (labelled, rows, column), logits in classify_views(teacher, rendered_views(), where):
        take_logits(labelled, rows, column, logits, teacher)
        labelled.missing -= 1
        advance(len(rows))
        if not labelled.missing:
            yield labelled


def begin_unit(store: Store, unit: Unit, teacher: Teacher) -> LabelledUnit:
    """An empty unit to label."""
    num_samples, blocks = len(store.layout.rows(unit)), store.layout.blocks(unit)
    views = store.layout.group_views(unit.group)
    topk: int = teacher.identity.topk
    return LabelledUnit(
        unit,
        views[0],
        labels=np.full((num_samples, len(views)), -1, np.int32),
        topk_classes=np.full((num_samples, len(views), topk), -1, np.int32) if topk else None,
        topk_probabilities=np.zeros((num_samples, len(views), topk + 1), np.float16) if topk else None,
        class_pairs=np.zeros((num_samples, len(views), 2), np.int32),
        lambdas=np.zeros((num_samples, len(views)), np.uint32),
        digests=np.zeros((len(blocks), len(views)), np.uint64),
        missing=len(blocks) * len(views),
    )


def take_replay(labelled: LabelledUnit, span: BlockSpan, rendered: "BlockView") -> np.ndarray:
    """Note what a replayed block says besides its pixels; the rows (positions in the unit) that want a label."""
    block, column = rendered.block, rendered.view - labelled.first_view
    rows = np.array(span.rows)
    labelled.class_pairs[rows, column] = block.class_pairs
    labelled.lambdas[rows, column] = block.lambdas
    labelled.digests[span.number, column] = block.digest
    labelled.damaged |= {int(rows[position]): words for position, words in block.damaged}
    skipped = np.array(sorted(block.skipped), np.int64)
    labelled.labels[rows[skipped], column] = -2
    if labelled.topk_classes is not None:
        labelled.topk_classes[rows[skipped], column] = -2
    return np.delete(rows, skipped)


def take_logits(labelled: LabelledUnit, rows: np.ndarray, column: int, logits: np.ndarray, teacher: Teacher) -> None:
    """Note what the teacher says of some rows at a view: the label, and its probabilities where it gives any."""
    labelled.labels[rows, column] = logits.argmax(1)
    topk, tau = teacher.identity.topk, teacher.identity.tau
    if labelled.topk_classes is not None and labelled.topk_probabilities is not None and tau is not None:
        classes, probabilities = top_classes(logits, topk, tau)
        labelled.topk_classes[rows, column], labelled.topk_probabilities[rows, column] = classes, probabilities


def describe(store: Store, unit: Unit) -> str:
    """A unit as messages name it."""
    rows, views = store.layout.rows(unit), store.layout.group_views(unit.group)
    return f"shard {store.shard_name(unit.shard)}, samples {rows[0]} to {rows[-1]}, views {views[0]} to {views[-1]}"
