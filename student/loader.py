"""The plan made real: batches of digest-checked views with their class pairs, lambdas and teacher labels."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from student.faults import refuse
from student.plan import (
    Blocks,
    BlockTask,
    EpochPlan,
    Order,
    PlanSettings,
    block_tasks,
    check_settings,
    epoch_plan,
    epoch_steps,
    pass_blocks,
    reuse_warning,
    views_needed,
)
from student.pool import PoolMemory, pool_faults, pool_rows
from student.preflight import label_faults, topk_faults
from teacher_cache.device import RecycledMemory, Upload, choose_device
from teacher_cache.errors import DriftError, PlanError
from teacher_cache.messages.shown import counted
from teacher_cache.processes.timeouts import TIMEOUT_S
from teacher_cache.rendering.choice import RENDER_DEFAULT, Render, choose_rendering, open_render_pool, place_rows
from teacher_cache.rendering.crew import PoolSettings, RenderTask
from teacher_cache.rendering.workers import BlockView
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.replay.mix import LAMBDA_ONE
from teacher_cache.shards.index import BlockPlace
from teacher_cache.storage.cache import NodeCache
from teacher_cache.store.drift import drift_message
from teacher_cache.store.labels import LabelReader, skipped_samples
from teacher_cache.store.places import open_moved
from teacher_cache.store.store import Store
from teacher_cache.store.topk import SoftLabels

if TYPE_CHECKING:
    from teacher_cache.rendering.choice import AnyPool

OnDrift = Literal["stop", "warn"]
DRIFTS_TOLD = 10  # with on_drift="warn"; the rest are counted


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch, B views in the plan's order. step counts within the epoch."""

    epoch: int
    step: int
    views: Tensor  # (B, H, W, 3) uint8, mixed already
    class_pairs: Tensor  # (B, 2) int64, the sample's own class first
    lambdas: Tensor  # (B,) float32 in [0, 1], the own class's share
    labels: Tensor | None  # (B,) int64, the teacher's
    samples: Tensor  # (B,) int64, numbers in the store's index
    view_ids: Tensor  # (B,) int64
    soft: SoftLabels[Tensor] | None = None  # with soft=True: the teacher's probabilities at the store's tau

    def tensors(self) -> list[Tensor]:
        """What a training step needs of it, in the order of the fields: all but samples and view_ids."""
        soft = () if self.soft is None else (self.soft.classes, self.soft.probabilities, self.soft.tail)
        labels = () if self.labels is None else (self.labels,)
        return [self.views, self.class_pairs, self.lambdas, *labels, *soft]

    def with_tensors(self, tensors: Sequence[Tensor]) -> "Batch":
        """The same batch over other tensors, such as copies on a device; in the order of tensors()."""
        left = iter(tensors)
        views, class_pairs, lambdas = next(left), next(left), next(left)
        labels = None if self.labels is None else next(left)
        soft = None if self.soft is None else SoftLabels(next(left), next(left), next(left))
        return replace(self, views=views, class_pairs=class_pairs, lambdas=lambdas, labels=labels, soft=soft)


class ViewLoader(AbstractContextManager["ViewLoader"]):
    """Iterate over the batches of a training plan, from `start` to the last epoch's end.

    batch_size is global: a rank gets batch_size / world_size views. repeats views of a sample are used in an epoch,
    "together" or "apart" in its order. With labels=False an unfilled store will do; soft=True reads labels with the
    teacher's largest probabilities, of a store filled with --topk. Every view is checked against the store's digest
    where there is one; on_drift says whether a difference stops or warns. A rendering process that hangs stops the
    iteration, with RenderError, after worker_timeout_s.

    device: where the tensors of a batch lie, but samples and view_ids, which are in memory; None: in memory too, where
    render is "auto". render: what renders the views, that device or processes on the CPU ("auto", "cpu", "gpu": see
    choose_rendering); the pixels are the same. Where the device renders, the shuffle pool lies there up to
    device_pool_gb, in units of 10**9 bytes, a quarter of its memory by default, and else in memory. `device`,
    `rendering` and `rows_device` say what was chosen. shards, ops: of a store that is named by its path, where the
    indexed shards are now, and the FILE.py:FUNCTION of its policy's own operations, as `teacher_cache.open_store` has
    them. cache: where blocks of shards, and files of a published store, that are far away are kept, for all processes
    of this machine.

    One iteration is open at a time: another one, or close(), ends it, and PlanError says so where it is asked for more.

    Raises StoreError for soft labels that the store does not hold; ShardError and PolicyError for shards and operations
    that are not the store's; PlanError where batch, ranks, repeats and views do not fit, a word is none that is known,
    shards or ops are given for a store that is open, start is not in the plan, or memory has no room for the shuffle
    pools of all ranks here; DeviceError where render or device asks for what is not there, or device_pool_gb is no such
    number; MissingLabelError, before anything is rendered, where a label that the plan needs is not there; DriftError
    while iterating.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        *,
        epochs: int,
        repeats: int = 1,
        order: Order = "apart",
        seed: int = 0,
        views_in_use: int | None = None,
        pool_batches: int = 12,
        workers: int = 2,
        labels: bool = True,
        soft: bool = False,
        start: tuple[int, int] = (0, 0),
        on_drift: OnDrift = "stop",
        pin: bool = False,
        warn: Callable[[str], None] = print,
        worker_timeout_s: float = TIMEOUT_S,
        render: Render = RENDER_DEFAULT,
        device: str | torch.device | None = None,
        device_pool_gb: float | None = None,
        shards: Sequence[str] | str = (),
        ops: str | None = None,
        cache: NodeCache | None = None,
    ) -> None:
        _check_words(order=(order, Order), on_drift=(on_drift, OnDrift), render=(render, Render))
        if epochs < 1 or workers < 0:
            asked = f"{counted(epochs, 'epoch')} and {counted(workers, 'worker')}"
            raise PlanError(f"{asked} cannot be planned: epochs start at 1, workers at 0")
        self.store = _opened(store, shards, ops, cache)
        self.settings = PlanSettings(
            seed=seed,
            batch_size=batch_size,
            world_size=world_size,
            rank=rank,
            repeats=repeats,
            order=order,
            views_in_use=self.store.views if views_in_use is None else views_in_use,
            pool_batches=pool_batches,
        )
        self.epochs = epochs
        self.start = start
        self.wait_s = 0.0  # time that batches have waited for pixels
        self.views_checked = self.views_unchecked = self.views_drifted = 0
        self._labels, self._soft = labels or soft, soft
        self._on_drift, self._warn = on_drift, warn
        self._workers, self._worker_timeout_s, self._cache = workers, worker_timeout_s, cache
        self.device = _device(device, render)
        self.rendering = choose_rendering(render, self.store.policy, self.device)
        self._pin = pin or self.device.type == "cuda"
        self._memory = RecycledMemory(pin=self._pin)
        self._upload = Upload(self.device) if self.device.type == "cuda" else None
        num_rows = pool_rows(self.store, self.settings, workers)
        self.rows_device, self._said = place_rows(self.rendering, self.store.policy, num_rows, device_pool_gb)
        self._reader = LabelReader(self.store)
        # as the plan leaves them out: a fill may add to the store's meanwhile
        self.skipped = skipped_samples(self.store)
        self._blocks = pass_blocks(self.store.counts, self.skipped)
        self._skipped_positions = skipped_by_block(self._blocks, self.skipped)
        check_settings(self.settings, self._blocks, self.store.views, str(self.store.path))
        self.views_needed = views_needed(epochs, repeats, self.settings.views_in_use)
        if soft:
            refuse(topk_faults(self.store))
        if self._labels:
            refuse(label_faults(self.store, self.views_needed, repeats))
        self._check_start()
        self._check_memory()  # now, as ranks that have begun have taken theirs
        self._pool: AnyPool | None = None

    # -- what the plan says --------------------------------------------------------------------------------------

    def steps(self, epoch: int) -> int:
        """Batches in an epoch; epochs may differ by one."""
        return epoch_steps(self.settings, self._blocks, epoch)

    def announce(self, say: Callable[[str], None]) -> None:
        """Say what the training will read, and warn where views repeat."""
        num_samples = self._blocks.num_samples
        views, need = len(self.views_needed), len(self.views_needed) * num_samples
        if self._labels:
            say(
                f"labels: all {need:,} that the plan needs are there ({counted(num_samples, 'sample')} x "
                f"{counted(views, 'view')})"
            )
        else:
            say(f"no labels are read; {counted(num_samples, 'sample')} x {counted(views, 'view', 'is')} rendered")
        for line in self.placed():
            say(line)
        if len(self.skipped):
            say(f"left out: {counted(len(self.skipped), 'sample')} that stage one skipped")
        if warning := reuse_warning(self.epochs, self.settings.repeats, self.settings.views_in_use):
            say(f"warning: {warning}")

    def placed(self) -> list[str]:
        """Where views are rendered and where the shuffle pool lies, as far as that is worth a line each."""
        return [line for line in (self.rendering.said, self._said) if line is not None]

    def describe_checks(self) -> str:
        """How many views this rank has compared with the store's digests."""
        rank = f"rank {self.settings.rank}: " if self.settings.world_size > 1 else ""
        differ = f"{self.views_drifted:,} {'differs' if self.views_drifted == 1 else 'differ'}"
        compared = f"{counted(self.views_checked, 'replayed view')} compared with the store's digests, {differ}"
        text = rank + (compared if self.views_checked else "no replayed view was compared with the store's digests")
        if self.views_unchecked:
            text += f"; {self.views_unchecked:,} were not labelled yet, so not compared"
        return text

    # -- iterating -----------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Batch]:
        self._check_start()  # which may be another one by now
        self.close()
        capacity = pool_rows(self.store, self.settings, self._workers)
        pool = self._pool = self._open_pool(capacity)
        memory = PoolMemory(capacity, self.store.topk if self._soft else 0)
        begun: deque[_Epoch] = deque()  # the epoch being trained, and the next once its rendering has begun
        tasks = self._tasks(begun)
        waiting = next(tasks, None)
        in_flight: dict[int, tuple[_Epoch, BlockTask]] = {}
        number = 0

        def submit() -> None:
            """Give out every task whose rows are free."""
            nonlocal number, waiting
            while waiting is not None and len(waiting[1].bases) <= memory.num_free:
                _, task = in_flight[number] = waiting
                rows = memory.take(len(task.bases))
                pool.submit(self._render_task(number, task, rows))
                number, waiting = number + 1, next(tasks, None)

        submit()
        while begun:
            epoch = begun[0]
            if epoch.next_step == epoch.plan.steps:
                begun.popleft()
                submit()
                continue
            wanted = epoch.wanted()
            if (epoch.row_of[wanted] < 0).any():
                self._receive(in_flight, memory)
                continue
            while pool.pending and pool.ready():
                self._receive(in_flight, memory)
            batch = self._gather(epoch, wanted, memory)
            submit()  # so that workers go on while this batch is trained
            yield batch
            if self._pool is not pool:
                raise PlanError(
                    "the loader was closed, or iterated anew, and its earlier iteration cannot go on: one is open at a "
                    "time, start=(epoch, step) goes on with the next batch"
                )
            del batch  # its memory serves the next one, unless the caller holds it
        self.close()

    def close(self) -> None:
        """End the rendering processes; iterating again starts new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def __exit__(self, *details: object) -> None:
        self.close()

    def _check_start(self) -> None:
        """Refuse, with PlanError, to begin where no batch of the plan, nor the end of an epoch, is."""
        epoch, step = self.start
        if not (0 <= epoch <= self.epochs and 0 <= step <= (self.steps(epoch) if epoch < self.epochs else 0)):
            steps = f", epoch {epoch} has {counted(self.steps(epoch), 'step')}" if 0 <= epoch < self.epochs else ""
            raise PlanError(
                f"start is epoch {epoch}, step {step}, the plan has {counted(self.epochs, 'epoch')}{steps}: "
                "both count from 0"
            )

    def _check_memory(self) -> None:
        """Refuse, with PlanError, a shuffle pool that memory has no room for."""
        topk, on_device = self.store.topk if self._soft else 0, self.rows_device.type != "cpu"
        refuse(pool_faults(self.store, self.settings, self._workers, topk, on_device=on_device))

    def _open_pool(self, num_rows: int) -> "AnyPool":
        """The pool that renders; in host memory where the device has no room for its rows after all."""
        settings = PoolSettings(
            self.store.policy,
            self.store.seed,
            workers=self._workers,
            max_pixels=self.store.max_pixels,
            num_rows=num_rows,
            tasks_ahead=self._tasks_ahead(),
            timeout_s=self._worker_timeout_s,
            cache=self._cache,
        )
        try:
            return open_render_pool(self.rendering, settings, self._warn, rows_device=self.rows_device)
        except torch.OutOfMemoryError:
            if self.rows_device.type == "cpu":
                raise
            self._warn(f"warning: the shuffle pool lies in host memory: {self.rows_device} has no room for it")
            self.rows_device = torch.device("cpu")
            self._check_memory()
            return self._open_pool(num_rows)

    def _tasks_ahead(self) -> int:
        """Tasks that each worker has at once: what a batch takes, one being rendered, one waiting."""
        local_batch = self.settings.batch_size // self.settings.world_size
        views_each = BLOCK_SAMPLES * self.settings.repeats * max(1, self._workers)
        return 2 + -(-local_batch // views_each)

    def _tasks(self, begun: deque["_Epoch"]) -> Iterator[tuple["_Epoch", BlockTask]]:
        """What to render, epoch after epoch; an epoch joins `begun` when its first block is asked for."""
        for number in range(self.start[0], self.epochs):
            epoch = _Epoch(
                plan=epoch_plan(self.settings, self._blocks, number),
                next_step=self.start[1] if number == self.start[0] else 0,
            )
            begun.append(epoch)
            for task in block_tasks(epoch.plan, self._blocks, epoch.next_step):
                yield epoch, task

    def _render_task(self, number: int, task: BlockTask, rows: np.ndarray) -> RenderTask:
        place = self.store.index.place(task.shard, task.number, self._skipped_positions.get(task.block, frozenset()))
        digests = (self._reader.digest(task.shard, task.number, view) for view in task.views)
        return render_task(number, task, place, rows, has_digests=all(digest is not None for digest in digests))

    def _receive(self, in_flight: dict[int, tuple["_Epoch", BlockTask]], memory: PoolMemory) -> None:
        """Get one replayed (block, view), check it, note the rows that the plan wants of it."""
        assert self._pool is not None
        waited = self._pool.wait_s
        rendered = self._pool.get()
        self.wait_s += self._pool.wait_s - waited
        epoch, task = in_flight[rendered.task.id]
        if rendered.view == task.views[-1]:
            del in_flight[rendered.task.id]
        self._check_drift(task, rendered)
        items = np.flatnonzero(task.item_views == rendered.view)
        positions = task.positions[items]
        assert rendered.task.rows is not None
        rows = rendered.task.rows[task.views.index(rendered.view), positions]
        # Here and not by batch: the views of a batch lie in as many units, whose probabilities are large.
        soft = self._reader.soft(task.shard, task.number, rendered.view, positions) if self._soft else None
        memory.put(rows, rendered.block, positions, soft)
        epoch.row_of[task.bases[items]] = rows

    def _check_drift(self, task: BlockTask, rendered: BlockView) -> None:
        block = rendered.block
        expected = self._reader.digest(task.shard, task.number, rendered.view)
        if expected is None:
            self.views_unchecked += len(block.lambdas)
            return
        self.views_checked += len(block.lambdas)
        if block.digest == expected:
            return
        message = drift_message(self.store, task.shard, task.number, rendered.view)
        if self._on_drift == "stop":
            raise DriftError(message)
        self.views_drifted += len(block.lambdas)
        if self.views_drifted <= DRIFTS_TOLD * BLOCK_SAMPLES:
            self._warn(f"warning: {message}")

    def _gather(self, epoch: "_Epoch", wanted: np.ndarray, memory: PoolMemory) -> Batch:
        """The batch of these items of an epoch's base sequence; their rows are free again."""
        rows = epoch.row_of[wanted]
        samples, view_ids = epoch.plan.samples[wanted], epoch.plan.views[wanted]
        assert self._pool is not None
        views = self._pool.gather(rows, self._memory)
        soft = labels = None
        if self._soft:
            found = memory.soft(rows)
            soft = SoftLabels(*(torch.from_numpy(part) for part in (found.classes, found.probabilities, found.tail)))
            labels = soft.classes[:, 0].clone()
        elif self._labels:
            labels = torch.from_numpy(self._reader.labels(samples, view_ids))
        batch = Batch(
            epoch=epoch.plan.epoch,
            step=epoch.next_step,
            views=views,
            class_pairs=torch.from_numpy(memory.class_pairs[rows].astype(np.int64)),
            lambdas=torch.from_numpy((memory.lambdas[rows] / LAMBDA_ONE).astype(np.float32)),
            labels=labels,
            samples=torch.from_numpy(samples),
            view_ids=torch.from_numpy(view_ids),
            soft=soft,
        )
        if self._pin:
            pinned = (tensor.pin_memory() if tensor.device.type == "cpu" else tensor for tensor in batch.tensors())
            batch = batch.with_tensors(list(pinned))
        if self._upload is not None:
            batch = batch.with_tensors(self._upload(batch.tensors()))
        memory.free(rows)
        epoch.next_step += 1
        return batch


def _check_words(**given: tuple[str, Any]) -> None:
    """PlanError for a word that is none of its type's: another one would be taken for the last of them. given: by name,
    the word and its Literal."""
    for name, (word, known) in given.items():
        if word not in get_args(known):
            raise PlanError(f"{name} is {word!r}: give {' or '.join(map(repr, get_args(known)))}")


def _opened(
    store: Store | str | os.PathLike[str], shards: Sequence[str] | str, ops: str | None, cache: NodeCache | None
) -> Store:
    if not isinstance(store, Store):
        return open_moved(os.fspath(store), shards, ops=ops, cache=cache)
    if shards or ops is not None:
        raise PlanError(f"shards and ops are for a store that is named by its path: {store.path} is open already")
    return store


def _device(asked: str | torch.device | None, render: Render) -> torch.device:
    """Where batches lie."""
    return torch.device("cpu") if asked is None and render != "gpu" else choose_device(asked)


@dataclass(eq=False)
class _Epoch:
    """An epoch on its way: where each item of its base sequence lies in memory, -1 while it is not there."""

    plan: EpochPlan
    next_step: int

    def __post_init__(self) -> None:
        self.row_of = np.full(len(self.plan.samples), -1, np.int64)

    def wanted(self) -> np.ndarray:
        """The next batch, as positions in the base sequence."""
        local_batch = self.plan.local_batch
        return self.plan.order[self.next_step * local_batch : (self.next_step + 1) * local_batch]


def render_task(
    number: int, task: BlockTask, place: BlockPlace, rows: np.ndarray, *, has_digests: bool = False
) -> RenderTask:
    """What the workers are told of a block: which row each position goes to at each view.

    rows (m,) int64: the pool's row of each of the task's m items. has_digests: see RenderTask.
    """
    placed = np.full((len(task.views), len(place.keys)), -1, np.int64)
    placed[np.searchsorted(task.views, task.item_views), task.positions] = rows
    return RenderTask(number, place, task.views, placed, has_digests)


def skipped_by_block(blocks: Blocks, skipped: np.ndarray) -> dict[int, frozenset[int]]:
    """Positions of skipped samples in their blocks: block -> positions, for the blocks that have any."""
    found: dict[int, set[int]] = {}
    for sample in skipped.tolist():
        block = int(np.searchsorted(blocks.first, sample, side="right")) - 1
        found.setdefault(block, set()).add(sample - int(blocks.first[block]))
    return {block: frozenset(positions) for block, positions in found.items()}
