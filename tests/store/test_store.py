"""The store: what plain zarr sees, units whole or absent, and every refusal."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash
import zarr

import teacher_cache
from teacher_cache import files as on_disk
from teacher_cache.errors import StoreError
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
    with pytest.raises(
        StoreError, match="has 8 views already, and cannot shrink to 5: `student train --views-used 5` uses"
    ):
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


# -- refusals --------------------------------------------------------------------------------------------------------


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
