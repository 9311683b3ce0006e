"""Memory that this process and those which it starts see: without a name, so that nothing is left of it however they
die, and no part of /dev/shm, of which a container has little."""

import contextlib
import mmap
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np

from teacher_cache.errors import RenderError


@dataclass(frozen=True)
class SharedPlace:
    """Where a child finds it: on Linux at its parent's, elsewhere with what it is started with."""

    process: int | None  # None: the child itself
    descriptor: int
    num_bytes: int

    def open(self) -> np.ndarray:
        """(bytes,) uint8."""
        if self.process is None:
            descriptor = os.dup(self.descriptor)
        else:
            descriptor = os.open(f"/proc/{self.process}/fd/{self.descriptor}", os.O_RDWR)
        try:
            return _mapped(descriptor, self.num_bytes)
        finally:
            os.close(descriptor)

    def __reduce__(self) -> tuple[Callable[..., "SharedPlace"], tuple[Any, ...]]:
        if sys.platform != "linux":
            return _handed, (DupFd(self.descriptor), self.num_bytes)
        return SharedPlace, (self.process, self.descriptor, self.num_bytes)


class SharedMemory:
    """bytes: (num_bytes,) uint8, zeros at first. A page of it takes memory once it is written. Raises RenderError."""

    def __init__(self, num_bytes: int) -> None:
        try:
            self._descriptor = _unnamed()
            with contextlib.ExitStack() as opened:
                opened.callback(os.close, self._descriptor)
                os.ftruncate(self._descriptor, num_bytes)
                self.bytes = _mapped(self._descriptor, num_bytes)
                opened.pop_all()
        except (OSError, ValueError) as error:
            raise RenderError(f"no shared memory of {num_bytes / 1e6:.0f} MB ({error}): use --workers 0") from error
        self.place = SharedPlace(os.getpid(), self._descriptor, num_bytes)

    def close(self) -> None:
        """No process opens it any more; who has, keeps it."""
        os.close(self._descriptor)


def _unnamed() -> int:
    if sys.platform != "linux":
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    return os.memfd_create("teacher-cache")


def _handed(descriptor: Any, num_bytes: int) -> SharedPlace:
    return SharedPlace(None, descriptor.detach(), num_bytes)


def _mapped(descriptor: int, num_bytes: int) -> np.ndarray:
    return np.frombuffer(mmap.mmap(descriptor, num_bytes), np.uint8)
