"""Signals that ask to stop, and when they are not to be heeded."""

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any

import pytest

from teacher_cache.processes.signals import Stopped, last_of_process, stop_signals


@contextmanager
def handled(number: signal.Signals, handler: Any) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_a_second_interrupt_interrupts_but_not_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun passes on the Ctrl-C that the terminal has given to its ranks, too."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with stop_signals() as asked:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with stop_signals() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert asked()


def test_a_terminal_that_closes_asks_to_stop_but_not_under_nohup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with handled(signal.SIGHUP, signal.SIG_DFL), stop_signals() as asked:  # these tests may run under nohup themselves
        signal.raise_signal(signal.SIGHUP)
        assert asked()
    with handled(signal.SIGHUP, signal.SIG_IGN):
        with stop_signals() as asked:
            signal.raise_signal(signal.SIGHUP)
            assert not asked()
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # which does not ignore it, and ends its ranks
        with stop_signals() as asked:
            signal.raise_signal(signal.SIGHUP)
            assert asked()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_thread_is_asked_nothing_and_changes_no_handler() -> None:
    """Only the main thread may: a caller of `fill` elsewhere does without."""
    before, found = signal.getsignal(signal.SIGTERM), []

    def stage() -> None:
        with stop_signals() as asked:
            found.append((asked(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=stage)
    thread.start()
    thread.join()
    assert found == [(False, before)]


@pytest.mark.parametrize("launched", [False, True])
def test_what_ends_a_process_that_was_stopped_is_not_stopped_again(
    monkeypatch: pytest.MonkeyPatch, launched: bool
) -> None:
    """Alone a second Ctrl-C still interrupts."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if launched:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    heard: list[int] = []
    for stopped_by in (signal.SIGTERM, signal.SIGINT, None):  # None: another rank was asked
        with ExitStack() as before:
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT):
                before.enter_context(handled(number, lambda number, frame: heard.append(number)))
            with suppress(Stopped), last_of_process(), stop_signals() as asked:
                if stopped_by is not None:
                    signal.raise_signal(stopped_by)
                    assert asked()
                raise Stopped
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
                signal.raise_signal(number)
                assert signal.getsignal(number) == signal.SIG_IGN  # Python takes its own away before its end
            with nullcontext() if launched else pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
    assert not heard


def test_handlers_are_there_again_where_nothing_was_asked_or_more_is_to_come() -> None:
    def stopped() -> None:
        with stop_signals():
            signal.raise_signal(signal.SIGTERM)
            raise Stopped

    with handled(signal.SIGTERM, signal.default_int_handler):
        with last_of_process(), stop_signals():
            pass
        assert signal.getsignal(signal.SIGTERM) == signal.default_int_handler
        with pytest.raises(Stopped):
            stopped()
        assert signal.getsignal(signal.SIGTERM) == signal.default_int_handler
