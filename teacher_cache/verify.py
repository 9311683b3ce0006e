"""The audit of a store's exactness: records against values, digests against pixels, labels against the teacher."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from teacher_cache.errors import StoreError
from teacher_cache.processes.threads import share_cores
from teacher_cache.processes.timeouts import TIMEOUT_S
from teacher_cache.rendering.choice import RENDER_DEFAULT, Render, choose_rendering, open_render_pool
from teacher_cache.rendering.crew import PoolSettings, RenderTask
from teacher_cache.replay.seeds import Stream, derive
from teacher_cache.storage.cache import NodeCache
from teacher_cache.store.drift import drift_message
from teacher_cache.store.labels import LabelReader
from teacher_cache.store.status import check_committed, nobodys_labels
from teacher_cache.store.store import Store
from teacher_cache.store.topk import top_classes
from teacher_cache.store.unit import Unit, by_group
from teacher_cache.teacher.identity import TeacherIdentity, check_same_teacher

if TYPE_CHECKING:
    import torch

    from teacher_cache.rendering.choice import AnyPool
    from teacher_cache.teacher.teacher import Teacher

KIND = ("device", "dtype")  # in which a teacher may differ from the store's, and then its last bits do
Atom = tuple[Unit, int]  # a committed unit, and the number of a block in its shard


@dataclass
class VerifyReport:
    """What was checked, and every difference as one line."""

    units: int = 0
    shards: int = 0  # that were replayed from
    groups: int = 0
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
    teacher: "Teacher | None" = None,
    workers: int = 0,
    worker_timeout_s: float = TIMEOUT_S,
    render: Render = RENDER_DEFAULT,
    device: str | None = None,
    cache: NodeCache | None = None,
    say: Callable[[str], None] = lambda message: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> VerifyReport:
    """Check every committed unit's record, and replay a random fraction of the committed (block, group)s, drawn in
    layers over shards and groups: at least one, but none with a fraction of 0, which takes neither torch nor processes.

    With a teacher the replayed views are labelled again. Where it runs on the store's device and dtype a label that
    differs is a difference, and so are other probabilities than those that the store holds; else a label is counted
    with its top-2 margin (in logits), and probabilities are not compared.

    render: where views are, see choose_rendering; device: for that, where there is no teacher. say hears of it. cache:
    where blocks of shards far away are kept. StoreError where nothing is committed, TeacherError for another teacher
    than the store's, DeviceError where render asks for what is not there.
    """
    check_committed(store)
    if (nobodys := nobodys_labels(store)) is not None:
        say(f"warning: {nobodys}")
    if teacher is not None:
        check_same_teacher(stored_teacher(store), teacher.identity, may_differ=KIND)
    report = VerifyReport()
    chosen = draw_in_layers(_check_records(store, report), fraction, seed)
    report.shards = len({unit.shard for unit, _ in chosen})
    report.groups = len({unit.group for unit, _ in chosen})
    if not chosen:
        return report
    share_cores(workers)
    rendering = choose_rendering(render, store.policy, _device(teacher, device))
    if rendering.said is not None:
        say(rendering.said)
    settings = PoolSettings(
        store.policy, store.seed, workers=workers, max_pixels=store.max_pixels, timeout_s=worker_timeout_s, cache=cache
    )
    with open_render_pool(rendering, settings, say) as pool:
        reader = LabelReader(store)
        views = _replay(store, reader, pool, chosen, report, on_progress)
        if teacher is None:
            for _ in views:
                pass
        else:
            _label_again(store, reader, teacher, views, report)
    return report


def stored_teacher(store: Store) -> TeacherIdentity:
    """Whose labels a store holds. StoreError where it names nobody, as one of simulated labels."""
    if store.teacher is None:
        raise StoreError(f"{store.path} names no teacher: its labels were not made by `teacher-cache fill`")
    return store.teacher


def _check_records(store: Store, report: VerifyReport) -> list[Atom]:
    """Check every committed unit's record; the blocks of those that are as it says, in the store's order."""
    differing: dict[Unit, str] = {}
    units = by_group(store.committed())
    for unit in units:
        try:
            store.check_unit(unit)
        except StoreError as error:
            differing[unit] = str(error)
    report.units += len(units)
    report.differences += [differing[unit] for unit in sorted(differing)]
    sound = (unit for unit in sorted(units) if unit not in differing)
    return [(unit, block) for unit in sound for block in store.layout.blocks(unit)]


def _device(teacher: "Teacher | None", asked: str | None) -> "torch.device":
    from teacher_cache.device import choose_device  # torch, which takes seconds to import

    return choose_device(asked) if teacher is None else teacher.device


class _BlockView(NamedTuple):
    """A replayed block at a view, and the positions in it that are labelled, (n,) int64."""

    shard: int
    block: int
    view: int
    positions: np.ndarray

    def where(self, store: Store, row: int) -> str:
        """One of the labelled views, as messages name it."""
        sample = store.layout.block(self.shard, self.block).samples[self.positions[row]]
        return f"shard {store.shard_name(self.shard)}, key {store.index.key(sample)}, view {self.view}"


def draw_in_layers(atoms: Sequence[Atom], fraction: float, seed: int) -> list[Atom]:
    """A random fraction of the atoms (unit, block), at least one of them if it is not 0, in the store's order.

    Every shard is drawn from once before any is drawn from twice, and of a shard's groups that which was drawn from
    least so far: so a fault of a few shards, or of one group, is not passed over by chance.
    """
    left: dict[int, dict[int, list[Atom]]] = {}  # shard -> group -> atoms in random order
    stream = Stream(derive(seed, "verify"))
    for number in stream.permutation(len(atoms)).tolist():
        unit = atoms[number][0]
        left.setdefault(unit.shard, {}).setdefault(unit.group, []).append(atoms[number])
    wanted = max(1, round(fraction * len(atoms))) if atoms and fraction else 0
    chosen: list[Atom] = []
    drawn: Counter[int] = Counter()  # of each group
    while len(chosen) < wanted:
        shards = list(left)
        for number in stream.permutation(len(shards)).tolist()[: wanted - len(chosen)]:
            groups = left[shards[number]]
            least = min(groups, key=drawn.__getitem__)
            chosen.append(groups[least].pop())
            drawn[least] += 1
            if not groups[least]:
                del groups[least]
            if not groups:
                del left[shards[number]]
    return sorted(chosen, key=lambda atom: (atom[0].group, atom[0].shard, atom[1]))


def _replay(
    store: Store,
    reader: LabelReader,
    pool: "AnyPool",
    atoms: list[Atom],
    report: VerifyReport,
    on_progress: Callable[[int, int], None],
) -> Iterator[tuple[_BlockView, "torch.Tensor"]]:
    """Render all views of the atoms and compare digests; labelled positions with their pixels."""
    from teacher_cache.replay.gpu.sent import sent  # and torch

    total = sum(len(store.layout.group_views(unit.group)) for unit, _ in atoms)
    coming = enumerate(atoms)
    while True:
        while pool.wants_tasks() and (each := next(coming, None)) is not None:  # a task takes kilobytes
            task_id, (unit, block) = each
            views = tuple(store.layout.group_views(unit.group))
            skipped = reader.skipped(unit.shard, block, views[0])
            pool.submit(RenderTask(task_id, store.index.place(unit.shard, block, skipped), views))
        if not pool.pending:
            return
        rendered = pool.get()
        (unit, block), replayed = atoms[rendered.task.id], rendered.block
        if replayed.digest != reader.digest(unit.shard, block, replayed.view):
            report.differences.append(drift_message(store, unit.shard, block, replayed.view))
        positions = np.array([p for p in range(len(replayed.lambdas)) if p not in replayed.skipped], np.int64)
        chosen = rendered.pixels[sent(positions, rendered.pixels.device)]
        yield _BlockView(unit.shard, block, replayed.view, positions), chosen
        rendered.release()
        report.block_views += 1
        on_progress(report.block_views, total)


def _label_again(
    store: Store,
    reader: LabelReader,
    teacher: "Teacher",
    views: Iterator[tuple[_BlockView, "torch.Tensor"]],
    report: VerifyReport,
) -> None:
    """Label the replayed views again, and compare labels and probabilities with those that the store holds."""
    from teacher_cache.teacher.teacher import classify_views

    topk, tau, stored = store.topk, store.tau, stored_teacher(store)
    same_kind = all(getattr(teacher.identity, name) == getattr(stored, name) for name in KIND)
    for at, logits in classify_views(teacher, views, lambda at, row: at.where(store, row)):
        _compare_labels(store, reader, at, logits, same_kind, report)
        if same_kind and tau is not None:
            _compare_topk(store, reader, at, logits, topk, tau, report)


def _compare_labels(
    store: Store, reader: LabelReader, at: _BlockView, logits: np.ndarray, same_kind: bool, report: VerifyReport
) -> None:
    samples = store.layout.block(at.shard, at.block).samples.start + at.positions
    stored, found = reader.labels(samples, np.full(len(samples), at.view)), logits.argmax(1)
    report.labels += len(samples)
    for number in np.flatnonzero(stored != found):
        top = np.sort(logits[number])[-2:]
        margin = float(top[1] - top[0])
        if not same_kind:
            report.foreign_labels.append(margin)
            continue
        report.differences.append(
            f"{at.where(store, int(number))}: stored label {stored[number]}, the teacher says {found[number]} "
            f"(top-2 margin {margin:.2g}): the label is not this teacher's"
        )


def _compare_topk(
    store: Store,
    reader: LabelReader,
    at: _BlockView,
    logits: np.ndarray,
    topk: int,
    tau: float,
    report: VerifyReport,
) -> None:
    """Stored classes and probabilities against the teacher's, to the last bit; where the label differs it is told."""
    stored_classes, stored = reader.topk(at.shard, at.block, at.view, at.positions)
    found_classes, found = top_classes(logits, topk, tau)
    differ = stored != found
    differ[:, :-1] |= stored_classes != found_classes
    for row in np.flatnonzero(differ.any(axis=1) & (stored_classes[:, 0] == found_classes[:, 0])):
        place = int(differ[row].argmax())
        there, here = (
            f"{probabilities[row, place]:.4g} for "
            + ("all other classes" if place == topk else f"class {classes[row, place]}")
            for classes, probabilities in ((stored_classes, stored), (found_classes, found))
        )
        report.differences.append(
            f"{at.where(store, int(row))}: stored is {there}, the teacher says {here} at tau {tau:g}: the "
            "probabilities are not this teacher's"
        )
