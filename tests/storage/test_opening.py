"""Which storage a place has."""

from pathlib import Path

import pytest

from teacher_cache.errors import StorageError
from teacher_cache.storage.local import LocalStorage
from teacher_cache.storage.objects import ObjectStorage
from teacher_cache.storage.opening import check_fillable, check_not_web, open_storage
from teacher_cache.storage.place import Url, to_place


def test_which_storage_a_place_has(tmp_path: Path) -> None:
    assert isinstance(open_storage(tmp_path), LocalStorage)
    assert isinstance(open_storage(str(tmp_path / "s3")), LocalStorage)
    for place in ("s3://bucket", "gs://bucket/folder", "az://container/folder", "https://host/folder", "S3:/bucket/x"):
        opened = open_storage(place)
        assert isinstance(opened, ObjectStorage)
        assert isinstance(opened.place, Url)
    assert opened.place == "S3://bucket/x"
    with pytest.raises(StorageError, match=r"^ftp://host/x: nothing here reads ftp://: give a path, s3://"):
        open_storage("ftp://host/x")


def test_which_places_are_only_read() -> None:
    for place in ("http://host", "HTTPS://host/folder"):
        for check in (check_not_web, check_fillable):
            with pytest.raises(StorageError, match=r": a web server is only read: give a folder or a bucket"):
                check(to_place(place))
    with pytest.raises(StorageError, match=r"^hf://datasets/a/b is read only: fill a folder or a bucket"):
        check_fillable(to_place("hf://datasets/a/b"))
    check_not_web(to_place("hf://datasets/a/b"))
    for place in ("s3://bucket/folder", "folder"):
        check_fillable(to_place(place))
