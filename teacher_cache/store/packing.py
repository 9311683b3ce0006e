"""Packing a store, and unpacking it: the same chunks in a few files, and back, file by file; copying a packed one.

What says where the store was made stays behind: its shards are named without their places, and so is a teacher that is
a file or a folder of somebody's own. All else comes back byte for byte.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from teacher_cache.errors import StoreError
from teacher_cache.storage.storage import (
    PART_BYTES,
    PARTS_AHEAD,
    Entry,
    Storage,
    ask_each,
    find_entry,
    get_all,
    get_parts,
)
from teacher_cache.store.arrays import document_bytes, document_name, read_document
from teacher_cache.store.chunks import FilePerChunk, Frames, chunk_file
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
from teacher_cache.store.schema import FILES, GROUPS, views_sha256
from teacher_cache.store.store import Store
from teacher_cache.store.unit import TOPK_ARRAYS, Unit
from teacher_cache.teacher.names import without_folder

ARRAYS = ("labels", "digests", *TOPK_ARRAYS, "records")
_KEPT = re.compile(r"(index|teacher)/([\w-]+/)*(zarr\.json|c/[0-9/]+)")  # files that stay as they are
_DOCUMENT = re.compile(rf"({'|'.join(ARRAYS)})/zarr\.json")
_GROUP = re.compile(rf"({'|'.join(ARRAYS)})/c/0/0/(0|[1-9][0-9]{{0,6}})(?:/0)?")


def packed_files(store: Store, committed: np.ndarray) -> Iterator[tuple[str, Iterable[bytes]]]:
    """The files of a store once it is packed, by name, each part by part, the root's zarr.json last; committed
    (S, U, G) says of which units. The store may be filled and extended meanwhile: it is packed as it was opened.
    StoreError where a file that has to be there is absent."""
    storage, teacher = store.storage, document_name("teacher")
    # The root first: an `extend` changes it last, and arrays that are longer than it says are sound.
    root = _root(store, read_document(storage, "", "group"))
    documents = {array: read_document(storage, array, "array") for array in store.array_names}
    listed = [entry.name for folder in ("index", "teacher") for entry in storage.list(folder)]
    for name, content in get_all(storage, [name for name in listed if _KEPT.fullmatch(name) and name != teacher]):
        yield name, [_there(store, name, content)]
    if (identity := read_published(storage, "teacher")) is not None:
        yield teacher, [attributes_document(without_place(identity))]
    for array, document in documents.items():
        yield document_name(array), [document_bytes(packed_document(document))]
        frames = FilePerChunk(storage, array, rank := len(document["shape"]))
        for group in np.flatnonzero(committed.any(axis=(0, 1))).tolist():
            yield group_file(array, group, rank), pack(_of_group(store, frames, committed[..., group], group))
    yield document_name(""), [root]


def copied_files(store: Store, hashes: Mapping[str, str]) -> Iterator[tuple[str, Iterable[bytes]]]:
    """The files of a store that is packed already, as they are, by name, each part by part, the root's zarr.json last;
    hashes says the SHA-256 of each. StoreError where one is absent or not what it shall be, or no file of this packed
    store; the former two once its parts are asked for."""
    root = document_name("")
    _check_names(store, hashes)
    for name in [*sorted(hashes.keys() - {root}), root]:
        yield name, _copied(store.storage, name, hashes[name])


def _copied(storage: Storage, name: str, sha256: str) -> Iterator[bytes]:
    digest = hashlib.sha256()
    for part in get_parts(storage, _listed(storage, name)):
        digest.update(part)
        yield part
    if digest.hexdigest() != sha256:
        raise _not_said(storage, name, "not what its manifest says")


def unpacked_files(store: Store, hashes: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """The files of a store with a file a chunk, by name, from those of a packed one, of which hashes says the SHA-256;
    the root's zarr.json last. Little of a group's file is in memory at a time, and what it holds counts once all of it
    was given.

    StoreError where a file is absent or not what it shall be, or no file of this packed store.
    """
    storage, root = store.storage, document_name("")
    _check_names(store, hashes)
    documents: dict[str, dict[str, Any]] = {}
    groups = {name: match for name in hashes if (match := _GROUP.fullmatch(name)) is not None}
    for name, content in get_all(storage, sorted(hashes.keys() - groups.keys() - {root})):
        _check(storage, name, content, hashes)
        assert content is not None
        if match := _DOCUMENT.fullmatch(name):
            document = documents[match[1]] = unpacked_document(json.loads(content))
            content = document_bytes(document)
        yield name, content
    for name, match in sorted(groups.items()):
        yield from _chunks(storage, name, hashes[name], match[1], int(match[2]), documents[match[1]])
    content = storage.get(root)
    _check(storage, root, content, hashes)
    document = json.loads(content or b"")
    document["attributes"]["teacher_cache"]["packing"] = FILES
    yield root, document_bytes(document)


def _chunks(
    storage: Storage, name: str, sha256: str, array: str, group: int, document: dict[str, Any]
) -> Iterator[tuple[str, bytes]]:
    """The files of a group's chunks, out of its file, which is read part by part."""
    shape, chunk = document["shape"], document["chunk_grid"]["configuration"]["chunk_shape"]
    units = shape[0], shape[1] // chunk[1]
    entry = _listed(storage, name)
    before = max(entry.num_bytes - index_bytes(units), 0)
    (index,) = storage.get_ranges(name, [(before, index_bytes(units))], entry.stamp)
    try:
        parts = _parts(decode_places(index, units, before), before)
    except ValueError:
        raise _not_said(storage, name, "not what its manifest says") from None

    def read(part: list[tuple[int, int, int, int]]) -> list[bytes]:
        return storage.get_ranges(name, [(start, length) for *_, start, length in part], entry.stamp)

    digest = hashlib.sha256()
    for part, frames in zip(parts, ask_each(storage, read, parts, PARTS_AHEAD), strict=True):
        for (shard, unit, *_), frame in zip(part, frames, strict=True):
            digest.update(frame)
            yield chunk_file(array, Unit(shard, unit, group), len(shape)), frame
    digest.update(index)
    if digest.hexdigest() != sha256:
        raise _not_said(storage, name, "not what its manifest says")


def _parts(places: np.ndarray, before: int) -> list[list[tuple[int, int, int, int]]]:
    """The chunks of a group's file, (shard, unit, start, length), in parts that are read at once. ValueError where they
    are not all that lies before its index, one after the other."""
    parts: list[list[tuple[int, int, int, int]]] = [[]]
    at = of_part = 0
    for shard, unit in np.argwhere(places[..., 0] != ABSENT).tolist():
        start, length = places[shard, unit].tolist()
        if start != at:
            raise ValueError("its chunks do not lie one after the other")
        if of_part + length > PART_BYTES and parts[-1]:
            parts.append([])
            of_part = 0
        parts[-1].append((shard, unit, start, length))
        at, of_part = at + length, of_part + length
    if at != before:
        raise ValueError("its index does not name all bytes before it")
    return parts


def _check_names(store: Store, hashes: Mapping[str, str]) -> None:
    """StoreError where one of these is no file of a packed store with the arrays of this one, which were looked at when
    it was opened."""
    for name in hashes:
        of_array = name.partition("/")[0] in store.array_names and (_DOCUMENT.fullmatch(name) or _GROUP.fullmatch(name))
        if not of_array and not _KEPT.fullmatch(name) and name != document_name(""):
            raise StoreError(f"{store.path}: {name} is no file of a packed store: fetch it again")


def _listed(storage: Storage, name: str) -> Entry:
    if (entry := find_entry(storage, name)) is None:
        raise _not_said(storage, name, "absent")
    return entry


def _check(storage: Storage, name: str, content: bytes | None, hashes: Mapping[str, str]) -> None:
    """StoreError where a file is absent, or has another SHA-256 than is said."""
    if content is None:
        raise _not_said(storage, name, "absent")
    if hashlib.sha256(content).hexdigest() != hashes[name]:
        raise _not_said(storage, name, "not what its manifest says")


def _not_said(storage: Storage, name: str, what: str) -> StoreError:
    return StoreError(f"{storage.place / name} is {what}: fetch it again from where it was published")


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


def _root(store: Store, document: dict[str, Any]) -> bytes:
    settings = document["attributes"]["teacher_cache"]
    shards = [{"name": shard["name"], "path": shard["name"], "bytes": shard["bytes"]} for shard in settings["shards"]]
    views = {"views": store.views, "views_sha256": views_sha256(store.views)}  # another process may have added some
    settings |= {"packing": GROUPS, "shards": shards, **views}
    return document_bytes({**document, "attributes": {"teacher_cache": settings}})


def without_place(identity: dict[str, Any]) -> dict[str, Any]:
    """A teacher's attributes in which its own file, or folder, is named without a path."""
    given = str(identity.get("spec"))
    spec = without_folder(given)
    if spec == given:
        return identity
    return {**identity, "spec": spec, "name": str(identity["name"]).replace(given, spec)}
