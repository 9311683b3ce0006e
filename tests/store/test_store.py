"""The store: what plain zarr sees, units whole or absent, and every refusal."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
import zarr

import teacher_cache
from teacher_cache import files as on_disk
from teacher_cache.errors import DiskError, StoreError
from teacher_cache.replay.policy import load_policy
from teacher_cache.store.labels import skipped_samples
from teacher_cache.store.store import Store
from teacher_cache.store.unit import TOPK_ARRAYS, Unit, UnitCounts, UnitValues
from teacher_cache.teacher.identity import TeacherIdentity
from tests.support.filled_store import (
    COUNTS,
    TOPK,
    UNIT,
    Killed,
    chunk,
    commit,
    copied,
    count,
    draw_values,
    drawn_proof,
    files,
    fill,
    make_index,
    make_soft_store,
    make_store,
)
from tests.support.interrupted import between_writes, count_writes, kill_before

# -- create, open, index ---------------------------------------------------------------------------------------------


def test_opened_store_is_what_was_created(tmp_path: Path) -> None:
    index = make_index()
    made = make_store(tmp_path / "s", index=index, policy=load_policy("deit"), any_device=True)
    store = Store.open(made.path)
    assert (store.views, store.group, store.layout.num_groups, store.unit_samples, store.seed) == (4, 2, 2, 128, 7)
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
    assert sum(len(store.layout.rows(unit)) for unit in units) == 2 * sum(COUNTS)
    assert store.layout.num_units(2) == 0
    assert store.layout.rows(Unit(0, 1, 0)) == range(128, 130)
    assert store.layout.blocks(Unit(0, 1, 0)) == range(2, 3)
    assert store.layout.blocks(Unit(3, 0, 1)) == range(0, 2)
    assert store.layout.group_views(1) == range(2, 4)
    assert store.units(range(1, 2)) == units[:5]
    assert store.units(range(1, 3)) == units


def test_package_import_is_light() -> None:
    code = "import sys, teacher_cache; sys.exit(bool({'zarr', 'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


# -- committing ------------------------------------------------------------------------------------------------------


def test_plain_zarr_reads_what_was_committed(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", any_device=True)
    store.publish_teacher(TeacherIdentity("tiny"))
    values = commit(store, UNIT, skip=(1,), device="cuda:H100")
    group = zarr.open_group(str(store.path), mode="r")
    # Members are listed without a warning (warnings are errors here): no stray file lies in any group.
    assert {name for name, _ in group.members(max_depth=None)} == {
        *("labels", "digests", "records", "index", "teacher"),
        *(
            f"index/{name}"
            for name in ("key_bytes", "key_ends", "classes", "offsets", "sizes", "fingerprints", "counts", "hashes")
        ),
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
        "damaged": 0,
        "device": xxhash.xxh3_64_intdigest(b"cuda:H100"),
        **dict.fromkeys(("writer", "reserved_1", "reserved_2"), 0),
    }
    assert store.proofs.devices == ["cuda:H100"]
    attributes = group.attrs["teacher_cache"]
    assert isinstance(attributes, dict)
    assert attributes["shards"][0] == {"name": "shard-0.tar", "path": "/data/shard-0.tar", "bytes": 131 * 1024}
    assert (attributes["schema"], attributes["policy"]) == (2, load_policy("none").to_json())


def test_device_counts_only_where_any_is_taken(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    commit(store, UNIT, device="cuda:H100")
    assert store.records.read_one(UNIT).device == 0
    assert store.proofs.devices == []


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
    padded = UnitValues(first.read_labels(UNIT), first.read_array("digests", UNIT))
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


def test_a_unit_killed_between_any_two_writes_is_whole_or_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whoever comes next commits the killed writer's, or its own, to the same files; none is left beside them."""
    empty, whole = make_soft_store(tmp_path / "empty"), make_soft_store(tmp_path / "whole")
    with monkeypatch.context() as patch:
        written = count_writes(patch)
        commit(whole, UNIT)
    records = written.index(f"records/c/{UNIT.shard}/{UNIT.unit}/{UNIT.group}/0")
    assert records == 5  # the unit as one object, four arrays, the record; the object is removed
    assert len(written) == 7
    for number in range(7):
        for again in ("finish", "commit"):
            store = copied(empty, tmp_path / f"{again}{number}")
            with monkeypatch.context() as patch:
                kill_before(patch, number)
                with pytest.raises(Killed):
                    commit(store, UNIT)
            reopened = Store.open(store.path, writable=True)
            assert reopened.committed()[UNIT] == (number > records)
            assert (UNIT in reopened.missing_units()) == (number <= records)
            if again == "finish":
                reopened.finish_pending()
                assert reopened.committed()[UNIT] == (number > 0)
            values = draw_values(reopened, UNIT)
            ours = reopened.commit_unit(UNIT, values, count(reopened, UNIT, values), "cpu")
            assert ours == (number == 0)
            reopened.finish_pending()
            assert files(reopened.path) == files(whole.path)
            assert not list(tmp_path.glob(f"{again}{number}.*"))


@pytest.mark.parametrize("at", range(7))
def test_a_writer_that_is_stopped_between_any_two_writes_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """While it stands still another commits other values to the same unit: one writer's are there, whole."""
    store = make_soft_store(tmp_path / "s", any_device=True)
    store.proofs.publish("one")
    store.proofs.publish("two")
    ours = draw_values(store, UNIT)
    theirs = draw_values(store, UNIT, skip=(1,))
    other = Store.open(store.path, writable=True)
    committed: list[bool] = []

    def meanwhile(number: int, name: str) -> None:
        if number == at:
            committed.append(other.commit_unit(UNIT, theirs, count(other, UNIT, theirs), "two"))
            other.finish_pending()

    with monkeypatch.context() as patch:
        between_writes(patch, meanwhile)
        committed.append(store.commit_unit(UNIT, ours, count(store, UNIT, ours), "one"))
    store.check_unit(UNIT)
    winner = theirs if at == 0 else ours
    np.testing.assert_array_equal(store.read_labels(UNIT)[: len(winner.labels)], winner.labels)
    assert committed == [at == 0, at > 0]
    assert not list(tmp_path.glob("s.*"))


def left_pending(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let a writer of a unit be killed before it copies anything. -> what lies beside the store."""
    with monkeypatch.context() as patch:
        kill_before(patch, 1)
        with pytest.raises(Killed):
            commit(store, UNIT)
    return [path.name for path in Path(f"{store.path}.pending").iterdir()]


def test_nothing_is_written_where_the_store_is_no_more(tmp_path: Path) -> None:
    """It was moved away, removed and made anew, or made otherwise, while something works on it."""
    store = make_store(tmp_path / "s")
    store.publish_teacher(TeacherIdentity(name="tiny"))
    unit = store.units()[0]
    values = draw_values(store, unit)
    counts = count(store, unit, values)

    def refused() -> bool:
        before = files(tmp_path)
        for write in (
            lambda: store.commit_unit(unit, values, counts, "cpu"),
            lambda: store.publish_teacher(TeacherIdentity(name="tiny")),
        ):
            with pytest.raises(StoreError, match=r"/s was moved, removed or made anew since it was opened: "):
                write()
        return files(tmp_path) == before

    store.path.rename(tmp_path / "moved")
    assert refused()
    make_store(tmp_path / "s")  # the same again, of which nobody knows the teacher
    assert refused()
    Store.open(tmp_path / "s", writable=True).publish_teacher(TeacherIdentity(name="other"))
    assert refused()
    shutil.rmtree(tmp_path / "s")
    make_store(tmp_path / "s", policy=load_policy("digits"))
    assert refused()
    shutil.rmtree(tmp_path / "s")
    (tmp_path / "moved").rename(tmp_path / "s")
    Store.open(tmp_path / "s", writable=True).extend(8)  # which is the same store
    assert store.commit_unit(unit, values, counts, "cpu")


def test_what_a_store_that_was_here_before_left_is_swept_when_a_new_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its units, and its teacher, would be the new one's. What is none of them stays."""
    store = make_soft_store(tmp_path / "s")
    assert len(left_pending(store, monkeypatch)) == 1
    unbound = make_store(tmp_path / "t")
    with monkeypatch.context() as patch:
        kill_before(patch, 1)
        with pytest.raises(Killed):
            unbound.bind(TOPK, drawn_proof())
    assert list((tmp_path / "t.pending").iterdir())
    (tmp_path / "s.pending" / "notes").write_text("of somebody")
    for made in (store, unbound):
        shutil.rmtree(made.path)
        again = make_store(made.path)
        again.finish_pending()
        assert again.teacher is None
        assert not again.committed().any()
    assert [path.name for path in tmp_path.glob("*.pending/*")] == ["notes"]


@pytest.mark.parametrize("other", ["teacher", "seed"])
def test_what_was_put_for_another_store_or_teacher_is_discarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """As where a copy of another store comes to the same place."""
    store = make_soft_store(tmp_path / "s")
    left_pending(store, monkeypatch)
    there = Store.create(
        tmp_path / "other",
        make_index(),
        store.policy,
        views=4,
        seed=8 if other == "seed" else 7,
        group=2,
        unit_samples=128,
    )
    there.publish_teacher(replace(TOPK, name="another") if other == "teacher" else TOPK)
    shutil.rmtree(store.path)
    there.path.rename(store.path)
    again = Store.open(store.path, writable=True)
    again.finish_unit(UNIT)
    assert not again.committed().any()
    again.finish_pending()
    assert not again.committed().any()
    assert not list(tmp_path.glob("*.pending/*"))
    commit(again, UNIT)
    again.check_unit(UNIT)


def test_a_unit_of_views_that_were_added_meanwhile_is_left_to_who_knows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_soft_store(tmp_path / "s", views=2)
    new = Store.open(old.path, writable=True)
    new.extend(4)
    assert len(left_pending(new, monkeypatch)) == 1  # UNIT is of the second group
    old.finish_pending()
    assert len(list((tmp_path / "s.pending").iterdir())) == 1
    new.finish_pending()
    assert new.committed()[UNIT]


def test_fsync_comes_before_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every chunk its bytes, and the folders that name it, are on disk before the record has its name."""
    store = make_soft_store(tmp_path / "s")
    synced: dict[Path, bool] = {}  # whether the record was there
    real = on_disk.sync

    def spy(path: Path) -> None:
        named = path.parent / f"{path.name.split('.')[1]}" if path.name.startswith(".") else path
        synced.setdefault(named, chunk(store, "records", UNIT).exists())
        real(path)

    monkeypatch.setattr("teacher_cache.storage.local.sync", spy)
    monkeypatch.setattr(on_disk, "sync", spy)
    commit(store, UNIT)
    for name in store.array_names:
        file = chunk(store, name, UNIT)
        folders = [parent for parent in file.parents if store.path / name in (parent, *parent.parents)]
        assert not synced[file]
        assert [synced[folder] for folder in folders] == [name == "records"] * len(folders)


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
    with pytest.raises(StoreError, match=r"views 2:4 is not filled: run `teacher-cache fill \S+ --views 2:4`"):
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
        store.records.read() if name == "records" else store.check_unit(UNIT)
    record = str(chunk(store, "records", UNIT))
    assert f"delete its record {record} and run `teacher-cache fill {store.path} --views 2:4`" in str(refused.value)
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
    records = store.records.read()
    records[:] = 9
    assert store.committed().sum() == 1


def test_skipped_samples_are_those_of_committed_units(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    commit(store, Unit(0, 1, 0), skip=(1,))
    commit(store, Unit(0, 1, 1), skip=(1,))
    commit(store, Unit(3, 0, 1), skip=(0, 127))
    commit(store, Unit(1, 0, 0))
    np.testing.assert_array_equal(skipped_samples(store), [129, 131, 131 + 127])
    chunk(store, "records", Unit(3, 0, 1)).unlink()
    np.testing.assert_array_equal(skipped_samples(store), [129])


# -- extend ----------------------------------------------------------------------------------------------------------


def test_extend_touches_no_old_unit(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    fill(store)
    before = files(store.path)
    records = store.records.read()
    store.extend(7)
    assert (store.views, store.layout.num_groups) == (8, 4)
    after = files(store.path)
    assert {name for name in before if before[name] != after[name]} == {
        *("zarr.json", "labels/zarr.json", "digests/zarr.json", "records/zarr.json")
    }
    assert set(before) == set(after)
    np.testing.assert_array_equal(store.records.read()[:, :, :2], records)
    assert len(store.missing_units()) == 10
    fill(store, range(4, 8))
    direct = make_store(tmp_path / "direct", views=8)
    fill(direct)
    assert files(direct.path) == files(store.path)
    with pytest.raises(StoreError, match="has 8 views already: it cannot shrink to 6"):
        store.extend(5)


@pytest.fixture(scope="module")
def narrow_and_wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, str]]:
    """A filled store of topk, and the files of one made of twice the views with as many filled."""
    folder = tmp_path_factory.mktemp("soft")
    narrow, wide = make_soft_store(folder / "narrow"), make_soft_store(folder / "wide", views=8)
    fill(narrow)
    fill(wide, range(4))
    return narrow, files(wide.path)


@pytest.mark.parametrize("writes", range(12))
def test_extend_killed_at_any_point_is_run_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    narrow_and_wide: tuple[Store, dict[str, str]],
    writes: int,
) -> None:
    """Killed before or after each of its six writes, `extend` leaves a sound store of the old views."""
    narrow, wide = narrow_and_wide
    store = copied(narrow, tmp_path / "s")
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
    assert files(store.path) == wide


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
        assert opened.read_array("topk_classes", UNIT).shape == (128, 2, 3)
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
    assert store.records.read_one(UNIT).hash == hasher.intdigest()
    store.check_unit(UNIT)


def test_many_classes_take_wider_topk(tmp_path: Path) -> None:
    store = make_soft_store(tmp_path / "s", index=make_index(num_classes=40_000))
    values = commit(store, UNIT)
    assert store.read_array("topk_classes", UNIT).dtype == np.int32
    np.testing.assert_array_equal(store.read_array("topk_classes", UNIT)[:2], values.topk_classes)


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
        hard.read_array("topk_classes", UNIT)


def test_topk_is_as_long_as_the_views_are_that_another_process_added(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", views=4, group=2)
    Store.open(store.path, writable=True).extend(8)
    store.publish_teacher(TOPK)
    lengths = {name: zarr.open_array(f"{store.path}/{name}", mode="r").shape[2] for name in ("labels", *TOPK_ARRAYS)}
    assert set(lengths.values()) == {8}, lengths
    assert Store.open(store.path).topk == TOPK.topk


@pytest.mark.parametrize("at", range(12))
def test_a_teacher_and_more_views_may_come_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Whoever is in between which two writes of the other: all arrays have all views, and the store opens meanwhile."""
    for first in ("extend", "teacher"):
        store = make_store(tmp_path / first, views=4, group=2)
        other = Store.open(store.path, writable=True)

        def meanwhile(number: int, name: str, other: Store = other, first: str = first) -> None:
            if number == at:
                other.publish_teacher(TOPK) if first == "extend" else other.extend(8)

        with monkeypatch.context() as patch:
            between_writes(patch, meanwhile)
            store.extend(8) if first == "extend" else store.publish_teacher(TOPK)
        if Store.open(store.path).teacher is None:  # there are not so many writes
            other.publish_teacher(TOPK)
        if Store.open(store.path).views == 4:
            other.extend(8)
        lengths = {name: zarr.open_array(f"{store.path}/{name}", mode="r").shape[2] for name in store.array_names[:-1]}
        assert set(lengths.values()) == {8}, lengths
        assert Store.open(store.path).topk == TOPK.topk


@pytest.mark.parametrize("meanwhile", [False, True])
def test_arrays_of_topk_that_are_too_short_are_mended_by_who_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: bool
) -> None:
    """As one that was killed between labels and topk leaves them; also where views are added meanwhile."""
    store = make_soft_store(tmp_path / "s", views=6)
    for name in TOPK_ARRAYS:
        document = json.loads((store.path / name / "zarr.json").read_text())
        document["shape"][2] = 4
        (store.path / name / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match="do not fit"):
        Store.open(store.path)
    with monkeypatch.context() as patch:
        between_writes(patch, lambda number, name: store.extend(8) if meanwhile and number == 0 else None)
        Store.open(store.path, writable=True)
    assert Store.open(store.path).views == (8 if meanwhile else 6)


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
    with pytest.raises(StoreError, match="holds no topk_classes"):
        Store.open(path).check_unit(UNIT)
    Store.open(path, writable=True).check_unit(UNIT)  # whoever writes makes it anew, as it was
    assert file.read_text() == sound
    teacher = path / "teacher" / "zarr.json"
    teacher.write_text(teacher.read_text().replace('"topk": 3', '"topk": 5'))
    with pytest.raises(StoreError, match=r"teacher/zarr\.json: topk is not what was written"):
        Store.open(path)
    teacher.write_text("{")
    with pytest.raises(StoreError, match=r"teacher/zarr\.json is damaged"):
        Store.open(path)


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
    with pytest.raises(DiskError, match="appeared meanwhile"):
        make_store(tmp_path / "s")
    assert files(tmp_path).keys() == {"s/other"}


def test_open_refuses(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no store at \S+none: make one with `teacher-cache index"):
        Store.open(tmp_path / "none")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="folder is not a store"):
        Store.open(tmp_path / "folder")
    zarr.create_group(str(tmp_path / "foreign"))
    with pytest.raises(StoreError, match="foreign is not a store, it is Zarr data of something else"):
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

    refused("has schema version 99, this program reads 2: use the program version that made it", schema=99)
    policy = document["attributes"]["teacher_cache"]["policy"]
    refused("policy is not what the store was made with .* restore it from a copy", policy=policy | {"version": 99})
    refused("group is not what the store was made with", group=3)
    refused("group, seed are not what the store was made with", group=3, seed=None)
    refused("views is not what the store was made with", views=400)
    refused("shards is not what the store was made with", shards=[])
    refused("is packed as 'zip', this program reads 'files'", packing="zip")
    (path / "zarr.json").write_text(sound[:100])
    with pytest.raises(StoreError, match=r"metadata of .* are damaged .*restore its zarr\.json"):
        Store.open(path)
    (path / "zarr.json").write_bytes(sound.encode() + b"\xff")  # one byte of it is named, not all that there are
    with pytest.raises(StoreError, match=r"\(ValueError: zarr\.json: 'utf-8' codec .{,80}\): restore its zarr\.json"):
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
        lambda: reader.publish_teacher(TeacherIdentity("t")),
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
