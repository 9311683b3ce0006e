"""Processes that work on blocks: who has which task, whose memory is free, who died or hangs. Both ways of rendering
have one. Nothing here imports torch, nor need its processes.
"""

import select
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from teacher_cache.errors import RenderError, TeacherCacheError
from teacher_cache.files import describe_os_error
from teacher_cache.processes.pool import Child, Connection, Death, Processes
from teacher_cache.processes.timeouts import TIMEOUT_S
from teacher_cache.replay.block import DecodedBlock, ReplayedBlock, replay_view
from teacher_cache.replay.header import MAX_PIXELS
from teacher_cache.replay.policy import Policy
from teacher_cache.shards.index import BlockPlace
from teacher_cache.shards.read import far_bytes
from teacher_cache.storage.cache import NodeCache

TASKS_PER_WORKER = 2  # one being worked on, one waiting: a worker never idles for the parent's next turn
QUEUED_PER_WORKER = 2  # tasks that wait for a worker to take them, so that it never lacks one
AHEAD_TASKS = 32  # tasks whose blocks a worker has on their way from far away, each of them a request ...
AHEAD_BYTES = 8 << 20  # ... as long as they are less than this: small ones take the time of a request, whatever it has
AT_ONCE_BYTES = 160 << 20  # of views that a device renders at once
SILENT_NAMED = 3  # of the processes that hang; of one's views


@dataclass(frozen=True)
class RenderTask:
    """Render the given views of one block. id is the caller's.

    rows (views, n) int64, in a pool that has rows: where each position goes at each view, -1 where it is not wanted.
    Rows of tasks in flight must differ. has_digests: the caller compares each view with a digest that it has, so that
    pictures need not be decoded whole (see decode_parts).
    """

    id: int
    place: BlockPlace
    views: tuple[int, ...]
    rows: np.ndarray | None = None
    has_digests: bool = False

    @property
    def where(self) -> str:
        """The block, as messages name it."""
        return f"shard {self.place.shard}, block {self.place.number}"

    @cached_property
    def far_bytes(self) -> int:
        """What has to come from far away; 0 where the shard is a file of this machine."""
        return far_bytes(self.place)


def lacks_tasks(waiting: Sequence[RenderTask], least: int) -> bool:
    """Whether more tasks should wait than these: there are fewer than `least`, or they come from far away, so that
    others could be on their way meanwhile."""
    if len(waiting) < least:
        return True
    coming = [task.far_bytes for task in waiting]
    return bool(waiting) and all(coming) and len(waiting) < AHEAD_TASKS and sum(coming) < AHEAD_BYTES


@dataclass(frozen=True)
class PoolSettings:
    """What a pool renders, and how; the same wherever views are rendered.

    workers: processes; 0: the calling one works. skip_bad: see decode_block. max_pixels: of an image, height x width; a
    larger one cannot be decoded (see DecodedBlock). num_rows: how many views the pool's rows shall hold, into which
    tasks are then rendered, through tasks_ahead tasks of each worker, and more that come from far away; None: there are
    none. cache: where blocks of shards far away are kept.
    """

    policy: Policy
    store_seed: int
    workers: int
    skip_bad: bool = False
    max_pixels: int = MAX_PIXELS
    num_rows: int | None = None
    tasks_ahead: int = TASKS_PER_WORKER
    timeout_s: float = TIMEOUT_S
    cache: NodeCache | None = None

    def render(
        self, decoded: DecodedBlock, view: int, out: np.ndarray | Sequence[np.ndarray] | None = None
    ) -> ReplayedBlock:
        """Render a view on the CPU; see replay_view, whose errors it raises."""
        return replay_view(self.policy, self.store_seed, decoded, view, out=out)


@dataclass(eq=False)
class Worker:
    """A process as the parent sees it."""

    child: Child
    num_slots: int | None  # pieces of memory that its results lie in; None: it needs none
    tasks: deque[RenderTask] = field(default_factory=deque)  # given and not finished, in order
    arrived: int = 0  # views of the first of them
    lent: int = 0  # slots that are not free yet

    def has_work(self) -> bool:
        """Whether it has something to do, and where to."""
        return bool(self.tasks) and (self.num_slots is None or self.lent < self.num_slots)

    def lacks_tasks(self, tasks_ahead: int) -> bool:
        """Whether it should have more, which are so many unless they come from far away."""
        return not self.tasks or lacks_tasks(list(self.tasks)[1:], tasks_ahead - 1)

    def describe(self) -> str:
        """What it is, and what it has to render next."""
        task = self.tasks[0]
        views = task.views[self.arrived :]
        more = " ..." if len(views) > SILENT_NAMED else ""
        named = ", ".join(map(str, views[:SILENT_NAMED]))
        return (
            f"rendering process {self.child.number} ({self.child.state()}), which has {task.where}, views "
            f"{named}{more} to render"
        )


@dataclass(frozen=True)
class Sent:
    """What a worker has of some of its first task's views, the next ones. It may lie in the worker's slot, which is the
    parent's until it is released."""

    worker: Worker
    task: RenderTask
    slot: int
    content: Any


class Crew:
    """The parent's side: tasks are queued, given out as workers get through theirs, and what they send is received.
    Where there are no workers the parent takes tasks itself. imports: see Processes.

    Raises RenderError when a worker dies, and when one that has work has sent nothing for timeout_s: it hangs. Neither
    time in which this process is stopped counts, nor most of that which passes between calls of receive().
    """

    def __init__(
        self, timeout_s: float = TIMEOUT_S, tasks_ahead: int = TASKS_PER_WORKER, *, imports: str | None = None
    ) -> None:
        self.processes = Processes("render", timeout_s, imports=imports)
        self.workers: list[Worker] = []
        self._tasks_ahead = tasks_ahead
        self._queue: deque[RenderTask] = deque()

    def hire(self, serve: Callable[..., None], *args: Any, num_slots: int | None) -> Worker:
        """Start serve(connection, *args), which uses a Desk."""
        worker = Worker(self.processes.start(serve, *args), num_slots)
        self.workers.append(worker)
        return worker

    def submit(self, task: RenderTask) -> None:
        """Queue a task."""
        self._queue.append(task)
        self._feed()

    def take(self) -> RenderTask | None:
        """The next task for the parent itself; None where no task is left, or workers get them."""
        return self._queue.popleft() if self._queue and not self.workers else None

    def upcoming(self) -> list[RenderTask]:
        """What take() gives next, as far ahead as it should be on its way."""
        found: list[RenderTask] = []
        queue = iter(() if self.workers else self._queue)
        while lacks_tasks(found, 1) and (task := next(queue, None)) is not None:
            found.append(task)
        return found

    def wants_tasks(self) -> bool:
        """Whether more should be submitted, so that nobody waits for tasks, or for what comes from far away."""
        if self.workers:
            return len(self._queue) < QUEUED_PER_WORKER * len(self.workers)
        return lacks_tasks(self._queue, QUEUED_PER_WORKER)

    def is_ready(self) -> bool:
        """Whether receive() would give something at once."""
        return self.processes.is_ready()

    def receive(self) -> list[Sent]:
        """What has come; after a second perhaps nothing. An error that a worker met is raised."""
        found = [self._take(self.workers[child.number], message) for child, message in self.processes.receive()]
        if silent := self.processes.silent():
            raise self._hang([self.workers[child.number] for child in silent])
        return found

    def release(self, worker: Worker, slot: int) -> None:
        """Give a slot back to its worker."""
        if self.workers and worker.num_slots is not None:
            worker.lent -= 1
            self._send(worker, slot)

    def close(self) -> None:
        """End the workers; what is in flight is lost."""
        self.processes.close()
        self.workers = []

    def _feed(self) -> None:
        while self._queue and self.workers:
            worker = min(self.workers, key=lambda each: len(each.tasks))
            if not worker.lacks_tasks(self._tasks_ahead) or not _takes_more(worker.child.connection):
                return
            task = self._queue.popleft()
            worker.tasks.append(task)
            self._send(worker, task)

    def _send(self, worker: Worker, message: RenderTask | int) -> None:
        """Send a task, or a slot that is free again, which the worker's tasks and slots have in them already."""
        self.processes.send(worker.child, message)
        self.processes.expect(worker.child, worker.has_work())

    def _take(self, worker: Worker, message: Any) -> Sent:
        """A worker's message: views of its first task, an error, or its death."""
        task = worker.tasks[0]
        if isinstance(message, Death):
            raise RenderError(
                f"rendering process {worker.child.number} died (exit code {message.exit_code}; -9 is often a lack of "
                "memory): start again, with fewer --workers if it was memory"
            )
        if isinstance(message, Exception):
            raise placed(message, task)
        slot, num_views, content = message
        worker.arrived += num_views
        worker.lent += worker.num_slots is not None
        if worker.arrived == len(task.views):
            worker.tasks.popleft()
            worker.arrived = 0
        self.processes.expect(worker.child, worker.has_work())
        self._feed()
        return Sent(worker, task, slot, content)

    def _hang(self, silent: Sequence[Worker]) -> RenderError:
        named = "; ".join(worker.describe() for worker in silent[:SILENT_NAMED])
        more = f"; and {len(silent) - SILENT_NAMED} more" if len(silent) > SILENT_NAMED else ""
        return RenderError(
            f"no view has come for {self.processes.timeout_s:g} s from {named}{more}: run the same command again; if "
            "pictures are very large or their disk very slow, raise --worker-timeout"
        )


class Desk:
    """A worker's side: tasks and free slots come through the pipe, results go back. expect hears of each task as it
    comes, which may be long before its turn."""

    def __init__(
        self, connection: Connection, num_slots: int = 0, expect: Callable[[RenderTask], None] | None = None
    ) -> None:
        self._connection = connection
        self._expect = expect
        self._free = list(range(num_slots))
        self._tasks: deque[RenderTask] = deque()

    def next_task(self) -> RenderTask:
        """Wait for a task."""
        while not self._tasks:
            self._receive()
        return self._tasks.popleft()

    def take_slot(self) -> int:
        """Wait for a free slot."""
        while not self._free:
            self._receive()
        return self._free.pop()

    def empty_pipe(self) -> None:
        """So that it has room for the parent's next task."""
        while self._connection.poll():
            self._receive()

    def send(self, slot: int, num_views: int, content: Any) -> None:
        """What there is of the task's next num_views views."""
        self._connection.send((slot, num_views, content))

    def _receive(self) -> None:
        message = self._connection.recv()
        if isinstance(message, RenderTask):
            self._tasks.append(message)
            if self._expect is not None:
                self._expect(message)
        else:
            self._free.append(message)


def placed(error: Exception, task: RenderTask) -> Exception:
    """A worker's error with the place in which it was met; ours name it themselves."""
    if isinstance(error, TeacherCacheError):
        return error
    reason = describe_os_error(error) if isinstance(error, OSError) else f"rendering failed with {error}"
    return RenderError(f"{task.where}: {reason}")


def _takes_more(connection: Connection) -> bool:
    """Whether a task fits into a pipe at once. The system says so up to a quarter full; a task takes far less."""
    poll = select.poll()
    poll.register(connection, select.POLLOUT)
    return bool(poll.poll(0))
