"""Signals that ask a stage to stop: it ends what must not be left half done, and goes on when it is run again."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from teacher_cache.processes.ties import PARENTS_SIGNALS, under_launcher


class Stopped(Exception):  # noqa: N818 - a request that was met, not an error
    """A signal asked to stop, and what shall be kept is kept. Says in one line how to go on."""


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Signals (PARENTS_SIGNALS) ask to stop; inside, tells whether one came. A second Ctrl-C interrupts.

    But not under torchrun, which passes on what the terminal has sent to all of them already. Under nohup SIGHUP stays
    ignored, but not by ranks: torchrun does not ignore it, and kills those that do not stop then. A thread that is not
    the main one is asked nothing, as Python gives signals to that alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked: list[int] = []
    launched = under_launcher()

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and asked and not launched:
            raise KeyboardInterrupt
        asked.append(number)

    nohup = not launched and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    noted = [number for number in PARENTS_SIGNALS if number != signal.SIGHUP or not nohup]
    before = {number: signal.signal(number, note) for number in noted}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
