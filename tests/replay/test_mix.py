import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from teacher_cache.replay.mix import LAMBDA_ONE, MixPlan, apply_mix, blend, class_pairs, draw_mix
from teacher_cache.replay.policy import Policy, load_policy
from teacher_cache.replay.seeds import Stream, derive
from tests.support.statistics import ALPHA

POLICY = load_policy("deit", ["size=[24,32]"])


def draw(policy: Policy, number: int, num_samples: int, skipped: frozenset[int] = frozenset()) -> MixPlan:
    return draw_mix(policy, Stream(derive(number, "mix")), num_samples, skipped)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 64), st.sets(st.integers(0, 63), max_size=8), st.sampled_from([1.0, 0.5]))
def test_a_plan_is_a_symmetric_matching(number: int, num_samples: int, positions: set[int], probability: float) -> None:
    policy = load_policy("deit", ["size=[24,32]", f"mix.probability={probability}"])
    skipped = frozenset(position for position in positions if position < num_samples)
    plan = draw(policy, number, num_samples, skipped)
    own = np.arange(num_samples)
    alone = plan.partners == own
    assert np.array_equal(plan.partners[plan.partners], own)
    assert np.array_equal(plan.lambdas[plan.partners], plan.lambdas)
    assert np.array_equal(plan.boxes[plan.partners], plan.boxes)
    assert (plan.lambdas[alone] == LAMBDA_ONE).all()
    assert (plan.boxes[alone] == 0).all()
    assert all(alone[position] for position in skipped)
    assert (plan.lambdas <= LAMBDA_ONE).all()
    assert plan.lambdas.dtype == np.uint32
    assert plan.partners.dtype == np.int64
    assert plan.boxes.dtype == np.int32
    for lam, (top, left, height, width) in zip(plan.lambdas.tolist(), plan.boxes.tolist(), strict=True):
        if height:
            assert top >= 0
            assert left >= 0
            assert top + height <= 24
            assert left + width <= 32
            assert width > 0
            assert lam == round(LAMBDA_ONE * (1 - height * width / (24 * 32)))
    if probability == 1 and not skipped:
        assert alone.sum() <= num_samples % 2 + 4  # a lambda may come out as 1
    unskipped = draw(policy, number, num_samples)
    for position in range(num_samples):
        if position not in skipped and int(unskipped.partners[position]) not in skipped:
            assert plan.partners[position] == unskipped.partners[position]
            assert plan.lambdas[position] == unskipped.lambdas[position]


def test_every_pair_is_as_likely() -> None:
    met = np.zeros((6, 6), dtype=int)
    for number in range(3000):
        met[np.arange(6), draw(POLICY, number, 6).partners] += 1
    assert stats.chisquare(met[np.triu_indices(6, 1)], np.full(15, met[np.triu_indices(6, 1)].mean())).pvalue > ALPHA


def test_the_pairs_of_a_block_are_drawn_one_by_one() -> None:
    """timm draws one lambda for a whole batch."""
    plan = draw(load_policy("deit", ["size=[24,32]", "mix.cutmix_alpha=none"]), 0, 64)
    assert len(set(plan.lambdas.tolist())) == 32


def test_what_a_mix_leaves_out_is_not_done() -> None:
    only_cut = load_policy("deit", ["mix.mixup_alpha=none"])
    only_blended = load_policy("deit", ["mix.cutmix_alpha=none"])
    assert all(draw(only_cut, number, 2).boxes[0, 2] > 0 for number in range(50))
    assert all(draw(only_blended, number, 2).boxes[0, 2] == 0 for number in range(50))


def test_blend_is_the_integer_formula() -> None:
    a, b = (side.astype(np.uint8) for side in np.mgrid[:256, :256])
    for lam in [
        0,
        2,
        4,
        32766,
        32768,
        32770,
        65534,
        65536,
        *(2 * random.Random(0).randrange(32768) for _ in range(99)),
    ]:
        expected = (a.astype(np.int64) * lam + b.astype(np.int64) * (LAMBDA_ONE - lam) + 32768) >> 16
        assert np.array_equal(blend(a, b, lam), expected), lam
        assert np.array_equal(blend(a[:3, :5].copy(), b[:3, :5].copy(), lam), expected[:3, :5])


@pytest.mark.parametrize("num_samples", [1, 2, 7, 16])
def test_applying_is_the_naive_loop(num_samples: int) -> None:
    views = np.random.default_rng(0).integers(0, 256, (num_samples, 24, 32, 3), dtype=np.uint8)
    for number in range(20):
        plan = draw(POLICY, number, num_samples)
        expected = views.copy()
        for own, partner in enumerate(plan.partners.tolist()):
            top, left, height, width = plan.boxes[own].tolist()
            if height:
                inside = (own, slice(top, top + height), slice(left, left + width))
                expected[inside] = views[(partner, *inside[1:])]
            elif partner != own:
                lam = int(plan.lambdas[own])
                mixed = views[own].astype(np.int64) * lam + views[partner].astype(np.int64) * (LAMBDA_ONE - lam)
                expected[own] = (mixed + 32768) >> 16
        in_place = views.copy()
        apply_mix(in_place, plan)
        assert np.array_equal(in_place, expected)
        anywhere = [view.copy() for view in views]
        apply_mix(anywhere, plan)
        assert np.array_equal(np.stack(anywhere), expected)


def test_class_pairs() -> None:
    plan = draw(POLICY, 0, 5, frozenset({2}))
    pairs = class_pairs(np.array([10, 11, 12, 13, 14], dtype=np.int32), plan, frozenset({2}))
    assert pairs.dtype == np.int32
    assert pairs[2].tolist() == [-2, -2]
    for position in (0, 1, 3, 4):
        assert pairs[position].tolist() == [10 + position, 10 + int(plan.partners[position])]
    off = draw(load_policy("none"), 0, 5)
    assert off.partners.tolist() == [0, 1, 2, 3, 4]
    assert (off.lambdas == LAMBDA_ONE).all()


def test_three_hundred_views_meet_almost_all_of_a_block() -> None:
    """README's 62.5 distinct partners: 63 (1 - (62 / 63)^300), and less by what comes out unmixed."""
    partners = np.stack([draw(load_policy("deit"), number, 64).partners for number in range(300)])
    own = np.arange(64)
    met = [len(set(partners[:, position]) - {position}) for position in own]
    assert abs(np.mean(met) - 62.48) < 0.2
