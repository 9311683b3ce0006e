"""The store's Zarr arrays: how each is made and opened, those of the index written and read.

zarr, half of what a command imports, makes and changes them; reading does without it.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from teacher_cache.errors import StoreError
from teacher_cache.files import raise_unreadable
from teacher_cache.messages.shown import counted
from teacher_cache.shards.index import Index
from teacher_cache.storage.cache import NodeCache, get_listed
from teacher_cache.storage.storage import Storage, ask_each, get_all
from teacher_cache.store.chunks import Chunks, FilePerChunk
from teacher_cache.store.packed import unpacked_document
from teacher_cache.store.records import RECORD_FIELDS
from teacher_cache.store.unit import NOT_LABELLED

if TYPE_CHECKING:
    import zarr

_INDEX_CHUNK_ITEMS = 1 << 22
_SAMPLE_BYTES = 2 * 512  # that a sample takes of its shard at least: the tar headers of its image and of its class
_INDEX_TYPES = {
    "key_bytes": "uint8",
    "key_ends": "int64",
    "classes": "int32",
    "offsets": "int64",
    "sizes": "int64",
    "fingerprints": "uint64",
    "counts": "int64",
    "hashes": "uint64",
}
INDEX_ARRAYS = tuple(f"index/{name}" for name in _INDEX_TYPES)  # written once, when the store is made
GROWING_ARRAYS = ("labels", "digests", "records")  # with views; all that a store is created with are these
_DIMENSIONS = {
    "labels": ("shard", "position", "view"),
    "digests": ("shard", "block", "view"),
    "topk_classes": ("shard", "position", "view", "rank"),
    "topk_probabilities": ("shard", "position", "view", "rank"),
    "records": ("shard", "unit", "group", "field"),
}


@contextmanager
def settled() -> Iterator[None]:
    """Let no write of zarr's outlive the block. Where one of several at a time fails, the others go on, and what they
    write would come back after its folder was removed."""
    from zarr.core.sync import sync

    try:
        yield
    except BaseException:
        sync(_other_tasks())
        raise


async def _other_tasks() -> None:
    """Wait for all that zarr does at the moment, however it ends."""
    import asyncio

    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*tasks, return_exceptions=True)


def make_array(
    parent: "zarr.Group", name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str, fill_value: int
) -> "zarr.Array":
    """An array of a store, every chunk written whole, empty or not, and checked by zstd's checksum when it is read."""
    import zarr.codecs

    return parent.create_array(
        name,
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        fill_value=fill_value,
        # Of 200 planted bit flips plain zstd finds none, zstd with its checksum all.
        compressors=[zarr.codecs.ZstdCodec(level=5, checksum=True)],
        dimension_names=_DIMENSIONS.get(name),
        attributes={"fields": list(RECORD_FIELDS)} if name == "records" else None,
        config={"write_empty_chunks": True},
    )


@dataclass(frozen=True)
class ArrayShape:
    """An array's shape, and that of its chunks, of all axes."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]


def read_shape(storage: Storage, array: str) -> ArrayShape:
    """What an array's zarr.json says, packed or not. ValueError, KeyError or TypeError where it is damaged."""
    document = unpacked_document(read_document(storage, array, "array"))
    chunks = document["chunk_grid"]["configuration"]["chunk_shape"]
    return ArrayShape(tuple(map(int, document["shape"])), tuple(map(int, chunks)))


def read_document(storage: Storage, name: str, kind: Literal["array", "group"]) -> dict[str, Any]:
    """The zarr.json of an array or a group of the store; "" is the store itself. ValueError where it is none of Zarr 3,
    or of the other kind; FileNotFoundError where there is none."""
    file = document_name(name)
    content = storage.get(file)
    if content is None:
        raise FileNotFoundError(f"{file} is absent")
    try:
        document = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if not isinstance(document, dict) or document.get("zarr_format") != 3 or document.get("node_type") != kind:
        raise ValueError(f"{name or 'it'} is no {kind} of Zarr 3")
    return document


def document_name(name: str) -> str:
    """The file that holds the metadata of an array or a group of the store."""
    return f"{name}/zarr.json" if name else "zarr.json"


def document_bytes(document: dict[str, Any]) -> bytes:
    """A zarr.json as zarr writes it."""
    return json.dumps(document, indent=2).encode()


def facts_of(document: dict[str, Any], *, grows: bool) -> dict[str, Any]:
    """What an array's zarr.json says that never changes: all but, where it `grows`, its third axis, the views."""
    shape = list(document["shape"])
    if grows:
        del shape[2]
    names = ("data_type", "fill_value", "chunk_grid", "chunk_key_encoding", "codecs", "dimension_names", "attributes")
    return {"shape": shape, **{name: document.get(name) or None for name in names}}


def array_facts(storage: Storage, array: str, *, grows: bool) -> dict[str, Any]:
    """facts_of what lies there; of an array that grows, and may be packed, as it is where it is not.

    ValueError for codecs that this program does not write: zarr would look for whatever a stranger's file names.
    """
    document = read_document(storage, array, "array")
    if grows:
        document = unpacked_document(document)
    if (codecs := [codec["name"] for codec in document["codecs"]]) != ["bytes", "zstd"]:
        raise ValueError(f"{array} has codecs {codecs}, not bytes in zstd")
    return facts_of(document, grows=grows)


def created_arrays(storage: Storage) -> dict[str, dict[str, Any]]:
    """The facts of all arrays that a store is created with, by "array NAME"."""
    facts = {f"array {name}": array_facts(storage, name, grows=True) for name in GROWING_ARRAYS}
    return facts | {f"array {name}": array_facts(storage, name, grows=False) for name in INDEX_ARRAYS}


def topk_documents(labels: ArrayShape, dtype: np.dtype, topk: int) -> dict[str, bytes]:
    """The zarr.json of the arrays that a teacher of so many probabilities wants beside labels of this shape and dtype;
    of none where topk is 0."""
    import zarr

    kinds = {"topk_classes": (topk, str(dtype), NOT_LABELLED), "topk_probabilities": (topk + 1, "float16", 0)}
    documents = {}
    for name, (last, kind, fill_value) in kinds.items() if topk else ():
        memory: dict[str, Any] = {}
        root = zarr.create_group(memory, zarr_format=3)
        make_array(root, name, (*labels.shape, last), (*labels.chunks, last), kind, fill_value)
        documents[name] = memory[f"{name}/zarr.json"].to_bytes()
    return documents


def lengthen(storage: Storage, name: str, views: int) -> None:
    """Let an array have these views, if it has fewer; no chunk is touched."""
    document = read_document(storage, name, "array")
    if document["shape"][2] < views:
        document["shape"][2] = views
        storage.put(document_name(name), document_bytes(document))


def write_index(root: "zarr.Group", index: Index) -> None:
    """Write index/ into a store that is being made."""
    folder = root.create_group("index")
    hashes = np.array([shard.hash for shard in index.shards], np.uint64)
    for name, dtype in _INDEX_TYPES.items():
        values = hashes if name == "hashes" else getattr(index, name)
        chunk = max(1, min(len(values), _INDEX_CHUNK_ITEMS))
        array = make_array(folder, name, (len(values),), (chunk,), dtype, 0)
        if len(values):
            array[:] = np.asarray(values, dtype)


def read_whole(storage: Storage, name: str, most: int, cache: NodeCache | None = None) -> np.ndarray:
    """An array of a store that was written whole, of so many items at most. StoreError, naming it, where it cannot be
    read, is longer, or a chunk is absent, which zarr would read as its fill value. cache: where chunks that are far
    away are kept."""
    try:
        return _read_whole(storage, name, most, cache)
    except Exception as error:
        raise_unreadable(error)
        folder = storage.place / name.partition("/")[0]
        raise StoreError(
            f"{name} of {storage.place} cannot be read ({error}): restore {folder} from a copy, or make a new store"
        ) from error


def _read_whole(storage: Storage, name: str, most: int, cache: NodeCache | None) -> np.ndarray:
    """Every chunk of an array, put together. Raises what a damaged one raises."""
    facts, found = array_facts(storage, name, grows=False), read_shape(storage, name)
    # before memory is taken: some bytes of zstd stand for gigabytes
    most_of_chunk = min(most, _INDEX_CHUNK_ITEMS) if name in INDEX_ARRAYS else most
    for lengths, limit, what in ((found.shape, most, "it has"), (found.chunks, most_of_chunk, "its chunks have")):
        if math.prod(lengths) > max(1, limit):
            raise ValueError(f"{what} {counted(math.prod(lengths), 'item')}, {max(1, limit):,} are the most")
    if facts["codecs"][0].get("configuration", {}).get("endian", "little") != "little":
        raise ValueError(f"{name} is not little-endian")
    dtype = np.dtype(facts["data_type"]).newbyteorder("<")
    chunks = Chunks(FilePerChunk(storage, name, len(found.chunks)), found.chunks, dtype, fill_value=0, level=0)
    grid = [-(-axis // length) for axis, length in zip(found.shape, found.chunks, strict=True)]
    listed = storage.list(f"{name}/c")
    if len(listed) < math.prod(grid):
        raise ValueError(f"{counted(len(listed), 'chunk', 'is', of=math.prod(grid))} there")
    whole = np.empty(found.shape, dtype.newbyteorder("="))
    files = {f"{name}/c/{'/'.join(map(str, place))}": place for place in np.ndindex(*grid)}
    for file, data in get_all(storage, files) if cache is None else get_listed(storage, listed, files, cache):
        place = files[file]
        if data is None:
            raise ValueError(f"chunk {'/'.join(map(str, place))} is absent")
        part = whole[tuple(slice(n * length, (n + 1) * length) for n, length in zip(place, found.chunks, strict=True))]
        part[...] = chunks.decode(data)[tuple(map(slice, part.shape))]
    return whole


def read_counts(storage: Storage, num_shards: int, cache: NodeCache | None = None) -> np.ndarray:
    """Samples of each shard, (S,) int64, without the rest of the index, whose arrays are as long as they say.

    StoreError where they cannot be read or do not fit each other.
    """
    counts = read_whole(storage, "index/counts", num_shards, cache)
    if fault := _counts_fault(counts, num_shards):
        raise damaged_index(storage, fault)
    samples, there = sum(counts.tolist()), read_shape(storage, "index/key_ends").shape
    if there != (samples,):
        raise damaged_index(storage, f"counts are of {counted(samples, 'sample')}, key_ends has shape {there}")
    return counts


def read_index(
    storage: Storage, num_shards: int, num_classes: int, shard_bytes: int, cache: NodeCache | None = None
) -> dict[str, np.ndarray]:
    """What `write_index` wrote: the Index's own arrays by their names, and hashes (S,) uint64 of its shards, which have
    so many bytes in all.

    StoreError, naming the array, where one cannot be read or does not fit the others.
    """
    samples = shard_bytes // _SAMPLE_BYTES
    most = dict.fromkeys(_INDEX_TYPES, samples) | {"key_bytes": shard_bytes, "counts": num_shards, "hashes": num_shards}

    def read(name: str) -> np.ndarray:
        return read_whole(storage, f"index/{name}", most[name], cache)

    arrays = dict(zip(_INDEX_TYPES, ask_each(storage, read, _INDEX_TYPES), strict=True))
    if fault := _index_fault(arrays, num_shards, num_classes):
        raise damaged_index(storage, fault)
    return arrays


def damaged_index(storage: Storage, fault: str) -> StoreError:
    """What to say of an index that does not fit."""
    return StoreError(f"index/ of {storage.place} is damaged ({fault}): restore it from a copy, or index a new store")


def _counts_fault(counts: np.ndarray, num_shards: int) -> str | None:
    if counts.shape != (num_shards,) or counts.dtype != np.int64:
        return f"counts has shape {counts.shape} and type {counts.dtype}, expected ({num_shards},) and int64"
    return "counts are negative, or all 0" if (counts < 0).any() or not counts.any() else None


def _index_fault(arrays: dict[str, np.ndarray], num_shards: int, num_classes: int) -> str | None:
    """What in a stranger's index would be read beside its arrays; None where nothing is."""
    if fault := _counts_fault(arrays["counts"], num_shards):
        return fault
    samples = sum(arrays["counts"].tolist())
    for name, values in arrays.items():
        expected = num_shards if name in ("counts", "hashes") else samples
        if name != "key_bytes" and values.shape != (expected,):
            return f"{name} has shape {values.shape}, expected ({expected},)"
        if values.ndim != 1 or values.dtype != _INDEX_TYPES[name]:
            return f"{name} has type {values.dtype}, expected {_INDEX_TYPES[name]}"
    ends, classes = arrays["key_ends"], arrays["classes"]
    if (np.diff(ends, prepend=0) < 0).any() or (len(ends) and ends[-1] != len(arrays["key_bytes"])):
        return "key_ends do not part key_bytes"
    if ((classes < 0) | (classes >= num_classes)).any():
        return f"classes are not all below {num_classes}"
    if any((arrays[name] < 0).any() for name in ("offsets", "sizes")):
        return "offsets or sizes are negative"
    return None
