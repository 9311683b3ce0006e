"""One process at a time: who is refused is told by whom, and a holder that dies holds nothing."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from teacher_cache.errors import BusyError, DiskError
from teacher_cache.processes.lock import alone
from teacher_cache.processes.pool import Processes
from tests.support.echoing import answers, echo

HOLD = """
import sys, time
from pathlib import Path
from teacher_cache.processes.lock import alone
with alone(Path(sys.argv[1]), "it is held", "wait", print):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(path: Path) -> AbstractContextManager[None]:
    def warn(line: str) -> None:
        raise AssertionError(line)

    return alone(path, f"another run writes to {path.parent}", "wait for it", warn)


def test_a_second_is_refused_and_told_who_was_first(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with hold(path):
        message = rf"^another run writes to {tmp_path} \(pid {os.getpid()} on \S+\): wait for it$"
        with pytest.raises(BusyError, match=message), hold(path):
            raise AssertionError
        assert path.exists(), "the refused one takes nothing away"
    assert list(tmp_path.iterdir()) == []
    with hold(path):
        pass


def test_a_full_disk_has_room_for_a_lock_that_does_not_say_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    path = tmp_path / ".lock"
    with hold(path), pytest.raises(BusyError, match=r"\(it does not say which\): wait"), hold(path):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(BusyError, match=rf"\(pid {process.pid} on "), hold(path):
        raise AssertionError
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert path.exists()
    with hold(path), pytest.raises(BusyError, match=rf"\(pid {os.getpid()} on "), hold(path):
        raise AssertionError
    assert not path.exists()


def test_what_a_process_starts_does_not_hold_it(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with Processes("echo") as started:
        with hold(path):
            child = started.start(echo)
            assert answers(child)
            opened = [os.path.realpath(file) for file in Path(f"/proc/{child.process.pid}/fd").iterdir()]
            assert str(path) not in opened
        with hold(path):
            assert answers(child)


def test_one_that_was_just_removed_is_not_taken_for_the_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder ends between our opening the file and our lock."""
    path, real, calls = tmp_path / ".lock", fcntl.flock, []

    def flock(file: int, how: int) -> None:
        calls.append(file)
        if len(calls) == 1:
            path.unlink()
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with hold(path):
        assert len(calls) == 2
        with pytest.raises(BusyError), hold(path):
            raise AssertionError


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    said: list[str] = []
    with alone(tmp_path / ".lock", "it is held", "wait", said.append):
        pass
    (line,) = said
    assert line == (
        f"warning: {tmp_path / '.lock'} cannot be locked (No locks available): see to it that nobody else writes there"
    )


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=r"cannot be written \(Not a directory\)"), hold(tmp_path / "file" / ".lock"):
        raise AssertionError
