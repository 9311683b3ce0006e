"""A teacher that is drawn: the same each time, of as many samples as it is said to have."""

import numpy as np

from teacher_cache.store.simulated import MEAN_TOP1, SimulatedTeacher, simulate


def test_blocks_cover_the_samples_once() -> None:
    teacher = SimulatedTeacher(samples=130, views=3, classes=7, seed=1)
    assert teacher.blocks == range(3)
    assert [teacher.logits(block).shape for block in teacher.blocks] == [(64, 3, 7), (64, 3, 7), (2, 3, 7)]
    assert teacher.logits(2).dtype == np.float32


def test_blocks_are_drawn_apart_and_again_the_same() -> None:
    teacher = SimulatedTeacher(samples=128, views=2, classes=7, seed=1)
    np.testing.assert_array_equal(teacher.logits(1), teacher.logits(1))
    assert (teacher.logits(0) != teacher.logits(1)).all()
    assert (teacher.logits(0) != teacher._replace(seed=2).logits(0)).all()
    np.testing.assert_array_equal(teacher._replace(scale=2.0).logits(0), 2 * teacher.logits(0))


def test_views_of_a_sample_are_more_alike_than_samples() -> None:
    logits = SimulatedTeacher(samples=64, views=8, classes=50, seed=0).logits(0)
    assert logits.std(axis=1).mean() < 0.5 * logits.std(axis=0).mean()


def test_the_scale_is_that_of_the_mean_it_names() -> None:
    logits = simulate(64, 2, 100, seed=3).logits(0).astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    assert abs(shares.max(axis=-1).mean() - MEAN_TOP1) < 1e-3
