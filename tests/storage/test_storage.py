"""What every storage is held to: a folder, and an object store."""

import itertools
import pickle
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.errors import ChangedError
from teacher_cache.storage import objects
from teacher_cache.storage import storage as storage_module
from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.place import Url
from teacher_cache.storage.storage import AT_ONCE, Storage, cut, get_all, get_parts, joined
from tests.support.memory_storage import bucket_in_memory
from tests.support.object_server import KINDS

NAMES = ("c/0/0", "c/0/1", "c/10", "c.json", "ca/0", "zarr.json", "a b/ü%41+c&=~.x", "shards/train-0000.tar")


@pytest.fixture(params=["local", *KINDS])
def storage(request: pytest.FixtureRequest, tmp_path: Path, new_bucket: Callable[..., Url]) -> Storage:
    if request.param == "local":
        return open_storage(tmp_path / "some" / "folder", durable=False)
    return open_storage(new_bucket(request.getfixturevalue(request.param)))


def test_what_is_put_is_got_until_it_is_replaced_or_deleted(storage: Storage) -> None:
    for content in (b"first", b"", bytes(range(256)) * 5000):
        storage.put("a/b", content)
        assert storage.get("a/b") == content
    storage.put("a/c", b"another")
    storage.delete("a/b")
    storage.delete("a/b")
    assert (storage.get("a/b"), storage.get("a/c")) == (None, b"another")
    storage.put("a/b", b"again")
    assert storage.get("a/b") == b"again"


def test_a_file_is_put_as_its_bytes_are(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PART_BYTES", 5 << 20)  # the least that S3 takes
    storage.put("a", b"before")
    for num_bytes in (12 << 20, 100, 0):
        (tmp_path / "file").write_bytes(content := random.Random(num_bytes).randbytes(num_bytes))
        storage.put("a", tmp_path / "file")
        assert storage.get("a") == content
    assert [entry.name for entry in storage.list()] == ["a"]


def test_what_is_absent(storage: Storage) -> None:
    assert storage.list() == []
    storage.put("a/b", b"x")
    for name in ("b", "a", "a/b/c", "a/bc"):
        assert storage.get(name) is None
        for ranges in ([(0, 1)], [(0, 0)], []) if name != "a" else ():  # a file system has folders
            with pytest.raises(FileNotFoundError, match=name):
                storage.get_ranges(name, ranges)
        storage.delete(name)
    assert storage.list("a/b/c") == storage.list("a/bc") == storage.list("b") == []
    assert storage.get("a/b") == b"x"


def test_ranges_are_slices(storage: Storage) -> None:
    content = random.Random(0).randbytes(3_500_000)
    storage.put("x", content)
    draw = random.Random(1)
    for num_ranges in (1, 2, 5, 40):
        starts = [draw.choice([0, 7, draw.randrange(3_600_000), 3_499_990]) for _ in range(num_ranges)]
        ranges = [(start, draw.choice([0, 1, 100, 70_000, 2_000_000])) for start in starts]
        expected = [content[start : start + length] for start, length in ranges]
        assert storage.get_ranges("x", ranges) == expected
        assert storage.get_ranges("x", ranges, storage.list("x")[0].stamp) == expected
    assert storage.get_ranges("x", []) == []
    assert storage.get_ranges("x", [(3_500_000, 10), (9_000_000, 10)]) == [b"", b""]
    storage.put("empty", b"")
    assert storage.get_ranges("empty", [(0, 10), (5, 1)]) == [b"", b""]


def test_ranges_of_what_is_another_now_are_refused(storage: Storage) -> None:
    storage.put("x/y", b"before")
    (before,) = storage.list("x")
    assert storage.get_ranges("x/y", [(0, 2)], before.stamp) == [b"be"]
    storage.put("x/y", b"after.")  # of the same length
    for ranges in ([(0, 2)], [(0, 2), (4_000_000, 2)], [(900, 2)], [(0, 0)]):
        with pytest.raises(ChangedError, match=f"{storage.place}/x/y"):
            storage.get_ranges("x/y", ranges, before.stamp)
    assert storage.list("x")[0].stamp != before.stamp


def test_a_listing_is_of_a_folder_or_of_one_name(storage: Storage) -> None:
    for number, name in enumerate(NAMES):
        storage.put(name, bytes(number))
    assert [(entry.name, entry.num_bytes) for entry in storage.list()] == sorted(
        (name, number) for number, name in enumerate(NAMES)
    )
    for prefix in ("c", "c/", "c/0", "ca", "a b", "shards", "c/1", "zarr"):
        expected = [name for name in sorted(NAMES) if name.startswith(prefix.rstrip("/") + "/")]
        assert [entry.name for entry in storage.list(prefix)] == expected
    for name in NAMES:
        assert [entry.name for entry in storage.list(name)] == [name]
        assert storage.list(name)[0] in storage.list()
        assert storage.get(name) == bytes(NAMES.index(name))


def test_only_what_is_absent_is_created(storage: Storage) -> None:
    assert storage.put_if_absent("a/b", b"first")
    assert not storage.put_if_absent("a/b", b"second")
    assert storage.get("a/b") == b"first"
    assert storage.put_if_absent("a/b", b"first")  # as by one whose answer was lost
    storage.put("a/b", b"replaced")
    assert not storage.put_if_absent("a/b", b"first")
    storage.delete("a/b")
    assert storage.put_if_absent("a/b", b"second")
    assert [entry.name for entry in storage.list()] == ["a/b"]


def test_of_writers_that_race_one_creates(storage: Storage) -> None:
    writers = 16
    for turn in range(5):
        start = Barrier(writers)

        def create(writer: int, name: str, start: Barrier) -> bool:
            start.wait()
            return storage.put_if_absent(name, b"by %d" % writer)

        with ThreadPoolExecutor(writers) as threads:
            won = list(threads.map(partial(create, name=f"turn/{turn}", start=start), range(writers)))
        assert sum(won) == 1
        assert storage.get(f"turn/{turn}") == b"by %d" % won.index(True)


def test_another_process_reads_the_same(storage: Storage) -> None:
    storage.put("x", b"content")
    other = pickle.loads(pickle.dumps(storage))
    assert (other.place, other.is_local) == (storage.place, storage.is_local)
    assert other.get("x") == b"content"


def test_many_are_got_in_order(storage: Storage) -> None:
    for number in range(0, 50, 2):
        storage.put(f"n/{number}", b"%d" % number)
    names = [f"n/{number}" for number in range(50)]
    got = list(get_all(storage, iter(names)))
    assert got == [(f"n/{number}", None if number % 2 else b"%d" % number) for number in range(50)]


def test_no_more_are_asked_for_than_are_on_their_way() -> None:
    drawn = []

    def names() -> Iterator[str]:
        for number in range(100):
            drawn.append(number)
            yield str(number)

    with bucket_in_memory():
        for taken, _ in enumerate(get_all(open_storage("s3://set"), names()), 1):
            assert len(drawn) - taken < AT_ONCE
    assert taken == 100


def test_a_file_comes_part_by_part(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "PART_BYTES", 7)
    for length in (0, 1, 7, 50):
        content = bytes(range(length))
        storage.put("x", content)
        (entry,) = storage.list("x")
        parts = list(get_parts(storage, entry))
        assert b"".join(parts) == content
        assert [len(part) for part in parts[:-1]] == [7] * (len(parts) - 1)
    storage.put("x", b"another")
    with pytest.raises(ChangedError):
        list(get_parts(storage, entry))


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(-1, 60)), max_size=12), st.integers(0, 80))
def test_ranges_are_cut_out_of_what_was_read_for_them(ranges: list[tuple[int, int]], near: int) -> None:
    content = bytes(number % 251 for number in range(300))
    parts = joined(ranges, near)
    assert all(start - end > near for (_, end), (start, _) in itertools.pairwise(parts))
    read = [(start, content[start:end]) for start, end in parts]
    assert [cut(read, start, length) for start, length in ranges] == [
        content[start : start + max(length, 0)] for start, length in ranges
    ]
