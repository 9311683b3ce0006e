"""Programs in forked processes, which can be killed: their imports, which take seconds, are made once a session.

The ranks that torchrun starts are forked too, from torchrun, whose children they are.

As a program, `python -m tests.support.forked SOCKET`: imports at the first question, and answers on a socket until its
standard input ends. A question is a line of JSON: {"program", "words", "environment", "folder", "own_session"}, with
descriptors for standard input, output and error, which is answered with the id of a forked process; or {"wait": id},
answered with its exit code once it has ended, until which nobody else is answered.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from tests.support.forked_client import ask
from tests.support.server_process import ServerProcess

CLIENT = Path(__file__).with_name("forked_client.py")
TORCHRUN = "torch.distributed.run"
LIBRARIES = (
    "student.train",
    "student.report",
    "student.cli",
    "teacher_cache.fill",
    "teacher_cache.verify",
    "teacher_cache.cli",
    "scipy.sparse.csgraph",
    "zarr",
    "tools.inspect_cache",
    TORCHRUN,
)


@dataclass(frozen=True)
class Command:
    """A program that has been started."""

    id: int
    log: Path
    _forks: "Forks"

    def running(self) -> bool:
        """Whether it has not ended: one that nobody has waited for is a zombie."""
        return Path(f"/proc/{self.id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

    def wait(self) -> int:
        """Its exit code, or minus the signal that killed it."""
        while self.running():
            time.sleep(0.01)
        return ask(self._forks.socket, {"wait": self.id})

    def stop(self, number: int) -> int:
        """Its exit code, after it was asked to stop by this signal again and again, as some do."""
        while self.running():
            os.kill(self.id, number)
            time.sleep(0.002)
        return self.wait()

    @property
    def output(self) -> str:
        """What it has printed, and its errors."""
        return self.log.read_text()


class ForkServer(ServerProcess):
    """The program that forks others; `socket`: where it answers."""

    def __init__(self) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="forks-")  # paths of sockets are short
        self.socket = str(Path(self._place.name) / "socket")
        super().__init__("tests.support.forked", self.socket)

    def close(self) -> None:
        super().close()
        self._place.cleanup()


class Forks:
    """Start programs, each with a log of its own. `socket`: where tests/support/forked_client.py asks, too."""

    def __init__(self, folder: Path, socket: str) -> None:
        self._folder = folder
        self._started = 0
        self.socket = socket

    def start(
        self,
        program: str,
        words: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        own_session: bool = False,
    ) -> Command:
        """`python -m PROGRAM WORDS`, or `python PROGRAM WORDS` of a file *.py; own_session: as in a terminal of its
        own, whose processes get a signal together."""
        self._started += 1
        log = self._folder / f"{self._started}.log"
        given = dict(os.environ) | dict(environment or {})
        question = {"program": program, "words": list(words), "environment": given, "folder": os.getcwd()}
        question["own_session"] = own_session
        with log.open("w") as file, open(os.devnull) as nothing:
            pid = ask(self.socket, question, [nothing.fileno(), file.fileno(), file.fileno()])
        return Command(pid, log, self)

    def start_ranks(
        self, program: str, words: Sequence[str], world_size: int, others: Sequence[str] | None = None
    ) -> list[Command]:
        """A process for each rank, as torchrun starts them. others: words of all ranks but the first."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        job = {**place, "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
        return [
            self.start(program, others if r and others is not None else words, {**job, **rank_variables(r)})
            for r in range(world_size)
        ]


def rank_variables(rank: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank)}


def serve(place: str) -> None:
    """Answer, one after the other."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen(64)
    print("ready", flush=True)
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        if LIBRARIES[0] not in sys.modules:
            import_libraries()
        connection, _ = listener.accept()
        with connection:
            content, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
            while not content.endswith(b"\n"):
                content += connection.recv(1 << 20)
            question = json.loads(content)
            if "wait" in question:
                found = os.waitstatus_to_exitcode(os.waitpid(question["wait"], 0)[1])
            elif not (found := os.fork()):
                listener.close()
                connection.close()
                for stream, descriptor in enumerate(descriptors):
                    os.dup2(descriptor, stream)
                    os.close(descriptor)
                live(partial(run, question))
            for descriptor in descriptors:
                os.close(descriptor)
            connection.sendall(f"{found}\n".encode())


def import_libraries() -> None:
    for library in LIBRARIES:
        __import__(library)
    gc.collect()
    gc.freeze()  # memory that a collection writes to would be copied by each process


def live(program: Callable[[], None]) -> NoReturn:
    """Run a program in a forked process, and what Python does at its end, but for taking all modules down again, which
    takes a second; nor back into the frames of what it was forked from."""
    code = 1
    try:
        try:
            program()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        threading._shutdown()
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


def run(question: Mapping[str, Any]) -> None:
    """The program of a question, as Python runs it when it is called from a shell."""
    if question.get("own_session"):
        os.setsid()
    os.chdir(question["folder"])
    os.environ.clear()
    os.environ.update(question["environment"])
    program = question["program"]
    if program == TORCHRUN:
        fork_ranks()
    run_program(program, question["words"])


def run_program(program: str, words: Sequence[str]) -> None:
    """The program of a file *.py, or of a module; the first of the words where it is `-c`."""
    sys.argv = [program, *words]
    if program == "-c":
        sys.argv = ["-c", *words[1:]]
        exec(words[0], {"__name__": "__main__"})
    elif program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


# -- torchrun's ranks --------------------------------------------------------------------------------------------------


class Rank:
    """A forked child, with what torchrun calls of a subprocess.Popen."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            live(partial(run_rank, words, environment))

    def poll(self) -> int | None:
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if found else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (found := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a rank", timeout or 0)
            time.sleep(0.02)
        return found


def fork_ranks() -> None:
    """Let torchrun, in this process, fork its ranks, and not look through thousands of imported modules for the name of
    each line that it logs, which takes a second."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler import SubprocessHandler
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous

    SubprocessHandler._popen = lambda handler, words, environment: Rank(words, environment)
    dynamic_rendezvous.get_method_name = lambda: "not looked up"


def run_rank(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """`python -u -m PROGRAM WORDS` in a child of torchrun's: nothing of torchrun but its imports is left in it."""
    python, *options, program = words[:4]
    assert (python, options) == (sys.executable, ["-u", "-m"])
    os.setsid()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    Path("/proc/self/comm").write_text(f"rank {environment['RANK']}")  # its environment shows torchrun's
    sys.stdout.reconfigure(write_through=True)
    run_program(program, words[4:])


if __name__ == "__main__":
    serve(sys.argv[1])
