"""A process that has imported what others need, and is forked into them: fifteen start in the time that one takes.

Ours, as multiprocessing's fork server outlives a parent that is killed for as long as one of its processes works, and
runs the script of whoever starts it once more: without its guard that starts processes again, and what it imports, as
torch, may have threads, with which a process cannot be forked.
"""

import gc
import importlib
import multiprocessing
import multiprocessing.resource_tracker
import multiprocessing.spawn
import multiprocessing.util
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.context import ForkProcess, SpawnProcess
from multiprocessing.reduction import ForkingPickler, recv_handle, send_handle
from typing import Any

from teacher_cache.processes.ties import GONE, PARENTS_SIGNALS, Tie, live, tie

SLICE_S = 1.0


@dataclass(frozen=True)
class Birth:
    """A process to fork: it finds what a spawned one would, which is what there is in the process that asks."""

    name: str
    work: bytes  # (serve, args), pickled
    folder: str = field(default_factory=os.getcwd)
    search_path: Sequence[str] = field(default_factory=lambda: tuple(sys.path))
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    streams: Sequence[int] = field(default_factory=lambda: tuple(filter(_is_open, (1, 2))))


def birth(name: str, serve: Callable[..., None], args: tuple[Any, ...]) -> Birth:
    """Of a process that runs serve(connection, *args)."""
    return Birth(name, bytes(ForkingPickler.dumps((serve, args))))


class StartError(Exception):
    """A server cannot make its imports, so none of its processes can be; it says why."""


class ForkServer:
    """The process that forks others, for one thread, with which it ends. imports: the module that they have at once.
    Raises OSError where the system starts none."""

    def __init__(self, imports: str, environment: Mapping[str, str]) -> None:
        self._has_imports = False
        self._connection, theirs = multiprocessing.Pipe()
        with closing(theirs):
            self._process = _python(
                _BEGIN.format(path=[*map(str, sys.path)], module=__name__, pipe=theirs.fileno()),
                theirs.fileno(),
                environment,
            )
        self._connection.send((os.getpid(), bytes(multiprocessing.current_process().authkey), imports))
        multiprocessing.util.Finalize(self, _end, (self._process,), exitpriority=9)  # after its processes

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def own_exit_code(self) -> int | None:
        """Of the server itself, where it has ended or does so in a moment."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(SLICE_S)
        return self._process.returncode

    def fork(self, birth: Birth, connection: Connection) -> tuple[int, int]:
        """A process's id and a descriptor of it (pidfd_open), to be closed. connection, its end of a pipe, is closed
        here. Raises StartError, and EOFError or OSError where the server has died since it had its imports."""
        with closing(connection):
            self._await_imports()
            self._connection.send(birth)
            for handle in (connection.fileno(), *birth.streams):
                send_handle(self._connection, handle, self._process.pid)
        self._wait()
        descriptor = recv_handle(self._connection)
        return self._connection.recv(), descriptor

    def exit_code(self, process: int) -> int | None:
        """Of a process that has ended. Raises EOFError or OSError where the server has died."""
        self._connection.send(process)
        self._wait()
        return self._connection.recv()

    def _await_imports(self) -> None:
        if self._has_imports:
            return
        self._wait()
        try:
            fault = self._connection.recv()
        except (EOFError, OSError):
            fault = f"its process died, exit code {self.own_exit_code()}"
        if fault is not None:
            _end(self._process)
            raise StartError(fault)
        self._has_imports = True

    def _wait(self) -> None:
        while not self._connection.poll(SLICE_S):  # imports take seconds
            if not threading.main_thread().is_alive():
                raise EOFError("this process ends")


class ForkedProcess:
    """A process that is forked, or will be when its server has its imports: as multiprocessing's of others, with less.

    coming: its id and a descriptor of it. ask_exit_code(id): of one that has ended; of None,
    as the server died before: the server's.
    """

    def __init__(self, coming: "Future[tuple[int, int]]", ask_exit_code: Callable[[int | None], int | None]) -> None:
        self._coming, self._ask_exit_code = coming, ask_exit_code

    @property
    def pid(self) -> int | None:
        """Its id, which is waited for; None where its server died first."""
        found = self._found(None)
        return found[0] if found else None

    @property
    def fault(self) -> str | None:
        """Why it could not be started; None where it could, or it will be."""
        error = self._coming.exception() if self._coming.done() else None
        return str(error) if isinstance(error, StartError) else None

    @property
    def exitcode(self) -> int | None:
        """Of one that has ended, or minus the signal that killed it; None where nobody knows."""
        found = self._found(0)
        return self._ask_exit_code(found[0] if found else None)

    def is_alive(self) -> bool:
        """Whether it is there and has not ended."""
        found = self._found(0)
        return found is not None and not _has_ended(found[1], 0)

    def join(self, timeout: float) -> None:
        """Wait until it has ended, but so many seconds at most."""
        if found := self._found(timeout):
            _has_ended(found[1], timeout)

    def kill(self) -> None:
        """SIGKILL, where it is there."""
        if found := self._found(0):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(found[1], signal.SIGKILL)

    def __del__(self) -> None:
        if found := self._found(0):
            os.close(found[1])

    def _found(self, timeout: float | None) -> tuple[int, int] | None:
        try:
            return self._coming.result(timeout)
        except (TimeoutError, EOFError, OSError, StartError):
            return None


def spawned(
    name: str, serve: Callable[..., None], connection: Connection, args: tuple[Any, ...], *, daemon: bool
) -> SpawnProcess:
    """A new process that runs serve(connection, *args), tied to the thread that calls. connection, its end of a pipe,
    is closed here."""
    # what ties it to us is unpickled before the rest, whose imports take seconds
    words = (Tie(os.getpid()), serve, connection, args)
    process = multiprocessing.get_context("spawn").Process(target=live, args=words, name=name, daemon=daemon)
    # a child inherits what is blocked, so none can be ended while it still imports
    multiprocessing.resource_tracker.ensure_running()  # where start() is the first to do so it unblocks them again
    signal.pthread_sigmask(signal.SIG_BLOCK, PARENTS_SIGNALS)
    process.start()
    connection.close()
    return process


_BEGIN = "import sys; sys.path[:] = {path!r}; from {module} import begin_server; begin_server({pipe})"


def _python(code: str, inherited: int, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """A process that runs this code under this one's interpreter and its options, and inherits a descriptor.

    Its environment is given, as this one's may be changed by another thread while the system reads it.
    """
    options = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # nothing public gives them
    signal.pthread_sigmask(signal.SIG_BLOCK, PARENTS_SIGNALS)  # which it inherits: none ends it while it still imports
    words = [multiprocessing.spawn.get_executable(), *options, "-c", code]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, pass_fds=[inherited], env=environment)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


def _is_open(descriptor: int) -> bool:
    with suppress(OSError):
        os.fstat(descriptor)
        return True
    return False


def _has_ended(descriptor: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(1000 * timeout))


# -- in the server -------------------------------------------------------------------------------------------------


def begin_server(pipe: int) -> None:
    """The life of a server, which this process has been started for."""
    connection = Connection(pipe)
    with suppress(*GONE):
        parent, authkey, imports = connection.recv()
        multiprocessing.current_process().authkey = authkey
        live(tie(parent), _serve, connection, (imports,))


def _serve(connection: Connection, imports: str) -> None:
    """Fork what is asked for, tell exit codes, and leave no zombies."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a process with threads cannot be forked safely
    try:
        importlib.import_module(imports)
    except Exception as error:  # whatever a module raises; who asks for a process tells it
        connection.send(" ".join(f"{type(error).__name__}: {error}".split()))
        sys.exit(1)
    connection.send(None)
    gc.collect()
    gc.freeze()  # what is shared is not written to by a collection
    try:
        children: dict[int, ForkProcess] = {}
        while True:
            running = {child.sentinel: child for child in children.values() if child.exitcode is None}
            for ready in wait_for_any([connection, *running]):
                if isinstance(ready, int):
                    running[ready].join()
            if connection.poll():
                _answer(connection, children)
    finally:  # multiprocessing would wait for those that still work; the kernel ends them now
        sys.stderr.flush()
        os._exit(0)


def _answer(connection: Connection, children: dict[int, ForkProcess]) -> None:
    asked = connection.recv()
    if isinstance(asked, int):
        connection.send(children[asked].exitcode)
        return
    handles = [recv_handle(connection) for _ in range(1 + len(asked.streams))]
    words = (os.getpid(), asked, handles, connection)
    child = multiprocessing.get_context("fork").Process(target=_begin, args=words, name=asked.name)
    child.start()
    for handle in handles:
        os.close(handle)
    assert child.pid is not None
    children[child.pid] = child
    descriptor = os.pidfd_open(child.pid)
    send_handle(connection, descriptor, os.getppid())
    os.close(descriptor)
    connection.send(child.pid)


def _begin(server: int, birth: Birth, handles: Sequence[int], servers: Connection) -> None:
    tied = tie(server)
    servers.close()
    pipe, *streams = handles
    for stream, handle in zip(birth.streams, streams, strict=True):
        os.dup2(handle, stream)
        os.close(handle)
    os.chdir(birth.folder)
    sys.path[:] = birth.search_path
    os.environ.clear()
    os.environ.update(birth.environment)
    serve, args = pickle.loads(birth.work)
    live(tied, serve, Connection(pipe), args)
