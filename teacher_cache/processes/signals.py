"""Signals that ask a stage to stop: it ends what must not be left half done, and goes on when it is run again."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

from teacher_cache.processes.ties import PARENTS_SIGNALS, under_launcher


class Stopped(Exception):  # noqa: N818 - a request that was met, not an error
    """A signal asked to stop, and what shall be kept is kept. Says in one line how to go on."""


_ends_process = ContextVar("ends_process", default=False)


@contextmanager
def last_of_process() -> Iterator[None]:
    """Around what this process ends with: when it is stopped inside, it is not asked again before it has ended.

    A request often comes twice, and what is not heeded by then would end the process before it has said where it
    stopped, and with another exit code: the kernel tells a rank of each thread of a torchrun that is killed, and
    torchrun asks all ranks as soon as one has ended.
    """
    token = _ends_process.set(True)
    try:
        yield
    finally:
        _ends_process.reset(token)


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Signals (PARENTS_SIGNALS) ask to stop; inside, tells whether one came. A second Ctrl-C interrupts.

    But not under torchrun, which passes on what the terminal has sent to all of them already. Under nohup SIGHUP stays
    ignored, but not by ranks: torchrun does not ignore it, and kills those that do not stop then. A thread that is not
    the main one is asked nothing, as Python gives signals to that alone. Handlers that were there before are there
    again afterwards, but see last_of_process.
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
    except Stopped:
        asked.append(signal.SIGTERM)  # if not this rank, another one
        raise
    finally:
        deaf = _ends_process.get() and bool(asked)
        for number, handler in before.items():
            if not deaf:
                signal.signal(number, handler)
            elif number != signal.SIGINT or launched:
                signal.signal(number, signal.SIG_IGN)  # which Python leaves as it is when it ends; our own it does not
