"""The pool's rows have one owner at a time, hold what is put into them, and are as many as memory has room for."""

from dataclasses import replace

import numpy as np
import pytest

from student.plan import PlanSettings
from student.pool import SPARED, PoolMemory, pool_faults, pool_rows
from teacher_cache.errors import PlanError
from teacher_cache.replay.block import ReplayedBlock, replay
from teacher_cache.settings import parse_override
from teacher_cache.shards.read import read_block
from teacher_cache.store.store import Store
from teacher_cache.store.topk import SoftLabels
from tests.support.bright_shards import bright_store

PLAN = PlanSettings(
    seed=0, batch_size=32, world_size=1, rank=0, repeats=2, order="apart", views_in_use=4, pool_batches=1000
)
VIEW_BYTES = 8 * 8 * 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Views of 8 x 8; nothing is labelled."""
    return bright_store(tmp_path_factory.mktemp("store"), counts=(64,))


@pytest.fixture(scope="module")
def block(store: Store) -> ReplayedBlock:
    (found,) = replay(store.policy, store.seed, read_block(store.index.place(0, 0)), [0])
    return found


def memory(capacity: int, topk: int = 0) -> PoolMemory:
    return PoolMemory(capacity, topk)


# -- rows ----------------------------------------------------------------------------------------------------------


def test_rows_are_given_once_until_they_are_freed() -> None:
    pool = memory(7)
    first, second = pool.take(3), pool.take(4)
    assert sorted([*first, *second]) == list(range(7))
    assert pool.num_free == 0
    with pytest.raises(IndexError):
        pool.take(1)
    pool.free(first[1:])
    assert pool.num_free == 2
    assert sorted(pool.take(2)) == sorted(first[1:])


def test_a_row_holds_the_position_that_was_put_there(block: ReplayedBlock) -> None:
    pool = memory(64)
    rows, positions = np.array([5, 0, 63]), np.array([40, 3, 17])
    pool.put(rows, block, positions, None)
    assert (pool.class_pairs[rows] == block.class_pairs[positions]).all()
    assert (pool.lambdas[rows] == block.lambdas[positions]).all()
    assert len(set(block.lambdas[positions].tolist())) > 1, "all are alike: the test shows little"


def test_soft_labels_of_rows_are_those_put_there(block: ReplayedBlock) -> None:
    draw = np.random.default_rng(0)
    given = SoftLabels(
        classes=draw.integers(0, 10, (5, 3)),
        probabilities=draw.random((5, 3), np.float32),
        tail=draw.random(5, np.float32),
    )
    pool = memory(9, topk=3)
    rows = pool.take(5)
    pool.put(rows, block, np.arange(5), given)
    found = pool.soft(rows[[4, 1]])
    assert found.classes.dtype == np.int64
    for name in ("classes", "probabilities", "tail"):
        assert np.array_equal(getattr(found, name), getattr(given, name)[[4, 1]])
        assert getattr(found, name).flags.c_contiguous


# -- how many ------------------------------------------------------------------------------------------------------


def test_rows_are_those_of_pool_batch_and_what_is_rendered_ahead(store: Store) -> None:
    assert pool_rows(store, replace(PLAN, pool_batches=12), workers=3) == 12 * 32 + 32 + (3 + 2) * 64 * 2
    halves = replace(PLAN, pool_batches=12, world_size=2)
    assert pool_rows(store, halves, workers=0) == 13 * 16 + 2 * 64 * 2


def test_more_rows_where_blocks_come_from_far_away(store: Store) -> None:
    """As many as the blocks have that are on their way, and no more than 64 MiB hold."""
    (shard,) = store.index.shards
    far = store.with_places(replace(store.index, shards=(replace(shard, path="s3://bucket/x.tar", etag="e"),)))
    near = pool_rows(store, PLAN, 2)
    assert pool_rows(far, PLAN, 2) == near + 32 * 2 * 64 * 2
    assert pool_rows(far, PLAN, 0) == pool_rows(store, PLAN, 0) + 32 * 64 * 2
    assert pool_rows(far, PLAN, 100) == pool_rows(store, PLAN, 100) + (64 << 20) // VIEW_BYTES


def limit_memory(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    for module in ("teacher_cache.processes.memory", "student.pool"):
        monkeypatch.setattr(f"{module}.available_memory", lambda: num_bytes)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ranks", [1, 4])
def test_a_pool_is_offered_that_fits(store: Store, monkeypatch: pytest.MonkeyPatch, workers: int, ranks: int) -> None:
    """Into the memory of the machine, beside those of the other ranks there."""
    limit_memory(monkeypatch, 10**6)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    (fault,) = pool_faults(store, PLAN, workers, 0)
    assert ("of memory in each of 4 ranks here" if ranks == 4 else "of memory in this rank") in fault.found
    assert fault.mend[0] == "--set"
    key, pool = parse_override(fault.mend[1], PlanError)
    assert key == "pool_batches"
    offered = replace(PLAN, pool_batches=pool)
    assert list(pool_faults(store, offered, workers, 0)) == []
    assert ranks * pool_rows(store, offered, workers) * VIEW_BYTES <= 10**6
    assert list(pool_faults(store, replace(PLAN, pool_batches=2 * pool), workers, 0)) != []
    assert list(pool_faults(store, PLAN, workers, 0, on_device=True)) == []


def test_where_no_pool_fits_the_batch_has_to_be_smaller(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_memory(monkeypatch, 1000)
    (fault,) = pool_faults(store, PLAN, 0, 0)
    assert (fault.mend, fault.advice) == ((), "lower batch_size, or --workers")
    rows = pool_rows(store, replace(PLAN, pool_batches=0), 0) + PLAN.local_batch - 1  # not even one batch fits
    limit_memory(monkeypatch, int(rows * VIEW_BYTES / SPARED))
    (fault,) = pool_faults(store, PLAN, 0, 0)
    assert (fault.mend, fault.advice) == ((), "lower batch_size, or --workers")
    limit_memory(monkeypatch, int((rows + 1) * VIEW_BYTES / SPARED) + 1)
    (fault,) = pool_faults(store, PLAN, 0, 0)
    assert fault.mend == ("--set", "pool_batches=1")


def test_soft_labels_take_memory(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pool_rows(store, PLAN, 1)
    limit_memory(monkeypatch, rows * VIEW_BYTES)
    assert list(pool_faults(store, PLAN, 1, topk=0)) == []
    (fault,) = pool_faults(store, PLAN, 1, topk=4)
    assert "of memory in this rank" in fault.found
    limit_memory(monkeypatch, rows * (VIEW_BYTES + 4 * (4 + 4 + 1)))
    assert list(pool_faults(store, PLAN, 1, topk=4)) == []
