"""What a manifest says, and a web server that it makes listable."""

import hashlib
import pickle
from pathlib import Path

import pytest

from teacher_cache.errors import ChangedError, StorageError
from teacher_cache.storage.local import LocalStorage
from teacher_cache.storage.manifest import (
    MANIFEST,
    STORE,
    open_listed,
    open_named,
    place_above,
    read_hashes,
    read_manifest,
    write_manifest,
)
from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.place import Url
from tests.support.memory_storage import bucket_in_memory
from tests.support.web_server import WebServer

FILES = {"store/zarr.json": b"{}", "store/labels/c/0": b"some", "store/labels/c/1": b"more", "store/labels2/c": b"x"}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """FILES, and a manifest of them and of a card."""
    for name, content in {**FILES, "README.md": b"a card", "store/notes": b"not in the manifest"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    facts = {name: (hashlib.sha256(content).hexdigest(), len(content)) for name, content in FILES.items()}
    (tmp_path / MANIFEST).write_bytes(write_manifest({**facts, "README.md": ("00", 6)}))
    return tmp_path


def test_what_is_written_is_read(published: Path) -> None:
    found = read_manifest((published / MANIFEST).read_bytes())
    assert found == {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()} | {"README.md": "00"}


def test_the_manifest_of_a_store_lies_above_it(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {name.removeprefix("store/"): hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.chdir(published / STORE)
    for place in (published / STORE, Path(), Path("labels/..")):
        assert read_hashes(place) == expected
        assert place_above(place) == published
    with pytest.raises(ValueError, match=r"^it names no labels/zarr\.json$"):
        read_hashes(published / "labels")
    (published / MANIFEST).unlink()
    assert read_hashes(Path()) is None
    assert read_hashes(Url("s3://store")) is read_hashes(Url("hf://datasets/someone/store")) is None


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b"{}", b'{"files": 1}', b'{"files": {"a": {}}}', b"[" * 10**5]
)
def test_what_is_damaged_is_told(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^\w+"):
        read_manifest(content)


def test_a_web_servers_files_are_listed_by_it(published: Path) -> None:
    with WebServer(published) as web:
        listed = open_listed(Url(f"{web.url}/{STORE}"))
        assert not listed.is_local
        names = [name.removeprefix("store/") for name in sorted(FILES)]
        assert [entry.name for entry in listed.list()] == names
        for prefix in ("labels", "labels/", "labels/c"):
            assert [(entry.name, entry.num_bytes) for entry in listed.list(prefix)] == [
                ("labels/c/0", 4),
                ("labels/c/1", 4),
            ]
        (entry,) = listed.list("labels/c/1")
        assert listed.list("notes") == listed.list("absent") == []
        assert listed.get("labels/c/1") == b"more"
        assert listed.get_ranges(entry.name, [(1, 2)], entry.stamp) == [b"or"]
        (published / "store/labels/c/1").write_bytes(b"most")
        with pytest.raises(ChangedError):
            listed.get_ranges(entry.name, [(1, 2)], entry.stamp)
        (published / "store/labels/c/0").unlink()
        assert [entry.name for entry in listed.list("labels")] == ["labels/c/1"]
        assert pickle.loads(pickle.dumps(listed)).list("labels") == listed.list("labels")
        for write in (
            lambda: listed.put("x", b""),
            lambda: listed.put_if_absent("x", b""),
            lambda: listed.delete("zarr.json"),
        ):
            with pytest.raises(StorageError, match="is read-only: give a folder or a bucket to write to"):
                write()


def test_of_others_only_what_it_names_is_there(published: Path) -> None:
    """In a folder, and in a bucket; without one, and under another name, all that lies there."""
    with bucket_in_memory() as bucket:
        for path in published.rglob("*"):
            if path.is_file():
                bucket.objects[f"s3://b/{path.relative_to(published)}"] = path.read_bytes()
        for store in (published / STORE, Url(f"s3://b/{STORE}")):
            named = open_named(open_storage(store))
            assert named.is_local == isinstance(store, Path)
            assert [entry.name for entry in named.list()] == sorted(name.removeprefix("store/") for name in FILES)
            assert named.list("notes") == []
            assert named.get("notes") is None
            with pytest.raises(FileNotFoundError, match="store/notes is not there"):
                named.get_ranges("notes", [(0, 1)])
            assert named.get_ranges("labels/c/0", [(1, 2)]) == [b"om"]
            assert named.get("labels/c/0") == b"some"
    other = open_storage((published / STORE).rename(published / "other"))
    assert open_named(other) is other
    store = open_storage((published / "other").rename(published / STORE))
    (published / MANIFEST).write_text("{}")
    with pytest.raises(ValueError, match="files"):
        open_named(store)
    (published / MANIFEST).unlink()
    assert open_named(store) is store


def test_without_one_a_web_server_is_refused_and_others_need_none(published: Path) -> None:
    assert isinstance(open_listed(published / STORE), LocalStorage)
    (published / MANIFEST).unlink()
    with (
        WebServer(published) as web,
        pytest.raises(StorageError, match=r"cannot list a store's files, and .* is absent: "),
    ):
        open_listed(Url(f"{web.url}/{STORE}"))
