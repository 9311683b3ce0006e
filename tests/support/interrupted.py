"""Writes that are counted, and a process that is killed, or stopped for a while, between any two of them."""

from collections.abc import Callable

import pytest

from teacher_cache.storage.local import LocalStorage
from tests.support.filled_store import Killed

WRITES = ("put", "put_if_absent", "delete")


def count_writes(patch: pytest.MonkeyPatch) -> list[str]:
    """The names that local storages write from now on, one after the other."""
    written: list[str] = []
    between_writes(patch, lambda number, name: written.append(name))
    return written


def kill_before(patch: pytest.MonkeyPatch, number: int) -> None:
    """Raise Killed in the place of this write of local storages, counted from 0, and of all after it."""

    def kill(at: int, name: str) -> None:
        if at >= number:
            raise Killed

    between_writes(patch, kill)


def between_writes(patch: pytest.MonkeyPatch, then: Callable[[int, str], None]) -> None:
    """Call then(number, name) before each write of local storages; its own writes are not counted."""
    done = 0
    inside = False

    def wrapped(real: Callable[..., object]) -> Callable[..., object]:
        def write(storage: LocalStorage, name: str, *content: bytes) -> object:
            nonlocal done, inside
            if not inside:
                inside = True
                try:
                    then(done, name)
                finally:
                    inside = False
                done += 1
            return real(storage, name, *content)

        return write

    for method in WRITES:
        patch.setattr(LocalStorage, method, wrapped(getattr(LocalStorage, method)))
