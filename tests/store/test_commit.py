"""Several files as one, the first writer's. Kills and pauses between any two writes are in test_store.py."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from teacher_cache.storage.local import LocalStorage
from teacher_cache.storage.place import Url
from teacher_cache.storage.storage import Storage
from teacher_cache.store.commit import Commits
from tests.support.memory_storage import Bucket, MemoryStorage, bucket_in_memory

FILES = {"a/c/0": b"first", "b/c/0": b"second", "c/c/0": b"third", "mark": b"all"}
OTHERS = {"a/c/0": b"1", "b/c/0": b"2", "c/c/0": b"3", "mark": b"4"}


@pytest.fixture(params=["folder", "bucket"])
def commits(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Commits]:
    if request.param == "folder":
        yield Commits(LocalStorage(tmp_path / "store"), LocalStorage(tmp_path / "store.pending"))
        return
    with bucket_in_memory() as bucket:
        yield in_bucket(bucket)


def in_bucket(bucket: Bucket) -> Commits:
    store, pending = Url("s3://bucket/store"), Url("s3://bucket/store.pending")
    return Commits(MemoryStorage(bucket, store), MemoryStorage(bucket, pending))


def contents(storage: Storage) -> dict[str, bytes | None]:
    return {entry.name: storage.get(entry.name) for entry in storage.list()}


def put_only(commits: Commits, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a writer leaves that was killed before it copied anything."""
    with monkeypatch.context() as patch:
        patch.setattr(Commits, "_copy", lambda *arguments: True)
        commits.commit("unit", files)
    assert commits.waiting() == ["unit"]


def test_files_are_written_once(commits: Commits) -> None:
    assert commits.commit("unit", FILES)
    assert contents(commits.store) == FILES
    assert not commits.commit("unit", OTHERS)
    assert contents(commits.store) == FILES
    assert commits.waiting() == []


def test_one_file_is_written_once(commits: Commits) -> None:
    assert commits.commit("one", {"mark": b"ours"})
    assert not commits.commit("one", {"mark": b"theirs"})
    assert contents(commits.store) == {"mark": b"ours"}
    assert commits.waiting() == []


def test_what_another_has_put_comes_first(commits: Commits, monkeypatch: pytest.MonkeyPatch) -> None:
    put_only(commits, OTHERS, monkeypatch)
    assert not commits.commit("unit", FILES)
    assert contents(commits.store) == OTHERS
    assert commits.waiting() == []


def test_what_was_put_beside_a_mark_is_discarded(commits: Commits, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commits.commit("unit", FILES)
    put_only(commits, OTHERS, monkeypatch)
    assert not commits.finish("unit", lambda names: True)
    assert contents(commits.store) == FILES
    assert commits.waiting() == []


@pytest.mark.parametrize("damage", ["other files", "cut short", "no object of ours"])
def test_what_is_none_of_its_files_is_discarded(commits: Commits, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    if damage == "other files":
        put_only(commits, {"elsewhere": b"x", "mark": b"y"}, monkeypatch)
    else:
        put_only(commits, OTHERS, monkeypatch)
        content = commits.pending.get("unit") or b""
        commits.pending.put("unit", content[:-1] if damage == "cut short" else b"something else")
    assert commits.commit("unit", FILES)
    assert contents(commits.store) == FILES
    assert commits.waiting() == []


def test_in_a_bucket_files_are_put_at_once_and_the_mark_when_all_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The object first, then whether there is a mark; a put that is counted has arrived."""
    with bucket_in_memory() as bucket:
        commits, put, together = in_bucket(bucket), MemoryStorage.put, threading.Barrier(3)

        def wait_for_others(storage: MemoryStorage, name: str, content: bytes) -> None:
            if name != "mark":
                together.wait(30)  # BrokenBarrierError where they are put one after the other
            put(storage, name, content)

        monkeypatch.setattr(MemoryStorage, "put", wait_for_others)
        assert commits.commit("unit", FILES)
        asked = [(method, url.rpartition("store")[2]) for method, url, _ in bucket.requests]
        assert asked[:2] == [("put_if_absent", ".pending/unit"), ("get", "/mark")]
        assert sorted(asked[2:5]) == [("put", "/a/c/0"), ("put", "/b/c/0"), ("put", "/c/c/0")]
        assert asked[5:] == [("put", "/mark")]
        assert commits.waiting() == []
