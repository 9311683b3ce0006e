"""The packing "groups": all chunks of a group in one file, a Zarr shard, which any Zarr library reads.

The file holds the chunks' frames as their own files would, by shard and unit, and at its end where each lies: start and
length, uint64 each, little-endian, both 2**64 - 1 where a chunk is absent; then the CRC-32C of that. So a store of tens
of thousands of files becomes one of tens, which people can publish; it is read only.
"""

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import google_crc32c
import numpy as np

from teacher_cache.errors import StoreError
from teacher_cache.storage.cache import Copy, NodeCache, copy_key
from teacher_cache.storage.manifest import named_files
from teacher_cache.storage.storage import NEAR, Entry, Stamp, Storage, find_entry, get_all, get_parts
from teacher_cache.store.unit import Unit

ABSENT = 2**64 - 1
WHOLE_BYTES = 256 << 20  # a far file of more is read chunk by chunk, where no copy of it can be kept
HELD_BYTES = 512 << 20  # of an array's far files in memory, those used last
OPEN_COPIES = 64  # of an array's far files, those used last
_CODEC = "sharding_indexed"
_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
_CRC_BYTES = 4


def packed_document(document: dict[str, Any]) -> dict[str, Any]:
    """The zarr.json of an array of units once it is packed, from the one it has in a file a chunk."""
    chunk = document["chunk_grid"]["configuration"]["chunk_shape"]
    shape = document["shape"]
    whole = [*shape[:2], chunk[2], *shape[3:]]
    codec = {
        "name": _CODEC,
        "configuration": {
            "chunk_shape": chunk,
            "codecs": document["codecs"],
            "index_codecs": _INDEX_CODECS,
            "index_location": "end",
        },
    }
    return {
        **document,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": whole}},
        "codecs": [codec],
    }


def unpacked_document(document: dict[str, Any]) -> dict[str, Any]:
    """What `packed_document` was made of; the document itself where it is not packed. ValueError where it is packed in
    another way."""
    if not is_packed(document):
        return document
    configuration = document["codecs"][0]["configuration"]
    grid = {"name": "regular", "configuration": {"chunk_shape": configuration["chunk_shape"]}}
    found = {**document, "chunk_grid": grid, "codecs": configuration["codecs"]}
    if packed_document(found) != document:
        raise ValueError(f"its Zarr shards are not those of a group each: {document['chunk_grid']}, {configuration}")
    return found


def is_packed(document: Mapping[str, Any]) -> bool:
    """Whether an array's zarr.json says that its chunks lie in Zarr shards."""
    return [codec["name"] for codec in document["codecs"]] == [_CODEC]


def pack(frames: Iterable[bytes | None]) -> Iterator[bytes]:
    """The bytes of a group's file, part by part, from its chunks' frames by shard and unit; None: an absent one."""
    places, at = [], 0
    for frame in frames:
        places += [ABSENT, ABSENT] if frame is None else [at, len(frame)]
        if frame is not None:
            yield frame
            at += len(frame)
    index = np.array(places, "<u8").tobytes()
    yield index
    yield google_crc32c.value(index).to_bytes(_CRC_BYTES, "little")


def group_file(array: str, group: int, rank: int) -> str:
    """The name in the store of the file that holds a group's chunks of an array of this rank."""
    return f"{array}/c/0/0/{group}" + "/0" * (rank - 3)


def index_bytes(units: tuple[int, int]) -> int:
    """How long the index at the end of a group's file is, of (S, U) units."""
    return 16 * units[0] * units[1] + _CRC_BYTES


def decode_places(index: bytes, units: tuple[int, int], before: int) -> np.ndarray:
    """Where the chunks lie by the index at the end of a group's file, of (S, U) units and with so many bytes before it:
    (S, U, 2) uint64 start and length, ABSENT where a chunk is. ValueError where it is damaged."""
    body, checksum = index[:-_CRC_BYTES], index[-_CRC_BYTES:]
    if len(index) != index_bytes(units) or google_crc32c.value(body).to_bytes(_CRC_BYTES, "little") != checksum:
        raise ValueError("the CRC-32C of its index differs")
    places = np.frombuffer(body, "<u8").reshape(*units, 2)
    starts, lengths = places[places[..., 0] != ABSENT].T
    if (starts > before).any() or (lengths > before - starts).any():
        raise ValueError("its index names bytes that it does not have")
    return places


@dataclass(frozen=True, eq=False)
class _File:
    """What is known of a group's file. places (S, U, 2) uint64: start and length of each chunk."""

    entry: Entry
    places: np.ndarray

    def range(self, unit: Unit) -> tuple[int, int] | None:
        start, length = self.places[unit.shard, unit.unit].tolist()
        return None if start == ABSENT else (start, length)


class GroupPacked:
    """Frames of an array of this rank, three or more, with (S, U) units in a group, whose groups are a file each.

    Where a read takes its time a file is fetched whole, once: by a node into its cache, else by this process into
    memory, while there is room. StoreError, naming the file, where its index is damaged, and in stamps where one is
    absent that the manifest names.
    """

    def __init__(
        self, storage: Storage, array: str, rank: int, units: tuple[int, int], cache: NodeCache | None = None
    ) -> None:
        self._storage, self._array, self._rank, self._units = storage, array, rank, units
        self._cache = None if storage.is_local else cache
        self._files: dict[int, _File] = {}
        self._copies: OrderedDict[int, Copy | None] = OrderedDict()  # by group; None: there was no room for one
        self._held: OrderedDict[int, bytes] = OrderedDict()  # whole files, by group

    def get(self, unit: Unit) -> bytes | None:
        return next(frame for _, frame in self.get_all([unit]))

    def get_all(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, bytes | None]]:
        for group, alike in itertools.groupby(units, lambda unit: unit.group):
            members = list(alike)
            yield from zip(members, self._read(group, members), strict=True)

    def stamps(self) -> Mapping[Unit, Stamp]:
        listed: dict[int, Entry] = {}
        for entry in self._storage.list(f"{self._array}/c"):
            numbers = entry.name.removeprefix(f"{self._array}/c/").split("/")
            if len(numbers) >= 3 and numbers[2].isdecimal() and entry.name == self._name(group := int(numbers[2])):
                listed[group] = entry
        there = {entry.name for entry in listed.values()}
        for name in named_files(self._storage):
            if name.startswith(f"{self._array}/c/") and name not in there:
                raise StoreError(f"{self._storage.place / name} is absent: fetch it again from where it was published")
        self._open_all(
            {
                group: entry
                for group, entry in listed.items()
                if group not in self._files or self._files[group].entry.stamp != entry.stamp
            }
        )
        found = {}
        for group, entry in listed.items():
            places = self._files[group].places
            for shard, unit in np.argwhere(places[..., 0] != ABSENT).tolist():
                found[Unit(shard, unit, group)] = (*entry.stamp, *places[shard, unit].tolist())
        return found

    def name(self, unit: Unit) -> str:
        return self._name(unit.group)

    def forget(self, unit: Unit) -> bool:
        return self._copies.pop(unit.group, None) is not None

    def _name(self, group: int) -> str:
        return group_file(self._array, group, self._rank)

    def _read(self, group: int, units: Sequence[Unit]) -> list[bytes | None]:
        """Frames of units of one group."""
        file = self._file(group)
        ranges = [None if file is None else file.range(unit) for unit in units]
        wanted = [each for each in ranges if each is not None]
        if file is None or not wanted:
            return [None] * len(units)
        frames = iter(self._get_ranges(file.entry, group, wanted))
        return [None if each is None else next(frames) for each in ranges]

    def _file(self, group: int) -> _File | None:
        """A group's file; None where there is none."""
        if group not in self._files:
            if (entry := find_entry(self._storage, self._name(group))) is None:
                return None
            self._files[group] = self._open(entry, group)
        return self._files[group]

    def _open_all(self, entries: Mapping[int, Entry]) -> None:
        """Open files that were listed, by group, anew where others of their names were open. Small ones far away, as
        those of records are, are fetched at once: one after the other would take as many times as long."""
        for group in entries:
            self._held.pop(group, None)
            self._copies.pop(group, None)
        if not self._storage.is_local and self._cache is None:
            small = {group: entry.name for group, entry in entries.items() if entry.num_bytes <= NEAR}
            for group, (_, content) in zip(small, get_all(self._storage, small.values()), strict=True):
                self._hold(entries[group], group, content)
        for group, entry in entries.items():
            self._files[group] = self._open(entry, group)

    def _open(self, entry: Entry, group: int) -> _File:
        """Read the index of a file that was listed."""
        length = index_bytes(self._units)
        start = max(entry.num_bytes - length, 0)
        (end,) = self._get_ranges(entry, group, [(start, length)])
        try:
            return _File(entry, decode_places(end, self._units, start))
        except ValueError as error:
            raise self._damaged(entry.name, str(error)) from None

    def _get_ranges(self, entry: Entry, group: int, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Ranges of a group's file, from where it costs least."""
        if not self._storage.is_local:
            if (copy := self._copy(entry, group)) is not None:
                return [copy.read(start, length) for start, length in ranges]
            if (whole := self._whole(entry, group)) is not None:
                return [whole[start : start + length] for start, length in ranges]
        return self._storage.get_ranges(entry.name, ranges, entry.stamp)

    def _copy(self, entry: Entry, group: int) -> Copy | None:
        """The node's copy of a group's file, open; None where none can be kept."""
        if self._cache is None or not entry.num_bytes:
            return None
        if group not in self._copies:
            fetch = partial(get_parts, self._storage, entry)
            self._copies[group] = self._cache.open(copy_key(self._storage, entry), entry.num_bytes, fetch)
            while len(self._copies) > OPEN_COPIES:
                self._copies.popitem(last=False)
        self._copies.move_to_end(group)
        return self._copies[group]

    def _whole(self, entry: Entry, group: int) -> bytes | None:
        """All bytes of a group's file, from memory if they are there; None of one that is too large."""
        if entry.num_bytes > WHOLE_BYTES:
            return None
        if group not in self._held:
            self._hold(entry, group, self._storage.get(entry.name))
        self._held.move_to_end(group)
        return self._held[group]

    def _hold(self, entry: Entry, group: int, content: bytes | None) -> None:
        """Have all bytes of a group's file in memory, and those used longest ago no more where they are too many."""
        if content is None or len(content) != entry.num_bytes:
            raise self._damaged(entry.name, "it is not what was listed")
        self._held[group] = content
        while sum(map(len, self._held.values())) > HELD_BYTES:
            self._held.popitem(last=False)

    def _damaged(self, name: str, what: str) -> StoreError:
        return StoreError(
            f"{self._storage.place / name} is damaged ({what}): fetch it again from where it was published"
        )
