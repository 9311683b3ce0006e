"""Intervals, kappa and McNemar against SciPy, scikit-learn, formulas by hand and simulation."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from teacher_cache.audit.intervals import effective_views, kappa, mcnemar, measured, wilson


@pytest.mark.parametrize(("hits", "views"), [(0, 5), (5, 5), (3, 10), (712, 1000), (1, 100_000)])
def test_wilson_is_scipys(hits: int, views: int) -> None:
    expected = binomtest(hits, views).proportion_ci(0.95, "wilson")
    assert wilson(hits / views, views) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("share", "views", "low", "high"),
    [
        (8 / 10, 10, 0.490162, 0.943318),
        (0, 20, 0.0, 0.161125),
        (1, 20, 0.838875, 1.0),
        (37_250 / 50_000, 50_000, 0.741162, 0.748801),
        (8 / 10, 10.5, 0.497575, 0.941711),  # of no whole number of views
    ],
)
def test_wilson_is_the_textbooks_formula_worked_by_hand(share: float, views: float, low: float, high: float) -> None:
    assert wilson(share, views) == pytest.approx((low, high), abs=2e-6)


def test_kappa_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 4, 500)
    second = np.where(rng.random(500) < 0.5, first, rng.integers(0, 4, 500))
    given = [np.bincount(labels, minlength=4) for labels in (first, second)]
    assert kappa(float((first == second).mean()), *given) == pytest.approx(cohen_kappa_score(first, second))
    assert kappa(1.0, np.array([5, 0]), np.array([5, 0])) is None
    assert kappa(0.0, np.array([0, 0]), np.array([0, 0])) is None


def test_mcnemar_is_the_exact_binomial_test() -> None:
    for b, c in [(0, 0), (1, 0), (3, 9), (9, 3), (40, 41), (7, 7), (400, 300)]:
        expected = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
        assert mcnemar(b, c) == pytest.approx(expected)


def test_views_that_repeat_their_block_count_as_one() -> None:
    hits = np.repeat([True, False, True, True, False, True, False, False] * 5, 16)
    blocks = np.repeat(np.arange(40), 16)
    effective = effective_views(np.bincount(blocks, hits), np.bincount(blocks))
    assert effective == pytest.approx(40, rel=0.1)
    alone = measured(hits, np.arange(len(hits)))
    assert alone["interval"] == pytest.approx(list(wilson(0.5, len(hits))), abs=1e-3)
    assert measured(hits, blocks)["interval"][0] < alone["interval"][0] - 0.05


def test_few_blocks_widen() -> None:
    assert measured(np.ones(64, bool), np.zeros(64, int)) == {
        **{"views": 64, "blocks": 1, "share": 1.0},
        "interval": pytest.approx(list(wilson(1.0, 1))),
    }
    assert measured(np.zeros(0, bool), np.zeros(0, int))["interval"] is None


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Views of a block share luck of their own; an interval that took them for independent would cover far less."""
    rng = np.random.default_rng(1)
    covered = naive = 0
    runs = 400
    for _ in range(runs):
        chances = np.repeat(rng.beta(2, 2, 30), 64)
        hits, blocks = rng.random(len(chances)) < chances, np.repeat(np.arange(30), 64)
        low, high = measured(hits, blocks)["interval"]
        covered += low <= 0.5 <= high
        low, high = measured(hits, np.arange(len(hits)))["interval"]
        naive += low <= 0.5 <= high
    assert 0.92 <= covered / runs <= 0.99
    assert naive / runs < 0.5
