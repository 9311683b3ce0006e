"""The commit records of a store: a unit counts once its record says so. Nothing else reads or writes what they hold.

A record is one chunk of `records[shard, unit, group, field]`, written after the unit's values are on disk.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from teacher_cache.errors import StoreError
from teacher_cache.files import raise_unreadable
from teacher_cache.storage.place import as_place
from teacher_cache.storage.storage import Stamp, Storage
from teacher_cache.store.chunks import Chunks
from teacher_cache.store.layout import Layout
from teacher_cache.store.unit import Unit, UnitCounts, by_group

# writer (whose commit it was) and the last two are for later versions, and 0 until then
RECORD_FIELDS = (
    *("committed", "hash", "labelled", "own", "larger", "either", "skipped", "damaged", "device", "writer"),
    *("reserved_1", "reserved_2"),
)
_FIELD = {name: number for number, name in enumerate(RECORD_FIELDS)}
_LISTING_AGE_S = 10.0  # how old a listing of far records may be for a unit that was not in it
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
    """The records of a store's units; those read are held, and read again only where they changed.

    On this machine's disks a unit counts as committed once its record is read to say so. In an object store, where what
    is there is whole and a read takes its time, the record's being listed says it.

    StoreError, naming the unit and how to mend it, where one is damaged.
    """

    def __init__(self, storage: Storage, shard_names: Sequence[str], layout: Layout, chunks: Chunks) -> None:
        self._storage, self._shard_names, self._layout, self._chunks = storage, shard_names, layout, chunks
        grid = layout.array_grids()["records"].shape
        self._units = layout.units()
        self._values = np.zeros((*grid, len(RECORD_FIELDS)), np.uint64)
        self._stamps: dict[Unit, Stamp] = {}  # of those that are held
        self._listed = np.zeros(grid, bool)
        self._listed_at = -_LISTING_AGE_S

    # -- all of them ---------------------------------------------------------------------------------------------

    def read(self) -> np.ndarray:
        """(S, U, G, F) uint64, all zero where a unit is not committed; F is RECORD_FIELDS. A copy."""
        there = self._chunks.frames.stamps()
        changed = [unit for unit in self._units if there.get(unit) != self._stamps.get(unit)]
        for unit, values in self._decode_all(dict(self._read_frames([unit for unit in changed if unit in there]))):
            self._values[unit], self._stamps[unit] = values, there[unit]
        for unit in changed:
            if unit not in there:
                self._values[unit] = 0
                del self._stamps[unit]
        return self._values.copy()

    def committed(self) -> np.ndarray:
        """(S, U, G) bool."""
        if self._storage.is_local:
            return self.read()[..., _COMMITTED] == 1
        return self._list().copy()

    def sums(self, units: np.ndarray | None = None) -> dict[str, list[int]]:
        """By field the sum over the committed units of each group; of those among units, (S, U, G) bool, if given."""
        values = self.read() if units is None else np.where(units[..., None], self.read(), 0)
        return dict(zip(RECORD_FIELDS, values.sum(axis=(0, 1), dtype=np.uint64).T.tolist(), strict=True))

    def labelled_on(self, units: np.ndarray | None = None) -> dict[int, int]:
        """Device, as `Record` has it -> how many views it labelled in these units, (S, U, G) bool, or in all."""
        values = self.read() if units is None else self.read()[units]
        devices, labelled = (values[..., _FIELD[name]] for name in ("device", "labelled"))
        return {device: int(labelled[devices == device].sum()) for device in np.unique(devices[labelled > 0]).tolist()}

    def units_with_skips(self) -> list[Unit]:
        """The committed units in which a sample was skipped, group by group."""
        return by_group(self.read()[..., _SKIPPED] > 0)

    def _list(self) -> np.ndarray:
        there = self._chunks.frames.stamps()
        self._listed_at = time.monotonic()
        for unit in self._units:
            self._listed[unit] = unit in there
        return self._listed

    # -- one -----------------------------------------------------------------------------------------------------

    def read_one(self, unit: Unit) -> Record:
        """What the unit's record says now."""
        return decode_record(self._read_values(unit))

    def is_committed(self, unit: Unit) -> bool:
        """Whether the unit is committed now, or in an object store was not ten seconds ago."""
        if self._storage.is_local:
            return bool(self._read_values(unit)[_COMMITTED] == 1)
        if not self._listed[unit] and time.monotonic() - self._listed_at >= _LISTING_AGE_S:
            self._list()
        return bool(self._listed[unit])

    def file(self, unit: Unit) -> str:
        """The file that makes a unit count: without it, `fill` does the unit anew."""
        return str(self._storage.place / self._chunks.frames.name(unit))

    def where(self, unit: Unit) -> str:
        """A unit, as messages name it."""
        views = self._layout.group_views(unit.group)
        shard = self._shard_names[unit.shard]
        return f"{self._storage.place}, shard {shard}, unit {unit.unit}, views {views.start}:{views.stop}"

    def fill(self, views: range, teacher: str = "") -> str:
        """How to label views that lack their labels, for the end of a message; teacher: the option that names one."""
        asked = f"{teacher} --views {views.start}:{views.stop}"
        if self._chunks.is_packed:
            unpack = f"run `teacher-cache unpack {as_place(self._storage.place)} FOLDER`"
            return f"{unpack}, then `teacher-cache fill FOLDER{asked}`"
        return f"run `teacher-cache fill {as_place(self._storage.place)}{asked}`"

    def redo(self, unit: Unit) -> str:
        """How to mend a committed unit that is damaged, for the end of a message."""
        if self._chunks.is_packed:
            return f"fetch {self._storage.place} again from where it was published"
        fill = self.fill(self._layout.group_views(unit.group))
        return f"delete its record {self.file(unit)} and {fill}, which labels the unit anew"

    # -- frames --------------------------------------------------------------------------------------------------

    def _read_values(self, unit: Unit) -> np.ndarray:
        try:
            return self._decode(unit, self._chunks.frames.get(unit))
        except OSError as error:
            raise_unreadable(error)
            raise self._damaged(unit, error) from error

    def _read_frames(self, units: list[Unit]) -> Iterator[tuple[Unit, bytes | None]]:
        done = 0
        try:
            for unit, frame in self._chunks.frames.get_all(units):
                yield unit, frame
                done += 1
        except OSError as error:
            raise_unreadable(error)
            raise self._damaged(units[done], error) from error

    def _decode(self, unit: Unit, frame: bytes | None) -> np.ndarray:
        try:
            values: np.ndarray = self._chunks.decode(frame)[0, 0, 0]
            if frame is not None and values[_COMMITTED] != 1:  # nobody would commit the unit, as its record is there
                raise ValueError("it does not say that the unit is committed")
            return values
        except (RuntimeError, ValueError) as error:
            raise self._damaged(unit, error) from error

    def _decode_all(self, frames: dict[Unit, bytes | None]) -> Iterator[tuple[Unit, np.ndarray]]:
        """The same of many at once, of those that are there."""
        there = {unit: frame for unit, frame in frames.items() if frame is not None}
        try:
            records = self._chunks.decode_all(list(there.values()))[:, 0, 0, 0]
        except (RuntimeError, ValueError):
            records = np.zeros((len(there), len(RECORD_FIELDS)), np.uint64)
        for (unit, frame), values in zip(there.items(), records, strict=True):
            yield unit, values if values[_COMMITTED] == 1 else self._decode(unit, frame)

    def _damaged(self, unit: Unit, error: Exception) -> StoreError:
        return StoreError(f"the record of {self.where(unit)} is damaged ({error}): {self.redo(unit)}")
