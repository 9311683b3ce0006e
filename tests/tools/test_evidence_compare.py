"""Intervals against SciPy's, and what is not said."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tools.evidence.compare import Estimate, difference, mean_of, verdict
from tools.evidence.errors import EvidenceError
from tools.evidence.table import Row

ROW = Row("e", "a", 0, 1, 0.5, None, None, None, 1, "cpu", 0.1, "c", "abc", 10_000)
MANY = 10**12  # pictures: their part of the variance is nothing


def rows(shares: Sequence[float], pictures: int = 10_000) -> list[Row]:
    return [replace(ROW, seed=seed, top1_class=share, pictures=pictures) for seed, share in enumerate(shares)]


ONE, TWO = [0.41, 0.43, 0.425, 0.40], [0.38, 0.39, 0.383]


def test_a_mean_over_seeds_has_students_interval() -> None:
    found = mean_of(rows(ONE, MANY), "class")
    low, high = stats.t.interval(0.95, len(ONE) - 1, np.mean(ONE), stats.sem(ONE))
    assert (found.value, found.seeds) == (pytest.approx(np.mean(ONE)), 4)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_a_single_seed_has_the_pictures_interval() -> None:
    found = mean_of(rows([0.4]), "class")
    answers = np.arange(10_000) < 4_000
    low, high = stats.t.interval(0.95, 9_999, 0.4, answers.std() / 100)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    wilson = stats.binomtest(4_000, 10_000).proportion_ci(method="wilson")
    assert (found.low, found.high) == (pytest.approx(wilson.low, abs=1e-4), pytest.approx(wilson.high, abs=1e-4))


def test_a_difference_over_seeds_is_welchs() -> None:
    found = difference(rows(ONE, MANY), rows(TWO, MANY), ("class", "class"))
    expected = stats.ttest_ind(ONE, TWO, equal_var=False).confidence_interval(0.95)
    assert found.value == pytest.approx(np.mean(ONE) - np.mean(TWO))
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=1e-9), pytest.approx(expected.high, abs=1e-9))
    assert found.seeds == 3


def test_seeds_and_pictures_together_cover_what_they_say() -> None:
    """95 of 100 intervals hold the true difference where both seeds and pictures are drawn anew."""
    rng = np.random.default_rng(0)
    inside, trials, pictures = 0, 2_000, 500
    for _ in range(trials):
        arms = []
        for mean in (0.5, 0.45):
            true = rng.normal(mean, 0.02, 3)  # of each seed, over all pictures there are
            sample = rng.normal(0, np.sqrt(mean * (1 - mean) / pictures))  # the pictures', the same for each seed
            arms.append(rows(np.clip(true + sample, 0, 1).tolist(), pictures))
        found = difference(arms[0], arms[1], ("class", "class"))
        inside += found.low <= 0.05 <= found.high
    assert 0.94 <= inside / trials <= 0.99


def test_equal_seeds_leave_the_pictures() -> None:
    same = rows([0.4, 0.4, 0.4])
    found = difference(same, same, ("class", "class"))
    assert found.value == 0
    assert found.half == pytest.approx(1.96 * np.sqrt(2 * 0.24 / 10_000), rel=1e-3)


@pytest.mark.parametrize("counts", [(2, 3), (3, 2), (1, 1), (0, 3)])
def test_under_three_seeds_nothing_is_compared(counts: tuple[int, int]) -> None:
    one, two = (rows([0.4, 0.41, 0.42][:count]) for count in counts)
    with pytest.raises(EvidenceError, match=f"^{min(counts)} of the 3 seeds without which two arms are not compared"):
        difference(one, two, ("class", "class"))


def test_a_seed_that_is_there_twice_counts_for_no_other() -> None:
    twice = [*rows([0.4, 0.41]), *rows([0.42])]
    with pytest.raises(EvidenceError, match=r"rows of the seeds \[0, 1, 0\] are no arm"):
        difference(twice, rows(ONE), ("class", "class"))


def test_rows_of_other_pictures_are_not_averaged() -> None:
    with pytest.raises(EvidenceError, match=r"on other numbers of pictures, \[100, 10000\]"):
        mean_of([*rows([0.4], 100), replace(ROW, seed=1)], "class")


def test_heads() -> None:
    both = [replace(row, top1_distill=0.6, top1_fused=0.7) for row in rows([0.4, 0.41, 0.42])]
    assert mean_of(both, "distill").value == pytest.approx(0.6)
    assert mean_of(both, "fused").value == pytest.approx(0.7)
    assert mean_of(rows([0.4]), "fused").value == pytest.approx(0.4)  # a model of one head answers by that
    assert difference(both, both, ("distill", "class")).value == pytest.approx(0.6 - 0.41)


@pytest.mark.parametrize(
    ("value", "half", "claim", "words"),
    [
        (0.02, 0.01, "better", "better: as claimed"),
        (-0.02, 0.01, "better", "worse: **against the claim**"),
        (0.02, 0.03, "better", "no difference shows: the claim is not shown"),
        (0.02, 0.01, "equal", "better: **against the claim**"),
        (-0.02, 0.01, "equal", "worse: **against the claim**"),
        (0.0, 0.01, "equal", "no difference shows: as claimed, within this interval"),
        (0.02, 0.01, "open", "better"),
        (-0.02, 0.01, "open", "worse"),
        (0.0, 0.01, "open", "no difference shows"),
        (0.01, 0.01, "open", "no difference shows"),
    ],
)
def test_what_a_difference_shows(value: float, half: float, claim: str, words: str) -> None:
    assert verdict(Estimate(value, half, 3), claim) == words
