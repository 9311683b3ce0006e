"""Requests that are on their way while something else is done."""

from collections.abc import Callable
from threading import Thread
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Ahead(Generic[Answer]):
    """What a function gives, which is called at once, in a thread that no process waits for when it ends."""

    def __init__(self, ask: Callable[[], Answer]) -> None:
        self._ask = ask
        self._answer: list[Answer] = []
        self._error: Exception | None = None
        self._thread = Thread(target=self._call, daemon=True)
        self._thread.start()

    def result(self) -> Answer:
        """Wait for it; what the function raised is raised here."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._answer[0]

    def _call(self) -> None:
        try:
            self._answer.append(self._ask())
        except Exception as error:
            self._error = error
