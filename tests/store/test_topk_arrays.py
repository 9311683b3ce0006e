"""Arrays of views' largest probabilities: what plain zarr sees, whoever comes first, and every refusal."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
import zarr

from teacher_cache.errors import StoreError
from teacher_cache.store.store import Store
from teacher_cache.store.unit import TOPK_ARRAYS, UnitValues
from tests.support.filled_store import (
    TOPK,
    UNIT,
    commit,
    count,
    draw_values,
    files,
    fill,
    make_index,
    make_soft_store,
    make_store,
)
from tests.support.interrupted import between_writes


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
