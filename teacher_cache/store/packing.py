"""Packing a store, and unpacking it: the same chunks in a few files, and back, file by file.

What says where the store was made stays behind: its shards are named without their places, and so is the file of a
teacher that is somebody's own function. All else comes back byte for byte.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import Any

import numpy as np

from teacher_cache.errors import StoreError
from teacher_cache.storage.storage import get_all
from teacher_cache.store.arrays import document_bytes, document_name, read_document
from teacher_cache.store.chunks import Frames, chunk_file, open_chunks
from teacher_cache.store.packed import (
    ABSENT,
    decode_places,
    group_file,
    index_bytes,
    pack,
    packed_document,
    unpacked_document,
)
from teacher_cache.store.published import attributes_document, read_published
from teacher_cache.store.schema import FILES, GROUPS
from teacher_cache.store.store import Store
from teacher_cache.store.unit import TOPK_ARRAYS, Unit

ARRAYS = ("labels", "digests", *TOPK_ARRAYS, "records")
_KEPT = re.compile(r"(index|teacher)/([\w-]+/)*(zarr\.json|c/[0-9/]+)")  # files that stay as they are
_DOCUMENT = re.compile(rf"({'|'.join(ARRAYS)})/zarr\.json")
_GROUP = re.compile(rf"({'|'.join(ARRAYS)})/c/0/0/([0-9]+)(?:/0)?")


def packed_files(store: Store, committed: np.ndarray) -> Iterator[tuple[str, Iterable[bytes]]]:
    """The files of a store once it is packed, by name, each part by part, the root's zarr.json last; committed
    (S, U, G) says of which units. StoreError where a file that has to be there is absent."""
    storage, teacher = store.storage, document_name("teacher")
    listed = [entry.name for folder in ("index", "teacher") for entry in storage.list(folder)]
    for name, content in get_all(storage, [name for name in listed if _KEPT.fullmatch(name) and name != teacher]):
        yield name, [_there(store, name, content)]
    if (identity := read_published(storage, "teacher")) is not None:
        yield teacher, [attributes_document(_without_place(identity))]
    for array in store.array_names:
        document = read_document(storage, array, "array")
        yield document_name(array), [document_bytes(packed_document(document))]
        frames = open_chunks(storage, array).frames
        for group in np.flatnonzero(committed.any(axis=(0, 1))).tolist():
            of_group = _of_group(store, frames, committed[..., group], group)
            yield group_file(array, group, len(document["shape"])), pack(of_group)
    yield document_name(""), [_root(read_document(storage, "", "group"))]


def unpacked_files(files: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """The files of a store with a file a chunk, by name, from those of a packed one, of which each array's zarr.json
    comes before its groups. ValueError where one is damaged, or no such file."""
    documents: dict[str, dict[str, Any]] = {}
    for name, content in files:
        if _KEPT.fullmatch(name):
            yield name, content
        elif name == document_name(""):
            document = json.loads(content)
            document["attributes"]["teacher_cache"]["packing"] = FILES
            yield name, document_bytes(document)
        elif match := _DOCUMENT.fullmatch(name):
            document = documents[match[1]] = unpacked_document(json.loads(content))
            yield name, document_bytes(document)
        elif match := _GROUP.fullmatch(name):
            yield from _chunks(match[1], int(match[2]), documents[match[1]], content)
        else:
            raise ValueError(f"{name} is no file of a packed store")


def _chunks(array: str, group: int, document: dict[str, Any], content: bytes) -> Iterator[tuple[str, bytes]]:
    """The files of a group's chunks."""
    shape, chunk = document["shape"], document["chunk_grid"]["configuration"]["chunk_shape"]
    units = shape[0], shape[1] // chunk[1]
    before = max(len(content) - index_bytes(units), 0)
    places = decode_places(content[before:], units, before)
    for shard, unit in np.argwhere(places[..., 0] != ABSENT).tolist():
        start, length = places[shard, unit].tolist()
        yield chunk_file(array, Unit(shard, unit, group), len(shape)), content[start : start + length]


def _of_group(store: Store, frames: Frames, committed: np.ndarray, group: int) -> Iterator[bytes | None]:
    """A group's frames by shard and unit, None of those that are not committed, (S, U) bool."""
    found = frames.get_all([Unit(shard, unit, group) for shard, unit in np.argwhere(committed).tolist()])
    for is_committed in committed.reshape(-1).tolist():
        if is_committed:
            unit, frame = next(found)
            yield _there(store, frames.name(unit), frame)
        else:
            yield None


def _there(store: Store, name: str, content: bytes | None) -> bytes:
    if content is None:
        raise StoreError(f"{store.storage.place / name} was removed meanwhile: let nothing write there, then try again")
    return content


def _root(document: dict[str, Any]) -> bytes:
    settings = document["attributes"]["teacher_cache"]
    shards = [{"name": shard["name"], "path": shard["name"], "bytes": shard["bytes"]} for shard in settings["shards"]]
    settings |= {"packing": GROUPS, "shards": shards}
    return document_bytes({**document, "attributes": {"teacher_cache": settings}})


def _without_place(identity: dict[str, Any]) -> dict[str, Any]:
    """A teacher's attributes with the name of its own file in the place of a path: path/file.py:function."""
    path, colon, function = str(identity.get("spec")).rpartition(":")
    if not path.endswith(".py"):
        return identity
    spec = f"{PurePath(path).name}{colon}{function}"
    return {**identity, "spec": spec, "name": str(identity["name"]).replace(str(identity["spec"]), spec)}
