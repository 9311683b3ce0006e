"""Being a process that another has started: ends with its parent, however that dies.

The kernel sees to it (PR_SET_PDEATHSIG), so it holds for one that is stopped or busy in native code too, and for the
processes that it has started in turn. Signals that are sent to all, as Ctrl-C is, are the parent's to handle.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from teacher_cache.errors import RankError

GONE = (EOFError, BrokenPipeError, ConnectionResetError)  # the other end of a pipe
# sent to all; the parent decides when to end
PARENTS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Tie:
    """Unpickled in a child, it ties it to the process of this id: whether the kernel does."""

    parent: int

    def __reduce__(self) -> tuple[Callable[[int], bool], tuple[int]]:
        return tie, (self.parent,)


def tie(parent: int) -> bool:
    """Let the kernel end this process with its parent, of this id: whether it does."""
    tied = die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it was gone before
    return tied


def under_launcher() -> bool:
    """Whether torchrun has started this process, as a rank of a job."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first_rank() -> bool:
    """Whether this process speaks for its job: as the first of torchrun's ranks, or alone."""
    return os.environ.get("RANK", "0") == "0"


def ranks_here() -> int:
    """How many ranks of its job run on this machine, this process among them, as torchrun says; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or "1")


def follow_launcher() -> None:
    """Under torchrun: a rank gets SIGTERM, as if it had been passed on, when torchrun itself is killed. RankError where
    that has happened already: others would be waited for in vain."""
    if under_launcher() and die_with_parent(signal.SIGTERM) and _is_orphan():
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


def die_with_parent(number: int) -> bool:
    """Ask the kernel for a signal when the thread that started this process ends; False where it cannot."""
    return sys.platform == "linux" and ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) == 0


def live(tied: bool, serve: Callable[..., None], connection: Connection, args: tuple[Any, ...]) -> None:
    """The life of a process: serve(connection, *args) until the pipe is closed."""
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
