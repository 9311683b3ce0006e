"""The store: what plain zarr sees, units whole or absent, and every refusal."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
import zarr

import teacher_cache
from teacher_cache import durable
from teacher_cache import store as store_module
from teacher_cache.errors import MissingLabelError, StoreError, TeacherError
from teacher_cache.labels import LabelReader
from teacher_cache.replay.policy import load_policy
from teacher_cache.status import status
from teacher_cache.store import RECORD_FIELDS, TOPK_ARRAYS, Store, Unit, UnitCounts, UnitValues
from tests.filled_store import COUNTS, commit, count, draw_logits, draw_values, files, fill, make_index, make_store

UNIT = Unit(0, 1, 1)


TOPK = {"name": "soft", "topk": 3, "tau": 2.0}  # a teacher's identity, as far as the store looks at it


class Killed(BaseException):
    """Stands for kill -9 at the point where it is raised."""


def chunk(store: Store, name: str, unit: Unit) -> Path:
    tail = (str(unit.shard), str(unit.unit), str(unit.group))
    return store.path.joinpath(name, "c", *tail, *(("0",) if name in ("records", *TOPK_ARRAYS) else ()))


def make_soft_store(path: Path, **options: Any) -> Store:
    """tests.filled_store.make_store for a teacher of three probabilities at tau 2."""
    store = make_store(path, **options)
    store.publish_teacher(TOPK)
    return store


# -- create, open, index ---------------------------------------------------------------------------------------------


def test_opened_store_is_what_was_created(tmp_path: Path) -> None:
    index = make_index()
    made = make_store(tmp_path / "s", index=index, policy=load_policy("deit"), any_device=True)
    store = Store.open(made.path)
    assert (store.views, store.group, store.num_groups, store.unit_samples, store.seed) == (4, 2, 2, 128, 7)
    assert store.any_device
    assert store.policy == load_policy("deit")
    assert store.class_names == index.class_names
    assert store.index.shards == index.shards
    for name in ("counts", "key_bytes", "key_ends", "classes", "offsets", "sizes"):
        read, written = getattr(store.index, name), getattr(index, name)
        np.testing.assert_array_equal(read, written)
        assert read.dtype == written.dtype
    assert store.teacher is None
    assert not store.committed().any()
    assert teacher_cache.open_store(str(made.path)).seed == 7


def test_views_and_units_are_rounded_to_what_fits(tmp_path: Path) -> None:
    assert make_store(tmp_path / "a", views=5).views == 6
    defaults = make_store(tmp_path / "b", views=20, group=None, unit_samples=4096)
    assert (defaults.views, defaults.group, defaults.unit_samples) == (32, 16, 256)
    assert make_store(tmp_path / "c", views=3, group=None).group == 3


def test_units_cover_every_sample_once(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    units = store.units()
    assert units == sorted(units, key=lambda unit: (unit.group, unit.shard, unit.unit))
    assert len(units) == 2 * 5
    assert sum(store.unit_rows(unit)[1] for unit in units) == 2 * sum(COUNTS)
    assert store.num_units(2) == 0
    assert store.unit_rows(Unit(0, 1, 0)) == (128, 2)
    assert store.unit_blocks(Unit(0, 1, 0)) == range(2, 3)
    assert store.unit_blocks(Unit(3, 0, 1)) == range(0, 2)
    assert store.group_views(1) == range(2, 4)
    assert store.units(range(1, 2)) == units[:5]
    assert store.units(range(1, 3)) == units


def test_package_import_is_light() -> None:
    code = "import sys, teacher_cache; sys.exit(bool({'zarr', 'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


# -- committing ------------------------------------------------------------------------------------------------------


def test_plain_zarr_reads_what_was_committed(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", any_device=True)
    store.publish_teacher({"name": "tiny"})
    values = commit(store, UNIT, skip=(1,), device="cuda:H100")
    group = zarr.open_group(str(store.path), mode="r")
    # Members are listed without a warning (warnings are errors here): no stray file lies in any group.
    assert {name for name, _ in group.members(max_depth=None)} == {
        *("labels", "digests", "records", "index", "teacher"),
        *(f"index/{name}" for name in ("key_bytes", "key_ends", "classes", "offsets", "sizes", "counts", "hashes")),
        f"teacher/device-{xxhash.xxh3_64_hexdigest(b'cuda:H100')}",
    }
    labels, records = group["labels"], group["records"]
    assert labels.dtype == np.int16
    assert (labels.shape, labels.chunks) == ((4, 256, 4), (1, 128, 2))
    np.testing.assert_array_equal(labels[0, 128:130, 2:], values.labels)
    assert (labels[0, 130:] == -1).all()
    assert (labels[0, :, :2] == -1).all()
    np.testing.assert_array_equal(group["digests"][0, 2:4, 2:], [values.digests[0], [0, 0]])
    record = dict(zip(records.attrs["fields"], records[UNIT].tolist(), strict=True))
    padded = np.full((128, 2), -1, "<i2")
    padded[:2] = values.labels
    digests = np.zeros((2, 2), "<u8")
    digests[:1] = values.digests
    assert record == {
        "committed": 1,
        "hash": xxhash.xxh3_64_intdigest(padded.tobytes() + digests.tobytes()),
        "labelled": 2,
        "own": count(store, UNIT, values).own,
        "larger": count(store, UNIT, values).own,
        "either": count(store, UNIT, values).own,
        "skipped": 2,
        "device": xxhash.xxh3_64_intdigest(b"cuda:H100"),
    }
    assert store.devices == ["cuda:H100"]
    attributes = group.attrs["teacher_cache"]
    assert isinstance(attributes, dict)
    assert attributes["shards"][0] == {"name": "shard-0.tar", "path": "/data/shard-0.tar", "bytes": 512}
    assert (attributes["schema"], attributes["policy"]) == (1, load_policy("none").to_json())


def test_device_counts_only_where_any_is_taken(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    commit(store, UNIT, device="cuda:H100")
    assert store.read_record(UNIT)[RECORD_FIELDS.index("device")] == 0
    assert store.devices == []


def test_many_classes_take_wider_labels(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", index=make_index(num_classes=40_000))
    values = commit(store, UNIT)
    assert store.read_labels(UNIT).dtype == np.int32
    np.testing.assert_array_equal(store.read_labels(UNIT)[:2], values.labels)
    store.check_unit(UNIT)


def test_stores_filled_alike_are_equal_file_by_file(tmp_path: Path) -> None:
    first, second = make_store(tmp_path / "a" / "s"), make_store(tmp_path / "b" / "other")
    fill(first)
    for unit in reversed(second.units()):
        commit(Store.open(second.path, writable=True), unit)
    commit(second, UNIT)  # once more
    assert files(first.path) == files(second.path)
    padded = UnitValues(first.read_labels(UNIT), first.read_digests(UNIT))
    second.commit_unit(UNIT, padded, count(second, UNIT, padded), "cpu")  # padded by the caller
    assert files(first.path) == files(second.path)


def test_leftovers_are_swept_for_the_own_unit_only(tmp_path: Path) -> None:
    store = make_soft_store(tmp_path / "s", views=24)
    own, others = Unit(0, 1, 1), (Unit(0, 1, 11), Unit(0, 0, 1), Unit(0, 1, 0))
    leftovers = {}
    for unit in (own, *others):
        for name in store.array_names:
            file = chunk(store, name, unit)
            file.parent.mkdir(parents=True, exist_ok=True)
            leftovers[unit, name] = file.with_suffix(".0123456789abcdef.partial")
            leftovers[unit, name].write_bytes(b"half a chunk")
    commit(store, own)
    for (unit, _), file in leftovers.items():
        assert file.exists() == (unit != own)


@pytest.mark.parametrize("at", ["labels", "digests", *TOPK_ARRAYS, "records"])
def test_record_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """Killed before the chunk of `at` is on disk: the unit is absent, and committing it again gives the same files."""
    store, whole = make_soft_store(tmp_path / "s"), make_soft_store(tmp_path / "whole")
    commit(whole, UNIT)
    real = store_module.sync_up

    def killed(file: Path, top: Path) -> None:
        if file == chunk(store, at, UNIT):
            file.rename(file.with_suffix(".0123.partial"))
            raise Killed
        real(file, top)

    monkeypatch.setattr(store_module, "sync_up", killed)
    with pytest.raises(Killed):
        commit(store, UNIT)
    monkeypatch.undo()
    reopened = Store.open(store.path, writable=True)
    assert not reopened.committed().any()
    assert UNIT in reopened.missing_units()
    commit(reopened, UNIT)
    assert files(store.path) == files(whole.path)


def test_fsync_comes_before_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_soft_store(tmp_path / "s")
    synced: list[Path] = []
    record_there: list[bool] = []
    real = durable.sync

    def spy(path: Path) -> None:
        synced.append(path)
        record_there.append(chunk(store, "records", UNIT).exists())
        real(path)

    monkeypatch.setattr(durable, "sync", spy)
    commit(store, UNIT)
    for name in store.array_names:
        file = chunk(store, name, UNIT)
        # The file, and every folder that may be new.
        for path in (file, *(parent for parent in file.parents if store.path / name in (parent, *parent.parents))):
            assert record_there[synced.index(path)] == (name == "records"), path


def test_a_damaged_uncommitted_chunk_is_overwritten(tmp_path: Path) -> None:
    store, whole = make_soft_store(tmp_path / "s"), make_soft_store(tmp_path / "whole")
    commit(whole, UNIT)
    for name in store.array_names:
        file = chunk(store, name, UNIT)
        file.parent.mkdir(parents=True)
        file.write_bytes(b"damaged")
    commit(store, UNIT)
    store.check_unit(UNIT)
    assert files(store.path) == files(whole.path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            UnitValues(np.zeros((3, 2), int), np.ones((1, 2), np.uint64)),
            r"labels of .*shape \(3, 2\): expected \(2, 2\)",
        ),
        (UnitValues(np.zeros((128, 2), int), np.ones((1, 2), np.uint64)), "labels of .* padded with -1"),
        (UnitValues(np.zeros((2, 2), int), np.ones((2, 2), np.uint64)), "digests of .* padded with 0"),
        (UnitValues(np.full((2, 2), 10), np.ones((1, 2), np.uint64)), "below its 10 classes"),
        (UnitValues(np.full((2, 2), -1), np.ones((1, 2), np.uint64)), "views without a label"),
        (UnitValues(np.zeros((2, 2), int), np.ones((1, 2), np.uint64)), "4 labels and 0 skips but counts say 3 and 0"),
    ],
)
def test_values_that_do_not_fit_are_refused(tmp_path: Path, values: UnitValues, message: str) -> None:
    store = make_store(tmp_path / "s")
    before = files(store.path)
    with pytest.raises(StoreError, match=message):
        store.commit_unit(UNIT, values, UnitCounts(3, 0, 0, 0, 0), "cpu")
    assert files(store.path) == before


# -- reading and checking --------------------------------------------------------------------------------------------


def test_check_unit_passes_what_was_committed_and_no_other(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    fill(store, range(0, 2))
    for unit in store.units(range(0, 2)):
        store.check_unit(unit)
    with pytest.raises(StoreError, match=r"views 2:4 is not filled: run `teacher-cache fill --store \S+ --views 2:4`"):
        store.check_unit(UNIT)


@pytest.mark.parametrize("name", ["labels", "digests", *TOPK_ARRAYS])
def test_check_unit_finds_a_missing_chunk(tmp_path: Path, name: str) -> None:
    """Zarr reads it as the fill value, without any error."""
    store = make_soft_store(tmp_path / "s")
    commit(store, UNIT)
    chunk(store, name, UNIT).unlink()
    with pytest.raises(StoreError, match=r"unit 1, views 2:4 .*delete its record \S+/records/c/0/1/1/0 and run"):
        store.check_unit(UNIT)


def test_check_unit_finds_a_foreign_chunk(tmp_path: Path) -> None:
    """A sound chunk of another unit passes its checksum; the record's hash finds it."""
    store = make_store(tmp_path / "s")
    commit(store, Unit(3, 0, 0))
    commit(store, Unit(0, 0, 0))
    shutil.copy(chunk(store, "labels", Unit(3, 0, 0)), chunk(store, "labels", Unit(0, 0, 0)))
    with pytest.raises(StoreError, match=r"shard shard-0\.tar, unit 0, views 0:2 are not those that its record names"):
        store.check_unit(Unit(0, 0, 0))


@pytest.mark.parametrize("name", ["labels", "digests", *TOPK_ARRAYS, "records"])
def test_every_flipped_bit_is_found_and_the_unit_can_be_redone(tmp_path: Path, name: str) -> None:
    store = make_soft_store(tmp_path / "s")
    commit(store, UNIT)
    commit(store, Unit(0, 0, 1))
    whole = files(store.path)
    file = chunk(store, name, UNIT)
    sound = file.read_bytes()
    for place in range(0, len(sound), 7):
        file.write_bytes(sound[:place] + bytes([sound[place] ^ 16]) + sound[place + 1 :])
        with pytest.raises(StoreError, match=r"shard-0\.tar, unit 1, views 2:4"):
            store.check_unit(UNIT)
    file.write_bytes(sound[:-3])
    with pytest.raises(StoreError, match=rf"{name[:-1]}.* of \S+, shard shard-0\.tar, unit 1, views 2:4") as refused:
        store.read_records() if name == "records" else store.check_unit(UNIT)
    record = str(chunk(store, "records", UNIT))
    assert f"delete its record {record} and run `teacher-cache fill --store {store.path} --views 2:4`" in str(
        refused.value
    )
    os.unlink(record)
    assert UNIT in store.missing_units()
    commit(store, UNIT)
    assert files(store.path) == whole


def test_records_follow_the_files(tmp_path: Path) -> None:
    """Records already read are not read again, but what another process commits or removes is seen."""
    store, writer = make_store(tmp_path / "s"), Store.open(tmp_path / "s", writable=True)
    assert not store.committed().any()
    commit(writer, UNIT)
    assert np.argwhere(store.committed()).tolist() == [list(UNIT)]
    commit(writer, Unit(3, 0, 0))
    assert store.committed().sum() == 2
    chunk(store, "records", UNIT).unlink()
    assert np.argwhere(store.committed()).tolist() == [[3, 0, 0]]
    records = store.read_records()
    records[:] = 9
    assert store.committed().sum() == 1


def test_skipped_samples_are_those_of_committed_units(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    commit(store, Unit(0, 1, 0), skip=(1,))
    commit(store, Unit(0, 1, 1), skip=(1,))
    commit(store, Unit(3, 0, 1), skip=(0, 127))
    commit(store, Unit(1, 0, 0))
    np.testing.assert_array_equal(store.skipped(), [129, 131, 131 + 127])
    chunk(store, "records", Unit(3, 0, 1)).unlink()
    np.testing.assert_array_equal(store.skipped(), [129])


# -- labels for training ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget_bytes", [1, 10**9])
def test_label_reader_equals_plain_reading(tmp_path: Path, budget_bytes: int) -> None:
    store = make_store(tmp_path / "s")
    fill(store)
    group = zarr.open_group(str(store.path), mode="r")
    stored = np.concatenate([np.asarray(group["labels"])[shard, :number] for shard, number in enumerate(COUNTS)])
    reader = LabelReader(store, budget_bytes)
    rng = np.random.default_rng(0)
    for _ in range(3):
        samples, views = rng.integers(0, sum(COUNTS), 200), rng.integers(0, 4, 200)
        labels = reader.labels(samples, views)
        assert labels.dtype == np.int64
        np.testing.assert_array_equal(labels, stored[samples, views])
    digests = np.asarray(group["digests"])
    for shard, block, view in ((0, 2, 3), (3, 3, 0), (1, 0, 1), (0, 2, 3)):
        assert reader.digest(shard, block, view) == int(digests[shard, block, view])
    assert len(reader.labels(np.zeros(0, np.int64), np.zeros(0, np.int64))) == 0


@pytest.mark.parametrize("budget_bytes", [1, 10**9])
def test_skipped_samples_are_those_of_the_block_not_of_the_next_shard(tmp_path: Path, budget_bytes: int) -> None:
    store = make_store(tmp_path / "s")
    for unit in store.units():
        commit(store, unit, skip=(0,))
    reader = LabelReader(store, budget_bytes)
    reader.labels(np.array([132]), np.array([0]))  # the rows of the shards after the first are in memory
    reader.skipped(1, 0, 0)
    for shard, number in ((0, 3), (1, 1), (3, 4)):
        for block in range(number):
            first_of_unit = block % 2 == 0
            assert reader.skipped(shard, block, 0) == (frozenset({0}) if first_of_unit else frozenset())


@pytest.mark.parametrize("budget_bytes", [1, 600, 2903, 2904, 40_000])
def test_label_reader_keeps_to_its_budget(tmp_path: Path, budget_bytes: int) -> None:
    """A group of labels takes 331 x 2 x 2 bytes, its digests 8 x 2 x 8: two of both 2,904; here 8 groups."""
    store = make_store(tmp_path / "s", views=16)
    fill(store)
    stored = np.concatenate(
        [np.concatenate([store.read_labels(Unit(s, u, g)) for g in range(8)], axis=1) for s, u in store._unit_rows]
    )
    stored = stored[(stored != -1).all(axis=1)]
    reader = LabelReader(store, budget_bytes)
    rng = np.random.default_rng(0)
    for group in (0, 1, 0, 5, 1, 0):
        samples, views = rng.integers(0, len(stored), 300), 2 * group + rng.integers(0, 2, 300)
        np.testing.assert_array_equal(reader.labels(samples, views), stored[samples, views])
        assert reader.digest(0, 0, 2 * group) is not None
        held = sum(page.values.nbytes for page in reader._pages.values())
        assert held == reader._held_bytes
        assert held <= budget_bytes or len(reader._pages) == 1


def test_label_reader_reads_a_unit_once_where_two_groups_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "s", views=6)
    fill(store)
    read: list[tuple[str, Unit]] = []
    real = store.read_array

    def spy(name: str, unit: Unit) -> np.ndarray:
        read.append((name, unit))
        return real(name, unit)

    monkeypatch.setattr(store, "read_array", spy)
    size = 331 * 2 * 2 + 8 * 2 * 8
    reader, samples = LabelReader(store, 2 * size), np.arange(331)
    for _ in range(3):
        for view in (1, 2):
            reader.labels(samples, np.full(331, view))
            for shard, block in ((0, 0), (0, 2), (3, 3)):
                reader.digest(shard, block, view)
                reader.skipped(shard, block, view)
    groups = [unit for unit in store.units() if unit.group < 2]
    assert sorted(unit for name, unit in read if name == "labels") == sorted(groups)
    assert len(read) == len(set(read)) == len(groups) + 2 * 3
    reader.labels(samples[:1], np.array([4]))  # a third group: what was used least recently goes
    assert [key[:2] for key in reader._pages] == [("digests", 1), ("labels", 1), ("labels", 2)]
    read.clear()
    reader.labels(samples, np.full(331, 2))
    assert not read
    reader.labels(samples[:1], np.array([1]))
    assert read == [("labels", Unit(0, 0, 0))]
    too_small = LabelReader(store, 2 * size - 1)
    too_small.labels(samples, np.full(331, 1))
    assert len(too_small._pages) > 1


def test_label_reader_sees_units_of_a_page_that_are_committed_later(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    first = commit(store, Unit(0, 0, 0))
    reader = LabelReader(Store.open(store.path))
    samples, views = np.arange(130), np.zeros(130, np.int64)
    np.testing.assert_array_equal(reader.labels(samples[:128], views[:128]), first.labels[:, 0])
    for _ in range(2):
        with pytest.raises(MissingLabelError, match=r"key 0-0128, view 0 is not labelled: run"):
            reader.labels(samples, views)
    second = commit(store, Unit(0, 1, 0))
    np.testing.assert_array_equal(reader.labels(samples, views), [*first.labels[:, 0], *second.labels[:, 0]])


def test_label_reader_names_what_is_missing(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    commit(store, Unit(0, 1, 0), skip=(1,))
    reader = LabelReader(store)
    assert reader.digest(0, 2, 2) is None
    assert reader.digest(0, 2, 1) is not None
    fill_command = rf"run `teacher-cache fill --store {store.path} --views 2:4`"
    with pytest.raises(MissingLabelError, match=rf"shard-0\.tar, key 0-0128, view 3 is not labelled: {fill_command}"):
        reader.labels(np.array([128, 128]), np.array([0, 3]))
    with pytest.raises(MissingLabelError, match="key 0-0129, view 0: the sample was skipped"):
        reader.labels(np.array([128, 129]), np.array([0, 0]))
    commit(store, UNIT)
    assert reader.labels(np.array([128]), np.array([3])) == store.read_labels(UNIT)[0, 1]
    chunk(store, "labels", Unit(0, 1, 0)).unlink()
    with pytest.raises(
        MissingLabelError, match=r"key 0-0128, view 0 is not labelled: delete .*records/c/0/1/0/0 and run"
    ):
        LabelReader(store).labels(np.array([128]), np.array([0]))


# -- the teacher -----------------------------------------------------------------------------------------------------


def test_a_second_teacher_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    identity = {"name": "regnety_160", "sha256": "ab", "mean": [0.5, 0.5, 0.5]}
    store.publish_teacher(identity)
    before = files(store.path)
    assert Store.open(store.path).teacher == identity
    with pytest.raises(TeacherError, match="bound to teacher regnety_160 already, resnet50 cannot fill it"):
        store.publish_teacher({"name": "resnet50"})
    assert files(store.path) == before


def test_one_of_many_teachers_at_once_wins(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s").path
    start = threading.Barrier(8)
    refused: list[str] = []

    def publish(name: str) -> None:
        start.wait()
        try:
            Store.open(path, writable=True).publish_teacher({"name": name})
        except TeacherError:
            refused.append(name)

    threads = [threading.Thread(target=publish, args=(f"t{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    teacher = Store.open(path).teacher
    assert teacher is not None
    assert sorted([*refused, teacher["name"]]) == [f"t{number}" for number in range(8)]
    assert not list(path.rglob("*.partial"))


@pytest.mark.parametrize("at", ["link", "unlink"])
def test_a_killed_publication_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    store, whole = make_store(tmp_path / "s"), make_store(tmp_path / "whole")
    whole.publish_teacher({"name": "first"})

    def killed(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(Path, "unlink", killed)
    if at == "link":
        monkeypatch.setattr(os, "link", killed)
    with pytest.raises(Killed):
        store.publish_teacher({"name": "first"})
    monkeypatch.undo()
    reopened = Store.open(store.path, writable=True)
    assert reopened.teacher == (None if at == "link" else {"name": "first"})
    list(zarr.open_group(str(store.path), mode="r").members())  # warns of stray files, were there any
    if at == "link":
        reopened.publish_teacher({"name": "first"})
    assert files(store.path) == files(whole.path)


# -- extend ----------------------------------------------------------------------------------------------------------


def test_extend_touches_no_old_unit(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    fill(store)
    before = files(store.path)
    records = store.read_records()
    store.extend(7)
    assert (store.views, store.num_groups) == (8, 4)
    after = files(store.path)
    assert {name for name in before if before[name] != after[name]} == {
        *("zarr.json", "labels/zarr.json", "digests/zarr.json", "records/zarr.json")
    }
    assert set(before) == set(after)
    np.testing.assert_array_equal(store.read_records()[:, :, :2], records)
    assert len(store.missing_units()) == 10
    fill(store, range(4, 8))
    direct = make_store(tmp_path / "direct", views=8)
    fill(direct)
    assert files(direct.path) == files(store.path)
    with pytest.raises(StoreError, match="has 8 views already: it cannot shrink to 6"):
        store.extend(5)


@pytest.mark.parametrize("writes", range(12))
def test_extend_killed_at_any_point_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """Killed before or after each of its six writes, `extend` leaves a sound store of the old views."""
    store, whole = make_soft_store(tmp_path / "s"), make_soft_store(tmp_path / "whole", views=8)
    fill(store)
    fill(whole, range(4))
    real = Path.replace
    done = 0

    def replace(self: Path, target: Path) -> Path:
        nonlocal done
        if done == writes // 2 and writes % 2 == 0:
            self.rename(self.with_name("zarr.0123.partial"))
            raise Killed
        result = real(self, target)
        if done == writes // 2:
            raise Killed
        done += 1
        return result

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(Killed):
        store.extend(8)
    monkeypatch.undo()
    reopened = Store.open(store.path, writable=True)
    assert reopened.views == (8 if writes == 11 else 4)
    assert reopened.committed()[:, :, :2].sum() == 10
    if reopened.views == 4:
        assert not reopened.missing_units()
    reopened.extend(8)
    assert len(reopened.missing_units()) == 10
    assert files(store.path) == files(whole.path)


# -- topk ------------------------------------------------------------------------------------------------------------


def test_plain_zarr_reads_topk(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    assert (store.topk, store.tau, store.array_names) == (0, None, ("labels", "digests", "records"))
    reader = Store.open(store.path)
    store.publish_teacher(TOPK)
    values = commit(store, UNIT, skip=(1,))
    for opened in (store, reader, Store.open(store.path)):
        assert (opened.topk, opened.tau) == (3, 2.0)
        assert opened.array_names == ("labels", "digests", *TOPK_ARRAYS, "records")
        assert opened.read_topk_classes(UNIT).shape == (128, 2, 3)
    group = zarr.open_group(str(store.path), mode="r")
    assert {name for name, _ in group.members()} == {*store.array_names, "index", "teacher"}
    classes, probabilities = (group[name] for name in TOPK_ARRAYS)
    assert (classes.shape, classes.chunks, classes.dtype) == ((4, 256, 4, 3), (1, 128, 2, 3), np.int16)
    assert (probabilities.shape, probabilities.chunks) == ((4, 256, 4, 4), (1, 128, 2, 4))
    assert probabilities.dtype == np.float16
    assert classes.metadata.dimension_names == ("shard", "position", "view", "rank")
    np.testing.assert_array_equal(classes[0, 128:130, 2:], values.topk_classes)
    np.testing.assert_array_equal(probabilities[0, 128:130, 2:], values.topk_probabilities)
    assert (classes[0, 129, 2:] == -2).all()
    assert not probabilities[0, 129, 2:].any()
    for untouched, padding in ((classes, -1), (probabilities, 0)):
        assert (untouched[0, 130:] == padding).all()
        assert (untouched[0, :, :2] == padding).all()
    hasher = xxhash.xxh3_64()
    for name in ("labels", "digests", *TOPK_ARRAYS):
        rows = slice(2, 4) if name == "digests" else slice(128, 256)
        hasher.update(np.ascontiguousarray(group[name][0, rows, 2:]).tobytes())
    record = dict(zip(RECORD_FIELDS, store.read_record(UNIT).tolist(), strict=True))
    assert record["hash"] == hasher.intdigest()
    store.check_unit(UNIT)


def test_many_classes_take_wider_topk(tmp_path: Path) -> None:
    store = make_soft_store(tmp_path / "s", index=make_index(num_classes=40_000))
    values = commit(store, UNIT)
    assert store.read_topk_classes(UNIT).dtype == np.int32
    np.testing.assert_array_equal(store.read_topk_classes(UNIT)[:2], values.topk_classes)


@pytest.mark.parametrize("name", TOPK_ARRAYS)
def test_check_unit_finds_a_changed_value_of_topk(tmp_path: Path, name: str) -> None:
    store = make_soft_store(tmp_path / "s")
    commit(store, UNIT)
    array = zarr.open_array(str(store.path / name), mode="r+")
    array[0, 129, 3, 2] = array[0, 129, 3, 2] + 1
    with pytest.raises(StoreError, match="unit 1, views 2:4 are not those that its record names"):
        store.check_unit(UNIT)


def test_soft_stores_filled_alike_are_equal_file_by_file(tmp_path: Path) -> None:
    first, second = make_soft_store(tmp_path / "a" / "s"), make_soft_store(tmp_path / "b" / "other")
    fill(first)
    for unit in reversed(second.units()):
        commit(Store.open(second.path, writable=True), unit)
    second.commit_unit(UNIT, first.read_unit(UNIT), count(second, UNIT, first.read_unit(UNIT)), "cpu")
    assert files(first.path) == files(second.path)


def change(values: UnitValues, name: str, place: tuple[Any, ...], value: object) -> UnitValues:
    changed = getattr(values, name).copy()
    changed[place] = value
    return replace(values, **{name: changed})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: replace(v, topk_classes=None), "hold topk_probabilities, the store's teacher says topk 3"),
        (lambda v: UnitValues(v.labels, v.digests), "hold no topk, the store's teacher says topk 3"),
        (lambda v: replace(v, topk_classes=v.topk_classes[..., :2]), r"shape \(2, 2, 2\): expected \(2, 2, 3\), or "),
        (lambda v: replace(v, topk_probabilities=v.topk_probabilities[:1]), r"topk_probabilities of .* padded with 0"),
        (lambda v: change(v, "topk_classes", (0, 0, 2), 10), "topk_classes of .* not all below its 10 classes"),
        (lambda v: change(v, "topk_classes", (0, 0, 2), -1), "the first class is not the label .* or a .* lacks"),
        (lambda v: replace(v, topk_classes=v.topk_classes[..., ::-1]), "the first class is not the label everywhere"),
        (lambda v: change(v, "topk_probabilities", (0, 0, 0), 1.5), r"not all in \[0, 1\] and descending"),
        (lambda v: change(v, "topk_probabilities", (0, 0, 3), np.nan), r"not all in \[0, 1\] and descending"),
        (lambda v: change(v, "topk_probabilities", (0, 0, 3), -0.25), r"not all in \[0, 1\] and descending"),
        (
            lambda v: replace(v, topk_probabilities=v.topk_probabilities[..., [2, 1, 0, 3]]),
            r"not all in \[0, 1\] and descending",
        ),
        (lambda v: change(v, "topk_probabilities", (0, 0, 3), 1), "do not sum to 1"),
        (lambda v: change(v, "topk_probabilities", (1, 0, 0), 0.5), "a skipped sample has other than classes -2"),
        (lambda v: change(v, "topk_classes", (1, 0, 1), 3), "a skipped sample has other than classes -2"),
    ],
)
def test_topk_that_does_not_fit_is_refused(
    tmp_path: Path, spoil: Callable[[UnitValues], UnitValues], message: str
) -> None:
    store = make_soft_store(tmp_path / "s")
    values = draw_values(store, UNIT, skip=(1,))
    before = files(store.path)
    with pytest.raises(StoreError, match=message):
        store.commit_unit(UNIT, spoil(values), count(store, UNIT, values), "cpu")
    assert files(store.path) == before
    store.commit_unit(UNIT, values, count(store, UNIT, values), "cpu")


def test_topk_for_a_store_of_labels_alone_is_refused(tmp_path: Path) -> None:
    soft, hard = make_soft_store(tmp_path / "soft"), make_store(tmp_path / "hard")
    values = draw_values(soft, UNIT)
    with pytest.raises(StoreError, match="hold topk_classes and topk_probabilities, the store's teacher says topk 0"):
        hard.commit_unit(UNIT, values, count(hard, UNIT, values), "cpu")
    with pytest.raises(StoreError, match="hard holds no topk_classes"):
        hard.read_topk_classes(UNIT)


@pytest.mark.parametrize("budget_bytes", [1, 10**9])
def test_soft_labels_come_back_within_float16(tmp_path: Path, budget_bytes: int) -> None:
    store = make_soft_store(tmp_path / "s")
    fill(store)
    reader = LabelReader(store, budget_bytes)
    for shard, block, view, positions in (
        (0, 2, 3, [1, 0]),
        (3, 3, 0, [7, 2, 2]),
        (3, 1, 1, list(range(64))),
        (1, 0, 2, []),
    ):
        soft = reader.soft(shard, block, view, np.array(positions, np.int64))
        unit = Unit(shard, block // 2, view // 2)
        labels = draw_values(store, unit).labels
        logits = draw_logits(store, unit, labels).reshape(*labels.shape, -1)
        rows = np.array(positions, np.int64) + 64 * (block % 2)
        exact = np.exp(logits[rows, view % 2].astype(np.float64) / 2)
        exact /= exact.sum(axis=1, keepdims=True)
        assert soft.classes.shape == soft.probabilities.shape == (len(positions), 3)
        np.testing.assert_array_equal(soft.classes, np.argsort(-exact, axis=1)[:, :3])
        largest = np.take_along_axis(exact, soft.classes, axis=1)
        np.testing.assert_allclose(soft.probabilities, largest, rtol=2**-10)
        np.testing.assert_allclose(soft.tail, 1 - largest.sum(axis=1), rtol=2**-10)
        start = int(store.index.starts[shard]) + 64 * block
        np.testing.assert_array_equal(
            soft.classes[:, 0], reader.labels(start + np.array(positions, np.int64), np.full(len(positions), view))
        )
    assert budget_bytes > 1 or len(reader._pages) == 1


def test_soft_labels_that_are_missing_are_named(tmp_path: Path) -> None:
    store = make_soft_store(tmp_path / "s")
    commit(store, Unit(0, 1, 0), skip=(1,))
    reader = LabelReader(store)
    command = rf"run `teacher-cache fill --store {store.path} --views 2:4`"
    with pytest.raises(MissingLabelError, match=rf"shard-0\.tar, key 0-0129, view 3 is not labelled: {command}"):
        reader.soft(0, 2, 3, np.array([1]))
    with pytest.raises(MissingLabelError, match="key 0-0129, view 1: the sample was skipped"):
        reader.soft(0, 2, 1, np.array([0, 1]))
    chunk(store, "topk_classes", Unit(0, 1, 0)).unlink()
    with pytest.raises(MissingLabelError, match=r"key 0-0128, view 0 is not labelled: delete .*records/c/0/1/0/0 and"):
        LabelReader(store).soft(0, 2, 0, np.array([0]))


@pytest.mark.parametrize("at", ["mkdir", "write", "sync", "rename", "between"])
def test_killed_between_binding_a_teacher_and_making_its_arrays_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    whole = make_soft_store(tmp_path / "whole")
    fill(whole)
    store = make_store(tmp_path / "s")
    made = 0

    def killed_before(real: Callable[..., Any], match: str) -> Callable[..., Any]:
        def call(path: Path, *arguments: Any, **options: Any) -> Any:
            nonlocal made
            if match in str((path, *arguments)):
                made += 1
                if made > (at == "between"):  # "between": the first array is there, the second is not
                    raise Killed
            return real(path, *arguments, **options)

        return call

    with monkeypatch.context() as patch:
        if at == "mkdir":
            patch.setattr(Path, "mkdir", killed_before(Path.mkdir, "publishing"))
        elif at == "write":
            patch.setattr(Path, "write_bytes", killed_before(Path.write_bytes, "publishing"))
        elif at == "sync":
            patch.setattr(store_module, "sync_tree", killed_before(store_module.sync_tree, "publishing"))
        else:
            patch.setattr(Path, "rename", killed_before(Path.rename, "topk"))
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a process that is dead tidies nothing
        with pytest.raises(Killed):
            store.publish_teacher(TOPK)
    assert Store.open(store.path).teacher == TOPK
    assert sum((store.path / name).exists() for name in TOPK_ARRAYS) == (at == "between")
    list(zarr.open_group(str(store.path), mode="r").members())  # warns of stray files, were there any
    with pytest.raises(StoreError, match="holds no topk_classes: run `teacher-cache fill"):
        Store.open(store.path).read_topk_classes(UNIT)
    reopened = Store.open(store.path, writable=True)
    assert not list(reopened.path.rglob("*.partial"))
    fill(reopened)
    assert files(reopened.path) == files(whole.path)


def test_a_second_job_makes_the_arrays_that_the_first_has_not_made_yet(tmp_path: Path) -> None:
    """Two stores opened before there was a teacher; the one that binds it is slow to make the arrays."""
    first, second = make_store(tmp_path / "s"), Store.open(tmp_path / "s", writable=True)
    assert first._publish("teacher", TOPK)
    with pytest.raises(TeacherError, match="bound to teacher soft already"):
        second.publish_teacher(TOPK)
    commit(second, UNIT)
    commit(first, Unit(0, 0, 0))
    whole = make_soft_store(tmp_path / "whole")
    commit(whole, UNIT)
    commit(whole, Unit(0, 0, 0))
    assert files(first.path) == files(whole.path)


def test_of_teachers_at_once_with_different_topk_the_arrays_are_the_winners(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s").path
    start = threading.Barrier(6)
    refused: list[int] = []

    def publish(topk: int) -> None:
        start.wait()
        store = Store.open(path, writable=True)
        try:
            store.publish_teacher({"name": "t", "topk": topk, "tau": 1.0})
        except TeacherError:
            refused.append(topk)

    threads = [threading.Thread(target=publish, args=(topk,)) for topk in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = Store.open(path, writable=True)
    assert sorted([*refused, store.topk]) == list(range(1, 7))
    assert store.read_topk_classes(UNIT).shape[2] == store.topk
    assert store.read_topk_probabilities(UNIT).shape[2] == store.topk + 1
    list(zarr.open_group(str(path), mode="r").members())
    assert not list(path.rglob("*.partial"))


def test_many_writers_at_once_make_the_same_arrays(tmp_path: Path) -> None:
    store, whole = make_store(tmp_path / "s"), make_soft_store(tmp_path / "whole")
    assert store._publish("teacher", TOPK)
    start = threading.Barrier(8)
    opened: list[Store] = []

    def open_it() -> None:
        start.wait()
        opened.append(Store.open(store.path, writable=True))

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 8
    assert files(store.path) == files(whole.path)


def test_extend_while_the_first_fill_has_no_teacher_yet(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    Store.open(store.path, writable=True).extend(8)
    store.publish_teacher(TOPK)
    commit(store, UNIT)
    reopened = Store.open(store.path, writable=True)
    commit(reopened, Unit(0, 1, 3))
    reopened.check_unit(UNIT)


def test_extend_adds_views_to_topk(tmp_path: Path) -> None:
    store, direct = make_soft_store(tmp_path / "s"), make_soft_store(tmp_path / "direct", views=8)
    fill(store)
    before = files(store.path)
    store.extend(7)
    after = files(store.path)
    assert {name for name in before if before[name] != after[name]} == {
        "zarr.json",
        *(f"{name}/zarr.json" for name in store.array_names),
    }
    fill(store, range(4, 8))
    fill(direct)
    assert files(direct.path) == files(store.path)


def test_damaged_metadata_of_topk_are_one_line(tmp_path: Path) -> None:
    path = make_soft_store(tmp_path / "s").path
    file = path / "topk_classes" / "zarr.json"
    sound = file.read_text()
    for spoilt in (sound[:50], sound.replace("128", "64"), sound.replace("256", "128")):
        assert spoilt != sound
        file.write_text(spoilt)
        with pytest.raises(StoreError, match=r"metadata of \S+ are damaged .*restore its zarr\.json") as refused:
            Store.open(path)
        assert "\n" not in str(refused.value)
    file.write_text(sound)
    commit(Store.open(path, writable=True), UNIT)
    file.unlink()
    with pytest.raises(StoreError, match=r"metadata of \S+ are damaged .*restore its zarr\.json"):
        Store.open(path, writable=True)
    assert not list(path.rglob("*.partial"))
    with pytest.raises(StoreError, match="holds no topk_classes"):
        Store.open(path).check_unit(UNIT)
    file.write_text(sound)
    Store.open(path).check_unit(UNIT)
    teacher = path / "teacher" / "zarr.json"
    teacher.write_text(teacher.read_text().replace('"topk": 3', '"topk": 5'))
    with pytest.raises(StoreError, match=r"topk_classes do not fit the teacher's topk of 5"):
        Store.open(path)
    teacher.write_text("{")
    with pytest.raises(StoreError, match=r"teacher/zarr\.json is damaged"):
        Store.open(path)


def test_status_counts_topk(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    empty = status(store)
    assert (empty["topk"], empty["tau"], set(empty["bytes"])) == (0, None, {"labels", "digests", "records", "per_view"})
    store.publish_teacher(TOPK)
    fill(store, range(2))
    found = json.loads(json.dumps(status(Store.open(store.path))))
    assert (found["topk"], found["tau"]) == (3, 2.0)
    sizes = {
        name: sum(file.stat().st_size for file in (store.path / name).rglob("*") if file.is_file())
        for name in ("labels", "digests", *TOPK_ARRAYS, "records")
    }
    assert found["bytes"] == {**sizes, "per_view": sum(sizes.values()) / (2 * sum(COUNTS))}


# -- status ----------------------------------------------------------------------------------------------------------


def test_status_sums_records(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    empty = status(store)
    assert empty["coverage"]["share"] == 0
    assert empty["agreement"] is None
    assert empty["bytes"]["per_view"] is None
    own = 0
    for unit in store.units(range(2)):
        values = commit(store, unit, skip=(0,) if unit.shard == 3 else ())
        own += count(store, unit, values).own
    store.publish_teacher({"name": "tiny"})
    found = json.loads(json.dumps(status(Store.open(store.path))))
    assert found["units"] == 10
    assert found["units_committed"] == 5
    assert found["coverage"] == {
        "share": 0.5,
        "groups": [
            {"views": [0, 2], "units": 5, "units_committed": 5, "share": 1.0},
            {"views": [2, 4], "units": 5, "units_committed": 0, "share": 0.0},
        ],
    }
    assert found["labelled"] == 2 * (sum(COUNTS) - 2)
    assert found["skipped"] == {
        "views": 4,
        "samples": 2,
        "first": [{"shard": "shard-3.tar", "key": "3-0000"}, {"shard": "shard-3.tar", "key": "3-0128"}],
    }
    assert found["agreement"]["own"] == own / found["labelled"]
    sizes = [
        file.stat().st_size
        for name in ("labels", "digests", "records")
        for file in (store.path / name).rglob("*")
        if file.is_file()
    ]
    assert found["bytes"]["per_view"] == sum(sizes) / (2 * sum(COUNTS))
    assert found["teacher"] == {"name": "tiny"}
    assert found["libraries"]["numpy"] == np.__version__


# -- refusals --------------------------------------------------------------------------------------------------------


def test_create_refuses(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(StoreError, match="there exists already: remove it or choose another"):
        make_store(tmp_path / "there")
    with pytest.raises(StoreError, match="unit_samples 100 is not a positive multiple of 64"):
        make_store(tmp_path / "s", unit_samples=100)
    with pytest.raises(StoreError, match="views 0 and group 2 must both be at least 1"):
        make_store(tmp_path / "s", views=0)
    with pytest.raises(StoreError, match="holds no samples"):
        make_store(tmp_path / "s", index=make_index((0, 0)))
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_failed_create_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(self: Path, target: Path) -> Path:
        target.mkdir()
        (target / "other").touch()
        os.rename(self, target)
        return target

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(StoreError, match="appeared meanwhile"):
        make_store(tmp_path / "s")
    assert files(tmp_path).keys() == {"s/other"}


def test_open_refuses(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no store at \S+none: make one with `teacher-cache index"):
        Store.open(tmp_path / "none")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="folder is not a store"):
        Store.open(tmp_path / "folder")
    zarr.create_group(str(tmp_path / "foreign"))
    with pytest.raises(StoreError, match="is a Zarr group but not a store"):
        Store.open(tmp_path / "foreign")

    path = make_store(tmp_path / "s").path
    sound = (path / "zarr.json").read_text()
    document = json.loads(sound)

    def refused(message: str, **changes: object) -> None:
        changed = json.loads(sound)
        changed["attributes"]["teacher_cache"] |= changes
        (path / "zarr.json").write_text(json.dumps(changed))
        with pytest.raises(StoreError, match=message):
            Store.open(path)

    refused("has schema version 99, this program reads 1: use the program version that made it", schema=99)
    policy = document["attributes"]["teacher_cache"]["policy"]
    refused(
        "policy of .* is of another version or damaged .*: use the program version", policy=policy | {"version": 99}
    )
    refused("metadata of .* are damaged", group=3)
    refused("metadata of .* are damaged", seed=None)
    refused("metadata of .* are damaged", views=400)
    (path / "zarr.json").write_text(sound[:100])
    with pytest.raises(StoreError, match=r"metadata of .* are damaged .*restore its zarr\.json"):
        Store.open(path)
    (path / "zarr.json").write_text(sound)
    Store.open(path)
    (path / "labels" / "zarr.json").unlink()
    with pytest.raises(StoreError, match=r"metadata of .* are damaged"):
        Store.open(path)


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s").path
    file = path / "index" / "offsets" / "c" / "0"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"index/offsets of \S+ cannot be read"):
        _ = Store.open(path).index


def test_reading_stores_refuse_to_write(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    reader = Store.open(store.path)
    values = draw_values(store, UNIT)
    for write in (
        lambda: reader.commit_unit(UNIT, values, count(store, UNIT, values), "cpu"),
        lambda: reader.extend(8),
        lambda: reader.publish_teacher({"name": "t"}),
    ):
        with pytest.raises(StoreError, match="was opened for reading"):
            write()


def test_views_beyond_the_store_are_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    with pytest.raises(StoreError, match=r"views 2:5 are not within the store's 0:4: `teacher-cache extend"):
        store.missing_units(range(2, 5))


def test_other_places_are_used_but_not_written(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    moved = make_index(COUNTS)
    before = files(store.path)
    other = store.with_places(moved)
    assert other.index is moved
    assert store.index is not moved
    assert files(store.path) == before
