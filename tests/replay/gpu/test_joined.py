"""Plans that are joined say what one plan of all their blocks says."""

from typing import Any

import numpy as np
import pytest

from teacher_cache.replay.gpu.batch import prepare_batch
from teacher_cache.replay.gpu.joined import Piece, join_plans
from teacher_cache.replay.gpu.plan import RenderPlan
from teacher_cache.replay.policy import Policy, load_policy
from tests.support.decoded import decoded_block
from tests.support.images import picture

SEED = 5
POLICIES = {
    "deit": load_policy("deit", ["size=[24,16]", "rand_augment={num_ops=5}", "erase={mode='rand',count=2}"]),
    "none": load_policy("none", ["size=[24,16]"]),
}
BLOCKS = [
    decoded_block([picture(number, 40 + number, 50) for number in range(16)], frozenset({3, 7})),
    decoded_block([picture(number, 9, 30 + number) for number in range(5)], number=1),
]


def entries(plan: RenderPlan) -> dict[tuple[tuple[int, int], str], np.ndarray]:
    """(entries, fields) int64, of each turn and kernel."""
    small = plan.written()
    found: dict[tuple[tuple[int, int], str], Any] = {}
    for launched in plan.launches:
        rows = small[launched.place :].view(np.int64)[: launched.num * launched.num_fields]
        found[launched.turn, launched.kernel] = rows.reshape(launched.num, -1)
    return found


def same_work(one: RenderPlan, other: RenderPlan) -> None:
    ours, theirs = entries(one), entries(other)
    assert ours.keys() == theirs.keys()
    for key, rows in ours.items():
        kernel, expected = key[1], theirs[key]
        assert len(rows) == len(expected), key
        if kernel in ("resize", "mix", "erase"):
            assert np.array_equal(rows, expected), key
        elif kernel not in ("tables_of_counts", "tables_of_sums"):
            assert sorted(rows[:, 0].tolist()) == sorted(expected[:, 0].tolist()), key
    for name in ("num_views", "size", "most_rows", "across_bytes", "num_counts", "num_sums", "interpolation"):
        assert getattr(one, name) == getattr(other, name), name
    assert np.array_equal(one.sides, other.sides)
    assert [each.most_pixels for each in one.launches] == [each.most_pixels for each in other.launches]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_blocks_that_are_joined_are_blocks_planned_together(policy: Policy) -> None:
    whole = prepare_batch(policy, SEED, BLOCKS, [4])
    first, second = (prepare_batch(policy, SEED, [block], [4]) for block in BLOCKS)
    joined = join_plans([Piece(first.plan, range(16)), Piece(second.plan, range(5), len(first.pictures))])
    assert len(first.pictures) + len(second.pictures) == len(whole.pictures)
    same_work(joined, whole.plan)
    assert len(joined.launches) == len(whole.plan.launches) < len(first.plan.launches) + len(second.plan.launches)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_some_views_of_a_plan_are_those_views_planned_alone(policy: Policy, number: int) -> None:
    """Their pictures are of all views; counts and sums of the others are left out of what is done, not of memory."""
    views = [2, 6, 9]
    all_views = prepare_batch(policy, SEED, BLOCKS[:1], views)
    alone = prepare_batch(policy, SEED, BLOCKS[:1], [views[number]])
    some = join_plans([Piece(all_views.plan, range(16 * number, 16 * number + 16))])
    ours, theirs = entries(some), entries(alone.plan)
    for key, rows in ours.items():
        if key[1] in ("tables_of_counts", "tables_of_sums"):
            assert len(rows) >= len(theirs.get(key, ()))
        elif key[1] in ("mix", "erase"):
            assert np.array_equal(rows, theirs[key])
        elif key[1] == "resize":
            assert np.array_equal(rows[:, 2:], theirs[key][:, 2:])  # where a picture begins, and its width, are others
        else:
            assert sorted(rows[:, 0].tolist()) == sorted(theirs[key][:, 0].tolist())
    assert {key for key in theirs if "tables" not in key[1]} == {key for key in ours if "tables" not in key[1]}
    assert (some.num_views, some.across_bytes, some.most_rows) == (16, alone.plan.across_bytes, alone.plan.most_rows)
    assert np.array_equal(some.sides, alone.plan.sides)


def test_a_whole_plan_alone_is_itself() -> None:
    plan = prepare_batch(POLICIES["deit"], SEED, BLOCKS[:1], [0]).plan
    assert join_plans([Piece(plan, range(16))]) is plan


def test_skipped_samples_have_no_slot_wherever_they_are() -> None:
    """Of a block without any sample nothing is left but zeros to write."""
    policy = POLICIES["deit"]
    gone = decoded_block([picture(0, 9, 9)] * 2, frozenset({0, 1}), number=2)
    plans = [prepare_batch(policy, SEED, [block], [0]).plan for block in (gone, BLOCKS[1], gone)]
    joined = join_plans([Piece(plan, range(plan.num_views), 0) for plan in plans])
    own = entries(joined)[(3, 0), "mix"][:, 0]
    assert own[:2].tolist() == own[-2:].tolist() == [-1, -1]
    assert len(set((own[2:-2] // (24 * 16 * 3) % 9).tolist())) == 5
    assert (own[2:-2] // (24 * 16 * 3) % 9).tolist() == [2, 3, 4, 5, 6]
    assert len(joined.sides) == 5
