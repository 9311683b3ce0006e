"""The commit records of a store: a unit counts once its record says so. Nothing else reads or writes what they hold.

A record is one chunk of `records[shard, unit, group, field]`, written after the unit's values are on disk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from teacher_cache.errors import StoreError
from teacher_cache.files import raise_unreadable
from teacher_cache.store.chunks import Chunks, Stamp, file_stamp, read_file
from teacher_cache.store.layout import Layout
from teacher_cache.store.unit import Unit, UnitCounts

# writer (whose commit it was) and the last two are for later versions, and 0 until then
RECORD_FIELDS = (
    *("committed", "hash", "labelled", "own", "larger", "either", "skipped", "damaged", "device", "writer"),
    *("reserved_1", "reserved_2"),
)
_FIELD = {name: number for number, name in enumerate(RECORD_FIELDS)}
_COMMITTED, _SKIPPED = _FIELD["committed"], _FIELD["skipped"]


@dataclass(frozen=True)
class Record:
    """What a record says of its unit: the hash of its values (`unit.hash_values`), its counts, and in a store of any
    device which one it was, as `proof.device_hash` names it. All are 0 where the unit is not committed."""

    committed: bool
    hash: int
    counts: UnitCounts
    device: int


def encode_record(values_hash: int, counts: UnitCounts, device: int) -> np.ndarray:
    """The record of a unit that is committed, (F,) uint64."""
    fields = {"committed": 1, "hash": values_hash, "device": device, **vars(counts)}
    return np.array([fields.get(name, 0) for name in RECORD_FIELDS], np.uint64)


def decode_record(values: np.ndarray) -> Record:
    """What `encode_record` gave."""
    fields = dict(zip(RECORD_FIELDS, values.tolist(), strict=True))
    counts = UnitCounts(*(fields[name] for name in ("labelled", "own", "larger", "either", "skipped", "damaged")))
    return Record(fields["committed"] == 1, fields["hash"], counts, fields["device"])


class Records:
    """The records of a store's units; those read are held, and read again only where their file changed.

    StoreError, naming the unit and how to mend it, where one is damaged.
    """

    def __init__(self, store: Path, shard_names: Sequence[str], layout: Layout, chunks: Chunks) -> None:
        self._store, self._shard_names, self._layout, self._chunks = store, shard_names, layout, chunks
        grid = layout.array_grids()["records"].shape
        self._values = np.zeros((*grid, len(RECORD_FIELDS)), np.uint64)
        self._stamps = np.zeros((*grid, 2), np.int64)

    # -- all of them ---------------------------------------------------------------------------------------------

    def read(self) -> np.ndarray:
        """(S, U, G, F) uint64, all zero where a unit is not committed; F is RECORD_FIELDS. A copy."""
        changed: dict[Unit, tuple[bytes | None, Stamp]] = {}
        for shard, number in self._layout.group_units:
            for group, (time_ns, inode) in enumerate(self._stamps[shard, number].tolist()):
                unit = Unit(shard, number, group)
                if inode == 0 or file_stamp(self.file(unit)) != (time_ns, inode):
                    changed[unit] = self._read_file(unit)
        for unit, values in self._decode_all({unit: data for unit, (data, _) in changed.items()}):
            self._values[unit], self._stamps[unit] = values, changed[unit][1]
        return self._values.copy()

    def committed(self) -> np.ndarray:
        """(S, U, G) bool."""
        return self.read()[..., _COMMITTED] == 1

    def sums(self) -> dict[str, list[int]]:
        """By field the sum over the committed units of each group."""
        values = self.read()
        values[values[..., _COMMITTED] != 1] = 0
        return dict(zip(RECORD_FIELDS, values.sum(axis=(0, 1), dtype=np.uint64).T.tolist(), strict=True))

    def units_with_skips(self) -> list[Unit]:
        """The committed units in which a sample was skipped."""
        values = self.read()
        found = np.argwhere((values[..., _COMMITTED] == 1) & (values[..., _SKIPPED] > 0))
        return [Unit(*numbers) for numbers in found.tolist()]

    # -- one -----------------------------------------------------------------------------------------------------

    def read_one(self, unit: Unit) -> Record:
        """What the unit's record says now."""
        return decode_record(self._read_values(unit))

    def is_committed(self, unit: Unit) -> bool:
        """Whether the unit is committed now."""
        return bool(self._read_values(unit)[_COMMITTED] == 1)

    def file(self, unit: Unit) -> str:
        """The file that makes a unit count: without it, `fill` does the unit anew."""
        return self._chunks.file(*unit)

    def where(self, unit: Unit) -> str:
        """A unit, as messages name it."""
        views = self._layout.group_views(unit.group)
        shard = self._shard_names[unit.shard]
        return f"{self._store}, shard {shard}, unit {unit.unit}, views {views.start}:{views.stop}"

    def fill(self, unit: Unit) -> str:
        """How to label a unit that lacks its labels, for the end of a message."""
        views = self._layout.group_views(unit.group)
        return f"run `teacher-cache fill {self._store} --views {views.start}:{views.stop}`"

    def redo(self, unit: Unit) -> str:
        """How to mend a committed unit that is damaged, for the end of a message."""
        return f"delete its record {self.file(unit)} and {self.fill(unit)}, which labels the unit anew"

    # -- files ---------------------------------------------------------------------------------------------------

    def _read_values(self, unit: Unit) -> np.ndarray:
        return self._decode(unit, self._read_file(unit)[0])

    def _read_file(self, unit: Unit) -> tuple[bytes | None, Stamp]:
        try:
            return read_file(self.file(unit))
        except OSError as error:
            raise_unreadable(error)
            raise self._damaged(unit, error) from error

    def _decode(self, unit: Unit, data: bytes | None) -> np.ndarray:
        try:
            return self._chunks.decode(data)[0, 0, 0]
        except (RuntimeError, ValueError) as error:
            raise self._damaged(unit, error) from error

    def _decode_all(self, files: dict[Unit, bytes | None]) -> Iterator[tuple[Unit, np.ndarray]]:
        """The same of many at once."""
        there = {unit: data for unit, data in files.items() if data is not None}
        try:
            records = dict(zip(there, self._chunks.decode_all(list(there.values())), strict=True))
        except (RuntimeError, ValueError):
            records = {}
        for unit, data in files.items():
            yield unit, records[unit][0, 0, 0] if unit in records else self._decode(unit, data)

    def _damaged(self, unit: Unit, error: Exception) -> StoreError:
        return StoreError(f"the record of {self.where(unit)} is damaged ({error}): {self.redo(unit)}")
