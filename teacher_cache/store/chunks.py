"""Chunks of a store's arrays, read and written without zarr: the same bytes, a tenth of the time.

Zarr takes hundreds of microseconds for a chunk, whatever its size, and a store has tens of thousands. A chunk is one
zstd frame, with checksum, around the values in C order, little-endian; an absent one stands for the fill value. Where
the frames lie the store's packing says: each in a file of its own, or those of a group in one.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numcodecs import zstd

from teacher_cache.errors import StoreError
from teacher_cache.messages.shown import counted
from teacher_cache.storage.cache import NodeCache
from teacher_cache.storage.storage import Stamp, Storage, get_all
from teacher_cache.store.packed import GroupPacked, is_packed, unpacked_document
from teacher_cache.store.unit import CLASS_ARRAYS, NOT_LABELLED, Unit, UnitValues, are_classes, topk_fault

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class Frames(Protocol):
    """Where the chunks of one array lie, by unit."""

    def get(self, unit: Unit) -> bytes | None:
        """A chunk's frame; None where it is absent."""

    def get_all(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, bytes | None]]:
        """Those of many."""

    def stamps(self) -> Mapping[Unit, Stamp]:
        """Which are there, with what changes when one is written anew; by one listing."""

    def name(self, unit: Unit) -> str:
        """The file that a chunk lies in, in the store."""

    def forget(self, unit: Unit) -> bool:
        """Let go of a copy on this node that a chunk is read from, which is checked when it is opened again. False
        where there is none."""


@dataclass(frozen=True)
class FilePerChunk:
    """Frames of an array of this rank, three or more, each in a file of its own: the packing "files"."""

    storage: Storage
    array: str
    rank: int

    def get(self, unit: Unit) -> bytes | None:
        return self.storage.get(self.name(unit))

    def get_all(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, bytes | None]]:
        wanted = list(units)
        contents = get_all(self.storage, map(self.name, wanted))
        return ((unit, content) for unit, (_, content) in zip(wanted, contents, strict=True))

    def stamps(self) -> Mapping[Unit, Stamp]:
        top = f"{self.array}/c"
        found = {}
        for name, _, stamp in self.storage.list(top):
            numbers = name.removeprefix(f"{top}/").split("/")[:3]
            if len(numbers) == 3 and all(map(str.isdecimal, numbers)):
                found[Unit(*map(int, numbers))] = stamp
        return found

    def name(self, unit: Unit) -> str:
        return chunk_file(self.array, unit, self.rank)

    def forget(self, unit: Unit) -> bool:
        return False


def chunk_file(array: str, unit: Unit, rank: int) -> str:
    """The name in the store of the file that holds a chunk of an array of this rank, and nothing else."""
    return f"{array}/c/{unit.shard}/{unit.unit}/{unit.group}" + "/0" * (rank - 3)


@dataclass(frozen=True, eq=False)
class Chunks:
    """The chunks of one array. shape is that of a chunk, of the array's rank, three or more; a chunk is a unit's, and
    the only one along further axes."""

    frames: Frames
    shape: tuple[int, ...]
    dtype: np.dtype
    fill_value: float
    level: int

    @property
    def is_packed(self) -> bool:
        """Whether a file holds the chunks of a group; then they are only read."""
        return isinstance(self.frames, GroupPacked)

    def read(self, unit: Unit) -> np.ndarray:
        """A unit's chunk. Raises OSError, RuntimeError or ValueError for one that cannot be read or is damaged."""
        try:
            return self.decode(self.frames.get(unit))
        except (RuntimeError, ValueError):
            if not self.frames.forget(unit):
                raise
        return self.decode(self.frames.get(unit))

    def decode(self, data: bytes | None) -> np.ndarray:
        """The chunk in a frame; None stands for an absent one."""
        if data is None:
            return np.full(self.shape, self.fill_value, self.dtype)
        expected = math.prod(self.shape) * self.dtype.itemsize
        if (claimed := _frame_bytes(data)) != expected:  # before memory is taken for whatever a stranger's file claims
            held = "an unknown number of bytes" if claimed is None else counted(claimed, "byte")
            raise ValueError(f"it holds {held}, a chunk {expected:,}")
        return self._decompress(data, self.shape)

    def decode_all(self, files: list[bytes]) -> np.ndarray:
        """Chunks of fewer than 256 bytes, as `decode` gives them, in a new first axis; fifty times as fast as singly.

        RuntimeError or ValueError when one is damaged, or not as this program writes it: `decode` tells them apart.
        """
        # Frames are decoded one after the other, and each must be a file: all start with magic number, flags and length
        # of a chunk, as many come out, and one that took bytes of the next file would fail its checksum.
        start = zstd.compress(np.zeros(self.shape, self.dtype).reshape(-1), self.level, True)[:6]
        if not all(data.startswith(start) for data in files):
            raise ValueError("a file does not start as a chunk does")
        return self._decompress(b"".join(files), (len(files), *self.shape))

    def _decompress(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        """The values in frames, which are as many as they start with saying. RuntimeError or ValueError for more, for
        which no memory is taken: some bytes of zstd behind a frame stand for gigabytes."""
        values = np.zeros(shape, self.dtype)
        if data:
            zstd.decompress(data, values)
        return values

    def encode(self, values: np.ndarray) -> bytes:
        """The frame of a whole chunk."""
        data = np.ascontiguousarray(values, self.dtype)
        assert data.size == math.prod(self.shape), (data.shape, self.shape)
        return zstd.compress(data.reshape(-1), self.level, True)


def open_chunks(storage: Storage, array: str, cache: NodeCache | None = None) -> Chunks:
    """The chunks of an array, from its zarr.json. cache: where files of packed ones that are far away are kept.
    ValueError when they are laid out in another way."""
    given = json.loads(storage.get(f"{array}/zarr.json") or b"null")
    document = unpacked_document(given)
    grid, keys = document["chunk_grid"], document["chunk_key_encoding"]
    codecs = document["codecs"]
    shape = tuple(int(length) for length in grid["configuration"]["chunk_shape"])
    level = codecs[-1].get("configuration", {}).get("level")
    known: list[dict[str, Any]] = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "zstd", "configuration": {"level": level, "checksum": True}},
    ]
    if (
        codecs != known
        or grid["name"] != "regular"
        or keys != {"name": "default", "configuration": {"separator": "/"}}
        or document.get("storage_transformers")
    ):
        raise ValueError(
            f"{array} has codecs {codecs} and keys {keys}, not little-endian bytes in zstd with its checksum, "
            "in a file a chunk or a group"
        )
    dtype = np.dtype(document["data_type"]).newbyteorder("<")
    frames: Frames = FilePerChunk(storage, array, len(shape))
    if is_packed(given):
        shards, rows = document["shape"][:2]
        frames = GroupPacked(storage, array, len(shape), (int(shards), int(rows) // shape[1]), cache)
    return Chunks(frames, shape, dtype, document["fill_value"], level)


def pad_values(
    values: UnitValues, chunks: Mapping[str, Chunks], samples: int, blocks: int, num_classes: int, where: str
) -> UnitValues:
    """A unit's values, filled up to the chunks of its arrays and of their types; chunks: by name, of those it holds.

    samples, blocks: how many the unit has. StoreError, naming the unit as `where`, for other shapes, classes that the
    store does not have, views without a label, and topk that is none.
    """
    assert samples > 0, f"{where}: there is no such unit"
    padded = {}
    for name, array in chunks.items():
        given, own = getattr(values, name), blocks if name == "digests" else samples
        padding, expected = array.fill_value, (own, *array.shape[2:])
        full = padded[name] = np.full(array.shape[1:], padding, array.dtype)
        if given.shape not in (expected, full.shape) or not (given[own:] == padding).all():
            raise StoreError(
                f"{name} of {where} have shape {given.shape}: expected {expected}, or {full.shape} padded with "
                f"{padding}"
            )
        if name in CLASS_ARRAYS and not are_classes(given[:own], num_classes):
            raise StoreError(f"{name} of {where} are not all below its {counted(num_classes, 'class')}")
        full[:own] = given[:own]
    if (padded["labels"][:samples] == NOT_LABELLED).any():
        raise StoreError(f"{where} has views without a label: a unit is whole or absent")
    whole = UnitValues(**padded)
    if whole.topk_classes is not None and (fault := topk_fault(whole)):
        raise StoreError(f"topk of {where}: {fault}")
    return whole


def _frame_bytes(frame: bytes) -> int | None:
    """How many bytes a zstd frame says that it holds (RFC 8878, 3.1.1.1); None where it does not say, or is none."""
    if frame[:4] != _ZSTD_MAGIC or len(frame) < 6:
        return None
    descriptor = frame[4]
    single_segment = descriptor >> 5 & 1
    start = 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]
    width = (single_segment, 2, 4, 8)[descriptor >> 6]
    field = frame[start : start + width]
    if not width or len(field) != width:
        return None
    return int.from_bytes(field, "little") + (256 if width == 2 else 0)
