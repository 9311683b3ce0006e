"""What a teacher answered when a store was bound to it, on one device: the first batch of a unit, by which a later fill
tells whether it is the same teacher still, and the builds that have filled a store.

A folder teacher/device-HASH holds the device's name, the unit and its replays, and two arrays:
proof_labels (n,) of the batch's n views, and proof_logits (rows, classes) float32 of as many of them as ROOM holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
import zarr

from teacher_cache.errors import StoreError
from teacher_cache.files import raise_unreadable
from teacher_cache.store.arrays import make_array, read_whole
from teacher_cache.store.unit import Unit

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
    memory: dict[str, Any] = {}
    root = zarr.create_group(memory, zarr_format=3)
    for name, values in zip(ARRAYS, (proof.labels.astype(np.int32), proof.logits), strict=True):
        chunks = tuple(max(1, length) for length in values.shape)  # of none where all samples of a unit are skipped
        make_array(root, name, values.shape, chunks, str(values.dtype), 0)[:] = values
    return {name: content.to_bytes() for name, content in memory.items() if name != "zarr.json"}


def read_proof(root: zarr.Group, store: Path, name: str, attributes: Mapping[str, Any]) -> Proof | None:
    """The proof in a device's folder of these attributes; None where it has none. StoreError where it is damaged."""
    if "unit" not in attributes:
        return None
    try:
        replays = tuple(
            Replay(block, view, int(digest, 16), tuple(skipped))
            for block, view, digest, skipped in attributes["replays"]
        )
        labels, logits = (read_whole(root, store, f"{name}/{array}") for array in ARRAYS)
        if labels.ndim != 1 or logits.ndim != 2 or not min(1, len(labels)) <= len(logits) <= len(labels):
            raise ValueError(f"{len(logits)} rows of logits do not fit {len(labels)} labels")
        return Proof(Unit(*attributes["unit"]), replays, labels.astype(np.int64), logits, attributes["build"])
    except Exception as error:
        raise_unreadable(error)
        raise StoreError(
            f"the teacher's proof in {store / name} cannot be read ({error}): restore it from a copy, or make a new "
            "store"
        ) from error
