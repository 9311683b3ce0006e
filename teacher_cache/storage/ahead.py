"""Requests that are on their way while something else is done."""

import os
from collections.abc import Callable
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, Generic, TypeVar

Answer = TypeVar("Answer")


class Ahead(Generic[Answer]):
    """What a function gives, which is called at once, in a thread that no process waits for when it ends."""

    def __init__(self, ask: Callable[[], Answer]) -> None:
        self._ask = ask
        self._answer: list[Answer] = []
        self._error: BaseException | None = None
        self._done = Event()
        _hand_over(self)

    def wait(self, seconds: float) -> bool:
        """Whether it is there, after so long at most."""
        return self._done.wait(seconds)

    def result(self) -> Answer:
        """Wait for it; what the function raised is raised here."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._answer[0]

    def call(self) -> None:
        try:
            self._answer.append(self._ask())
        except BaseException as error:  # a panic of obstore's is no Exception; who waits would wait for ever
            self._error = error

    def tell(self) -> None:
        self._done.set()


# Of each thread that waits for its next call. Threads are kept, as the C library gives back what one that ends has
# freed, and the system's giving it anew to the next one took a quarter of the time of an index over a fast link.
_idle: list[SimpleQueue[Ahead[Any]]] = []
os.register_at_fork(after_in_child=_idle.clear)  # no fork takes threads along


def _hand_over(ahead: Ahead[Any]) -> None:
    """Have it called by a thread that is idle, or a new one."""
    try:
        calls = _idle.pop()
    except IndexError:
        calls = SimpleQueue()
        Thread(target=_serve, args=(calls,), daemon=True).start()
    calls.put(ahead)


def _serve(calls: SimpleQueue[Ahead[Any]]) -> None:
    while True:
        ahead = calls.get()
        ahead.call()
        _idle.append(calls)
        ahead.tell()
        del ahead  # and its answer, which may be megabytes
