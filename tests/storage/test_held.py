"""What is got at once is given until it is let go of, or written."""

from pathlib import Path

from teacher_cache.storage.held import HeldStorage
from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.place import Url
from tests.support.memory_storage import bucket_in_memory


def test_what_is_held_is_asked_for_once_and_what_is_written_is_asked_for_again() -> None:
    with bucket_in_memory() as bucket:
        storage = open_storage(Url("s3://bucket/store"))
        for name in "abcdef":
            storage.put(name, name.encode())
        bucket.requests.clear()
        held = HeldStorage(storage, [*"abcde", "absent"])
        assert [request[0] for request in bucket.requests] == ["get"] * 6
        for name in "abcde":
            storage.put(name, b"by another")
        storage.put("absent", b"by another")
        bucket.requests.clear()
        assert [held.get(name) for name in [*"abcde", "absent"]] == [b"a", b"b", b"c", b"d", b"e", None]
        assert bucket.requests == []

        held.put("a", b"own")
        assert not held.put_if_absent("b", b"own")
        held.delete("c")
        assert [held.get(name) for name in "abcd"] == [b"own", b"by another", None, b"d"]
        held.let_go(but=lambda name: name == "e")
        assert [held.get(name) for name in ("d", "e", "f", "absent")] == [b"by another", b"e", b"f", b"by another"]
        assert held.get_ranges("d", [(0, 2), (3, 2)]) == [b"by", b"an"]
        assert held.list() == storage.list()
        assert held.place == storage.place
        assert not held.is_local


def test_of_a_folder_it_is_as_of_a_bucket(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.put("a", b"before")
    held = HeldStorage(storage, ["a", "b"])
    storage.put("a", b"after")
    assert (held.get("a"), held.get("b"), held.is_local) == (b"before", None, True)
