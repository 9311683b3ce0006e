"""Whether a store is at a place, and what is said where none is."""

from pathlib import Path

import pytest

from teacher_cache.errors import StoreError
from teacher_cache.publish import publish
from teacher_cache.storage.place import Url
from teacher_cache.store.presence import check_is_store
from teacher_cache.store.store import Store
from tests.support.bright_shards import bright_store
from tests.support.filling import fill_store
from tests.support.memory_storage import bucket_in_memory


def test_a_store_is_found_and_so_is_the_one_in_what_was_published(tmp_path: Path) -> None:
    store = bright_store(tmp_path / "made")
    fill_store(store)
    publish(store, str(tmp_path / "published"))
    assert check_is_store(store.path) == store.path
    assert check_is_store(str(tmp_path / "published")) == tmp_path / "published" / "store"
    assert check_is_store(tmp_path / "published" / "store") == tmp_path / "published" / "store"
    with bucket_in_memory() as bucket:
        bucket.objects["s3://bucket/plain/zarr.json"] = b"{}"
        bucket.objects["s3://bucket/packed/store/zarr.json"] = b"{}"
        assert check_is_store("s3://bucket/plain") == Url("s3://bucket/plain")
        assert check_is_store("s3://bucket/packed") == Url("s3://bucket/packed/store")
        bucket.objects["s3://bucket/made/zarr.json"] = (Path(store.path) / "zarr.json").read_bytes()
        bucket.objects["s3://bucket/made/labels/zarr.json"] = (Path(store.path) / "labels" / "zarr.json").read_bytes()
        with pytest.raises(StoreError, match=r"labels is not a store, it is a part of the store s3://bucket/made:"):
            check_is_store("s3://bucket/made/labels")
        with pytest.raises(StoreError, match=r"^there is no store at s3://bucket/none: check the place, or make one"):
            check_is_store("s3://bucket/none")
        for place in ("s3://bucket", "https://host/none"):  # where none can be made
            with pytest.raises(StoreError, match=rf"^there is no store at {place}: check the place$"):
                check_is_store(place)


def test_what_is_none_is_told_apart(tmp_path: Path) -> None:
    store = bright_store(tmp_path / "made")
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for place, message in {
        Path(store.path).with_name("stor"): r"there is no store at .*stor.*: make one with `teacher-cache index",
        tmp_path / "file": r"file is not a store, ",
        tmp_path / "folder": r"folder is not a store, ",
        Path(store.path) / "labels": r"labels is not a store, ",
    }.items():
        with pytest.raises(StoreError, match=message):
            check_is_store(place)


def test_a_store_that_lacks_its_root_is_told_as_that(tmp_path: Path) -> None:
    """As a copy that broke off leaves one: other stores lie beside it, of which none is meant."""
    store = bright_store(tmp_path / "made")
    fill_store(store)
    publish(store, str(tmp_path / "published"))
    packed = tmp_path / "published" / "store"
    root = packed / "zarr.json"
    root.write_bytes(root.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"^metadata of .*published/store are damaged .*: restore its zarr\.json"):
        Store.open(tmp_path / "published")
    for place, top in ((packed, tmp_path / "published"), (Path(store.path), Path(store.path))):
        (place / "zarr.json").unlink()
        with pytest.raises(StoreError) as told:
            check_is_store(top)
        assert str(told.value) == (
            f"{place} is not a store, it has a store's arrays but no zarr.json, as a copy that broke off: copy it again"
        )
