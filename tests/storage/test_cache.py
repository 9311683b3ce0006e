"""Copies on a node: fetched once, within a budget, shared by processes, and never believed when damaged."""

import os
import pickle
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from teacher_cache.errors import DiskError, StorageError
from teacher_cache.storage.cache import TOTAL, NodeCache
from tests.support.full_disk import small_files


class Source:
    """What is far away: keys' bytes, and how often each was fetched."""

    def __init__(self, num_bytes: int = 1000) -> None:
        self.num_bytes = num_bytes
        self.fetched: list[str] = []

    def content(self, key: str) -> bytes:
        return random.Random(key).randbytes(self.num_bytes)

    def fetch(self, key: str) -> Callable[[], bytes]:
        def fetch() -> bytes:
            self.fetched.append(key)
            return self.content(key)

        return fetch

    def open(self, cache: NodeCache, key: str) -> bytes | None:
        """What a copy has that is open to be read, fetched in two parts; None where there is none."""

        def fetch() -> Iterator[bytes]:
            content = self.fetch(key)()
            yield content[: self.num_bytes // 2]
            yield content[self.num_bytes // 2 :]

        copy = cache.open(key, self.num_bytes, fetch)
        return None if copy is None else copy.read(0, self.num_bytes + 1)

    def get(self, cache: NodeCache, key: str) -> bytes:
        return cache.get(key, self.fetch(key))


def copies(folder: Path) -> list[Path]:
    return sorted(folder.glob("??/*.copy"))


def test_what_is_kept_is_fetched_once(tmp_path: Path) -> None:
    cache, source = NodeCache(tmp_path / "cache", 10_000), Source()
    cache.prepare()
    for _ in range(3):
        for key in ("a", "b", "ü"):
            assert cache.get(key, source.fetch(key)) == source.content(key)
            assert source.open(cache, key) == source.content(key)
            assert source.open(cache, f"{key} first opened") == source.content(f"{key} first opened")
            assert source.get(cache, f"{key} first opened") == source.content(f"{key} first opened")
    assert source.fetched == [f"{key}{how}" for key in ("a", "b", "ü") for how in ("", " first opened")]
    assert len(copies(tmp_path / "cache")) == 6
    source.fetched.clear()
    again = pickle.loads(pickle.dumps(cache))
    assert again.get("a", source.fetch("a")) == source.content("a")
    assert source.fetched == []


def test_errors_of_a_fetch_are_raised_and_nothing_is_kept(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path, 10_000)

    def fail() -> bytes:
        raise StorageError("no answer")

    def absent() -> bytes:
        raise FileNotFoundError("not there")

    for fetch, error in ((fail, StorageError), (absent, FileNotFoundError)):
        with pytest.raises(error):
            cache.get("a", fetch)
        with pytest.raises(error):
            cache.open("a", 1000, lambda fetch=fetch: iter([b"a part", fetch()]))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [TOTAL]


def test_the_budget_holds_and_what_was_used_longest_ago_goes(tmp_path: Path) -> None:
    cache, source = NodeCache(tmp_path, 10_000), Source()
    for number in range(10):
        before = copies(tmp_path)
        source.open(cache, str(number))
        (made,) = set(copies(tmp_path)) - set(before)
        os.utime(made, (number, number))
    source.get(cache, "0")  # used now, as is the next
    source.open(cache, "1")
    cache.get("new", source.fetch("new"))
    assert len(copies(tmp_path)) == 9
    source.fetched.clear()
    for number in (0, 1, *range(4, 10)):
        cache.get(str(number), source.fetch(str(number)))
    assert source.fetched == []
    for number in range(100):
        (source.get if number % 2 else source.open)(cache, f"more {number}")
        assert sum(path.stat().st_size for path in copies(tmp_path)) <= 10_000


def test_what_is_larger_than_the_budget_is_fetched_each_time(tmp_path: Path) -> None:
    cache, source = NodeCache(tmp_path, 999), Source()
    assert cache.get("a", source.fetch("a")) == cache.get("a", source.fetch("a")) == source.content("a")
    source.fetched.clear()
    assert source.open(cache, "a") is None
    assert source.fetched == []  # by whoever asks, as it needs it
    assert copies(tmp_path) == []


@pytest.mark.parametrize("damage", ["flipped", "cut", "grown", "empty"])
def test_a_damaged_copy_is_fetched_again(tmp_path: Path, damage: str) -> None:
    cache, source = NodeCache(tmp_path, 10_000), Source()
    for ask in (source.get, source.open):
        ask(cache, "a")
        source.fetched.clear()
        (path,) = copies(tmp_path)
        content = path.read_bytes()
        flipped = content[:500] + bytes([content[500] ^ 1]) + content[501:]
        path.write_bytes({"flipped": flipped, "cut": content[:-1], "grown": content + b"x", "empty": b""}[damage])
        assert ask(cache, "a") == content
        assert source.fetched == ["a"]
        assert copies(tmp_path) == [path]
        assert path.read_bytes() == content


def test_nothing_else_in_the_folder_is_touched(tmp_path: Path) -> None:
    """Not under names that are like those of copies, nor what links lead to; but what killed writers left is."""
    cache, source = NodeCache(tmp_path, 3000), Source()
    cache.get("a", source.fetch("a"))
    (copy,) = copies(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    foreign = [
        tmp_path / copy.name,
        tmp_path / "photographs.copy",
        elsewhere / copy.name,
        copy.with_name("notes.copy"),
        copy.with_name(copy.name + ".bak"),
        copy.with_name(("0" if copy.name[0] != "0" else "1") + copy.name[1:]),  # of another folder
    ]
    for path in foreign:
        path.write_bytes(b"mine")
    (tmp_path / "ff").symlink_to(elsewhere)
    (elsewhere / f"ff{copy.name[2:]}").write_bytes(b"mine")
    left = copy.with_name(f".{copy.name[:32]}.{copy.name[33:40]}.{'0' * 32}.partial.copy")
    left.write_bytes(b"a part")
    for number in range(20):
        cache.get(str(number), source.fetch(str(number)))
    assert all(path.read_bytes() == b"mine" for path in [*foreign, elsewhere / f"ff{copy.name[2:]}"])
    assert not left.exists()


def test_what_a_link_points_at_is_not_written(tmp_path: Path) -> None:
    """Of a folder that others may write: a link in the place of what this writes is theirs."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("somebody's")
    (tmp_path / "c").mkdir()
    cache, source = NodeCache(tmp_path / "c", 10_000), Source()
    (tmp_path / "c" / TOTAL).symlink_to(elsewhere / "file")
    with pytest.raises(DiskError, match="c cannot be written"):
        cache.prepare()
    assert cache.get("0", source.fetch("0")) == source.content("0")
    (tmp_path / "c" / TOTAL).unlink()
    cache.prepare()
    for number in range(256):
        if not (folder := tmp_path / "c" / f"{number:02x}").exists():
            folder.symlink_to(elsewhere)
    assert cache.get("1", source.fetch("1")) == source.content("1")
    assert source.open(cache, "2") is None
    assert [path.name for path in elsewhere.iterdir()] == ["file"]
    assert (elsewhere / "file").read_text() == "somebody's"


def test_a_total_that_is_lost_or_wrong_is_counted_anew(tmp_path: Path) -> None:
    for said in (None, b"", b"nonsense", b"9999999999 0\n"):
        cache, source = NodeCache(tmp_path, 5000), Source()
        for number in range(4):
            cache.get(str(number), source.fetch(str(number)))
        total = tmp_path / TOTAL
        total.unlink() if said is None else total.write_bytes(said)
        for number in range(10):
            cache.get(f"{said!r} {number}", source.fetch(f"{said!r} {number}"))
            assert sum(path.stat().st_size for path in copies(tmp_path)) <= 5000
        assert len(copies(tmp_path)) >= 4


SHARING = """
import fcntl, random, sys
from pathlib import Path
from teacher_cache.storage.cache import TOTAL, NodeCache
cache, fetched = NodeCache(Path(sys.argv[1]), 40_000), 0
draw = random.Random(int(sys.argv[2]))
def fetch(key):
    global fetched
    fetched += 1
    return random.Random(key).randbytes(1000)
for _ in range(300):
    key = str(draw.randrange(60))
    assert cache.get(key, lambda: fetch(key)) == random.Random(key).randbytes(1000)
    with open(cache.folder / TOTAL) as total:  # nobody adds or removes any meanwhile
        fcntl.flock(total, fcntl.LOCK_EX)
        assert sum(path.stat().st_size for path in cache.folder.glob("??/*.copy")) <= 40_000
"""


def test_processes_share_a_folder_and_its_budget(tmp_path: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", SHARING, str(tmp_path), str(seed)], cwd=Path(__file__).parents[2])
        for seed in range(2)
    ]
    assert [process.wait(120) for process in started] == [0, 0]
    assert 30 <= len(copies(tmp_path)) <= 40
    source = Source()
    cache = NodeCache(tmp_path, 100_000)  # with room for all
    assert [cache.get(str(key), source.fetch(str(key))) for key in range(60)] == [
        source.content(str(key)) for key in range(60)
    ]
    assert len(source.fetched) <= 60 - 30


def test_a_file_is_fetched_by_one_of_several_at_once(tmp_path: Path) -> None:
    cache, source = NodeCache(tmp_path, 10_000), Source()
    began, go = threading.Barrier(4), threading.Event()

    def fetch() -> Iterator[bytes]:
        go.wait(20)
        yield source.fetch("a")()

    found: list[bytes] = []

    def ask() -> None:
        began.wait(20)
        copy = cache.open("a", 1000, fetch)
        assert copy is not None
        found.append(copy.read(0, 2000))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(60)
    assert found == [source.content("a")] * 4
    assert source.fetched == ["a"]


def test_what_takes_long_is_done_by_one_of_several_at_once(tmp_path: Path) -> None:
    cache, source, go, found = NodeCache(tmp_path, 10_000), Source(), threading.Event(), list[bytes]()

    def fetch() -> bytes:
        go.wait(20)
        return source.fetch("a")()

    threads = [threading.Thread(target=lambda: found.append(cache.get("a", fetch, alone=True))) for _ in range(4)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(60)
    assert (found, source.fetched) == ([source.content("a")] * 4, ["a"])


def test_what_is_being_fetched_has_its_room(tmp_path: Path) -> None:
    """Others may need room meanwhile: they take it from copies, not from this one, and not more than there is."""
    cache, source = NodeCache(tmp_path, 10_000), Source()
    for number in range(9):
        source.get(cache, str(number))
    asides = []

    def fetch() -> Iterator[bytes]:
        yield bytes(4000)
        for number in range(9):
            source.get(cache, f"new {number}")
            asides.append(list(tmp_path.glob("??/.*.partial.copy")))
            assert sum(path.stat().st_size for path in tmp_path.glob("??/*.copy")) <= 10_000
        assert cache.open("large", 3000, lambda: [bytes(3000)]) is None
        source.get(cache, "new 8")
        yield bytes(4000)

    copy = cache.open("a", 8000, fetch)
    assert copy is not None
    assert copy.read(0, 8000) == bytes(8000)
    assert all(len(each) == 1 for each in asides)
    assert {path.stat().st_size for path in copies(tmp_path)} == {8000, 1000}
    source.fetched.clear()
    assert source.get(cache, "new 8") == source.content("new 8")
    assert source.fetched == []


KILLED = """
import os, sys
from pathlib import Path
from teacher_cache.storage.cache import NodeCache
def fetch():
    yield bytes(3000)
    os._exit(9)
NodeCache(Path(sys.argv[1]), 10_000).open("a", 6000, fetch)
"""


def test_what_a_killed_process_was_fetching_is_removed(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[2]).returncode == 9
    (left,) = list(tmp_path.glob("??/.*.partial.copy"))
    copy = NodeCache(tmp_path, 10_000).open("a", 6000, lambda: [bytes(6000)])
    assert copy is not None
    assert copy.read(0, 6000) == bytes(6000)
    assert not left.exists()
    assert len(copies(tmp_path)) == 1


def test_a_full_disk_is_said_once_and_nothing_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Source()
    for cache in (NodeCache(tmp_path, 10_000), NodeCache(tmp_path, 10_000)):  # as of two processes
        cache.prepare()
        source.fetched.clear()
        with small_files(500):
            found = [cache.get(key, source.fetch(key)) for key in ("a", "b", "a")]
            assert source.open(cache, "a") is None
        assert found == [source.content(key) for key in ("a", "b", "a")]
        assert source.fetched == ["a", "b", "a"]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [TOTAL]
    assert capsys.readouterr().err == (
        f"warning: {tmp_path} cannot be written (File too large): what is read from far away is not kept; free space "
        "there, or give another --cache\n"
    )
    assert cache.get("a", source.fetch("a")) == source.content("a")
    assert len(copies(tmp_path)) == 1  # once there is room again


def test_a_folder_that_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"file/cache cannot be written"):
        NodeCache(tmp_path / "file" / "cache", 10).prepare()
