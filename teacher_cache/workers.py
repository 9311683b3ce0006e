"""Rendering processes: blocks in, replayed views out, for both stages.

Pixels come back through shared memory: a few slots of each worker's own, or rows of one pool, which the parent assigns
with the task. So nothing is locked and a worker that dies takes nobody with it but itself, which the parent sees. When
the parent dies, however it dies, the pipe closes and the worker ends.
"""

import contextlib
import math
import multiprocessing
import os
import select
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import numpy as np
import torch

from teacher_cache.errors import RenderError, TeacherCacheError
from teacher_cache.index import BlockPlace
from teacher_cache.replay.block import BLOCK_SAMPLES, DecodedBlock, ReplayedBlock, open_block, replay_view
from teacher_cache.replay.header import MAX_PIXELS
from teacher_cache.replay.policy import Policy
from teacher_cache.shards import read_block
from teacher_cache.threads import threads_spin

SLOTS_PER_WORKER = 3  # one being rendered, one on its way, one being copied out
PARENTS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # sent to all; the parent decides when workers end
GONE = (EOFError, BrokenPipeError, ConnectionResetError)  # the other end of a pipe
TASKS_PER_WORKER = 2  # one being rendered, one waiting: a worker never idles for the parent's next turn
LOWER_POOL = "lower pool_batches or the batch, use --workers 0"


@dataclass(frozen=True)
class RenderTask:
    """Render the given views of one block. id is the caller's.

    rows (views, n) int64, in a pool that has rows: where each position goes at each view, -1 where it is not wanted.
    Rows of tasks in flight must differ. crops_only: as in DecodedBlock.
    """

    id: int
    place: BlockPlace
    views: tuple[int, ...]
    rows: np.ndarray | None = None
    crops_only: bool = False


@dataclass(frozen=True)
class Rendered:
    """One replayed (block, view). block.pixels may lie in shared memory: copy what is kept, then release(). They are
    empty where the task named rows, which hold them until the caller gives them to another task."""

    task: RenderTask
    view: int
    block: ReplayedBlock
    _pool: "RenderPool"
    _worker: int
    _slot: int

    def release(self) -> None:
        """Give the pixels' slot back to its worker."""
        if self.task.rows is None:
            self._pool._release(self._worker, self._slot)


@dataclass(frozen=True)
class _Work:
    """What a worker needs besides its tasks."""

    policy: Policy
    store_seed: int
    skip_bad: bool
    max_pixels: int
    slots: torch.Tensor | None  # (slots, BLOCK_SAMPLES, H, W, 3) uint8, shared
    rows: torch.Tensor | None  # (rows, H, W, 3) uint8, shared by all workers


class RenderPool(contextlib.AbstractContextManager["RenderPool"]):
    """Processes that render blocks: submit() tasks, get() views until `pending` is 0.

    A task's views come in the order asked for; tasks come in any order. With workers=0 the calling process
    renders. Errors of a worker are raised by get(). Raises RenderError when shared memory is too small.

    max_pixels: of an image, height x width; a larger one cannot be decoded (see DecodedBlock).
    num_rows: how many views `rows`, (num_rows, H, W, 3) uint8, shall hold, into which tasks are then rendered; a worker
    that has no slots to wait for goes on while the parent is busy, through tasks_ahead tasks.
    """

    def __init__(
        self,
        policy: Policy,
        store_seed: int,
        *,
        workers: int,
        skip_bad: bool = False,
        max_pixels: int = MAX_PIXELS,
        num_rows: int | None = None,
        tasks_ahead: int = TASKS_PER_WORKER,
    ) -> None:
        self.num_workers = workers
        self.rows = np.empty((0, *policy.size, 3), np.uint8)
        self.wait_s = 0.0  # time that get() has waited for pixels
        self.pending = 0  # (block, view)s submitted and not yet got
        self._policy, self._store_seed = policy, store_seed
        self._skip_bad, self._max_pixels = skip_bad, max_pixels
        self._queue: deque[RenderTask] = deque()
        self._tasks: dict[int, RenderTask] = {}
        self._inline: Iterator[Rendered] | None = None
        self._arrived: deque[Rendered] = deque()
        self._connections: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self._load = [0] * workers  # tasks given to each worker and not finished
        self._slots: list[np.ndarray] = []
        self._tasks_ahead = tasks_ahead
        self._scratch = np.empty((BLOCK_SAMPLES if num_rows is not None else 0, *policy.size, 3), np.uint8)
        if workers:
            self._start(workers, num_rows)
        elif num_rows is not None:
            self.rows = np.empty((num_rows, *policy.size, 3), np.uint8)

    def _start(self, workers: int, num_rows: int | None) -> None:
        view = (*self._policy.size, 3)
        shape = (SLOTS_PER_WORKER, BLOCK_SAMPLES, *view)
        rows = None
        if num_rows is None:
            _check_shared_memory(workers * math.prod(shape), f"{workers} rendering processes", "use fewer --workers")
        else:
            _check_shared_memory(num_rows * math.prod(view), f"{num_rows} views of the shuffle pool", LOWER_POOL)
            rows = torch.empty((num_rows, *view), dtype=torch.uint8).share_memory_()
            self.rows = rows.numpy()
        context = multiprocessing.get_context("spawn")
        for number in range(workers):
            slots = torch.empty(shape, dtype=torch.uint8).share_memory_() if rows is None else None
            ours, theirs = context.Pipe()
            work = _Work(self._policy, self._store_seed, self._skip_bad, self._max_pixels, slots, rows)
            process = context.Process(target=_serve, args=(theirs, work), name=f"render-{number}", daemon=True)
            # a worker inherits what is blocked, so a signal to the whole group cannot end it while it still imports
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, PARENTS_SIGNALS)
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)
            if slots is not None:
                self._slots.append(slots.numpy())

    def submit(self, task: RenderTask) -> None:
        """Queue a task; ids of tasks in flight must differ."""
        self._queue.append(task)
        self.pending += len(task.views)
        self._feed()

    def get(self) -> Rendered:
        """The next replayed (block, view) of any task."""
        assert self.pending, "get() without a submitted task"
        start = time.perf_counter()
        rendered = self._receive() if self._processes else self._render_here()
        self.wait_s += time.perf_counter() - start
        self.pending -= 1
        return rendered

    def ready(self) -> bool:
        """Whether a worker has something for get(); never where the calling process renders."""
        return bool(self._arrived) or bool(self._connections and wait(self._connections, timeout=0))

    def close(self) -> None:
        """End the workers; what is in flight is lost."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(timeout=1)
            if process.is_alive():  # in the middle of a long render
                process.kill()
                process.join()
        self._connections, self._processes = [], []

    def __exit__(self, *details: object) -> None:
        self.close()

    def _feed(self) -> None:
        while self._queue and self._processes:
            worker = min(range(len(self._load)), key=self._load.__getitem__)
            if self._load[worker] >= self._tasks_ahead or not _takes_more(self._connections[worker]):
                return
            task = self._queue.popleft()
            self._tasks[task.id] = task
            self._load[worker] += 1
            self._send(worker, task)

    def _send(self, worker: int, message: RenderTask | int) -> None:
        with contextlib.suppress(*GONE):  # it died: _receive() reads the error that it sent before, or its end
            self._connections[worker].send(message)

    def _receive(self) -> Rendered:
        while not self._arrived:
            for connection in wait(self._connections):
                assert isinstance(connection, Connection)
                self._take(self._connections.index(connection), connection)
        return self._arrived.popleft()

    def _take(self, worker: int, connection: Connection) -> None:
        try:
            message = connection.recv()
        except GONE:
            process = self._processes[worker]
            process.join(timeout=5)
            raise RenderError(
                f"rendering process {worker} died (exit code {process.exitcode}; -9 is often a lack of memory): "
                "start again, with fewer --workers if it was memory"
            ) from None
        if isinstance(message, TeacherCacheError):
            raise message
        task_id, slot, block = message
        task = self._tasks[task_id]
        if block.view == task.views[-1]:
            del self._tasks[task_id]
            self._load[worker] -= 1
        self._feed()
        if task.rows is None:
            block = replace(block, pixels=self._slots[worker][slot, : len(block.lambdas)])
        self._arrived.append(Rendered(task, block.view, block, self, worker, slot))

    def _release(self, worker: int, slot: int) -> None:
        if self._processes:
            self._send(worker, slot)

    def _render_here(self) -> Rendered:
        while True:
            if self._inline is None:
                self._inline = self._render_task(self._queue.popleft())
            rendered = next(self._inline, None)
            if rendered is not None:
                return rendered
            self._inline = None

    def _render_task(self, task: RenderTask) -> Iterator[Rendered]:
        decoded = _open(task, self._skip_bad, self._max_pixels)
        for number, view in enumerate(task.views):
            out = None if task.rows is None else _destinations(self.rows, task.rows[number], self._scratch)
            block = replay_view(self._policy, self._store_seed, decoded, view, out=out)
            yield Rendered(task, view, block, self, 0, 0)


def share_cores(workers: int) -> None:
    """Let torch use the cores of this rank; OMP_NUM_THREADS overrules.

    Where torch's threads wait for each other by spinning (see teacher_cache.threads), rendering processes get cores of
    their own: with fewer cores than threads a step would take ten times as long.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        own = workers if threads_spin() else 0
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks_here - own))


def render_all(pool: RenderPool, tasks: Sequence[RenderTask]) -> Iterator[Rendered]:
    """Submit all tasks and yield every (block, view), each released when the next is asked for."""
    for task in tasks:
        pool.submit(task)
    while pool.pending:
        rendered = pool.get()
        yield rendered
        rendered.release()


def _serve(connection: Connection, work: _Work) -> None:
    """A worker's life: render tasks into free slots until the parent closes the pipe."""
    for number in PARENTS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PARENTS_SIGNALS)
    torch.set_num_threads(1)
    with contextlib.suppress(*GONE):  # the parent has closed the pipe, or is gone
        _render_tasks(connection, work)


def _render_tasks(connection: Connection, work: _Work) -> None:
    slots = None if work.slots is None else work.slots.numpy()
    rows = None if work.rows is None else work.rows.numpy()
    scratch = np.empty((BLOCK_SAMPLES, *work.policy.size, 3), np.uint8)  # takes memory only where it is written
    free = [] if slots is None else list(range(len(slots)))
    tasks: deque[RenderTask] = deque()

    def hear() -> None:
        message = connection.recv()
        if isinstance(message, RenderTask):
            tasks.append(message)
        else:
            free.append(message)

    while True:
        while not tasks:
            hear()
        task = tasks.popleft()
        try:
            decoded = _open(task, work.skip_bad, work.max_pixels)
            for number, view in enumerate(task.views):
                while connection.poll():  # so that the pipe has room for the parent's next task
                    hear()
                slot = 0
                out: np.ndarray | list[np.ndarray] | None = None
                if rows is not None and task.rows is not None:
                    out = _destinations(rows, task.rows[number], scratch)
                elif slots is not None:
                    while not free:
                        hear()
                    slot = free.pop()
                    out = slots[slot, : len(task.place.keys)]
                block = replay_view(work.policy, work.store_seed, decoded, view, out=out)
                connection.send((task.id, slot, replace(block, pixels=np.empty(0, np.uint8))))
        except TeacherCacheError as error:
            connection.send(error)
            return
        except GONE:
            raise
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            where = f"shard {task.place.shard}, block {task.place.number}"
            connection.send(RenderError(f"{where}: rendering failed with {type(error).__name__}: {error}"))
            return


def _open(task: RenderTask, skip_bad: bool, max_pixels: int) -> DecodedBlock:
    return open_block(read_block(task.place), skip_bad=skip_bad, crops_only=task.crops_only, max_pixels=max_pixels)


def _destinations(rows: np.ndarray, assigned: np.ndarray, scratch: np.ndarray) -> list[np.ndarray]:
    """Where a block's positions are rendered: in their rows; what is not wanted but for its partner in scratch."""
    return [scratch[position] if row < 0 else rows[row] for position, row in enumerate(assigned.tolist())]


def _takes_more(connection: Connection) -> bool:
    """Whether a task fits into a pipe at once. The system says so up to a quarter full; a task takes far less."""
    poll = select.poll()
    poll.register(connection, select.POLLOUT)
    return bool(poll.poll(0))


def _check_shared_memory(num_bytes: int, what: str, advice: str) -> None:
    if not os.path.isdir("/dev/shm"):
        return
    free = os.statvfs("/dev/shm")
    free_bytes = free.f_bavail * free.f_frsize
    if num_bytes > free_bytes:
        raise RenderError(
            f"{what} need {num_bytes / 1e6:.0f} MB of shared memory, /dev/shm has "
            f"{free_bytes / 1e6:.0f} MB free: {advice}, or enlarge /dev/shm (docker: --shm-size)"
        )
