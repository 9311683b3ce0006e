"""Soft labels from logits and back: against sorting and summing by hand, in and out of float16."""

import math

import numpy as np
import pytest
import torch

from student.losses import spread_tail
from teacher_cache.store.topk import SoftLabels, renormalise, top_classes


def spread(soft: SoftLabels[np.ndarray], num_classes: int) -> np.ndarray:
    """What training makes of them."""
    classes, probabilities, tail = map(torch.from_numpy, (soft.classes, soft.probabilities, soft.tail))
    return spread_tail(classes, probabilities, tail, num_classes).numpy()


def draw_logits(num_views: int = 200, num_classes: int = 50, scale: float = 3.0) -> np.ndarray:
    return (scale * np.random.default_rng(3).standard_t(4, (num_views, num_classes))).astype(np.float32)


def naive(logits: np.ndarray, topk: int, tau: float) -> tuple[list[int], list[float]]:
    """One view's classes and parts, in Python's own numbers."""
    exact = [float(logit) for logit in logits]
    order = sorted(range(len(exact)), key=lambda number: (-exact[number], number))
    masses = [math.exp((logit - max(exact)) / tau) for logit in exact]
    total = math.fsum(masses)
    parts = [masses[number] / total for number in order[:topk]]
    return order[:topk], [*parts, math.fsum(masses[number] for number in order[topk:]) / total]


@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("topk", [1, 10, 49, 50])
def test_top_classes_equal_sorting_and_summing_by_hand(topk: int, tau: float) -> None:
    logits = draw_logits()
    classes, probabilities = top_classes(logits, topk, tau)
    assert (classes.shape, probabilities.shape, probabilities.dtype) == ((200, topk), (200, topk + 1), np.float16)
    for row, (found, parts) in enumerate(zip(classes, probabilities, strict=True)):
        expected_classes, expected = naive(logits[row], topk, tau)
        assert found.tolist() == expected_classes
        assert parts.tolist() == np.array(expected).astype(np.float16).tolist()
    np.testing.assert_array_equal(classes[:, 0], logits.argmax(1))


def test_of_equal_logits_the_lower_class_comes_first() -> None:
    rng = np.random.default_rng(0)
    logits = rng.choice(np.array([-1.0, -0.0, 0.0, 2.0, np.float32(1e-45)], np.float32), (300, 40))
    classes, _ = top_classes(logits, 30, 1.0)
    assert classes.tolist() == [naive(row, 30, 1.0)[0] for row in logits]
    np.testing.assert_array_equal(classes[:, 0], logits.argmax(1))
    assert top_classes(np.zeros((1, 9), np.float32), 4, 1.0)[0].tolist() == [[0, 1, 2, 3]]


def test_a_view_does_not_depend_on_its_neighbours() -> None:
    logits = draw_logits(num_classes=1000)
    together = top_classes(logits, 100, 2.0)
    for row in (0, 1, 77, 199):
        for alone, among in zip(top_classes(logits[row : row + 1], 100, 2.0), together, strict=True):
            np.testing.assert_array_equal(alone[0], among[row])


@pytest.mark.parametrize("topk", [1, 10, 50])
def test_read_parts_sum_to_one_and_are_within_float16_of_what_was_written(topk: int) -> None:
    logits = draw_logits()
    soft = renormalise(*top_classes(logits, topk, 1.0))
    assert (soft.classes.dtype, soft.probabilities.dtype, soft.tail.dtype) == (np.int64, np.float32, np.float32)
    assert soft.probabilities.shape == (200, topk)
    sums = soft.probabilities.sum(axis=1, dtype=np.float64) + soft.tail
    np.testing.assert_allclose(sums, 1, atol=1e-6)
    parts = np.concatenate([soft.probabilities, soft.tail[:, None]], axis=1)
    expected = np.array([naive(row, topk, 1.0)[1] for row in logits])
    np.testing.assert_allclose(parts, expected, rtol=2**-10, atol=2**-24)


def test_all_classes_give_the_whole_distribution() -> None:
    logits = draw_logits(num_classes=10, scale=1.0)
    soft = renormalise(*top_classes(logits, 10, 3.0))
    assert not soft.tail.any()
    expected = np.exp(logits.astype(np.float64) / 3)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(spread(soft, 10), expected, rtol=2**-10)


def test_the_tail_is_spread_evenly_over_the_other_classes() -> None:
    soft = renormalise(*top_classes(draw_logits(), 3, 1.0))
    whole = spread(soft, 50)
    np.testing.assert_allclose(whole.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(np.take_along_axis(whole, soft.classes, axis=1), soft.probabilities)
    for row, classes in enumerate(soft.classes):
        np.testing.assert_allclose(np.delete(whole[row], classes), soft.tail[row] / 47, rtol=1e-6)


def test_a_small_tail_is_kept() -> None:
    """1 less the sum of the largest would be rounding alone."""
    logits = np.zeros((1, 1000), np.float32)
    logits[0, :2] = 17.0, 16.0
    _, parts = top_classes(logits, 2, 1.0)
    exact = 998 / (998 + math.exp(17) + math.exp(16))
    assert 2e-5 < exact < 6e-5
    assert abs(float(parts[0, -1]) - exact) < 2**-25
    assert parts[0, :2].sum(dtype=np.float64) == 1


def test_far_apart_logits_give_the_label_alone() -> None:
    logits = np.array([[-1e30, 3e38, 0.0, 5.0]], np.float32)
    for tau in (1e-3, 1.0, 1e6):
        classes, parts = top_classes(logits, 2, tau)
        assert classes.tolist() == [[1, 3]]
        assert parts.tolist() == [[1, 0, 0]]
