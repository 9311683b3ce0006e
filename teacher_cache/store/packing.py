"""Packing a store, and unpacking it: the same chunks in fewer files, and back, file by file.

What says where the store was made is left out: its shards are named without their places, and so is the file of a
teacher that is somebody's own function. All else comes back byte for byte.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from teacher_cache.errors import StoreError
from teacher_cache.storage.storage import Storage, get_all
from teacher_cache.store.arrays import document_bytes, document_name, read_document
from teacher_cache.store.chunks import open_chunks
from teacher_cache.store.packed import (
    ABSENT,
    decode_places,
    index_bytes,
    is_packed,
    pack,
    packed_document,
    unpacked_document,
)
from teacher_cache.store.published import attributes_document, read_published
from teacher_cache.store.schema import FILES, GROUPS
from teacher_cache.store.store import Store
from teacher_cache.store.unit import Unit

_KEPT = re.compile(r"(index|teacher)/([\w-]+/)*(zarr\.json|c/[0-9/]+)")  # files that packing leaves as they are
_GROUP_FILE = re.compile(r"(\w+)/c/0/0/([0-9]+)(/0)?")


def packed_files(store: Store, committed: np.ndarray) -> Iterator[tuple[str, Iterable[bytes]]]:
    """The files of a store that is packed, by name, each part by part, its root's zarr.json last; committed (S, U, G):
    of which units. What an uncommitted unit has is left out."""
    kept = [name for folder in ("index", "teacher") for name in _names(store.storage, folder) if _KEPT.fullmatch(name)]
    for name, content in get_all(store.storage, (name for name in kept if name != document_name("teacher"))):
        yield name, [_there(store, name, content)]
    if (teacher := read_published(store.storage, "teacher")) is not None:
        yield document_name("teacher"), [attributes_document(_without_place(teacher))]
    for array in store.array_names:
        yield document_name(array), [document_bytes(packed_document(read_document(store.storage, array, "array")))]
        frames = open_chunks(store.storage, array).frames
        for group in np.flatnonzero(committed.any(axis=(0, 1))).tolist():
            units = [Unit(*place, group) for place in np.ndindex(*committed.shape[:2])]
            there = dict(frames.get_all([unit for unit in units if committed[unit]]))
            for unit, frame in there.items():
                _there(store, frames.name(unit), frame)
            rank = len(read_document(store.storage, array, "array")["shape"])
            yield f"{array}/c/0/0/{group}" + "/0" * (rank - 3), pack(there.get(unit) for unit in units)
    yield document_name(""), [document_bytes(_root(store.storage))]


def unpacked_files(storage: Storage, files: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """The files of a store in which each chunk has its own, by name, from those of a packed one. ValueError where one
    is damaged, or is no store's."""
    documents = {}
    for name, content in files:
        if _KEPT.fullmatch(name):
            yield name, content
        elif name == document_name(""):
            document = json.loads(content)
            document["attributes"]["teacher_cache"]["packing"] = FILES
            yield name, document_bytes(document)
        elif array := _array_of(name):
            documents[array] = read_document(storage, array, "array")
            yield name, document_bytes(unpacked_document(documents[array]))
        elif match := _GROUP_FILE.fullmatch(name):
            yield from _chunk_files(match[1], int(match[2]), match[3] or "", read_document(storage, match[1], "array"), content)
        else:
            raise ValueError(f"{name} is no file of a packed store")
