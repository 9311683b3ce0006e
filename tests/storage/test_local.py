"""A folder as a storage: what killed and racing writers leave, and what waits for the disk."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from teacher_cache.errors import DiskError
from teacher_cache.storage.local import LocalStorage, read_range

ROOT = Path(__file__).parents[2]


def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own, which imports little."""
    heading = "import os, signal, sys\nfrom pathlib import Path\nfrom teacher_cache.storage.local import LocalStorage\n"
    return subprocess.run(
        [sys.executable, "-c", heading + program, *words], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("placing", "write"),
    [("Path.replace", "put"), ("os.link", "put_if_absent")],
)
def test_what_killed_writers_leave_is_never_seen_and_swept(placing: str, write: str, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path, durable=False)
    storage.put("a/b", b"before")
    for _ in range(2):
        killed = run(
            f"{placing} = lambda *names: os.kill(os.getpid(), signal.SIGKILL)\n"
            f"LocalStorage(Path(sys.argv[1])).{write}('a/b', b'after')",
            str(tmp_path),
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert len(os.listdir(tmp_path / "a")) == 2  # the next one sweeps before it places
        assert [entry.name for entry in storage.list()] == ["a/b"]
        assert storage.get("a/b") == b"before"
    storage.put("a/b", b"after")
    assert os.listdir(tmp_path / "a") == ["b"]
    assert storage.get("a/b") == b"after"


def test_of_two_writers_of_a_name_each_is_whole(tmp_path: Path) -> None:
    """Though each sweeps what looks left behind by the other."""
    bodies = [bytes([writer]) * 50_000 for writer in range(4)]
    storage = LocalStorage(tmp_path, durable=False)
    storage.put("a/b", bodies[0])

    def write(body: bytes) -> int:
        for _ in range(40):
            storage.put("a/b", body)
            assert storage.get("a/b") in bodies
        return 40

    with ThreadPoolExecutor(len(bodies)) as threads:
        assert list(threads.map(write, bodies)) == [40] * len(bodies)
    assert os.listdir(tmp_path / "a") == ["b"]


def test_of_processes_that_race_one_creates(tmp_path: Path) -> None:
    program = """
storage = LocalStorage(Path(sys.argv[1]), durable=False)
ready, start = os.pipe()
children = []
for writer in range(8):
    if not (child := os.fork()):
        os.close(start)
        os.read(ready, 1)  # ends when the parent lets go
        won = [storage.put_if_absent(f"turn/{turn}", b"by %d" % writer) for turn in range(20)]
        sys.stdout.write(f"{writer}: {[turn for turn in range(20) if won[turn]]}\\n")
        sys.stdout.flush()
        os._exit(0)
    children.append(child)
os.close(start)
for child in children:
    os.waitpid(child, 0)
"""
    done = run(program, str(tmp_path))
    won: dict[int, str] = {}
    for line in done.stdout.splitlines():
        writer, _, turns = line.partition(": ")
        for turn in eval(turns):
            assert turn not in won, f"{writer} and {won[turn]} created turn {turn}"
            won[turn] = writer
    assert sorted(won) == list(range(20)), done.stderr
    storage = LocalStorage(tmp_path)
    for turn, writer in won.items():
        assert storage.get(f"turn/{turn}") == f"by {writer}".encode()


def test_folders_go_with_their_last_name(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "store", durable=False)
    storage.put("a/b/c", b"")
    storage.put("a/d", b"")
    storage.delete("a/b/c")
    assert (os.listdir(tmp_path / "store"), os.listdir(tmp_path / "store" / "a")) == (["a"], ["d"])
    storage.delete("a/d")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("killed_at", ["os.link", "Path.unlink"])  # before and after what is written has its name
def test_what_killed_writers_left_goes_with_the_name(killed_at: str, tmp_path: Path) -> None:
    """Once others have written it, as they do with a unit that nobody holds any more."""
    storage = LocalStorage(tmp_path / "claims", durable=False)
    for name in ("a/0", "b.0"):
        killed = run(
            f"{killed_at} = lambda *names, **how: os.kill(os.getpid(), signal.SIGKILL)\n"
            "LocalStorage(Path(sys.argv[1]), durable=False).put_if_absent(sys.argv[2], b'killed')",
            *(str(tmp_path / "claims"), name),
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert storage.get(name) is not None or storage.put_if_absent(name, b"next")
        storage.delete(name)
    assert os.listdir(tmp_path) == []


def test_files_are_listed_and_nothing_else(tmp_path: Path) -> None:
    """No pipe, which nobody could read to its end, no link to nothing, and no folder by itself."""
    storage = LocalStorage(tmp_path / "s")
    storage.put("a/b", b"1")
    os.mkfifo(tmp_path / "s" / "pipe")
    (tmp_path / "s" / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "s" / "linked").symlink_to(tmp_path / "s" / "a")
    (tmp_path / "s" / "empty").mkdir()
    assert [entry.name for entry in storage.list()] == ["a/b", "linked/b"]
    assert [entry.name for entry in storage.list("a/b")] == ["a/b"]
    assert storage.list("empty") == storage.list("pipe") == storage.list("a/b/c") == []


def test_a_folder_that_comes_while_it_is_listed_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, stat = LocalStorage(tmp_path / "s"), os.stat

    def and_then(path: str, **options: object) -> os.stat_result:
        try:
            return stat(path, **options)
        finally:
            monkeypatch.setattr(os, "stat", stat)
            storage.put("a", b"1")

    monkeypatch.setattr(os, "stat", and_then)
    assert storage.list() == []
    assert [entry.name for entry in storage.list()] == ["a"]


def test_a_name_is_written_while_its_folder_goes(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "store", durable=False)

    def write_and_delete(name: str) -> None:
        for turn in range(60):
            storage.put(name, b"%d" % turn)
            assert storage.get(name) == b"%d" % turn
            storage.delete(name)
            assert storage.put_if_absent(name, b"%d" % turn)
            storage.delete(name)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write_and_delete, ["a/b/c", "a/b/d", "a/e", "f"]))
    assert storage.list() == []


@pytest.mark.parametrize("write", [LocalStorage.put, LocalStorage.put_if_absent])
def test_what_is_written_is_on_disk_before_it_is_named(
    write: Callable[[LocalStorage, str, bytes], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, link, replace = os.fsync, os.link, Path.replace

    def noted_sync(descriptor: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(f"{tmp_path}/"))
        sync(descriptor)

    def noted_link(source: Path, target: Path) -> None:
        done.append("named")
        link(source, target)

    def noted_replace(source: Path, target: Path) -> Path:
        done.append("named")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "link", noted_link)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write(LocalStorage(tmp_path / "store"), "a/b", b"content")
    aside, *rest = done
    assert aside.startswith("store/a/.b.")
    assert rest == ["named", "store/a", "store"]
    done.clear()
    write(LocalStorage(tmp_path / "store", durable=False), "a/c", b"content")
    assert done == ["named"]


def test_what_cannot_be_written_is_a_disk_error(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path, durable=False)
    storage.put("a", b"a file where a folder is named")
    for write in (storage.put, storage.put_if_absent):
        with pytest.raises(DiskError, match=f"^{tmp_path}/a/b cannot be written"):
            write("a/b", b"")
    assert os.listdir(tmp_path) == ["a"]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    read = run("print(LocalStorage(Path(sys.argv[1])).get('x'))", str(tmp_path))  # TimeoutExpired where it waits
    assert read.stdout == "b''\n", read.stderr


def test_a_range_is_read_to_the_files_end(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    descriptor = os.open(tmp_path / "x", os.O_RDONLY)
    assert [read_range(descriptor, *part) for part in ((2, 3), (8, 5), (10, 1), (99, 1))] == [b"234", b"89", b"", b""]
    os.close(descriptor)


def test_what_another_removes_as_soon_as_it_is_there_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, link = LocalStorage(tmp_path / "s"), os.link

    def link_and_lose(written: Path, path: Path) -> None:
        link(written, path)
        written.unlink()
        LocalStorage(tmp_path / "s").delete("folder/name")

    monkeypatch.setattr(os, "link", link_and_lose)
    assert storage.put_if_absent("folder/name", b"bytes")
    assert not (tmp_path / "s").exists()
