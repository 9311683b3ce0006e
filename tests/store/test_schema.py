"""Which stores are read, and what of one is hashed when it is made."""

from pathlib import Path
from typing import Any

import pytest
import zarr

from teacher_cache.errors import StoreError
from teacher_cache.storage.opening import open_storage
from teacher_cache.store.schema import FILES, SCHEMA, check_schema, check_seal, created_parts, views_sha256
from tests.support.filled_store import make_store


def settings_of(path: Path) -> dict[str, Any]:
    store = make_store(path)
    return dict(zarr.open_group(store.path, mode="r").attrs["teacher_cache"])


def test_the_schema_of_today_is_read_and_no_other() -> None:
    check_schema(open_storage("s"), {"schema": SCHEMA, "packing": FILES})
    for settings, message in (
        ({"schema": 3, "packing": FILES}, "s has schema version 3, this program reads 2: use the program version"),
        ({"packing": FILES}, "s has schema version None, this program reads 2"),
        ({"schema": 2, "packing": "zip"}, "s is packed as 'zip', this program reads 'files' and 'groups': use a newer"),
        ({"schema": 2}, "s is packed as None, this program reads 'files'"),
        (
            {"schema": 1, "policy": {"name": "deit"}, "views": 4, "seed": 3},
            "schema version 1, .*index SHARDS --store NEW --policy deit --views 4 --seed 3`, .* --teacher TEACHER`",
        ),
    ):
        with pytest.raises(StoreError, match=message):
            check_schema(open_storage("s"), settings)


def test_what_never_changes_is_named_where_it_was(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "s")
    check_seal(open_storage(tmp_path / "s"), settings)
    moved = [{**shard, "path": "/elsewhere"} for shard in settings["shards"]]
    check_seal(open_storage(tmp_path / "s"), settings | {"shards": moved})  # places may change
    for change, named in (
        ({"seed": 8}, "seed is not"),
        ({"unit_samples": 64, "max_pixels": 1}, "max_pixels, unit_samples are not"),
        ({"shards": [{**shard, "bytes": 1} for shard in moved]}, "shards is not"),
        ({"views": 8}, "views is not"),
        ({"image_from": "png"}, "image_from is not"),
    ):
        with pytest.raises(StoreError, match=rf"{named} what the store was made with \(the SHA-256 differs\)"):
            check_seal(open_storage(tmp_path / "s"), settings | change)


def test_arrays_are_parts_and_the_number_of_views_is_not(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "s")
    parts = created_parts(settings, open_storage(tmp_path / "s"))
    assert {"array labels", "array digests", "array records", "array index/counts", "seed", "shards"} <= parts.keys()
    assert not {"views", "packing", "schema"} & parts.keys()
    assert created_parts(settings_of(tmp_path / "t") | {"views": 6}, open_storage(tmp_path / "t")) == parts
    assert views_sha256(4) != views_sha256(6)
