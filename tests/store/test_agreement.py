"""Names for classes against a dense assignment, and how much memory many classes take."""

import tracemalloc

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from teacher_cache.replay.mix import LAMBDA_ONE
from teacher_cache.store.agreement import best_names, renaming_gain


def dense_votes(truth: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Half votes of every class for every name."""
    votes = np.eye(num_classes, dtype=np.int64)
    np.add.at(votes, (truth, labels), 2)
    return votes


@pytest.mark.parametrize("seed", range(200))
def test_names_have_as_many_votes_as_any(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_classes, views = int(rng.integers(1, 12)), int(rng.integers(0, 60))
    truth = rng.integers(0, rng.integers(1, num_classes + 1), views)
    shifted, drawn = (truth + 1) % num_classes, rng.integers(0, num_classes, views)
    labels = np.where(rng.random(views) < rng.random(), shifted, drawn)
    votes = dense_votes(truth, labels, num_classes)
    names = best_names(truth, labels, num_classes)
    given = names[names >= 0]
    assert len(set(given.tolist())) == len(given)
    assert sum(votes[number, name] for number, name in enumerate(names) if name >= 0) == (
        votes[linear_sum_assignment(votes, maximize=True)].sum()
    )
    unseen = np.setdiff1d(np.arange(num_classes), truth)
    assert all(names[number] in (number, -1) for number in unseen)


def drawn_unit(num_classes: int, samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes, pairs with partners of other classes, lambdas above a half: (samples, 16 views), last axis 2."""
    rng = np.random.default_rng(0)
    own = np.repeat(rng.integers(0, num_classes, (samples, 1)), 16, axis=1)
    pairs = np.stack([own, np.roll(own, 1, axis=0)], axis=-1).astype(np.int32)
    return own, pairs, rng.integers(LAMBDA_ONE // 2 + 1, LAMBDA_ONE, own.shape)


@pytest.mark.parametrize("num_classes", [2, 10, 300])
def test_a_shifted_list_gains_what_it_hides_and_a_right_one_nothing(num_classes: int) -> None:
    own, pairs, lambdas = drawn_unit(num_classes, 4096)
    assert renaming_gain((own + 1) % num_classes, pairs, lambdas, num_classes) > 0.9
    assert renaming_gain(own, pairs, lambdas, num_classes) == 0
    assert renaming_gain(np.zeros_like(own), pairs, lambdas, num_classes) <= 0.01
    assert renaming_gain(np.full_like(own, -2), pairs, lambdas, num_classes) == 0


def test_a_gain_is_the_dense_assignments() -> None:
    rng = np.random.default_rng(1)
    own, pairs, lambdas = drawn_unit(40, 512)
    labels = np.where(rng.random(own.shape) < 0.6, (own * 3 + 1) % 40, rng.integers(0, 40, own.shape))
    learn = slice(0, None, 2)
    votes = dense_votes(own[learn].reshape(-1), labels[learn].reshape(-1), 40)
    names = linear_sum_assignment(votes, maximize=True)[1]
    expected = (labels[1::2] == names[own[1::2]]).mean() - (labels[1::2] == own[1::2]).mean()
    assert renaming_gain(labels, pairs, lambdas, 40) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("num_classes", [8_000, 21_841, 10**6])
@pytest.mark.parametrize("kind", ["right", "shifted", "drawn"])
def test_many_classes_take_little_memory(num_classes: int, kind: str) -> None:
    own, pairs, lambdas = drawn_unit(num_classes, 4096)
    drawn = np.random.default_rng(1).integers(0, num_classes, own.shape)
    labels = {"right": own, "shifted": (own + 1) % num_classes, "drawn": drawn}[kind]
    tracemalloc.start()
    gain = renaming_gain(labels, pairs, lambdas, num_classes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6
    assert -0.01 <= gain < 0.3
