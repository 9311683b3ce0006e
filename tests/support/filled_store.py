"""Small stores for tests, made without shards and filled with drawn labels."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from teacher_cache.replay.policy import Policy, load_policy
from teacher_cache.shards.index import Index, ShardEntry
from teacher_cache.storage.place import Place
from teacher_cache.store.chunks import open_chunks
from teacher_cache.store.proof import Proof, Replay, make_proof
from teacher_cache.store.store import Store
from teacher_cache.store.topk import top_classes
from teacher_cache.store.unit import TOPK_ARRAYS, Unit, UnitCounts, UnitValues
from teacher_cache.teacher.identity import TeacherIdentity

COUNTS = (130, 1, 0, 200)  # with 128 samples a unit: a shard of two units, of one sample, of none, of two
UNIT = Unit(0, 1, 1)
TOPK = TeacherIdentity("soft", topk=3, tau=2.0)
BUILD = {
    **{"torch": "2.14.1", "cuda": None, "cudnn": None, "driver": None, "device": "cpu: avx512", "threads": 8},
    "libraries": {"Pillow": "13.0.0"},
}
REPLAYS = (Replay(0, 1, 2**64 - 1, (3, 5)), Replay(1, 0, 7))


class Killed(BaseException):
    """Stands for kill -9 at the point where it is raised."""


def make_index(counts: tuple[int, ...] = COUNTS, num_classes: int = 10, classes: np.ndarray | None = None) -> Index:
    keys = [f"{shard}-{number:04d}".encode() for shard, count in enumerate(counts) for number in range(count)]
    total = len(keys)
    return Index(
        shards=tuple(
            ShardEntry(f"shard-{shard}.tar", f"/data/shard-{shard}.tar", 1024 * count + 1024, hash=2**63 + shard)
            for shard, count in enumerate(counts)
        ),
        counts=np.array(counts, np.int64),
        key_bytes=np.frombuffer(b"".join(keys), np.uint8),
        key_ends=np.cumsum([len(key) for key in keys]).astype(np.int64),
        classes=np.arange(total, dtype=np.int32) % num_classes if classes is None else classes.astype(np.int32),
        offsets=np.arange(total, dtype=np.int64) * 1024 + 512,
        sizes=np.full(total, 100, np.int64),
        fingerprints=np.arange(total, dtype=np.uint64) + 2**63,
        class_names=tuple(f"class {number}" for number in range(num_classes)),
    )


def make_store(
    path: Place,
    *,
    index: Index | None = None,
    policy: Policy | None = None,
    views: int = 4,
    group: int | None = 2,
    unit_samples: int = 128,
    any_device: bool = False,
) -> Store:
    return Store.create(
        path,
        index or make_index(),
        policy or load_policy("none"),
        views=views,
        seed=7,
        group=group,
        unit_samples=unit_samples,
        any_device=any_device,
    )


def copied(store: Store, path: Path) -> Store:
    """A store like another, for one test to change."""
    shutil.copytree(store.path, path)
    return Store.open(path, writable=True)


def drawn_proof(views: int = 5, classes: int = 4) -> Proof:
    logits = np.random.default_rng(views).normal(size=(views, classes)).astype(np.float32)
    return make_proof(Unit(0, 1, 0), REPLAYS, logits, BUILD)


def draw_values(store: Store, unit: Unit, *, skip: tuple[int, ...] = ()) -> UnitValues:
    """Labels and digests that depend on the unit alone; topk where the store's teacher says so. `skip`: rows of the
    unit that are skipped."""
    rng = np.random.default_rng(unit)
    samples, blocks = len(store.layout.rows(unit)), len(store.layout.blocks(unit))
    labels = rng.integers(0, store.num_classes, (samples, store.group))
    labels[list(skip)] = -2
    digests = rng.integers(1, 2**64, (blocks, store.group), dtype=np.uint64)
    if not store.topk:
        return UnitValues(labels, digests)
    classes, probabilities = top_classes(draw_logits(store, unit, labels), store.topk, store.tau or 1.0)
    classes, probabilities = (part.reshape(*labels.shape, -1) for part in (classes, probabilities))
    classes[list(skip)], probabilities[list(skip)] = -2, 0
    return UnitValues(labels, digests, classes, probabilities)


def draw_logits(store: Store, unit: Unit, labels: np.ndarray) -> np.ndarray:
    """Logits whose largest are at these labels, (views of the unit, classes) float32, by sample and then view."""
    logits = np.random.default_rng(unit).normal(0, 2, (labels.size, store.num_classes)).astype(np.float32)
    logits[np.arange(labels.size), labels.reshape(-1)] = logits.max(axis=1) + 1
    return logits


def count(store: Store, unit: Unit, values: UnitValues) -> UnitCounts:
    samples = store.layout.samples(unit)
    truth = store.index.classes[samples.start : samples.stop, None]
    own = int((values.labels[: len(samples)] == truth).sum())
    labelled, skipped = int((values.labels >= 0).sum()), int((values.labels == -2).sum())
    return UnitCounts(labelled=labelled, own=own, larger=own, either=own, skipped=skipped)


def commit(store: Store, unit: Unit, *, skip: tuple[int, ...] = (), device: str = "cpu") -> UnitValues:
    """Commit a unit, in the place of one that was committed before."""
    values = draw_values(store, unit, skip=skip)
    recommit(store, unit, values, count(store, unit, values), device)
    return values


def recommit(store: Store, unit: Unit, values: UnitValues, counts: UnitCounts, device: str = "cpu") -> None:
    """Commit a unit's values though others may be committed: its record goes first, as a user removes it."""
    Path(store.records.file(unit)).unlink(missing_ok=True)
    assert store.commit_unit(unit, values, counts, device)


def plant(store: Store, array: str, unit: Unit, values: np.ndarray) -> None:
    """Write a unit's chunk of an array, whatever stands in it."""
    chunks = open_chunks(store.storage, array)
    store.storage.put(chunks.frames.name(unit), chunks.encode(values))


def fill(store: Store, views: range | None = None) -> None:
    for unit in store.units(views):
        commit(store, unit)


def files(folder: Path) -> dict[str, str]:
    """Every file under a folder and a hash of its bytes."""
    return {
        str(file.relative_to(folder)): xxhash.xxh3_64_hexdigest(file.read_bytes())
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def chunk(store: Store, name: str, unit: Unit) -> Path:
    tail = (str(unit.shard), str(unit.unit), str(unit.group))
    return store.path.joinpath(name, "c", *tail, *(("0",) if name in ("records", *TOPK_ARRAYS) else ()))


def make_soft_store(path: Path, **options: Any) -> Store:
    """make_store for a teacher of three probabilities at tau 2."""
    store = make_store(path, **options)
    store.publish_teacher(TOPK)
    return store
