"""Every process that this program starts beside itself: it ends with its parent, however that dies.

The kernel sees to it (PR_SET_PDEATHSIG), so it holds for one that is stopped or busy in native code too, and for the
processes that it has started in turn. Signals that are sent to all, as Ctrl-C is, are the parent's to handle.
"""

import contextlib
import ctypes
import functools
import multiprocessing
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from teacher_cache.errors import RankError, TeacherCacheError

GONE = (EOFError, BrokenPipeError, ConnectionResetError)  # the other end of a pipe
TIMEOUT_S = 120.0  # after so long without a word from any process one is taken to hang
RANK_TIMEOUT_S = 600.0  # and so a rank, after so long without anything that shows that others work
# sent to all; the parent decides when to end
PARENTS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
END_S = 1.0  # a process has so long to end by itself
SLICE_S = 1.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h
STATES = {"T": "it is stopped", "t": "it is stopped", "D": "it waits for a disk", "R": "it is busy"}  # proc(5)

Common = TypeVar("Common")
Task = TypeVar("Task")
Result = TypeVar("Result")


class ProcessDiedError(Exception):
    """A process ended before its time. task: the number of the task that it had."""

    def __init__(self, exit_code: int | None, task: int) -> None:
        super().__init__(exit_code, task)
        self.exit_code, self.task = exit_code, task


@dataclass(frozen=True, eq=False)
class Child:
    """A process and our end of the pipe to it."""

    process: BaseProcess
    connection: Connection

    def state(self) -> str:
        """What it is doing, and its id, for people."""
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        except OSError:
            return f"pid {self.process.pid}"
        said = STATES.get(stat.rpartition(")")[2].split()[0])
        return f"pid {self.process.pid}" + (f", {said}" if said else "")


class Processes(contextlib.AbstractContextManager["Processes"]):
    """Spawned processes, as other libraries' threads do not survive a fork; they are ended when this is left, dropped
    or forgotten."""

    def __init__(self, name: str) -> None:
        self.children: list[Child] = []
        self._name = name
        # at the interpreter's end multiprocessing would send SIGTERM, which they ignore, and wait
        self._finalize = multiprocessing.util.Finalize(self, _end, (self.children,), exitpriority=10)

    def start(self, serve: Callable[..., None], *args: Any) -> Child:
        """Run serve(connection, *args) in a new process. It may raise GONE where this end of the pipe is closed."""
        return _starter(os.getpid()).submit(self._start, serve, args).result()

    def close(self) -> None:
        """End them: those that do not end when their pipe is closed are killed after a moment."""
        self._finalize()

    def __exit__(self, *details: object) -> None:
        self.close()

    def _start(self, serve: Callable[..., None], args: tuple[Any, ...]) -> Child:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        # what ties it to us is unpickled before the rest, whose imports take seconds
        process = context.Process(
            target=_live,
            args=(_Tie(os.getpid()), serve, theirs, args),
            name=f"{self._name}-{len(self.children)}",
            daemon=True,
        )
        # a child inherits what is blocked, so none can be ended while it still imports
        multiprocessing.resource_tracker.ensure_running()  # where start() is the first to do so it unblocks them again
        signal.pthread_sigmask(signal.SIG_BLOCK, PARENTS_SIGNALS)
        process.start()
        theirs.close()
        child = Child(process, ours)
        self.children.append(child)
        return child


def wait_for(connections: Sequence[Connection], timeout_s: float) -> list[Connection]:
    """Those that have something to read, or whose other end is gone; none after timeout_s.

    Time in which this process itself was stopped does not count, as the others may have been stopped with it.
    """
    left_s = timeout_s
    while True:
        slice_s = min(SLICE_S, left_s)
        found = wait_for_any(connections, slice_s)
        left_s -= slice_s
        if found or left_s <= 0:
            return [one for one in found if isinstance(one, Connection)]


def in_processes(
    work: Callable[[Common, Task], Result],
    common: Common,
    tasks: Sequence[Task],
    *,
    workers: int,
    name: str,
    timeout_s: float,
    on_silence: Callable[[dict[int, Child]], None],
) -> Generator[tuple[int, Result], None, None]:
    """Do work(common, task) for every task, in the order given: (the task's number, result) as each is done.

    What it raises is raised here. on_silence is called after every timeout_s without a result, with the processes and
    the numbers of their tasks; what it raises ends them. Raises ProcessDiedError. Closing the generator ends them too.
    """
    coming = iter(enumerate(tasks))
    doing: dict[Connection, tuple[int, Child]] = {}

    def give(child: Child) -> None:
        task = next(coming, None)
        if task is not None:
            doing[child.connection] = (task[0], child)
            with contextlib.suppress(*GONE):  # it died, which the next read tells
                child.connection.send(task[1])

    with Processes(name) as processes:
        for _ in range(min(workers, len(tasks))):
            give(processes.start(_work, work, common))
        while doing:
            heard = wait_for(list(doing), timeout_s)
            if not heard:
                on_silence(dict(doing.values()))
            for connection in heard:
                number, child = doing.pop(connection)
                result = _result(child, number)
                give(child)
                yield number, result


def _result(child: Child, number: int) -> Any:
    try:
        result, error = child.connection.recv()
    except GONE:
        child.process.join(timeout=END_S)
        raise ProcessDiedError(child.process.exitcode, number) from None
    if error is not None:
        raise error
    return result


def _work(connection: Connection, work: Callable[[Any, Any], Any], common: Any) -> None:
    """The life of a process of in_processes."""
    while True:
        task = connection.recv()
        answer: tuple[Any, Exception | None]
        try:
            answer = (work(common, task), None)
        except (TeacherCacheError, OSError) as error:
            answer = (None, error)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            answer = (None, RuntimeError(f"{type(error).__name__}: {error}"))
        connection.send(answer)


# -- being a child -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tie:
    """Unpickled in a child, it ties it to the process of this id: whether the kernel does."""

    parent: int

    def __reduce__(self) -> tuple[Callable[[int], bool], tuple[int]]:
        return _tie, (self.parent,)


def _tie(parent: int) -> bool:
    tied = _die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it was gone before
    return tied


def under_launcher() -> bool:
    """Whether torchrun has started this process, as a rank of a job."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def follow_launcher() -> None:
    """Under torchrun: a rank gets SIGTERM, as if it had been passed on, when torchrun itself is killed. RankError where
    that has happened already: others would be waited for in vain."""
    if under_launcher() and _die_with_parent(signal.SIGTERM) and _is_orphan():
        raise RankError("torchrun was ended while this rank started: run the same command again")


def _is_orphan() -> bool:
    """Whether the system has adopted this process, as far as that shows: the parent has another session, which
    torchrun may have, and is no Python process, which torchrun is."""
    parent = os.getppid()
    try:
        if os.getsid(parent) == os.getsid(0):
            return False
        return b"python" not in Path(f"/proc/{parent}/cmdline").read_bytes()
    except OSError:  # it is not shown to us
        return False


def _die_with_parent(number: int) -> bool:
    """Ask the kernel for a signal when the thread that started this process ends; False where it cannot."""
    return sys.platform == "linux" and ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) == 0


def _live(tied: bool, serve: Callable[..., None], connection: Connection, args: tuple[Any, ...]) -> None:
    for number in PARENTS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PARENTS_SIGNALS)
    if not tied:
        threading.Thread(target=_leave_with_parent, daemon=True).start()
    with contextlib.suppress(*GONE):  # the parent has closed the pipe, or is gone
        serve(connection, *args)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# -- being a parent ------------------------------------------------------------------------------------------------


@functools.cache
def _starter(process: int) -> ThreadPoolExecutor:
    """The thread that starts all processes of this one, named by its id as a forked child has none.

    To the kernel the parent is the thread that starts a process, so it must not end before its time.
    """
    return ThreadPoolExecutor(1, "starter")


def _end(children: list[Child]) -> None:
    for child in children:
        child.connection.close()
    deadline = time.monotonic() + END_S
    for child in children:
        child.process.join(timeout=max(0.0, deadline - time.monotonic()))
    for child in children:
        if child.process.is_alive():
            child.process.kill()
    for child in children:
        child.process.join(timeout=END_S)  # not for ever: one that waits for a disk dies when the disk answers
    children.clear()
