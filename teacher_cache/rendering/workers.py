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

from teacher_cache.device import RecycledMemory
from teacher_cache.errors import RenderError
from teacher_cache.messages.shown import counted
from teacher_cache.processes.memory import memory_lacking
from teacher_cache.processes.shared import SharedMemory
from teacher_cache.rendering.blocks import BlockReader
from teacher_cache.rendering.crew import Crew, PoolSettings, RenderTask, Worker
from teacher_cache.rendering.replaying import destinations, scratch, serve
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.replay.block import ReplayedBlock
from teacher_cache.replay.native.library import workspace
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
    renders. Errors of a worker are raised by get(). Raises RenderError when memory is too small, when a worker
    dies, and when one that has work has sent nothing for timeout_s: it hangs. Neither time in which this process is
    stopped counts, nor most of that which passes between calls of get().

    rows: (num_rows, H, W, 3) uint8, of the settings' num_rows; a worker that has no slots to wait for goes on while the
    parent is busy.
    """

    def __init__(self, settings: PoolSettings) -> None:
        policy, workers, num_rows = settings.policy, settings.workers, settings.num_rows
        self.rows = np.empty((0, *policy.size, 3), np.uint8)
        self.wait_s = 0.0  # time that get() has waited for pixels
        self.pending = 0  # (block, view)s submitted and not yet got
        self._settings = settings
        self._inline: Iterator[BlockView] | None = None
        self._arrived: deque[BlockView] = deque()
        self._crew = Crew(settings.timeout_s, settings.tasks_ahead, imports=_imports(policy))
        self._shared: list[SharedMemory] = []  # of each worker's slots, or of all rows
        self._slots: dict[Worker, np.ndarray] = {}  # (slots, BLOCK_SAMPLES, H, W, 3) uint8, of each worker
        self._scratch = scratch(policy)
        self._blocks = BlockReader(settings)
        if workers:
            self._start(workers, num_rows)
        elif num_rows is not None:
            self.rows = np.empty((num_rows, *policy.size, 3), np.uint8)

    def _start(self, workers: int, num_rows: int | None) -> None:
        view = (*self._settings.policy.size, 3)
        if num_rows is None:
            shape = (SLOTS_PER_WORKER, BLOCK_SAMPLES, *view)
            _check_memory(
                workers * math.prod(shape), f"rendering in {counted(workers, 'process')}", "use fewer --workers"
            )
            self._shared = [SharedMemory(math.prod(shape)) for _ in range(workers)]
            for shared in self._shared:
                worker = self._crew.hire(
                    serve, self._settings, shared.place, SLOTS_PER_WORKER, num_slots=SLOTS_PER_WORKER
                )
                self._slots[worker] = shared.bytes.reshape(shape)
        else:
            num_bytes = num_rows * math.prod(view)
            # of this rank alone: others may have taken theirs, which the loader has counted before any did
            what = f"a shuffle pool of {counted(num_rows, 'view')}"
            _check_memory(num_bytes, what, LOWER_POOL, in_each_rank=False)
            self._shared = [SharedMemory(num_bytes)]
            self.rows = self._shared[0].bytes.reshape(num_rows, *view)
            for _ in range(workers):
                self._crew.hire(serve, self._settings, self._shared[0].place, None, num_slots=None)

    def submit(self, task: RenderTask) -> None:
        """Queue a task; ids of tasks in flight must differ."""
        self.pending += len(task.views)
        self._crew.submit(task)

    def wants_tasks(self) -> bool:
        """Whether more tasks should be submitted, so that nothing waits for them."""
        return self._crew.wants_tasks()

    def get(self) -> BlockView:
        """The next replayed (block, view) of any task."""
        assert self.pending, "get() without a submitted task"
        start = time.perf_counter()
        found = self._receive() if self._crew.workers else self._render_here()
        self.wait_s += time.perf_counter() - start
        self.pending -= 1
        return found

    def gather(self, rows: np.ndarray, memory: RecycledMemory) -> Tensor:
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
        while self._shared:
            self._shared.pop().close()

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
                for following in self._crew.upcoming():
                    self._blocks.expect(following)
                self._inline = self._render_task(task)
            found = next(self._inline, None)
            if found is not None:
                return found
            self._inline = None

    def _render_task(self, task: RenderTask) -> Iterator[BlockView]:
        decoded = self._blocks.decode(task)
        for number, view in enumerate(task.views):
            out = None if task.rows is None else destinations(self.rows, task.rows[number], self._scratch)
            yield BlockView(task, self._settings.render(decoded, view, out))


def _imports(policy: Policy) -> str | None:
    """The module that workers have from the beginning: this one, and torch with it, where NumPy's implementation
    renders, which needs torch; None: that of `serve`."""
    return __name__ if policy.own_operations is not None or workspace() is None else None


def _check_memory(num_bytes: int, what: str, advice: str, *, in_each_rank: bool = True) -> None:
    if lacking := memory_lacking(num_bytes, what, in_each_rank=in_each_rank):
        raise RenderError(f"{lacking}: {advice}")
