"""What a teacher answered when a store was bound to it, on one device: the first batch of a unit, by which a later fill
tells whether it is the same teacher still, and the builds that have filled a store.

A folder teacher/device-HASH holds the device's name, the unit and its replays, and two arrays:
proof_labels (n,) of the batch's n views, and proof_logits (rows, classes) float32 of as many of them as ROOM holds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import xxhash

from teacher_cache.errors import StoreError
from teacher_cache.files import raise_unreadable
from teacher_cache.messages.shown import counted
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.storage.storage import Storage
from teacher_cache.store.arrays import make_array, read_whole
from teacher_cache.store.commit import Commits
from teacher_cache.store.published import attributes_document, read_published
from teacher_cache.store.unit import Unit
from teacher_cache.teacher.identity import check_attributes

ARRAYS = ("proof_labels", "proof_logits")
ROOM = 64 << 20  # bytes of logits that are kept; a batch of 256 in 21,841 classes takes a third of it


class Replay(NamedTuple):
    """One (block, view) of a batch: its digest, and the positions that stage one skips."""

    block: int
    view: int
    digest: int
    skipped: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Proof:
    """A batch of a unit, by (block, view), and the answers to its n views: labels (n,) int64, logits (rows, C)
    float32 of the first of them; and with what they were computed, as `Teacher.build` has it."""

    unit: Unit
    replays: tuple[Replay, ...]
    labels: np.ndarray
    logits: np.ndarray
    build: Mapping[str, Any]


def make_proof(unit: Unit, replays: Sequence[Replay], logits: np.ndarray, build: Mapping[str, Any]) -> Proof:
    """logits (n, C) float32 of all the batch's views."""
    rows = max(1, ROOM // (4 * logits.shape[1]))
    return Proof(unit, tuple(replays), logits.argmax(1).astype(np.int64), logits[:rows].copy(), build)


def device_hash(device: str) -> int:
    """How records name a device."""
    return xxhash.xxh3_64_intdigest(device.encode())


def device_folder(device: str) -> str:
    """The folder of a device in a store."""
    return f"teacher/device-{device_hash(device):016x}"


def describe_build(build: Mapping[str, Any]) -> str:
    """torch 2.14.1, CUDA 13.0, cuDNN 91002, driver 580.65, NVIDIA H100, 8 threads."""
    named = (("torch", "torch"), ("CUDA", "cuda"), ("cuDNN", "cudnn"), ("driver", "driver"))
    parts = [f"{name} {build[field]}" for name, field in named if build.get(field)]
    return ", ".join([*parts, str(build.get("device")), f"{build.get('threads')} CPU threads"])


def build_folder(build: Mapping[str, Any]) -> str:
    """The folder of a build: the same for every fill of the same libraries, device and threads."""
    text = "|".join(f"{name}={build[name]}" for name in sorted(build))
    return f"teacher/build-{xxhash.xxh3_64_hexdigest(text.encode())}"


def proof_attributes(device: str, proof: Proof | None) -> dict[str, Any]:
    """The attributes of a device; without a proof (of a teacher that is simulated) only which device it is."""
    if proof is None:
        return {"device": device}
    replays = [[each.block, each.view, f"{each.digest:016x}", list(each.skipped)] for each in proof.replays]
    return {"device": device, "unit": list(proof.unit), "replays": replays, "build": dict(proof.build)}


def proof_files(proof: Proof | None) -> dict[str, bytes]:
    """Its arrays as files of that folder."""
    if proof is None:
        return {}
    import zarr

    memory: dict[str, Any] = {}
    root = zarr.create_group(memory, zarr_format=3)
    for name, values in zip(ARRAYS, (proof.labels.astype(np.int32), proof.logits), strict=True):
        chunks = tuple(max(1, length) for length in values.shape)  # of none where all samples of a unit are skipped
        make_array(root, name, values.shape, chunks, str(values.dtype), 0)[:] = values
    return {name: memory[name].to_bytes() for name in sorted(memory) if name != "zarr.json"}


def read_proof(storage: Storage, name: str, attributes: Mapping[str, Any]) -> Proof | None:
    """The proof in a device's folder of these attributes; None where it has none. StoreError where it is damaged."""
    if "unit" not in attributes:
        return None
    try:
        unit, build = Unit(*_numbers(attributes["unit"])), attributes["build"]
        replays = tuple(map(_read_replay, attributes["replays"]))
        if not isinstance(build, dict):
            raise ValueError(f"its build is {build!r}")
        most = (BLOCK_SAMPLES * len(replays), ROOM // 4)
        labels, logits = (read_whole(storage, f"{name}/{each}", n) for each, n in zip(ARRAYS, most, strict=True))
        if (labels.dtype, logits.dtype) != (np.int32, np.float32):
            raise ValueError(f"its labels are {labels.dtype}, its logits {logits.dtype}")
        if labels.ndim != 1 or logits.ndim != 2 or not min(1, len(labels)) <= len(logits) <= len(labels):
            raise ValueError(f"{counted(len(logits), 'row')} of logits, {counted(len(labels), 'label')}")
        return Proof(unit, replays, labels.astype(np.int64), logits, build)
    except Exception as error:
        raise_unreadable(error)
        raise StoreError(
            f"the teacher's proof in {storage.place / name} cannot be read ({error}): restore it from a copy, or make "
            "a new store"
        ) from error


def _read_replay(entry: Any) -> Replay:
    """A (block, view) as proof_attributes has it. ValueError or TypeError where it is none."""
    block, view, digest, skipped = entry
    _numbers([block, view])
    return Replay(block, view, int(digest, 16), tuple(_numbers(skipped)))


def _numbers(values: list[Any]) -> list[int]:
    """The values, if all are numbers that count something. ValueError."""
    if not all(type(value) is int and value >= 0 for value in values):
        raise ValueError(f"{values!r} are no numbers of blocks, views, samples")
    return values


def first_files(device: str, proof: Proof) -> dict[str, bytes]:
    """What teacher/ holds besides the identity when a store is bound, by name in the store: the proof of the device
    that does it, and its build."""
    note = attributes_document({**proof.build, "logits": "the proof's own"})
    return {**device_files(device, proof), f"{build_folder(proof.build)}/zarr.json": note}


def device_files(device: str, proof: Proof | None) -> dict[str, bytes]:
    """A device's folder, by name in the store; its attributes, which say that it is there, come last."""
    folder = device_folder(device)
    arrays = {f"{folder}/{name}": content for name, content in proof_files(proof).items()}
    return {**arrays, f"{folder}/zarr.json": attributes_document(proof_attributes(device, proof))}


class Proofs:
    """What teacher/ says of devices and builds. What is there first stays."""

    def __init__(self, storage: Storage, commits: Commits | None, pending: Callable[[str], str]) -> None:
        """pending: what something is called while it is on its way."""
        self._storage, self._commits, self._pending = storage, commits, pending
        self._published: set[str] = set()  # devices, by this process

    @property
    def devices(self) -> list[str]:
        """Names of the devices that filled the store, sorted."""
        return sorted(str(attributes["device"]) for _, attributes in self._folders("device"))

    @property
    def builds(self) -> list[dict[str, Any]]:
        """Of every kind of fill: torch, cuda, cudnn, driver, device, threads ..., and how its logits compared with the
        proof's."""
        return sorted((build for _, build in self._folders("build")), key=str)

    def read(self, device: str) -> Proof | None:
        """What the teacher answered on this device when it came to the store; None where it has not been on it."""
        name = device_folder(device)
        attributes = read_published(self._storage, name)
        return None if attributes is None else read_proof(self._storage, name, attributes)

    def first(self) -> Proof | None:
        """A proof of any device, which says what the batch is; None where the store has none."""
        proofs = (read_proof(self._storage, name, found) for name, found in self._folders("device"))
        return next((proof for proof in proofs if proof is not None), None)

    def publish(self, device: str, proof: Proof | None = None) -> None:
        """Keep the proof of a device that had none; without one (of a teacher that is simulated) the device's name."""
        if proof is None and device in self._published:
            return
        self._publish(device_folder(device), device_files(device, proof))
        self._published.add(device)

    def note_build(self, build: Mapping[str, Any], logits: str) -> None:
        """Note what filled the store. logits: how they compared with the proof's, in words."""
        folder = build_folder(build)
        self._publish(folder, {f"{folder}/zarr.json": attributes_document({**build, "logits": logits})})

    def _publish(self, folder: str, files: Mapping[str, bytes]) -> None:
        if self._commits is None:
            raise StoreError(f"{self._storage.place} was opened for reading: open it with writable=True")
        self._commits.commit(self._pending(folder.replace("/", ".")), files)

    def _folders(self, kind: Literal["device", "build"]) -> Iterator[tuple[str, dict[str, Any]]]:
        for entry in self._storage.list("teacher"):
            name, _, file = entry.name.rpartition("/")
            if not name.startswith(f"teacher/{kind}-") or name.count("/") > 1 or file != "zarr.json":
                continue
            if (attributes := read_published(self._storage, name)) is not None:
                yield name, check_attributes(kind, attributes, f"{self._storage.place}/{name}")
