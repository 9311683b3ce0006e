"""Rendering processes: blocks in, replayed views out, for both stages.

Pixels come back through shared memory: a few slots of each worker's own, or rows of one pool, which the parent assigns
with the task. So nothing is locked and a worker that dies takes nobody with it but itself, which the parent sees, as it
sees one that hangs. Ours, as torch's DataLoader maps new memory for every batch, and knows neither rows that are chosen
beforehand nor a worker that is stopped.
"""

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from teacher_cache.device import Recycled
from teacher_cache.errors import RenderError
from teacher_cache.messages.shown import counted
from teacher_cache.processes.memory import shared_memory_lacking
from teacher_cache.processes.pool import Connection, sendable
from teacher_cache.processes.ties import GONE
from teacher_cache.rendering.blocks import BlockReader
from teacher_cache.rendering.crew import Crew, Desk, PoolSettings, RenderTask, Worker
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.replay.block import ReplayedBlock
from teacher_cache.replay.policy import Policy

SLOTS_PER_WORKER = 3  # one being rendered, one on its way, one being copied out
LOWER_POOL = "lower pool_batches or the batch, use --workers 0"


@dataclass(frozen=True)
class BlockView:
    """One (block, view) of a task. Its pixels may lie in shared memory: copy what is kept, then release(). They are
    empty where the task named rows, which hold them until the caller gives them to another task; block.pixels are where
    a device has rendered them, too."""

    task: RenderTask
    block: ReplayedBlock
    device_pixels: Tensor | None = None
    _slot: Callable[[], None] | None = None  # gives a worker its slot back

    @property
    def pixels(self) -> Tensor:
        """(n, H, W, 3) uint8, in memory or on the device that rendered them."""
        return torch.from_numpy(self.block.pixels) if self.device_pixels is None else self.device_pixels

    @property
    def view(self) -> int:
        return self.block.view

    def release(self) -> None:
        """Give the pixels' slot back to its worker."""
        if self._slot is not None:
            self._slot()


class RenderPool(contextlib.AbstractContextManager["RenderPool"]):
    """Processes that render blocks: submit() tasks, get() views until `pending` is 0.

    A task's views come in the order asked for; tasks come in any order. With workers=0 the calling process
    renders. Errors of a worker are raised by get(). Raises RenderError when shared memory is too small, when a worker
    dies, and when one that has work has sent nothing for timeout_s: it hangs. Neither time in which this process is
    stopped counts, nor most of that which passes between calls of get().

    rows: (num_rows, H, W, 3) uint8, of the settings' num_rows; a worker that has no slots to wait for goes on while the
    parent is busy.
    """

    def __init__(self, settings: PoolSettings) -> None:
        policy, workers, num_rows = settings.policy, settings.workers, settings.num_rows
        self.num_workers = workers
        self.rows = np.empty((0, *policy.size, 3), np.uint8)
        self.wait_s = 0.0  # time that get() has waited for pixels
        self.pending = 0  # (block, view)s submitted and not yet got
        self._settings = settings
        self._inline: Iterator[BlockView] | None = None
        self._arrived: deque[BlockView] = deque()
        self._crew = Crew(settings.timeout_s, settings.tasks_ahead)
        self._slots: dict[Worker, np.ndarray] = {}  # (slots, BLOCK_SAMPLES, H, W, 3) uint8, of each worker
        self._scratch = _scratch(policy)
        self._blocks = BlockReader(settings)
        if workers:
            self._start(workers, num_rows)
        elif num_rows is not None:
            self.rows = np.empty((num_rows, *policy.size, 3), np.uint8)

    def _start(self, workers: int, num_rows: int | None) -> None:
        view = (*self._settings.policy.size, 3)
        shape = (SLOTS_PER_WORKER, BLOCK_SAMPLES, *view)
        rows = None
        if num_rows is None:
            _check_shared_memory(
                workers * math.prod(shape), counted(workers, "rendering process"), "use fewer --workers"
            )
        else:
            _check_shared_memory(
                num_rows * math.prod(view), f"{counted(num_rows, 'view')} of the shuffle pool", LOWER_POOL
            )
            rows = _shared((num_rows, *view))
            self.rows = rows.numpy()
        for _ in range(workers):
            slots = _shared(shape) if rows is None else None
            num_slots = None if slots is None else len(slots)
            worker = self._crew.hire(_serve, self._settings, slots, rows, num_slots=num_slots)
            if slots is not None:
                self._slots[worker] = slots.numpy()

    def submit(self, task: RenderTask) -> None:
        """Queue a task; ids of tasks in flight must differ."""
        self.pending += len(task.views)
        self._crew.submit(task)

    def get(self) -> BlockView:
        """The next replayed (block, view) of any task."""
        assert self.pending, "get() without a submitted task"
        start = time.perf_counter()
        found = self._receive() if self._crew.workers else self._render_here()
        self.wait_s += time.perf_counter() - start
        self.pending -= 1
        return found

    def gather(self, rows: np.ndarray, memory: Recycled) -> Tensor:
        """The views in some rows, (n,) int64 -> (n, H, W, 3) uint8 in a piece of `memory`. The rows may be given to
        tasks again at once."""
        views = memory.empty((len(rows), *self.rows.shape[1:]), torch.uint8)
        np.take(self.rows, rows, axis=0, out=views.numpy(), mode="clip")  # "raise" would copy into a buffer first
        return views

    def ready(self) -> bool:
        """Whether a worker has something for get(); never where the calling process renders."""
        return bool(self._arrived) or self._crew.is_ready()

    def close(self) -> None:
        """End the workers; what is in flight is lost."""
        self._crew.close()
        self._slots.clear()

    def __exit__(self, *details: object) -> None:
        self.close()

    def _receive(self) -> BlockView:
        while not self._arrived:
            for sent in self._crew.receive():
                block = sent.content
                if sent.worker in self._slots:
                    block = replace(block, pixels=self._slots[sent.worker][sent.slot, : len(block.lambdas)])
                slot = partial(self._crew.release, sent.worker, sent.slot)
                self._arrived.append(BlockView(sent.task, block, _slot=slot))
        return self._arrived.popleft()

    def _render_here(self) -> BlockView:
        while True:
            if self._inline is None:
                task = self._crew.take()
                assert task is not None
                if (following := self._crew.next_task()) is not None:
                    self._blocks.expect(following)
                self._inline = self._render_task(task)
            found = next(self._inline, None)
            if found is not None:
                return found
            self._inline = None

    def _render_task(self, task: RenderTask) -> Iterator[BlockView]:
        decoded = self._blocks.decode(task)
        for number, view in enumerate(task.views):
            out = None if task.rows is None else _destinations(self.rows, task.rows[number], self._scratch)
            yield BlockView(task, self._settings.render(decoded, view, out))


# -- in a rendering process ----------------------------------------------------------------------------------------


def _serve(
    connection: Connection, settings: PoolSettings, slots: torch.Tensor | None, rows: torch.Tensor | None
) -> None:
    """A worker's life: render tasks into free slots, or into their rows, until the parent closes the pipe. The first
    error that it meets is its last message."""
    torch.set_num_threads(1)
    arrays = (None if memory is None else memory.numpy() for memory in (slots, rows))
    renderer = _Renderer(connection, settings, *arrays)
    try:
        while True:
            renderer.render_next()
    except GONE:
        raise
    except Exception as error:
        connection.send(sendable(error))


class _Renderer:
    """What a worker renders with.

    slots (slots, BLOCK_SAMPLES, H, W, 3) uint8, its own, or rows (rows, H, W, 3) uint8, of all workers, are shared.
    """

    def __init__(
        self, connection: Connection, settings: PoolSettings, slots: np.ndarray | None, rows: np.ndarray | None
    ) -> None:
        self._settings, self._slots, self._rows = settings, slots, rows
        self._blocks = BlockReader(settings)
        self._desk = Desk(connection, 0 if slots is None else len(slots), self._blocks.expect)
        self._scratch = _scratch(settings.policy)

    def render_next(self) -> None:
        """Wait for a task, and send its views."""
        task = self._desk.next_task()
        decoded = self._blocks.decode(task)
        for number, view in enumerate(task.views):
            self._desk.empty_pipe()
            slot, out = self._room(task, number)
            block = self._settings.render(decoded, view, out)
            self._desk.send(slot, 1, replace(block, pixels=np.empty(0, np.uint8)))

    def _room(self, task: RenderTask, number: int) -> tuple[int, np.ndarray | list[np.ndarray]]:
        """Where the task's view of this number goes, and the slot that this is, if it is one."""
        if self._rows is not None and task.rows is not None:
            return 0, _destinations(self._rows, task.rows[number], self._scratch)
        assert self._slots is not None, "a pool of rows was given a task without any"
        slot = self._desk.take_slot()
        return slot, self._slots[slot, : len(task.place.keys)]


def _scratch(policy: Policy) -> np.ndarray:
    """Room for a block's views that no row is for; it takes memory only where it is written."""
    return np.empty((BLOCK_SAMPLES, *policy.size, 3), np.uint8)


def _destinations(rows: np.ndarray, assigned: np.ndarray, scratch: np.ndarray) -> list[np.ndarray]:
    """Where a block's positions are rendered: in their rows; what is not wanted but for its partner in scratch."""
    return [scratch[position] if row < 0 else rows[row] for position, row in enumerate(assigned.tolist())]


def _shared(shape: tuple[int, ...]) -> torch.Tensor:
    """Undefined uint8 memory that all processes see. RenderError where the system gives none."""
    try:
        return torch.empty(shape, dtype=torch.uint8).share_memory_()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise RenderError(f"no shared memory ({reason}): make /dev/shm writable, or use --workers 0") from error


def _check_shared_memory(num_bytes: int, what: str, advice: str) -> None:
    if lacking := shared_memory_lacking(num_bytes, what):
        raise RenderError(f"{lacking}: {advice}, or enlarge /dev/shm (docker: --shm-size)")
