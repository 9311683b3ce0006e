"""The store: one Zarr v3 group with index, policy, teacher identity, labels, digests and commit records.

Anyone can read it with plain zarr:

    zarr.json    attributes["teacher_cache"]: schema, seed, policy, group, views, unit_samples, class_names, shards,
                 image_from where one was given ... and parts_sha256, a hash of each part that never changes; views has
                 one of its own
    index/       key_bytes, key_ends, classes, offsets, sizes, fingerprints of samples; counts, hashes of shards
    teacher/     attributes: the teacher's identity
      device-*/  a device that filled the store, and the proof: what the teacher answered there to one batch
      build-*/   attributes: torch, CUDA, driver, threads ... of a fill
    labels[shard, position, view]         int16 or int32, -1 not labelled yet, -2 sample skipped
    digests[shard, block, view]           uint64
    topk_classes[shard, position, view, K]            as labels, the most probable first
    topk_probabilities[shard, position, view, K + 1]  float16, the last being the mass of all other classes
    records[shard, unit, group, field]    uint64, RECORD_FIELDS

The two of topk are there where the teacher's identity says K > 0 (`fill --topk K --tau T`).
A unit is one chunk of each but index and teacher. Writers write whole chunks, the record last, so they need no locks.
Readers pass over attributes, arrays and fields of records that they do not know. `packing` says how chunks lie on the
disk: "files" is a file a chunk, "groups" one a group, for stores that are published and only read (packed.py). What a
digest is of, the version of the policy says.
"""

import copy
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from teacher_cache.errors import PolicyError, StoreError, TeacherError
from teacher_cache.files import raise_unreadable
from teacher_cache.messages.recognise import what_is
from teacher_cache.messages.shown import counted, shown
from teacher_cache.replay.header import MAX_PIXELS
from teacher_cache.replay.libraries import pixel_libraries
from teacher_cache.replay.policy import Policy
from teacher_cache.shards.fingerprint import Fingerprint, read_kind
from teacher_cache.shards.index import Index, ShardEntry
from teacher_cache.storage.cache import NodeCache
from teacher_cache.storage.held import HeldStorage
from teacher_cache.storage.manifest import MANIFEST, open_listed, open_named, place_above
from teacher_cache.storage.place import Place, Url, as_place, to_place
from teacher_cache.storage.storage import Storage
from teacher_cache.store.arrays import (
    GROWING_ARRAYS,
    INDEX_ARRAYS,
    damaged_index,
    document_bytes,
    document_name,
    lengthen,
    read_counts,
    read_document,
    read_index,
    read_shape,
)
from teacher_cache.store.chunks import Chunks, open_chunks, pad_values
from teacher_cache.store.commit import PENDING, Commits, open_pending
from teacher_cache.store.layout import Layout, array_grids, grid_fault, num_units, plan_layout
from teacher_cache.store.making import check_in_bucket, is_taken, make_store
from teacher_cache.store.presence import check_is_store, check_outside
from teacher_cache.store.proof import Proof, Proofs, device_hash, first_files
from teacher_cache.store.published import attributes_document, read_published
from teacher_cache.store.records import RECORD_FIELDS, Records, encode_record
from teacher_cache.store.schema import (
    FILES,
    GROUPS,
    SCHEMA,
    check_policy_version,
    check_schema,
    check_seal,
    views_sha256,
)
from teacher_cache.store.sealed import SEAL, WHOLE, seal
from teacher_cache.store.topk_arrays import TOPK_FACTS, lengthen_topk, make_topk, open_topk, topk_facts, topk_files
from teacher_cache.store.unit import (
    CLASS_ARRAYS,
    SKIPPED,
    TOPK_ARRAYS,
    Unit,
    UnitCounts,
    UnitValues,
    are_classes,
    hash_values,
)
from teacher_cache.teacher.identity import TeacherIdentity, read_identity

_INDEX_DOCUMENTS = frozenset(map(document_name, INDEX_ARRAYS))
_OPENING = (*map(document_name, ("", *GROWING_ARRAYS)), *_INDEX_DOCUMENTS)  # what opening a store reads
_WHOSE = tuple(map(document_name, ("", "teacher")))  # which say what store it is, and whose labels it holds


class Store:
    """A store held open. Make one with `Store.create` or `Store.open`, never directly."""

    def __init__(
        self, storage: Storage, settings: dict[str, Any], commits: Commits | None, cache: NodeCache | None
    ) -> None:
        self.storage = storage
        self._cache = cache
        self.commits = commits  # None where it is read only
        self.seed = int(settings["seed"])
        self.views = int(settings["views"])
        self.group = int(settings["group"])
        self.unit_samples = int(settings["unit_samples"])
        self.packing = str(settings["packing"])
        self.any_device = bool(settings["any_device"])
        self.max_pixels = int(settings["max_pixels"])
        self.class_names = tuple(str(name) for name in settings["class_names"])
        self._class_from = str(settings["class_from"])
        self._image_from = str(settings["image_from"]) if "image_from" in settings else None
        self._fingerprint: Fingerprint = read_kind(settings["fingerprint"])
        self.libraries: dict[str, str] = dict(settings["libraries"])
        self.policy = Policy.from_json(settings["policy"])
        self._shards = [_shard_place(shard) for shard in settings["shards"]]
        self._shapes = {name: read_shape(storage, name) for name in GROWING_ARRAYS}
        self._chunks = {name: open_chunks(storage, name, cache) for name in self._shapes}
        self._seal = str(settings[SEAL][WHOLE])
        self._index: Index | None = None
        self._teacher: TeacherIdentity | None = None
        self._in_place: list[object] = []  # teacher and _WHOSE when the store was last seen to be itself

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    # -- create and open -----------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        index: Index,
        policy: Policy,
        *,
        views: int,
        seed: int,
        group: int | None = None,
        unit_samples: int = 4096,
        any_device: bool = False,
        max_pixels: int = MAX_PIXELS,
        durable: bool = True,
    ) -> "Store":
        """Make an empty store, whole or not at all. `views` is rounded up to a multiple of the group: see `.views` of
        what comes back. max_pixels: of an image, height x width, which no larger one is decoded of. durable: see
        `open`. StoreError when `path` exists or a setting is impossible."""
        path = to_place(path)
        if is_taken(path):
            raise StoreError(f"{path} exists already: remove it or choose another --store")
        check_in_bucket(path)
        check_outside(path)
        if not index.num_samples:
            raise StoreError(f"the index for {path} holds no samples: name shards that do")
        layout = plan_layout(index.counts, views=views, group=group, unit_samples=unit_samples)
        settings = {
            "schema": SCHEMA,
            "seed": int(seed),
            "policy": policy.to_json(),
            "group": layout.group,
            "views": layout.views,
            "unit_samples": layout.unit_samples,
            "class_names": list(index.class_names),
            "class_from": index.class_from,
            "fingerprint": index.fingerprint,
            **({} if index.image_from is None else {"image_from": index.image_from}),
            "shards": _shard_settings(index),
            "any_device": any_device,
            "max_pixels": max_pixels,
            "libraries": pixel_libraries(),
            "packing": FILES,
        }
        make_store(path, index, layout, settings)
        return cls.open(path, writable=True, durable=durable)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        writable: bool = False,
        durable: bool = True,
        cache: NodeCache | None = None,
    ) -> "Store":
        """Open a store, or the one in what `publish` made; the index is read when first asked for. StoreError when it
        is absent, not a store, damaged, or made by another version of this program.

        With durable=False nothing that is written waits for the disk, so that a power cut may leave a record without
        its values: for stores that are simulated. cache: where the index and the files of a packed store far away are
        kept, each fetched once for all processes of this machine; without it a process holds those it reads in memory.
        """
        path = check_is_store(path)
        if writable:
            check_in_bucket(path)
        try:
            return cls._open(path, _OPENING, writable, durable, cache)
        except StoreError:
            if not isinstance(path, Url):
                raise
        return cls._open(path, (), writable, durable, cache)

    @classmethod
    def _open(
        cls, path: Place, at_once: Sequence[str], writable: bool, durable: bool, cache: NodeCache | None
    ) -> "Store":
        """Open a store, of which these files are got at once, all others in turn: settings, then arrays."""
        commits = None
        try:
            held = HeldStorage(open_listed(path, durable=durable), at_once)
            storage: Storage = held
            if writable:
                commits = Commits(held, open_pending(path, durable=durable))
            settings = read_document(storage, "", "group").get("attributes", {}).get("teacher_cache")
        except Exception as error:
            raise_unreadable(error)
            raise _damaged_metadata(path, error) from error
        if not isinstance(settings, dict):
            found = what_is(path) if isinstance(path, Path) else "it is Zarr data of something else"
            raise StoreError(f"{path} is not a store, {found}")
        check_schema(storage, settings)
        if writable and settings["packing"] == GROUPS:
            raise StoreError(
                f"{path} is packed, as it was published, and only read: unpack it first, "
                f"`teacher-cache unpack {as_place(path)} FOLDER`, and name that folder"
            )
        if settings["packing"] == GROUPS:
            storage = _as_published(held)
        try:
            check_seal(storage, settings)
            check_policy_version(storage, settings)
            store = cls(storage, settings, commits, cache)
            store._check_shapes()
            held.let_go(but=_INDEX_DOCUMENTS.__contains__)
            store._open_topk()
        except StoreError:
            raise
        except PolicyError as error:
            raise StoreError(
                f"the policy of {path} is of another version or damaged ({error}): "
                "use the program version that made the store, or make a new one"
            ) from error
        except Exception as error:
            raise_unreadable(error)
            raise _damaged_metadata(path, error) from error
        return store

    def with_places(self, index: Index) -> "Store":
        """The same store, its shards read from where `index` says (from `check_shards`); nothing is written."""
        other = copy.copy(self)
        other._index = index
        return other

    def with_policy(self, policy: Policy) -> "Store":
        """The same store; its own policy, with the file of its operations at hand (from `bind_operations`)."""
        assert policy == self.policy
        other = copy.copy(self)
        other.policy = policy
        return other

    def _check_shapes(self) -> None:
        # An `extend` that was killed leaves arrays that are longer than the attribute says: that is sound.
        arrays = self._shapes
        records = arrays["records"]
        axes: Any = {
            "shards": len(self._shards),
            "units": records.shape[1],
            "unit_samples": self.unit_samples,
            "group": self.group,
            "views": self.views,
        }
        if fault := grid_fault(**axes):
            raise StoreError(f"{self.path}: {fault}, the most that a store may have: index a new one")
        grids = array_grids(**axes)
        sound = (
            records.shape[3:] == records.chunks[3:] == (len(RECORD_FIELDS),)
            and all(arrays[name].chunks[:3] == grid.chunks for name, grid in grids.items())
            and all(arrays[name].shape[:2] == grid.shape[:2] for name, grid in grids.items())
            and all(arrays[name].shape[2] >= grid.shape[2] for name, grid in grids.items())
        )
        if not sound:
            raise ValueError("the arrays' shapes and chunks do not fit each other")
        if any(chunks.is_packed != (self.packing == GROUPS) for chunks in self._chunks.values()):
            raise ValueError(f"not all arrays are packed as {self.packing}")

    # -- what it is ----------------------------------------------------------------------------------------------

    @property
    def path(self) -> Place:
        """Where it is."""
        return self.storage.place

    @property
    def writable(self) -> bool:
        return self.commits is not None

    @property
    def topk(self) -> int:
        """How many of a view's largest probabilities are stored; 0 for labels alone, and while there is no teacher."""
        return self.teacher.topk if self.teacher else 0

    @property
    def tau(self) -> float | None:
        """The temperature of the stored probabilities; None where there are none."""
        return self.teacher.tau if self.teacher else None

    @property
    def array_names(self) -> tuple[str, ...]:
        """The arrays whose chunks are units, in the order in which a unit is written."""
        return ("labels", "digests", *(TOPK_ARRAYS if self.topk else ()), "records")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def index(self) -> Index:
        if self._index is None:
            self._index = self._read_index()
        return self._index

    def _read_index(self) -> Index:
        num_bytes = sum(num_bytes for _, _, num_bytes, _ in self._shards)
        arrays = read_index(self.storage, len(self._shards), self.num_classes, num_bytes, self._cache)
        hashes = arrays.pop("hashes")
        entries = tuple(
            ShardEntry(name=name, path=path, num_bytes=num_bytes, hash=int(shard_hash), etag=etag)
            for (name, path, num_bytes, etag), shard_hash in zip(self._shards, hashes, strict=True)
        )
        return Index(
            shards=entries,
            class_names=self.class_names,
            class_from=self._class_from,
            fingerprint=self._fingerprint,
            image_from=self._image_from,
            **arrays,
        )

    @cached_property
    def counts(self) -> np.ndarray:
        """Samples of each shard, (S,) int64, without reading the rest of the index. StoreError where they do not fit
        it, or the records."""
        if self._index is not None:
            counts = self._index.counts
        else:
            counts = read_counts(self.storage, len(self._shards), self._cache)
        units, of_records = num_units(int(counts.max()), self.unit_samples), self._shapes["records"].shape[1]
        if units != of_records:
            fault = f"counts say {counted(units, 'unit')} of the largest shard, the records {of_records:,}"
            raise damaged_index(self.storage, fault)
        return counts

    @cached_property
    def layout(self) -> Layout:
        """The grid of its samples and views."""
        return Layout(self.counts, self.unit_samples, self.group, self.views)

    @cached_property
    def records(self) -> Records:
        """What says which units are committed."""
        return Records(self.storage, [name for name, *_ in self._shards], self.layout, self._chunks["records"])

    def committed(self) -> np.ndarray:
        """Which units are committed, (S, U, G) bool."""
        return self.records.committed()

    def shard_name(self, shard: int) -> str:
        return self._shards[shard][0]

    # -- units ---------------------------------------------------------------------------------------------------

    def units(self, views: range | None = None) -> list[Unit]:
        """All units whose group holds one of `views` (default: all), group by group. StoreError beyond the store."""
        views = range(self.views) if views is None else views
        if not len(views) or views.step != 1 or views.start < 0 or views.stop > self.views:
            raise StoreError(
                f"views {views.start}:{views.stop} are not within the store's 0:{self.views}: "
                f"`teacher-cache extend {as_place(self.path)} --views N` adds views"
            )
        return self.layout.units(views)

    def missing_units(self, views: range | None = None) -> list[Unit]:
        """Units of `views` (default: all) that are not committed, group by group."""
        committed = self.committed()
        return [unit for unit in self.units(views) if not committed[unit]]

    # -- reading -------------------------------------------------------------------------------------------------

    def read_labels(self, unit: Unit) -> np.ndarray:
        """(unit_samples, group) int16 or int32, padding and what is not labelled yet -1. Committed or not."""
        return self.read_array("labels", unit)

    def read_unit(self, unit: Unit) -> UnitValues:
        """All that a unit holds, padded. Committed or not."""
        return UnitValues(**{name: self.read_array(name, unit) for name in self.array_names if name != "records"})

    def read_array(self, name: str, unit: Unit) -> np.ndarray:
        """A unit's chunk of an array of values, padded, committed or not: `UnitValues` has its name, shape and type."""
        chunks = self._value_chunks(name)
        try:
            values: np.ndarray = chunks.read(unit)[0]
            if name in CLASS_ARRAYS and not are_classes(values, self.num_classes):
                raise ValueError(f"not all are below {self.num_classes}")
            return values
        except StoreError:
            raise
        except Exception as error:
            raise_unreadable(error)
            where, mend = self.records.where(unit), self.records.redo(unit)
            raise StoreError(f"{name} of {where} are damaged ({error}): {mend}") from error

    def empty_rows(self, name: str, rows: int) -> np.ndarray:
        """Memory for so many rows of an array of values: (rows, group, ...), undefined."""
        chunks = self._value_chunks(name)
        return np.empty((rows, *chunks.shape[2:]), chunks.dtype)

    def _value_chunks(self, name: str) -> Chunks:
        if name not in self._chunks:
            self._open_topk()
        if name not in self._chunks:
            raise StoreError(f"{self.path} holds no {name}: run `teacher-cache fill {as_place(self.path)}`")
        return self._chunks[name]

    def check_unit(self, unit: Unit) -> None:
        """StoreError when the unit is not committed, its chunks are damaged, or its record's hash does not fit them."""
        records, record = self.records, self.records.read_one(unit)
        if not record.committed:
            raise StoreError(
                f"{records.where(unit)} is not filled: {records.fill(self.layout.group_views(unit.group))}"
            )
        if hash_values(self.read_unit(unit)) != record.hash:
            raise StoreError(
                f"values of {records.where(unit)} are not those that its record names: {records.redo(unit)}"
            )

    # -- writing -------------------------------------------------------------------------------------------------

    def commit_unit(self, unit: Unit, values: UnitValues, counts: UnitCounts, device: str) -> bool:
        """Write a whole unit: its values first, then the record that makes it count. False where another writer's unit
        is there instead; what is there is whole and one writer's, whoever writes at the same time.

        No chunk is read, so one that a killed writer left damaged does not matter. What is written depends on the
        arguments alone: no time, host, path or rank. `device` is recorded where the store takes any device. StoreError
        where the values do not fit, or another store, or none, is at its place by now.
        """
        commits = self._for_writing()
        self._check_in_place()
        where = self.records.where(unit)
        padded = self._padded(unit, values, where)
        labelled, skipped = int((padded.labels >= 0).sum()), int((padded.labels == SKIPPED).sum())
        if (labelled, skipped) != (counts.labelled, counts.skipped):
            raise StoreError(
                f"{where} has {counted(labelled, 'label')} and {counted(skipped, 'skip')} but counts say "
                f"{counts.labelled} and {counts.skipped}: they must be equal"
            )
        if self.any_device:
            self.proofs.publish(device)
        record = encode_record(hash_values(padded), counts, device_hash(device) if self.any_device else 0)
        chunks = {name: record if name == "records" else getattr(padded, name) for name in self.array_names}
        files = (self._chunks[name].encode(chunk) for name, chunk in chunks.items())
        return commits.commit(self._pending(_unit_name(unit)), dict(zip(self._unit_files(unit), files, strict=True)))

    def _check_in_place(self) -> None:
        """StoreError where the store was moved away, or removed and made anew, since it was opened: what is written to
        its place would become part of another one, or of none."""
        here = HeldStorage(self.storage, _WHOSE)
        found: list[object] = [self._teacher, *map(here.get, _WHOSE)]
        if found == self._in_place:
            return
        try:
            seal_here = read_document(here, "", "group")["attributes"]["teacher_cache"][SEAL][WHOLE]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise_unreadable(error)
            seal_here = None
        if seal_here != self._seal or self._teacher not in (None, _read_teacher(here)):
            raise StoreError(
                f"{self.path} was moved, removed or made anew since it was opened: nothing more is written there; run "
                "the same command again with the place where the store is"
            )
        self._in_place = found

    def finish_unit(self, unit: Unit) -> None:
        """Commit what a writer, killed or just slow, has put of a unit and not copied to its places; often nothing."""
        files = self._unit_files(unit)
        self._for_writing().finish(self._pending(_unit_name(unit)), lambda names: names == files)

    def finish_pending(self) -> None:
        """The same of all that was put: units, a teacher, proofs of devices. What was put for another store or teacher,
        that were here before, is discarded; units that another process has added to the store are left to it."""
        commits = self._for_writing()
        for name in commits.waiting():
            put = PENDING.fullmatch(name)
            if put is None:
                continue
            if name != self._pending(put["what"]):
                commits.discard(name)
            elif put["unit"] is None:
                commits.finish(name, _are_of_teacher)
            elif (unit := Unit(*map(int, put["unit"].split("-")))) in self.layout:
                self.finish_unit(unit)

    def _pending(self, what: str) -> str:
        """What something is called while it is on its way: with whose it is, lest what is left of a store that was here
        before becomes part of this one."""
        teacher = seal(self.teacher.to_json())[WHOLE] if self.teacher else ""
        return f"{what}.{xxhash.xxh3_64_hexdigest(f'{self._seal} {teacher}'.encode())}"

    def _unit_files(self, unit: Unit) -> list[str]:
        """The files of a unit, in the order in which they are written: its record last."""
        self._open_topk()
        return [self._chunks[name].frames.name(unit) for name in self.array_names]

    def _padded(self, unit: Unit, values: UnitValues, where: str) -> UnitValues:
        """A unit's values as its chunks have them. StoreError, naming it as `where`, where they do not fit."""
        self._open_topk()
        chunks = {name: chunks for name, chunks in self._chunks.items() if name != "records"}
        given = [name for name in TOPK_ARRAYS if getattr(values, name) is not None]
        if given != [name for name in TOPK_ARRAYS if name in chunks]:
            raise StoreError(
                f"values of {where} hold {' and '.join(given) or 'no topk'}, the store's teacher says topk "
                f"{self.topk}: they must fit each other"
            )
        samples, blocks = len(self.layout.rows(unit)), len(self.layout.blocks(unit))
        return pad_values(values, chunks, samples, blocks, self.num_classes, where)

    def extend(self, views: int) -> None:
        """Add views, rounded up to groups, without touching those that are there. Killed at any point, it is run again.

        StoreError for fewer views than there are. One process at a time may do this.
        """
        self._for_writing()
        layout = self.layout.widened(views)
        if layout.views < self.views:
            raise StoreError(
                f"{self.path} has {counted(self.views, 'view')} already, and cannot shrink to {views}: `student train "
                f"--views-used {views}` uses fewer"
            )
        # The attribute comes last: until then the longer arrays are there but nobody looks beyond the old views.
        for name, grid in layout.array_grids().items():
            lengthen(self.storage, name, grid.shape[2])
        lengthen_topk(self.storage)
        if layout.views > self.views:
            self._change_settings({"views": layout.views, "views_sha256": views_sha256(layout.views)})
            self.views, self.layout = layout.views, layout
            self.__dict__.pop("records", None)  # it is of the old layout

    def move(self, index: Index) -> None:
        """Note the places of `index` (from `check_shards`), from which its shards are read from now on.

        One process at a time may do this.
        """
        self._for_writing()
        shards = _shard_settings(index)
        self._change_settings({"shards": shards})
        self._shards = [_shard_place(shard) for shard in shards]
        self._index = index

    def _change_settings(self, changed: dict[str, Any]) -> None:
        document = read_document(self.storage, "", "group")
        document["attributes"]["teacher_cache"] |= changed
        self.storage.put(document_name(""), document_bytes(document))

    # -- the teacher ---------------------------------------------------------------------------------------------

    @property
    def teacher(self) -> TeacherIdentity | None:
        """Identity of the teacher that filled the store; None while there is none. Read once, as it never changes.
        StoreError where the file was changed."""
        if self._teacher is None:
            self._teacher = _read_teacher(self.storage)
        return self._teacher

    @cached_property
    def proofs(self) -> Proofs:
        """Which devices and builds filled the store, and what the teacher answered on each device when it came."""
        return Proofs(self.storage, self.commits, self._pending)

    def publish_teacher(self, identity: TeacherIdentity, proof: Proof | None = None) -> None:
        """Bind the store to a teacher, with its proof on this device, and make the arrays of its topk, if it says any.
        TeacherError when there is a teacher already, whoever was first."""
        if not self.bind(identity, proof):
            there = self.teacher.name if self.teacher else "?"
            raise TeacherError(
                f"{self.path} is bound to teacher {there} already, {identity.name} cannot "
                "fill it: use that teacher, or make another store with `teacher-cache index --like`"
            )
        self._open_topk()

    def bind(self, identity: TeacherIdentity, proof: Proof | None = None) -> bool:
        """Write the teacher, whole or not at all; False where there is one. The arrays of its topk come after."""
        commits = self._for_writing()
        self._check_in_place()
        facts = topk_facts(topk_files(self.storage, self._chunks["labels"].dtype, identity.topk))
        attributes = {**identity.to_json(), **({TOPK_FACTS: facts} if facts else {})}
        others = {} if proof is None else first_files(identity.device, proof)
        return commits.commit(
            self._pending("teacher"), {**others, "teacher/zarr.json": attributes_document(attributes)}
        )

    def _open_topk(self) -> None:
        """Open the arrays of topk, once there are any. A writer makes those that are absent: a `fill` may have been
        killed right after it had bound its teacher, or be about to make them; whoever does it writes the same bytes.
        """
        if not self.topk or TOPK_ARRAYS[0] in self._chunks:
            return
        if self.commits is not None:
            make_topk(self.commits, topk_files(self.storage, self._chunks["labels"].dtype, self.topk))
        try:
            self._chunks |= open_topk(
                self.storage,
                self._shapes["labels"],
                topk=self.topk,
                views=self.views,
                num_classes=self.num_classes,
                packing=self.packing,
                cache=self._cache,
            )
        except StoreError:
            raise
        except Exception as error:
            raise_unreadable(error)
            raise _damaged_metadata(self.path, error) from error

    def _for_writing(self) -> Commits:
        if self.commits is None:
            raise StoreError(f"{self.path} was opened for reading: open it with writable=True")
        return self.commits


def _read_teacher(storage: Storage) -> TeacherIdentity | None:
    published = read_published(storage, "teacher")
    return None if published is None else read_identity(published, f"{storage.place}/teacher")


def _as_published(storage: Storage) -> Storage:
    """Of a packed store the files that its manifest names: what lies there beside them is of another one."""
    try:
        return open_named(storage)
    except ValueError as error:
        raise StoreError(
            f"{place_above(storage.place) / MANIFEST} is damaged ({error}): fetch it again from where the store was "
            "published"
        ) from error


def _unit_name(unit: Unit) -> str:
    return f"unit-{unit.shard}-{unit.unit}-{unit.group}"


def _are_of_teacher(names: list[str]) -> bool:
    """Whether files belong under teacher/, and not elsewhere."""
    return all(name.startswith("teacher/") and not {"", ".", ".."} & set(name.split("/")) for name in names)


def _damaged_metadata(path: Place, error: Exception) -> StoreError:
    said = shown(f"{type(error).__name__}: {error}", 300)  # what it quotes of a file may be of any length
    return StoreError(f"metadata of {path} are damaged ({said}): restore its zarr.json files, or make a new store")


def _shard_settings(index: Index) -> list[dict[str, Any]]:
    """The names and places of shards, as a store keeps them."""
    return [
        {"name": s.name, "path": s.path, "bytes": s.num_bytes, **({} if s.etag is None else {"etag": s.etag})}
        for s in index.shards
    ]


def _shard_place(shard: dict[str, Any]) -> tuple[str, str, int, str | None]:
    """Name, place, bytes and ETag, of which a local file has none."""
    etag = shard.get("etag")
    return str(shard["name"]), str(shard["path"]), int(shard["bytes"]), None if etag is None else str(etag)
