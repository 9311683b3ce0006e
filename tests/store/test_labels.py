"""Labels, digests and soft labels read while training."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from teacher_cache.errors import MissingLabelError
from teacher_cache.store.labels import LabelReader, read_committed, read_views, unit_rows
from teacher_cache.store.store import Store
from teacher_cache.store.unit import NOT_LABELLED, Unit
from tests.support.filled_store import (
    COUNTS,
    UNIT,
    chunk,
    commit,
    draw_logits,
    draw_values,
    fill,
    make_soft_store,
    make_store,
    plant,
)

BY_VIEW = 2 * (3 * 331 * 2 + 8 * 8 * 8)  # the labels of three views of 331 samples and a group's digests, twice


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


@pytest.mark.parametrize("budget_bytes", [1, BY_VIEW, 10**9])
def test_skipped_samples_are_those_of_the_block_not_of_the_next_shard(tmp_path: Path, budget_bytes: int) -> None:
    store = make_store(tmp_path / "s", views=8, group=8)
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
        [
            np.concatenate([store.read_labels(Unit(s, u, g)) for g in range(8)], axis=1)
            for s, u in store.layout.group_units
        ]
    )
    stored = stored[(stored != -1).all(axis=1)]
    reader = LabelReader(store, budget_bytes)
    rng = np.random.default_rng(0)
    for group in (0, 1, 0, 5, 1, 0):
        samples, views = rng.integers(0, len(stored), 300), 2 * group + rng.integers(0, 2, 300)
        np.testing.assert_array_equal(reader.labels(samples, views), stored[samples, views])
        assert reader.digest(0, 0, 2 * group) is not None
        held = [num_bytes for _, _, num_bytes in reader.held]
        assert sum(held) <= budget_bytes or len(held) == 1


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
    assert [(name, group) for name, group, _ in reader.held] == [("digests", 1), ("labels", 1), ("labels", 2)]
    read.clear()
    reader.labels(samples, np.full(331, 2))
    assert not read
    reader.labels(samples[:1], np.array([1]))
    assert read == [("labels", Unit(0, 0, 0))]
    too_small = LabelReader(store, 2 * size - 1)
    too_small.labels(samples, np.full(331, 1))
    assert len(too_small.held) > 1


def test_label_reader_keeps_the_views_of_an_epoch_where_whole_groups_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit is read once for the views of an epoch, whatever batches they come in, and not again for those before."""
    store = make_store(tmp_path / "s", views=16, group=8)
    fill(store)
    whole = read_views(store)
    read: list[Unit] = []
    real = store.read_labels
    monkeypatch.setattr(store, "read_labels", lambda unit: read.append(unit) or real(unit))
    reader, rng = LabelReader(store, BY_VIEW), np.random.default_rng(0)
    present = np.flatnonzero((whole >= 0).all(axis=1))
    for views in ((0, 1, 2), (3, 4, 5), (6, 7, 8)):
        read.clear()
        for _ in range(20):
            samples = rng.choice(present, 30)
            wanted = rng.permutation(np.repeat(views, 10))
            np.testing.assert_array_equal(reader.labels(samples, wanted), whole[samples, wanted])
        assert len(read) == len(set(read)), "a unit was read twice"
        digests = store.read_array("digests", store.layout.unit_of(3, 3, views[0]))
        assert reader.digest(3, 3, views[0]) == int(digests[store.layout.block(3, 3).number, views[0] % 8])
        assert sum(num_bytes for _, _, num_bytes in reader.held) <= BY_VIEW
    assert {name for name, _, num_bytes in reader.held if num_bytes == 331 * 2} == {"labels"}
    for view in range(16):  # more views at once than are kept
        np.testing.assert_array_equal(reader.labels(present, np.full(len(present), view)), whole[present, view])
    for views in (8, 8, 16):  # some of which are there, and lose their place to the others
        every = np.arange(views).repeat(len(present))
        found = reader.labels(np.tile(present, views), every)
        np.testing.assert_array_equal(found, whole[present, :views].T.reshape(-1))
    assert sum(num_bytes for _, _, num_bytes in reader.held) <= BY_VIEW


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
    fill_command = rf"run `teacher-cache fill {store.path} --views 2:4`"
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


def test_a_label_missing_in_a_committed_unit_is_an_error_for_every_reader(tmp_path: Path) -> None:
    store, unit = make_store(tmp_path / "s"), Unit(0, 1, 0)
    commit(store, unit)
    labels = store.read_labels(unit).copy()
    labels[1, 1] = NOT_LABELLED
    plant(store, "labels", unit, labels)
    message = r"key 0-0129, view 1 is not labelled: delete its record \S+0/1/0/0 "
    for read in (
        lambda: read_committed(store, unit),
        lambda: list(unit_rows(store, store.committed())),
        lambda: read_views(store, 0),
        lambda: LabelReader(store).labels(np.array([129]), np.array([1])),
        lambda: LabelReader(store).skipped(0, 2, 0),
    ):
        with pytest.raises(MissingLabelError, match=message):
            read()
    assert (read_views(store, [2, 3]) == NOT_LABELLED).all()  # of groups that are not asked for nothing is read


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
    assert budget_bytes > 1 or len(reader.held) == 1


def test_soft_labels_that_are_missing_are_named(tmp_path: Path) -> None:
    store = make_soft_store(tmp_path / "s")
    commit(store, Unit(0, 1, 0), skip=(1,))
    reader = LabelReader(store)
    command = rf"run `teacher-cache fill {store.path} --views 2:4`"
    with pytest.raises(MissingLabelError, match=rf"shard-0\.tar, key 0-0129, view 3 is not labelled: {command}"):
        reader.soft(0, 2, 3, np.array([1]))
    with pytest.raises(MissingLabelError, match="key 0-0129, view 1: the sample was skipped"):
        reader.soft(0, 2, 1, np.array([0, 1]))
    chunk(store, "topk_classes", Unit(0, 1, 0)).unlink()
    with pytest.raises(MissingLabelError, match=r"key 0-0128, view 0 is not labelled: delete .*records/c/0/1/0/0 and"):
        LabelReader(store).soft(0, 2, 0, np.array([0]))
