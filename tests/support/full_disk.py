"""Disks that are full, read-only or out of files, without being root: what writes under a folder is refused."""

import errno
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
MAKES = {"os.mkdir": 0, "os.link": 1}  # event -> which argument is made


class BadDisk:
    """What is under `folder` takes `after` more files and folders, then gives the error."""

    def __init__(self, folder: Path, after: int, error: int) -> None:
        self.folder, self.left, self.error = os.path.abspath(folder), after, error
        self.refused = 0

    def meet(self, path: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        place = os.path.abspath(os.fsdecode(path))
        if place != self.folder and not place.startswith((f"{self.folder}/", f"{os.path.dirname(self.folder)}/.")):
            return
        if self.left > 0:
            self.left -= 1
            return
        self.refused += 1
        raise OSError(self.error, os.strerror(self.error), place)


_disk: BadDisk | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _disk is None:
        return
    if event == "open":
        path, mode, flags = arguments
        if flags & WRITES or set(mode or "") & set("wax+"):
            _disk.meet(path)
    elif event in MAKES and not os.path.exists(arguments[MAKES[event]]):
        _disk.meet(arguments[MAKES[event]])


sys.addaudithook(_watch)  # for good: Python takes none away


@contextmanager
def bad_disk(folder: Path, after: int = 0, error: int = errno.ENOSPC) -> Iterator[BadDisk]:
    """From the next file or folder but `after` on nothing can be made under `folder`, nor hidden beside it."""
    global _disk
    _disk = BadDisk(folder, after, error)
    try:
        yield _disk
    finally:
        _disk = None


@contextmanager
def small_files(num_bytes: int) -> Iterator[None]:
    """No file can grow beyond so many bytes, whoever writes it: what a full disk does in the middle of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
