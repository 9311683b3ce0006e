"""One process at a time where two would spoil each other's files.

The kernel holds the lock for an open file, so it goes with the process, however that dies; no other process has that
file open, as what a process starts does not inherit it. NFS of this century keeps such locks across machines.
"""

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from teacher_cache.errors import BusyError
from teacher_cache.files import writing

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what file systems without locks say
MOST_BYTES = 200  # of what a holder says of itself


@contextmanager
def alone(path: Path, what: str, advice: str, warn: Callable[[str], None]) -> Iterator[None]:
    """Hold the file `path`, which is made, and removed at the end. BusyError where another process does.

    what is what it is held for, and advice the end of the message, for people; DiskError where it cannot be made.
    Where the file system has no locks, warn is told, and nothing is held.
    """
    held = _lock(path, what, advice, warn)
    try:
        yield
    finally:
        if held is not None:
            with suppress(OSError):  # before the lock goes: the file that is removed is the one that is held
                path.unlink(missing_ok=True)
            os.close(held)


def _lock(path: Path, what: str, advice: str, warn: Callable[[str], None]) -> int | None:
    while True:
        with writing(path):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(file, MOST_BYTES, 0).decode(errors="replace").strip()
            os.close(file)
            if error.errno not in NO_LOCKS:
                raise BusyError(f"{what} ({holder or 'it does not say which'}): {advice}") from None
            reason = os.strerror(error.errno)
            warn(f"warning: {path} cannot be locked ({reason}): see to it that nobody else writes there")
            return None
        if _is_there(file, path):
            break
        os.close(file)  # its holder has just removed it
    with suppress(OSError):  # a full disk has no room for it, which who holds this will meet
        os.ftruncate(file, 0)
        os.pwrite(file, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return file


def _is_there(file: int, path: Path) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
