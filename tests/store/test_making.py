"""A new store's files: all of them or none."""

import os
from pathlib import Path

import pytest

from teacher_cache.errors import DiskError, StoreError
from teacher_cache.storage.place import Url
from tests.support.filled_store import files, make_index, make_store
from tests.support.memory_storage import bucket_in_memory


def test_create_refuses(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(StoreError, match="there exists already: remove it or choose another"):
        make_store(tmp_path / "there")
    with pytest.raises(StoreError, match="unit_samples 100 is not a positive multiple of 64"):
        make_store(tmp_path / "s", unit_samples=100)
    with pytest.raises(StoreError, match="views 0 and group 2 must both be at least 1"):
        make_store(tmp_path / "s", views=0)
    with pytest.raises(StoreError, match="holds no samples"):
        make_store(tmp_path / "s", index=make_index((0, 0)))
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_no_store_is_made_in_another(tmp_path: Path) -> None:
    """It would be taken for part of it: by tools that list a store, and by whoever removes it."""
    outer = make_store(tmp_path / "outer")
    before = files(tmp_path)
    for inner in ("inner", "labels/inner", "a/b/c"):
        with pytest.raises(DiskError, match=f"/outer/{inner} lies in the store .*/outer, where nothing else may be"):
            make_store(tmp_path / "outer" / inner)
    assert files(tmp_path) == before
    assert make_store(tmp_path / "outer2").views
    with bucket_in_memory() as bucket:
        for entry in outer.storage.list():
            bucket.objects[f"s3://bucket/stores/outer/{entry.name}"] = outer.storage.get(entry.name) or b""
        put = dict(bucket.objects)
        for place in ("stores/outer/inner", "stores/outer/a/b/"):
            with pytest.raises(DiskError, match="lies in the store s3://bucket/stores/outer, where nothing else"):
                make_store(Url(f"s3://bucket/{place}"))
        assert bucket.objects == put
        assert make_store(Url("s3://bucket/stores/outer2")).views


def test_a_failed_create_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(self: Path, target: Path) -> Path:
        target.mkdir()
        (target / "other").touch()
        os.rename(self, target)
        return target

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(DiskError, match="appeared meanwhile"):
        make_store(tmp_path / "s")
    assert files(tmp_path).keys() == {"s/other"}
