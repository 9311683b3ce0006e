"""The plan against a naive transcription of its rules, and what it promises about passes and ranks."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from student.plan import (
    Blocks,
    EpochPlan,
    PlanSettings,
    block_tasks,
    check_settings,
    epoch_plan,
    epoch_steps,
    pass_blocks,
    plan_faults,
    pool_order,
    reuse_warning,
    views_needed,
)
from teacher_cache.errors import PlanError
from teacher_cache.replay.seeds import Stream, derive
from tests.student.freeze import GOLDEN, golden_plans

Item = tuple[int, int]  # sample, view


def make_settings(**changes: object) -> PlanSettings:
    given_settings = {
        "seed": 3,
        "batch_size": 24,
        "world_size": 1,
        "rank": 0,
        "repeats": 3,
        "order": "together",
        "views_in_use": 8,
        "pool_batches": 2,
    }
    return PlanSettings(**(given_settings | changes))


def items(plan: EpochPlan) -> list[Item]:
    """The base sequence."""
    return list(zip(plan.samples.tolist(), plan.views.tolist(), strict=True))


def naive_pool(num_atoms: int, capacity: int, stream: Stream) -> list[int]:
    waiting = list(range(num_atoms))
    slots = [waiting.pop(0) for _ in range(min(capacity, num_atoms))]
    words = stream.raw(len(waiting)).tolist()
    emitted = []
    for word in words:
        slot = (word >> 32) * len(slots) >> 32
        emitted.append(slots[slot])
        slots[slot] = waiting.pop(0)
    words = stream.raw(len(slots)).tolist()
    return emitted + [slots[slot] for slot in sorted(range(len(slots)), key=lambda slot: words[slot])]


def naive_trained(settings: PlanSettings, counts: list[int], skipped: set[int], epoch: int) -> list[Item]:
    """What a rank trains in an epoch, in order: the rules one by one."""
    blocks, start = [], 0
    for count in counts:
        for first in range(start, start + count, 64):
            blocks.append([s for s in range(first, min(first + 64, start + count)) if s not in skipped])
        start += count
    number, part = epoch // settings.repeats, epoch % settings.repeats
    words = Stream(derive(settings.seed, "plan", "pass", number)).raw(len(blocks)).tolist()
    shuffled = [s for b in sorted(range(len(blocks)), key=lambda b: words[b]) for s in blocks[b]]
    n = len(shuffled)
    samples = shuffled[part * n // settings.repeats : (part + 1) * n // settings.repeats]
    views = [(number * settings.repeats + r) % settings.views_in_use for r in range(settings.repeats)]
    sequence = [(sample, view) for sample in samples for view in views]
    length = len(sequence) // settings.batch_size * settings.batch_size // settings.world_size
    mine = sequence[settings.rank * length : (settings.rank + 1) * length]
    capacity = settings.pool_batches * settings.batch_size // settings.world_size
    atoms: list[list[Item]] = []
    for item in mine:
        if settings.order == "together" and atoms and atoms[-1][0][0] == item[0]:
            atoms[-1].append(item)
        else:
            atoms.append([item])
    if settings.order == "together":
        capacity //= settings.repeats
    stream = Stream(derive(settings.seed, "plan", "pool", epoch, settings.rank))
    return [item for atom in naive_pool(len(atoms), max(1, capacity), stream) for item in atoms[atom]]


@given(
    num_atoms=st.integers(0, 300),
    capacity=st.one_of(st.integers(1, 20), st.integers(1, 400)),
    seed=st.integers(0, 1 << 40),
)
def test_pool_is_the_naive_pool(num_atoms: int, capacity: int, seed: int) -> None:
    emitted = pool_order(num_atoms, capacity, Stream(derive(seed, "plan")))
    assert emitted.tolist() == naive_pool(num_atoms, capacity, Stream(derive(seed, "plan")))


def test_pool_of_more_than_16_bits_is_the_naive_pool() -> None:
    emitted = pool_order(80_000, 70_000, Stream(derive(0, "plan")))
    words = Stream(derive(0, "plan")).raw(10_000).tolist()
    assert emitted[0] == (words[0] >> 32) * 70_000 >> 32
    assert np.array_equal(np.sort(emitted), np.arange(80_000))


def test_pool_mixes_no_further_than_it_holds() -> None:
    emitted = pool_order(10_000, 100, Stream(derive(0, "plan")))
    assert np.array_equal(np.sort(emitted), np.arange(10_000))
    assert (emitted - np.arange(10_000)).max() == 99  # nothing comes before it has entered the pool
    delay = np.arange(9_900) - emitted[:9_900] + 99
    assert 90 < delay.mean() < 110  # a steady pool of 100: geometric, mean 99


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(0, 200), min_size=1, max_size=6).filter(lambda counts: sum(counts) >= 24),
    repeats=st.integers(1, 4),
    world_size=st.integers(1, 4),
    order=st.sampled_from(["together", "apart"]),
    pool_batches=st.integers(0, 5),
    epoch=st.integers(0, 30),
    seed=st.integers(0, 1 << 40),
    skip=st.sets(st.integers(0, 1199), max_size=8),
)
def test_plan_is_the_naive_plan(
    counts: list[int],
    repeats: int,
    world_size: int,
    order: str,
    pool_batches: int,
    epoch: int,
    seed: int,
    skip: set[int],
) -> None:
    skipped = {sample for sample in skip if sample < sum(counts)}
    blocks = pass_blocks(np.array(counts), np.array(sorted(skipped), dtype=np.int64))
    for rank in range(world_size):
        plan_settings = make_settings(
            seed=seed,
            batch_size=12,
            world_size=world_size,
            rank=rank,
            repeats=repeats,
            order=order,
            views_in_use=7,
            pool_batches=pool_batches,
        )
        plan = epoch_plan(plan_settings, blocks, epoch)
        trained = [items(plan)[base] for base in plan.order.tolist()]
        assert trained == naive_trained(plan_settings, counts, skipped, epoch)
        assert plan.steps == epoch_steps(plan_settings, blocks, epoch) == len(trained) / (12 // world_size)


def test_blocks_are_enumerated_shard_by_shard() -> None:
    blocks = pass_blocks(np.array([65, 0, 1, 128]), np.array([64, 65, 70]))
    assert blocks.shards.tolist() == [0, 0, 2, 3, 3]
    assert blocks.numbers.tolist() == [0, 1, 0, 0, 1]
    assert blocks.first.tolist() == [0, 64, 65, 66, 130]
    assert np.diff(blocks.starts).tolist() == [64, 0, 0, 63, 64]  # two are empty
    assert blocks.num_samples == 191


@pytest.mark.parametrize("order", ["together", "apart"])
def test_a_pass_shows_r_views_of_every_sample_none_twice(order: str) -> None:
    blocks = pass_blocks(np.array([130, 1, 64, 77]))
    n, repeats = blocks.num_samples, 3
    plan_settings = make_settings(order=order)
    for number in (0, 1, 3):  # the last wraps around the 8 views in use
        seen: Counter[Item] = Counter()
        for epoch in range(number * repeats, (number + 1) * repeats):
            plan = epoch_plan(plan_settings, blocks, epoch)
            assert np.array_equal(np.sort(plan.order), np.arange(len(plan.samples)))
            seen.update(items(plan))
        assert set(seen.values()) == {1}
        views = {(number * repeats + repeat) % 8 for repeat in range(repeats)}
        assert {view for _, view in seen} == views
        whole = [sample for sample in range(n) if all((sample, view) in seen for view in views)]
        dropped = n * repeats - len(seen)
        assert dropped < repeats * plan_settings.batch_size  # a tail of less than a batch an epoch
        assert n - len(whole) <= -(-dropped // repeats) + repeats


def test_an_epoch_is_the_same_set_for_one_and_two_ranks() -> None:
    blocks = pass_blocks(np.array([130, 1, 64, 77]), np.array([3]))
    for epoch in range(4):
        alone = epoch_plan(make_settings(), blocks, epoch)
        parts = [epoch_plan(make_settings(world_size=2, rank=rank), blocks, epoch) for rank in range(2)]
        assert items(parts[0]) + items(parts[1]) == items(alone)
        assert parts[0].steps == parts[1].steps == alone.steps
        assert not np.array_equal(parts[0].order, parts[1].order)


def test_together_keeps_the_views_of_a_sample_adjacent_but_for_cuts() -> None:
    blocks = pass_blocks(np.array([280]))
    for rank, cuts in ((0, 1), (1, 2)):  # parts of 130 views: the second starts and ends inside a sample
        plan = epoch_plan(make_settings(batch_size=20, world_size=2, rank=rank), blocks, 1)
        trained = plan.samples[plan.order]
        runs = np.split(trained, np.flatnonzero(np.diff(trained)) + 1)
        assert len({int(run[0]) for run in runs}) == len(runs)
        assert sum(len(run) != 3 for run in runs) == cuts


def test_tasks_cover_the_base_sequence_block_by_block() -> None:
    counts = np.array([130, 1, 64, 77])
    blocks = pass_blocks(counts)
    plan = epoch_plan(make_settings(batch_size=20, world_size=2, rank=1), blocks, 4)
    shard_starts = np.concatenate([[0], np.cumsum(counts)])
    tasks = list(block_tasks(plan, blocks))
    assert np.array_equal(np.concatenate([task.bases for task in tasks]), np.arange(len(plan.samples)))
    assert len({task.block for task in tasks}) == len(tasks)
    for task in tasks:
        assert set(task.views) == set(task.item_views.tolist())
        assert 0 <= task.positions.min() <= task.positions.max() < 64
        assert np.array_equal(plan.samples[task.bases], shard_starts[task.shard] + task.number * 64 + task.positions)
        assert np.array_equal(plan.views[task.bases], task.item_views)


def test_tasks_of_a_resumed_epoch_are_those_of_its_remaining_batches() -> None:
    blocks = pass_blocks(np.array([130, 1, 64, 77]))
    plan = epoch_plan(make_settings(), blocks, 0)
    for step in (0, 1, plan.steps - 1, plan.steps):
        bases = [task.bases for task in block_tasks(plan, blocks, step)]
        remaining = np.sort(plan.order[step * plan.local_batch :])
        assert np.array_equal(np.concatenate([*bases, remaining[:0]]), remaining)


def test_plan_is_frozen() -> None:
    assert golden_plans() == json.loads(GOLDEN.read_text())


def test_settings_that_fit_pass() -> None:
    check_settings(make_settings(batch_size=90, world_size=2, rank=1), pass_blocks(np.array([91])), store_views=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world_size": 5}, "a global batch of 24 cannot be shared out among 5 ranks: --set batch_size=25"),
        ({"repeats": 9}, "9 repeats need as many views of a sample, 8 views are in use"),
        ({"views_in_use": 17}, "--views-used 17 is not within the store's 1 to 16: --views-used 16, or"),
        ({"views_in_use": 0}, "--views-used 0 is not within the store's 1 to 16"),
        (
            {"batch_size": 93},
            r"an epoch has 90 views \(91 samples\), less than one .*: --set batch_size=8$",
        ),
        ({"rank": 1}, "rank 1 is not one of 1 rank:"),
        ({"batch_size": 0}, "batch 0, repeats 3"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check_settings(make_settings(**changes), pass_blocks(np.array([91])), store_views=16)


def test_no_repeats_are_offered_where_no_sample_is_left() -> None:
    faults = list(plan_faults(make_settings(), 0, store_views=8, store="STORE"))
    assert any("0 samples are too few" in fault.found for fault in faults)
    assert [fault.mend for fault in faults] == [(), ()]


def test_views_needed_are_those_that_are_read() -> None:
    assert views_needed(300, 3, 304) == list(range(300))
    assert views_needed(2, 3, 304) == [0, 1, 2]
    assert views_needed(4, 3, 5) == [0, 1, 2, 3, 4]
    blocks: Blocks = pass_blocks(np.array([100]))
    for epochs, repeats, in_use in ((1, 1, 4), (4, 3, 8), (7, 2, 8), (9, 3, 4)):
        plans = [
            epoch_plan(make_settings(repeats=repeats, views_in_use=in_use), blocks, epoch) for epoch in range(epochs)
        ]
        read = set(np.concatenate([plan.views for plan in plans]).tolist())
        assert sorted(read) == views_needed(epochs, repeats, in_use)


def test_reuse_of_views_is_warned_of() -> None:
    assert reuse_warning(300, 3, 300) is None
    assert reuse_warning(30, 1, 30) is None
    warning = reuse_warning(300, 3, 100)
    assert warning is not None
    assert "300 views of a sample, 100 views are in use: each is trained on up to 3 times" in warning
    assert reuse_warning(301, 3, 302) is not None  # the last pass is begun: 303 views
