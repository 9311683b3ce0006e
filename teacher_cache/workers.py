"""Rendering processes: blocks in, replayed views out, for both stages.

Pixels come back through shared memory: a few slots of each worker's own, or rows of one pool, which the parent assigns
with the task. So nothing is locked and a worker that dies takes nobody with it but itself, which the parent sees, as it
sees one that hangs.
"""

import contextlib
import math
import os
import select
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from teacher_cache.errors import RenderError, TeacherCacheError
from teacher_cache.files import describe_os_error
from teacher_cache.memory import shared_memory_lacking
from teacher_cache.processes import GONE, SLICE_S, TIMEOUT_S, Child, Connection, Processes, wait_for
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.replay.block import DecodedBlock, ReplayedBlock, decode_block, replay_view
from teacher_cache.replay.header import MAX_PIXELS
from teacher_cache.replay.policy import Policy
from teacher_cache.shards.index import BlockPlace
from teacher_cache.shards.read import read_block
from teacher_cache.threads import threads_spin

SLOTS_PER_WORKER = 3  # one being rendered, one on its way, one being copied out
TASKS_PER_WORKER = 2  # one being rendered, one waiting: a worker never idles for the parent's next turn
LOWER_POOL = "lower pool_batches or the batch, use --workers 0"
SILENT_NAMED = 3  # of the processes that hang; of one's views


@dataclass(frozen=True)
class RenderTask:
    """Render the given views of one block. id is the caller's.

    rows (views, n) int64, in a pool that has rows: where each position goes at each view, -1 where it is not wanted.
    Rows of tasks in flight must differ.
    """

    id: int
    place: BlockPlace
    views: tuple[int, ...]
    rows: np.ndarray | None = None


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


@dataclass(eq=False)
class _Worker:
    """A rendering process as the parent sees it."""

    child: Child
    slots: np.ndarray | None  # (slots, BLOCK_SAMPLES, H, W, 3) uint8
    given: deque[RenderTask] = field(default_factory=deque)  # and not finished, in order
    arrived: int = 0  # views of the first of them
    lent: int = 0  # slots whose pixels the caller still holds
    heard_s: float = 0.0  # by the pool's clock: when it last gave something, or got what it could go on with

    def has_work(self) -> bool:
        """Whether it has something to render, and where to."""
        return bool(self.given) and (self.slots is None or self.lent < len(self.slots))


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
    renders. Errors of a worker are raised by get(). Raises RenderError when shared memory is too small, when a worker
    dies, and when one that has work has sent nothing for timeout_s: it hangs. Neither time in which this process is
    stopped counts, nor most of that which passes between calls of get().

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
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.num_workers = workers
        self.rows = np.empty((0, *policy.size, 3), np.uint8)
        self.wait_s = 0.0  # time that get() has waited for pixels
        self.pending = 0  # (block, view)s submitted and not yet got
        self._policy, self._store_seed = policy, store_seed
        self._skip_bad, self._max_pixels = skip_bad, max_pixels
        self._queue: deque[RenderTask] = deque()
        self._inline: Iterator[Rendered] | None = None
        self._arrived: deque[Rendered] = deque()
        self._processes = Processes("render")
        self._workers: list[_Worker] = []
        self._connections: list[Connection] = []
        self._tasks_ahead, self._timeout_s = tasks_ahead, timeout_s
        self._clock_s = 0.0
        self._left = time.perf_counter()  # when get() last was left
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
            rows = _shared((num_rows, *view))
            self.rows = rows.numpy()
        for _ in range(workers):
            slots = _shared(shape) if rows is None else None
            work = _Work(self._policy, self._store_seed, self._skip_bad, self._max_pixels, slots, rows)
            child = self._processes.start(_serve, work)
            self._connections.append(child.connection)
            self._workers.append(_Worker(child, None if slots is None else slots.numpy()))

    def submit(self, task: RenderTask) -> None:
        """Queue a task; ids of tasks in flight must differ."""
        self._queue.append(task)
        self.pending += len(task.views)
        self._feed()

    def get(self) -> Rendered:
        """The next replayed (block, view) of any task."""
        assert self.pending, "get() without a submitted task"
        start = time.perf_counter()
        rendered = self._receive() if self._workers else self._render_here()
        self.wait_s += time.perf_counter() - start
        self.pending -= 1
        return rendered

    def ready(self) -> bool:
        """Whether a worker has something for get(); never where the calling process renders."""
        return bool(self._arrived) or bool(self._connections and wait_for(self._connections, 0))

    def close(self) -> None:
        """End the workers; what is in flight is lost."""
        self._processes.close()
        self._workers, self._connections = [], []

    def __exit__(self, *details: object) -> None:
        self.close()

    def _feed(self) -> None:
        while self._queue and self._workers:
            loads = [len(worker.given) for worker in self._workers]
            number = loads.index(min(loads))
            if loads[number] >= self._tasks_ahead or not _takes_more(self._connections[number]):
                return
            task = self._queue.popleft()
            self._give(number, task)
            self._workers[number].given.append(task)

    def _give(self, number: int, message: RenderTask | int) -> None:
        """Send a task, or a slot that is free again."""
        worker = self._workers[number]
        if not worker.has_work():
            worker.heard_s = self._clock_s
        with contextlib.suppress(*GONE):  # it died: _receive() reads the error that it sent before, or its end
            self._connections[number].send(message)

    def _receive(self) -> Rendered:
        self._clock_s += min(time.perf_counter() - self._left, self._timeout_s / 2)
        while not self._arrived:
            start = time.perf_counter()
            for connection in wait_for(self._connections, min(SLICE_S, self._timeout_s)):
                self._take(self._connections.index(connection), connection)
            self._clock_s += min(time.perf_counter() - start, SLICE_S)
            self._check_silence()
        self._left = time.perf_counter()
        return self._arrived.popleft()

    def _take(self, number: int, connection: Connection) -> None:
        worker = self._workers[number]
        try:
            message = connection.recv()
        except GONE:
            process = worker.child.process
            process.join(timeout=5)
            raise RenderError(
                f"rendering process {number} died (exit code {process.exitcode}; -9 is often a lack of memory): "
                "start again, with fewer --workers if it was memory"
            ) from None
        if isinstance(message, TeacherCacheError):
            raise message
        slot, block = message
        task = worker.given[0]
        worker.arrived += 1
        worker.lent += worker.slots is not None
        worker.heard_s = self._clock_s
        if worker.arrived == len(task.views):
            worker.given.popleft()
            worker.arrived = 0
        self._feed()
        if worker.slots is not None:
            block = replace(block, pixels=worker.slots[slot, : len(block.lambdas)])
        self._arrived.append(Rendered(task, block.view, block, self, number, slot))

    def _check_silence(self) -> None:
        silent = [
            (number, worker)
            for number, worker in enumerate(self._workers)
            if worker.has_work() and self._clock_s - worker.heard_s >= self._timeout_s
        ]
        if not silent:
            return
        named = [
            f"rendering process {number} ({worker.child.state()}), {_describe(worker)}" for number, worker in silent
        ]
        more = f"; and {len(named) - SILENT_NAMED} more" if len(named) > SILENT_NAMED else ""
        raise RenderError(
            f"no view has come for {self._timeout_s:g} s from {'; '.join(named[:SILENT_NAMED])}{more}: run the same "
            "command again; if pictures are very large or their disk very slow, raise --worker-timeout"
        )

    def _release(self, number: int, slot: int) -> None:
        if self._workers:
            self._give(number, slot)
            self._workers[number].lent -= 1

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
    torch.set_num_threads(1)
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
                connection.send((slot, replace(block, pixels=np.empty(0, np.uint8))))
        except TeacherCacheError as error:
            connection.send(error)
            return
        except GONE:
            raise
        except OSError as error:
            where = f"shard {task.place.shard}, block {task.place.number}"
            connection.send(RenderError(f"{where}: {describe_os_error(error)}"))
            return
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            where = f"shard {task.place.shard}, block {task.place.number}"
            connection.send(RenderError(f"{where}: rendering failed with {type(error).__name__}: {error}"))
            return


def _open(task: RenderTask, skip_bad: bool, max_pixels: int) -> DecodedBlock:
    return decode_block(read_block(task.place), skip_bad=skip_bad, max_pixels=max_pixels)


def _describe(worker: _Worker) -> str:
    """What a worker has to render next."""
    task = worker.given[0]
    views = task.views[worker.arrived :]
    more = " ..." if len(views) > SILENT_NAMED else ""
    shown = ", ".join(map(str, views[:SILENT_NAMED]))
    return f"which has shard {task.place.shard}, block {task.place.number}, views {shown}{more} to render"


def _destinations(rows: np.ndarray, assigned: np.ndarray, scratch: np.ndarray) -> list[np.ndarray]:
    """Where a block's positions are rendered: in their rows; what is not wanted but for its partner in scratch."""
    return [scratch[position] if row < 0 else rows[row] for position, row in enumerate(assigned.tolist())]


def _takes_more(connection: Connection) -> bool:
    """Whether a task fits into a pipe at once. The system says so up to a quarter full; a task takes far less."""
    poll = select.poll()
    poll.register(connection, select.POLLOUT)
    return bool(poll.poll(0))


def _shared(shape: tuple[int, ...]) -> torch.Tensor:
    """Undefined uint8 memory that all processes see. RenderError where the system gives none."""
    try:
        return torch.empty(shape, dtype=torch.uint8).share_memory_()
    except RuntimeError as error:
        said = str(error).partition("\n")[0]
        raise RenderError(f"no shared memory ({said}): make /dev/shm writable, or use --workers 0") from error


def _check_shared_memory(num_bytes: int, what: str, advice: str) -> None:
    if lacking := shared_memory_lacking(num_bytes, what):
        raise RenderError(f"{lacking}: {advice}, or enlarge /dev/shm (docker: --shm-size)")
