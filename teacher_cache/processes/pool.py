"""Every process that this program starts beside itself; it ends with its parent, however that dies.

Ours, as multiprocessing's pools and concurrent.futures wait for ever for a worker that is stopped, leave some behind
when the parent is killed, and start a new one in the place of one that died without saying whose task it had.
"""

import contextlib
import functools
import multiprocessing
import multiprocessing.util
import os
import sys
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

from teacher_cache.errors import RenderError, TeacherCacheError
from teacher_cache.processes.fork_server import Birth, ForkedProcess, ForkServer, StartError, birth, spawned
from teacher_cache.processes.ties import GONE
from teacher_cache.processes.timeouts import TIMEOUT_S

END_S = 1.0  # a process has so long to end by itself
SLICE_S = 1.0
STATES = {"T": "it is stopped", "t": "it is stopped", "D": "it waits for a disk", "R": "it is busy"}  # proc(5)

Common = TypeVar("Common")
Task = TypeVar("Task")
Result = TypeVar("Result")


class ProcessDiedError(Exception):
    """A process ended before its time. task: the number of the task that it had."""

    def __init__(self, exit_code: int | None, task: int) -> None:
        super().__init__(exit_code, task)
        self.exit_code, self.task = exit_code, task


@dataclass(frozen=True)
class Death:
    """What comes last from a process that ended."""

    exit_code: int | None


@dataclass(eq=False)
class Child:
    """A process, our end of the pipe to it, and how many were started before it.

    due_since_s: when it last sent something, or was first owed something after it owed nothing, by the clock of its
    Processes; None while it owes nothing.
    """

    process: ForkedProcess | SpawnProcess
    connection: Connection
    number: int
    due_since_s: float | None = None

    def state(self) -> str:
        """What it is doing, and its id, for people."""
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        except OSError:
            return f"pid {self.process.pid}"
        doing = STATES.get(stat.rpartition(")")[2].split()[0])
        return f"pid {self.process.pid}" + (f", {doing}" if doing else "")


class Processes(contextlib.AbstractContextManager["Processes"]):
    """Processes that are forked from one without threads, as those of other libraries do not survive a fork; they are
    ended when this is left, dropped or forgotten. imports: the module that they have from the beginning, else serve's.

    Who starts them says with expect() which owe a message. receive() gives what has come from those, silent() names
    those that have owed one for timeout_s. Time in which this process itself is stopped does not count, as they may
    have been stopped with it, nor most of that which passes between calls of receive().
    """

    def __init__(self, name: str, timeout_s: float = TIMEOUT_S, *, imports: str | None = None) -> None:
        self.children: list[Child] = []
        self.timeout_s = timeout_s
        self._name, self._imports = name, imports
        self._clock_s = 0.0
        self._received_at = time.perf_counter()  # when receive() was last left
        # at the interpreter's end multiprocessing would send SIGTERM, which they ignore, and wait
        self._finalize = multiprocessing.util.Finalize(self, _end, (self.children,), exitpriority=10)

    def start(self, serve: Callable[..., None], *args: Any) -> Child:
        """Run serve(connection, *args) in a new process. It may raise GONE where this end of the pipe is closed."""
        ours, theirs = multiprocessing.Pipe()
        name, imports = f"{self._name}-{len(self.children)}", self._imports or serve.__module__
        process = _starter(os.getpid()).start(name, imports, serve, theirs, args)
        child = Child(process, ours, len(self.children))
        self.children.append(child)
        return child

    def send(self, child: Child, message: Any) -> None:
        """Send a message; of a process that has died the next receive() tells."""
        with contextlib.suppress(*GONE):
            child.connection.send(message)

    def expect(self, child: Child, message: bool) -> None:
        """Say whether a process owes a message."""
        if not message:
            child.due_since_s = None
        elif child.due_since_s is None:
            child.due_since_s = self._clock_s

    def is_ready(self) -> bool:
        """Whether receive() would give something at once."""
        connections = [child.connection for child in self._owing()]
        return bool(connections and wait_for_any(connections, 0))

    def receive(self) -> list[tuple[Child, Any]]:
        """What has come from those that owe something, a message of each at most; after SLICE_S perhaps nothing.

        An error that a process met is a message, and so is the Death of one that ended. RenderError where processes
        cannot be started.
        """
        self._clock_s += min(time.perf_counter() - self._received_at, self.timeout_s / 2)
        begun = time.perf_counter()
        owing = self._owing()
        ready = wait_for_any([child.connection for child in owing], min(SLICE_S, self.timeout_s))
        self._clock_s += min(time.perf_counter() - begun, SLICE_S)
        self._received_at = time.perf_counter()
        return [(child, self._message(child)) for child in owing if child.connection in ready]

    def silent(self) -> list[Child]:
        """Those that have owed a message for timeout_s; each is named again only after as long."""
        found = [
            child
            for child in self.children
            if child.due_since_s is not None and self._clock_s - child.due_since_s >= self.timeout_s
        ]
        for child in found:
            child.due_since_s = self._clock_s
        return found

    def close(self) -> None:
        """End them: those that do not end when their pipe is closed are killed after a moment."""
        self._finalize()

    def __exit__(self, *details: object) -> None:
        self.close()

    def _owing(self) -> list[Child]:
        return [child for child in self.children if child.due_since_s is not None]

    def _message(self, child: Child) -> Any:
        try:
            message = child.connection.recv()
        except GONE:
            child.process.join(timeout=5 * END_S)
            if isinstance(child.process, ForkedProcess) and (fault := child.process.fault) is not None:
                raise RenderError(
                    f"no process can be started: {fault}: mend that, and run the same command again"
                ) from None
            return Death(child.process.exitcode)
        child.due_since_s = self._clock_s
        return message


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

    What it raises is raised here. on_silence is called where a task has taken timeout_s, and again after as long, with
    the processes that have such and the numbers of their tasks; what it raises ends them. Raises ProcessDiedError.
    Closing the generator ends them too.
    """
    coming = iter(enumerate(tasks))
    doing: dict[Child, int] = {}

    with Processes(name, timeout_s, imports=work.__module__) as processes:

        def give(child: Child) -> None:
            following = next(coming, None)
            processes.expect(child, following is not None)
            if following is not None:
                doing[child], task = following
                processes.send(child, task)

        for _ in range(min(workers, len(tasks))):
            give(processes.start(_work, work, common))
        while doing:
            for child, result in processes.receive():
                number = doing.pop(child)
                if isinstance(result, Death):
                    raise ProcessDiedError(result.exit_code, number)
                if isinstance(result, Exception):
                    raise result
                give(child)
                yield number, result
            if silent := processes.silent():
                on_silence({doing[child]: child for child in silent})


def _work(connection: Connection, work: Callable[[Any, Any], Any], common: Any) -> None:
    """The life of a process of in_processes."""
    while True:
        task = connection.recv()
        try:
            result = work(common, task)
        except Exception as error:
            result = sendable(error)
        connection.send(result)


def sendable(error: Exception) -> Exception:
    """An error that a process met as its parent gets it: ours, and the system's, as it is; of any other, which may not
    survive the pipe, its name and what it says. Where that one comes from is printed here."""
    if isinstance(error, TeacherCacheError | OSError):
        return error
    traceback.print_exception(error, file=sys.stderr)
    return RuntimeError(f"{type(error).__name__}: {error}")


# -- being a parent ------------------------------------------------------------------------------------------------


class _Starter:
    """The thread that starts all processes of this one: to the kernel it is their parent, so it must not end before its
    time."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "starter")
        self._servers: dict[str, ForkServer] = {}
        self._faults: dict[str, StartError] = {}  # of servers that could not start, and are not tried again

    def start(
        self, name: str, imports: str, serve: Callable[..., None], connection: Connection, args: tuple[Any, ...]
    ) -> ForkedProcess | SpawnProcess:
        """Run serve(connection, *args) in a process; imports: the module of its server."""
        if sys.platform != "linux":  # where other systems' libraries have threads from the beginning
            return self._thread.submit(spawned, name, serve, connection, args, daemon=True).result()
        coming = self._thread.submit(self._fork, imports, birth(name, serve, args), connection)
        return ForkedProcess(coming, lambda process: self._exit_code(imports, process))

    def _fork(self, imports: str, birth: Birth, connection: Connection) -> tuple[int, int]:
        with contextlib.closing(connection):  # whatever fails: who waits at its other end must hear of it
            if imports in self._faults:
                raise self._faults[imports]
            server = self._servers.get(imports)
            if server is None or not server.is_alive():
                try:
                    server = self._servers[imports] = ForkServer(imports, birth.environment)
                except OSError as error:
                    raise StartError(f"the system starts no process ({error.strerror})") from None
            try:
                return server.fork(birth, connection)
            except StartError as error:
                self._faults[imports] = StartError(f"importing {imports} fails ({error})")
                raise self._faults[imports] from None

    def _exit_code(self, imports: str, process: int | None) -> int | None:
        server = self._servers[imports]
        if process is not None:
            with contextlib.suppress(TimeoutError, EOFError, OSError):
                return self._thread.submit(server.exit_code, process).result(END_S)
        return server.own_exit_code()  # which dies with it


@functools.cache
def _starter(process: int) -> _Starter:
    """Of the process of this id, as a forked child has no thread."""
    return _Starter()


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
