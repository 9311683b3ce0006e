"""A new store's files: all of them at its place, or none."""

import os
import tempfile
from pathlib import Path
from typing import Any, cast

from teacher_cache.errors import StoreError
from teacher_cache.files import new_folder
from teacher_cache.shards.index import Index
from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.place import Place, Url, is_in_bucket
from teacher_cache.storage.storage import Storage, ask_each
from teacher_cache.store.arrays import document_name, make_array, settled, write_index
from teacher_cache.store.commit import sweep_pending
from teacher_cache.store.layout import Layout
from teacher_cache.store.records import RECORD_FIELDS
from teacher_cache.store.schema import created_parts, views_sha256
from teacher_cache.store.sealed import SEAL, seal
from teacher_cache.store.unit import NOT_LABELLED


def make_store(path: Place, index: Index, layout: Layout, settings: dict[str, Any]) -> None:
    """Make an empty store where none is, whole or not at all: in a bucket what makes it a store comes last. Whatever
    was on its way into one that was there before is removed. StoreError where another store's files are."""
    sweep_pending(path)
    if isinstance(path, Url):
        with tempfile.TemporaryDirectory() as folder:
            _make_files(Path(folder), index, layout, settings)
            _upload(Path(folder), open_storage(path))
    else:
        with new_folder(path) as aside:
            _make_files(aside, index, layout, settings)


def is_taken(path: Place) -> bool:
    """Whether there is something where a new store shall be."""
    return open_storage(path).get(document_name("")) is not None if isinstance(path, Url) else os.path.lexists(path)


def check_in_bucket(path: Place) -> None:
    """StoreError for a whole bucket: what is on its way, and who works on what, lies beside a store."""
    if isinstance(path, Url) and not is_in_bucket(path):
        raise StoreError(f"{path} is a whole bucket: name a folder in it, as {path / 'store'}")


def _make_files(folder: Path, index: Index, layout: Layout, settings: dict[str, Any]) -> None:
    """Those of an empty store, in a folder that is not there, or empty."""
    import zarr

    with settled():
        root = zarr.create_group(str(folder), zarr_format=3)
        write_index(root, index)
        label_type = "int16" if len(index.class_names) <= 32767 else "int32"
        kinds = {"labels": (label_type, NOT_LABELLED), "digests": ("uint64", 0), "records": ("uint64", 0)}
        for name, grid in layout.array_grids().items():
            last = (len(RECORD_FIELDS),) if name == "records" else ()
            make_array(root, name, grid.shape + last, grid.chunks + last, *kinds[name])
        parts = seal(created_parts(settings, open_storage(folder)))
        hashes = {SEAL: parts, "views_sha256": views_sha256(layout.views)}
        root.attrs["teacher_cache"] = cast(Any, settings | hashes)


def _upload(folder: Path, storage: Storage) -> None:
    """Put a new store's files where it shall be, the one that makes it a store last. StoreError where another's are."""
    root = document_name("")
    made = open_storage(folder)
    names = [entry.name for entry in made.list() if entry.name != root]
    for there in storage.list():
        if there.name not in names:
            raise StoreError(
                f"{storage.place / there.name} is there, of another store or none: remove what is under "
                f"{storage.place}, or choose another --store"
            )

    def put(name: str) -> None:
        content = made.get(name)
        assert content is not None
        if not storage.put_if_absent(name, content):
            raise StoreError(
                f"{storage.place / name} is there and is of another store, one that is being made or was not finished: "
                f"remove what is under {storage.place}, or choose another --store"
            )

    for _ in ask_each(storage, put, names):
        pass
    put(root)
