"""Which storage a place has."""

from pathlib import Path

import pytest

from teacher_cache.errors import StorageError
from teacher_cache.storage.local import LocalStorage
from teacher_cache.storage.objects import ObjectStorage
from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.place import Url


def test_which_storage_a_place_has(tmp_path: Path) -> None:
    assert isinstance(open_storage(tmp_path), LocalStorage)
    assert isinstance(open_storage(str(tmp_path / "s3")), LocalStorage)
    for place in ("s3://bucket", "gs://bucket/folder", "az://container/folder", "https://host/folder", "S3:/bucket/x"):
        opened = open_storage(place)
        assert isinstance(opened, ObjectStorage)
        assert isinstance(opened.place, Url)
    assert opened.place == "S3://bucket/x"
    with pytest.raises(StorageError, match=r"^ftp://host/x: nothing here reads ftp://: give s3://"):
        open_storage("ftp://host/x")
