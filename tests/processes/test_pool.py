"""Processes that end with their parent, and those that hang."""

import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from teacher_cache.audit.thumbnails import SampleViews, replay_all
from teacher_cache.errors import RenderError, ShardError
from teacher_cache.processes import pool as processes
from teacher_cache.processes.pool import Child, Connection, Death, ProcessDiedError, Processes, in_processes
from teacher_cache.processes.ties import PARENTS_SIGNALS
from teacher_cache.rendering.crew import PoolSettings
from teacher_cache.rendering.workers import RenderPool, RenderTask
from tests.support.bright_shards import bright_store, write_bright_shards
from tests.support.drawn import drawn_store
from tests.support.echoing import answers, echo, work
from tests.support.filling import fill_words
from tests.support.forked import Forks
from tests.support.running import descendants, fields, running, wait_until, workers

ROOT = Path(__file__).parents[2]


# -- the parent dies -----------------------------------------------------------------------------------------------


def fill_command(folder: Path) -> tuple[str, list[str]]:
    store = bright_store(folder, counts=(640,), views=64)
    return "teacher_cache", fill_words(store.path, workers=2)


def index_command(folder: Path) -> tuple[str, list[str]]:
    """Of shards that cannot be opened before somebody writes to them: walkers wait in the system."""
    paths = [str(folder / "a.tar"), str(folder / "b.tar")]
    for path in paths:
        os.mkfifo(path)
    script = folder / "walk.py"
    script.write_text(
        "from teacher_cache.endings import one_line_errors\n"
        "from teacher_cache.shards.classes import ClassRule\n"
        "from teacher_cache.shards.indexing import index_shards\n"
        "if __name__ == '__main__':\n"
        f"    with one_line_errors():\n        index_shards({paths!r}, ClassRule(), workers=2)\n"
    )
    return str(script), []


def report_command(folder: Path) -> tuple[str, list[str]]:
    store = drawn_store(folder)
    given = [str(store.path), "report", "--out", str(folder / "page.html"), "--views-sampled", "0", "--workers", "2"]
    return str(ROOT / "tools" / "inspect_cache.py"), given


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("command", [fill_command, index_command, report_command])
def test_nobody_is_left_when_the_parent_is_killed(tmp_path: Path, forks: Forks, command: Any, number: int) -> None:
    """Not even those that are stopped; on SIGTERM they are met while they start."""
    parent = forks.start(*command(tmp_path))
    wait_until(lambda: len(workers(parent.id)) == 2)
    left = descendants(parent.id)
    if number == signal.SIGKILL:
        wait_until(lambda: all(tied_to_server(child) for child in workers(parent.id)))
        for child in workers(parent.id):
            os.kill(child, signal.SIGSTOP)
    try:
        os.kill(parent.id, number)
        assert parent.wait() != 0
        wait_until(lambda: not running(left), limit_s=30)
    finally:
        for child in running(left):
            os.kill(child, signal.SIGKILL)


def tied_to_server(child: int) -> bool:
    """Whether the kernel will end a process with its server: that comes before it closes the server's own pipe."""
    server = int(fields(child)[1])
    pipe = re.search(rb"begin_server\((\d+)\)", Path(f"/proc/{server}/cmdline").read_bytes())
    assert pipe is not None
    return os.readlink(f"/proc/{server}/fd/{int(pipe[1])}") not in opened(child)


def opened(process: int) -> list[str]:
    """What its descriptors are; those that are closed meanwhile are none."""
    found = []
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(os.readlink(descriptor))
    return found


def test_nobody_is_left_when_torchrun_is_killed(tmp_path: Path, forks: Forks) -> None:
    """Ranks, and the processes that they started."""
    program, words = fill_command(tmp_path)
    torchrun = ["--standalone", "--nproc-per-node", "2", "-m", program, *words]
    launcher = forks.start("torch.distributed.run", torchrun)
    wait_until(lambda: len(workers(launcher.id)) == 4)
    left = descendants(launcher.id)
    assert len(left) >= 6
    try:
        os.kill(launcher.id, signal.SIGKILL)
        assert launcher.wait() == -signal.SIGKILL
        wait_until(lambda: not running(left), limit_s=30)
    finally:
        for child in running(left):
            os.kill(child, signal.SIGKILL)


# -- a process by itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", PARENTS_SIGNALS)
def test_signals_are_the_parents_from_the_first_moment_on(number: int) -> None:
    with Processes("echo") as started:
        child = started.start(echo)
        assert child.process.pid is not None
        os.kill(child.process.pid, number)  # it still imports
        assert answers(child)
        os.kill(child.process.pid, number)
        assert answers(child)
    assert not running([child.process.pid])


def test_a_process_outlives_the_thread_that_asked_for_it() -> None:
    with Processes("echo") as started:
        found: list[Child] = []
        thread = threading.Thread(target=lambda: found.append(started.start(echo)))
        thread.start()
        thread.join()
        wait_until(lambda: not thread.is_alive())
        assert answers(found[0])
        assert answers(found[0])


def test_processes_that_are_dropped_end() -> None:
    started = Processes("echo")
    process = started.start(echo).process.pid
    assert process is not None
    del started
    gc.collect()
    assert not running([process])


def test_a_program_that_closes_nothing_ends(tmp_path: Path) -> None:
    script = tmp_path / "careless.py"
    script.write_text(
        "from teacher_cache.processes.pool import Processes\n"
        "from tests.support.echoing import answers, echo\n"
        "if __name__ == '__main__':\n"
        "    kept = Processes('echo')\n"
        "    print(answers(kept.start(echo)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_closing_does_not_wait_for_those_that_are_stopped() -> None:
    with Processes("echo") as started:
        stopped = [started.start(echo) for _ in range(4)]
        for child in stopped:
            assert answers(child)
            os.kill(child.process.pid or 0, signal.SIGSTOP)
        begun = time.monotonic()
    assert time.monotonic() - begun < 3 * processes.END_S  # not a moment for each
    assert not running(child.process.pid or 0 for child in stopped)


class Stopwatch:
    """Time as the processes of a test see it."""

    def __init__(self) -> None:
        self.s = 0.0

    def perf_counter(self) -> float:
        return self.s


def test_time_in_which_we_are_stopped_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that is cut short by SIGSTOP comes back late and empty: only one slice of it is lost. Of what passes
    elsewhere no more than half of the patience counts."""
    watch, late_s = Stopwatch(), 0.0

    def wait(connections: list[Connection], timeout: float) -> list[Connection]:
        watch.s += timeout + late_s
        return []

    with Processes("echo", timeout_s=4) as started:
        child = started.start(echo)
        with monkeypatch.context() as patch:
            patch.setattr(processes, "time", watch)
            patch.setattr(processes, "wait_for_any", wait)
            started._received_at = 0.0
            started.expect(child, message=True)
            late_s = 1000.0
            for _ in range(3):
                assert started.receive() == []
                assert started.silent() == []
            started.receive()
            assert started.silent() == [child]
            late_s = 0.0
            watch.s += 1000.0  # elsewhere: 2 s count
            started.receive()
            assert started.silent() == []
            started.receive()
            assert started.silent() == [child]
            started.expect(child, message=False)
            for _ in range(9):
                started.receive()
            assert started.silent() == []


def test_messages_errors_and_deaths_come_from_those_that_owe_one() -> None:
    with Processes("echo") as started:
        one, other = started.start(echo), started.start(echo)
        for child in (one, other):
            started.send(child, child.number)
        started.expect(one, message=True)
        wait_until(lambda: started.is_ready() and other.connection.poll())
        assert started.receive() == [(one, 0)]
        started.expect(one, message=False)
        assert not started.is_ready()
        started.expect(other, message=True)
        assert started.receive() == [(other, 1)]
        assert other.process.pid is not None  # until it is known nothing can be killed
        other.process.kill()
        wait_until(started.is_ready)
        assert started.receive() == [(other, Death(-9))]
        started.send(other, "nobody reads it")


# -- work for many -------------------------------------------------------------------------------------------------


def done(*tasks: str, timeout_s: float = 60, silent: list[dict[int, Child]] | None = None) -> dict[int, str]:
    def note(doing: dict[int, Child]) -> None:
        assert silent is not None
        silent.append(doing)
        for child in doing.values():
            os.kill(child.process.pid or 0, signal.SIGCONT)

    return dict(in_processes(work, "c", tasks, workers=2, name="work", timeout_s=timeout_s, on_silence=note))


def test_every_task_is_done() -> None:
    assert done(*"abcdefg") == {number: f"c{task}" for number, task in enumerate("abcdefg")}
    assert done() == {}


def test_errors_come_from_there(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ShardError, match=r"^c refuses$"):
        done("a", "refuse")
    with pytest.raises(OSError, match="No space left on device") as full:
        done("full", "a")
    assert (full.value.errno, full.value.filename) == (28, "c")
    assert "Traceback" not in capfd.readouterr().err
    with pytest.raises(RuntimeError, match=r"^KeyError: 'fault'$"):
        done("fault")
    assert "in work" in capfd.readouterr().err  # where it was
    with pytest.raises(ProcessDiedError) as died:
        done("a", "b", "c", "die")
    assert (died.value.exit_code, died.value.task) == (9, 3)


def test_silence_is_told_and_may_be_waited_for() -> None:
    silent: list[dict[int, Child]] = []
    assert done("a", "b", "stop", timeout_s=2, silent=silent) == {0: "ca", 1: "cb", 2: "cstop"}
    assert list(silent[-1]) == [2]  # it was sent on then


# -- what hangs is named -------------------------------------------------------------------------------------------


def crew(pool: RenderPool) -> Any:
    """The processes of a pool, which nobody but a test stops or hurries."""
    return pool._crew


def take_all(pool: RenderPool) -> None:
    while pool.pending:
        pool.get().release()


def test_a_stopped_worker_is_named_with_what_it_renders(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(640,), views=16, group=16)
    with RenderPool(PoolSettings(store.policy, store.seed, workers=2)) as pool:
        for number in range(4):
            pool.submit(RenderTask(number, store.index.place(0, number), tuple(range(16))))
        while {len(worker.tasks) for worker in crew(pool).workers} == {2}:  # until one has done a block
            pool.get().release()
        crew(pool).processes.timeout_s = 5  # not before: they start as slowly as they import
        stopped = crew(pool).processes.children[1].process.pid or 0
        os.kill(stopped, signal.SIGSTOP)
        with pytest.raises(RenderError) as hung:
            take_all(pool)
        begun = time.monotonic()
    assert time.monotonic() - begun < 3 * processes.END_S
    assert not running([stopped])
    message = str(hung.value)
    assert "no view has come for 5 s from rendering process 1 (pid " in message
    assert ", it is stopped), which has shard train-0000.tar, block " in message
    assert "rendering process 0" not in message  # it has done its part
    assert message.endswith(
        "to render: run the same command again; if pictures are very large or their disk very slow, raise "
        "--worker-timeout"
    )


def test_a_stopped_worker_is_told_while_the_others_go_on(tmp_path: Path) -> None:
    """Or a fill of days would tell of it at its end."""
    store = bright_store(tmp_path, counts=(640,), views=16, group=16)
    with RenderPool(PoolSettings(store.policy, store.seed, workers=2)) as pool:
        for number in range(400):
            pool.submit(RenderTask(number, store.index.place(0, number % 10), tuple(range(16))))
        while any(worker.child.due_since_s == 0 for worker in crew(pool).workers):  # until both have begun
            pool.get().release()
        crew(pool).processes.timeout_s = 3
        os.kill(crew(pool).processes.children[0].process.pid or 0, signal.SIGSTOP)
        with pytest.raises(
            RenderError, match=r"no view has come for 3 s from rendering process 0 \(pid \d+, it is stopp"
        ):
            take_all(pool)
        assert pool.pending > 1600
        assert not crew(pool).workers[0].child.connection.poll()


def test_a_parent_that_is_busy_elsewhere_blames_nobody(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(640,), views=16, group=16)
    with RenderPool(PoolSettings(store.policy, store.seed, workers=2, timeout_s=60)) as pool:
        for number in range(6):
            pool.submit(RenderTask(number, store.index.place(0, number), tuple(range(16))))
        held = [pool.get() for _ in range(2)]
        crew(pool).processes.timeout_s = 2
        for _ in range(3):
            time.sleep(2.2)  # as a teacher that takes its time; processes wait for their slots meanwhile
            held.append(pool.get())
            held.pop(0).release()
        crew(pool).processes.timeout_s = 60
        for one in held:
            one.release()
        take_all(pool)


def test_a_worker_that_is_not_through_is_named_too(tmp_path: Path) -> None:
    """It waits to open its shard, as for a disk."""
    store = bright_store(tmp_path, counts=(64,), views=16, group=16)
    shard = Path(store.index.shards[0].path)
    shard.unlink()
    os.mkfifo(shard)
    message = r"views 3, 5, 8 \.\.\. to render: run .* raise --worker-timeout$"
    with RenderPool(PoolSettings(store.policy, store.seed, workers=1, timeout_s=1)) as pool:
        pool.submit(RenderTask(0, store.index.place(0, 0), (3, 5, 8, 9)))
        with pytest.raises(RenderError, match=rf"shard train-0000\.tar, block 0, {message}"):
            pool.get()


def test_thumbnails_that_do_not_come_are_named(tmp_path: Path) -> None:
    store = drawn_store(tmp_path)
    shard = Path(store.index.shards[0].path)
    shard.unlink()
    os.mkfifo(shard)
    wanted = [SampleViews(sample, [0]) for sample in range(2)]
    named = [rf"shard train-0000\.tar, key {store.index.key(sample)} \(pid \d+.*\)" for sample in range(2)]
    message = rf"^no picture has come for 1 s; being replayed: {', '.join(named)}: run .* raise --worker-timeout$"
    with closing(replay_all(store, wanted, 2, timeout_s=1)) as made, pytest.raises(RenderError, match=message):
        next(made)


def test_walkers_are_waited_for_with_a_warning(tmp_path: Path) -> None:
    good = write_bright_shards(tmp_path, (5,))
    slow = tmp_path / "slow.tar"
    os.mkfifo(slow)
    script = tmp_path / "walk.py"
    script.write_text(
        "from teacher_cache.shards.classes import class_rule\n"
        "from teacher_cache.shards.indexing import index_shards\n"
        "if __name__ == '__main__':\n"
        f"    paths = {[*good, str(slow)]!r}\n"
        "    done = lambda number, total: print(number, 'of', total, flush=True)\n"
        "    index_shards(paths, class_rule(paths), workers=2, warn_after_s=1, progress=done)\n"
    )
    walking = subprocess.Popen(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert walking.stdout is not None
    assert walking.stderr is not None
    try:
        assert walking.stdout.readline() == "1 of 2\n"
        for line in walking.stderr:
            if str(good[0]) not in line:  # it may have taken as long to start
                break
        assert line.startswith(f"warning: no shard was finished for 1 s; still being walked: {slow} (pid ")
        assert line.endswith("and the same command goes on\n")
        assert walking.poll() is None
    finally:
        walking.kill()
        walking.communicate()


def test_a_walker_that_dies_is_named(tmp_path: Path, forks: Forks) -> None:
    walking = forks.start(*index_command(tmp_path))
    wait_until(lambda: len(workers(walking.id)) == 2)
    first = min(workers(walking.id))
    os.kill(first, signal.SIGKILL)
    assert walking.wait() == 1
    assert walking.output.splitlines()[-1] == (
        "error: shard a.tar: the process that walked it died (exit code -9; -9 is often a lack of memory): run again, "
        "with fewer --workers"
    )
