"""What forked processes find, and what becomes of them where their server dies."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from teacher_cache.errors import RenderError
from teacher_cache.processes.pool import Death, Processes
from tests.support.echoing import answers, echo, surroundings
from tests.support.running import fields, running, wait_until


def run_script(script: Path) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-W", "error", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)


def parent(process: int | None) -> int:
    assert process is not None
    return int(fields(process)[1])


def test_a_process_finds_what_there_is_when_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And not what there was when its server was."""
    with Processes("surroundings", imports="teacher_cache.rendering.workers") as started:
        here = (os.getcwd(), None, sys.path[0], 1, True)
        first = started.start(surroundings)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("ECHOED", "later")
        monkeypatch.syspath_prepend("somewhere")
        second = started.start(surroundings)
        for child in (first, second):
            started.send(child, "torch")
        assert first.connection.recv() == here
        assert second.connection.recv() == (str(tmp_path), "later", "somewhere", 1, True)
        assert parent(first.process.pid) == parent(second.process.pid)
    assert capfd.readouterr().out == "asked for torch\n" * 2


def test_where_the_system_starts_no_process_it_is_said_and_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Processes("echo", imports="tests.support.waiting") as started:
        with monkeypatch.context() as patch:
            patch.setattr("multiprocessing.spawn.get_executable", lambda: str(tmp_path / "absent"))
            child = started.start(echo)
            started.expect(child, True)
            message = (
                r"^no process can be started: the system starts no process \(No such file or directory\): mend that"
            )
            with pytest.raises(RenderError, match=message):
                started.receive()
        assert answers(started.start(echo))


def test_a_script_needs_no_guard_and_is_not_run_again(tmp_path: Path) -> None:
    """What it imports, nobody else does."""
    script = tmp_path / "script.py"
    script.write_text(
        "import wave\n"
        "print('once')\n"
        "from tests.support.echoing import surroundings\n"
        "from teacher_cache.processes.pool import Processes\n"
        "with Processes('surroundings') as started:\n"
        "    child = started.start(surroundings)\n"
        "    started.send(child, 'wave')\n"
        "    print(child.connection.recv()[-1], 'wave' in __import__('sys').modules)\n"
    )
    done = run_script(script)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == ["False True", "asked for wave", "once"]


def test_processes_of_other_imports_have_other_servers() -> None:
    with Processes("light", imports="tests.support.echoing") as light:
        child = light.start(surroundings)
        light.send(child, "torch")
        assert child.connection.recv()[-1] is False


def test_where_a_server_is_killed_its_processes_die_and_the_next_have_another() -> None:
    with Processes("echo") as started:
        child = started.start(echo)
        assert answers(child)
        server = parent(child.process.pid)
        started.expect(child, message=True)
        os.kill(server, signal.SIGKILL)
        wait_until(started.is_ready)
        assert started.receive() == [(child, Death(-9))]
        wait_until(lambda: not running([server]))
        following = started.start(echo)
        assert answers(following)
        assert parent(following.process.pid) != server


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("import teacher_cache.nowhere", "ModuleNotFoundError: No module named 'teacher_cache.nowhere'"),
        (
            "raise OSError('libGL.so.1: cannot open\\nshared object file')",
            "OSError: libGL.so.1: cannot open shared object file",
        ),
        ("import os; os._exit(7)", "its process died, exit code 7"),
    ],
)
def test_a_server_that_cannot_import_is_tried_once_and_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], lines: str, said: str
) -> None:
    module = f"failing_{len(said)}"
    tried = tmp_path / "tried"
    (tmp_path / f"{module}.py").write_text(f"open({str(tried)!r}, 'a').write('x')\n{lines}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for _ in range(2):
        with Processes("echo", imports=module) as started:
            children = [started.start(echo) for _ in range(3)]
            for child in children:
                started.expect(child, message=True)
            wait_until(started.is_ready)
            with pytest.raises(RenderError) as refused:
                started.receive()
            assert str(refused.value) == (
                f"no process can be started: importing {module} fails ({said}): mend that, and run the same command "
                "again"
            )
            assert not any(child.process.is_alive() for child in children)
            assert [child.process.pid for child in children] == [None] * 3
    assert tried.read_text() == "x"
    assert capfd.readouterr().err == ""


def test_no_zombies_are_left() -> None:
    with Processes("echo") as started:
        kept = started.start(echo)
        assert answers(kept)
        server = parent(kept.process.pid)
        with Processes("echo") as others:
            children = [others.start(echo) for _ in range(3)]
            assert all(map(answers, children))
            assert {parent(child.process.pid) for child in children} == {server}
        wait_until(lambda: not any(Path(f"/proc/{child.process.pid}").exists() for child in children))
        assert [child.process.exitcode for child in children] == [0, 0, 0]


def test_starting_does_not_wait_for_imports() -> None:
    """A model is built meanwhile."""
    with Processes("echo", imports="tests.support.waiting") as started:
        child = started.start(echo)
        assert not child.process.is_alive()  # not yet
        assert answers(child)
        assert child.process.is_alive()


def test_the_starting_thread_is_one() -> None:
    with Processes("echo") as started:
        before = threading.active_count()
        for _ in range(3):
            assert answers(started.start(echo))
        assert threading.active_count() <= before + 2  # it, and the one that hands over descriptors
