"""A teacher that is drawn instead of trained: what its probabilities and labels take and say, without pictures.

A sample's class scores are drawn from Student's t with 4 degrees of freedom, whose heavy tail gives a few classes that
stand out and some that are nearly as likely; each view adds normal noise of standard deviation 0.5.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.store.layout import num_blocks

DEGREES_OF_FREEDOM = 4
VIEW_NOISE = 0.5
MEAN_TOP1 = 0.7


class SimulatedTeacher(NamedTuple):
    """A teacher of this many classes on one shard of samples x views."""

    samples: int
    views: int
    classes: int
    seed: int
    scale: float = 1.0

    def logits(self, block: int) -> np.ndarray:
        """(samples of the block, views, classes) float32."""
        rng = np.random.default_rng([self.seed, block, 0])
        samples = min(BLOCK_SAMPLES, self.samples - block * BLOCK_SAMPLES)
        scores = rng.standard_t(DEGREES_OF_FREEDOM, (samples, 1, self.classes)).astype(np.float32)
        noise = rng.standard_normal((samples, self.views, self.classes), np.float32)
        return np.float32(self.scale) * (scores + np.float32(VIEW_NOISE) * noise)

    @property
    def blocks(self) -> range:
        return range(num_blocks(self.samples))


def simulate(samples: int, views: int, classes: int, seed: int) -> SimulatedTeacher:
    """The teacher with the scale at which the largest probability is MEAN_TOP1 on average (bisected on a block)."""
    teacher = SimulatedTeacher(samples, views, classes, seed)
    scores = teacher.logits(0)
    low, high = 0.0, 100.0
    for _ in range(30):
        scale = (low + high) / 2
        below = softmax(scale * scores, axis=-1).max(axis=-1).mean() < MEAN_TOP1
        low, high = (scale, high) if below else (low, scale)
    return teacher._replace(scale=low)
