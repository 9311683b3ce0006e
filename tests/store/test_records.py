"""Records: what they say of a unit, all at once and singly, and how a damaged one is told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from teacher_cache.errors import StoreError
from teacher_cache.store.proof import device_hash
from teacher_cache.store.records import RECORD_FIELDS, Record, decode_record, encode_record
from teacher_cache.store.store import Store
from teacher_cache.store.unit import Unit, UnitCounts, hash_values
from teacher_cache.teacher.identity import TeacherIdentity
from tests.support.filled_store import UNIT, chunk, commit, count, make_store, plant


def test_a_record_comes_back() -> None:
    counts = UnitCounts(labelled=1, own=2, larger=3, either=4, skipped=5, damaged=6)
    values = encode_record(2**64 - 1, counts, 7)
    assert values.tolist() == [1, 2**64 - 1, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0]
    assert (values.dtype, len(values)) == (np.uint64, len(RECORD_FIELDS))
    assert decode_record(values) == Record(True, 2**64 - 1, counts, 7)
    assert not decode_record(np.zeros(len(RECORD_FIELDS), np.uint64)).committed


def test_what_is_committed_is_said_of_all_and_of_one(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", any_device=True)
    store.publish_teacher(TeacherIdentity(name="tiny"))
    values = commit(store, UNIT, skip=(1,), device="cuda:H100")
    commit(store, Unit(3, 0, 0))
    records = Store.open(store.path).records
    assert records.committed().sum() == 2
    assert [unit for unit in store.units() if records.is_committed(unit)] == [Unit(3, 0, 0), UNIT]
    found = records.read_one(UNIT)
    assert found.counts == count(store, UNIT, values)
    assert found.device == device_hash("cuda:H100")
    assert found.hash == hash_values(store.read_unit(UNIT))
    assert not records.read_one(Unit(0, 0, 0)).committed
    assert records.read()[UNIT].tolist() == encode_record(found.hash, found.counts, found.device).tolist()
    assert records.units_with_skips() == [UNIT]
    sums = records.sums()
    assert sums["committed"] == [1, 1]
    assert sums["labelled"] == [256, 2]
    assert sums["skipped"] == [0, 2]


def test_a_record_that_does_not_say_committed_is_damaged(tmp_path: Path) -> None:
    """No commit writes over a record: a fill that took the unit for missing would label it again for ever."""
    store = make_store(tmp_path / "s")
    values = commit(store, UNIT, skip=(0,))
    record = encode_record(3, replace(count(store, UNIT, values), own=1), 0)
    for committed in (0, 2):
        record[0] = committed
        plant(store, "records", UNIT, record)
        message = r"shard shard-0\.tar, unit 1, views 2:4 is damaged \(it does not say.*: delete its record"
        for records in (store.records, Store.open(store.path).records):
            for read in (records.committed, records.sums, lambda of=records: of.is_committed(UNIT)):
                with pytest.raises(StoreError, match=message):
                    read()
    Path(store.records.file(UNIT)).unlink()
    assert not store.committed().any()
    assert UNIT in store.missing_units()


def test_more_views_have_records_of_their_own(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    commit(store, UNIT)
    before = store.records.read()
    store.extend(8)
    assert store.records.read().shape == (4, 2, 4, len(RECORD_FIELDS))
    np.testing.assert_array_equal(store.records.read()[:, :, :2], before)
    commit(store, Unit(0, 1, 3))
    assert store.records.sums()["committed"] == [0, 1, 0, 1]


@pytest.mark.parametrize("spoilt", [b"", b"no frame", b"\x28\xb5\x2f\xfd\x24\x08damaged"])
def test_a_damaged_record_names_unit_file_and_command(tmp_path: Path, spoilt: bytes) -> None:
    store = make_store(tmp_path / "s")
    commit(store, UNIT)
    file = chunk(store, "records", UNIT)
    assert store.records.file(UNIT) == str(file)
    file.write_bytes(spoilt)
    for read in (store.records.read, store.records.sums, lambda: store.records.read_one(UNIT)):
        with pytest.raises(StoreError) as refused:
            read()
        said = str(refused.value)
        assert said.startswith(f"the record of {store.path}, shard shard-0.tar, unit 1, views 2:4 is damaged (")
        assert said.endswith(
            f"): delete its record {file} and run `teacher-cache fill {store.path} --views 2:4`, which labels the unit "
            "anew"
        )
        assert "\n" not in said
