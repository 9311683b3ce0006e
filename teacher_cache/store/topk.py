"""Soft labels: a teacher's K largest probabilities at a temperature tau, and the mass of all other classes.

Stored in float16, which keeps 11 bits down to 6e-5 and something down to 6e-8. Its rounding would swamp 1 minus the
sum of the K, so the other classes' mass is a number of its own, and reading makes the parts sum to 1 again.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

Array = TypeVar("Array")


@dataclass(frozen=True)
class SoftLabels(Generic[Array]):
    """What the teacher says of B views, in arrays or tensors. probabilities and tail sum to 1 in each view."""

    classes: Array  # (B, K) int64, the most probable first; the first is the label
    probabilities: Array  # (B, K) float32, theirs
    tail: Array  # (B,) float32, the mass of all other classes together


def top_classes(logits: np.ndarray, topk: int, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """The topk largest of softmax(logits / tau), as the store keeps them. logits (B, C) float32, 1 <= topk <= C.

    -> classes (B, topk) int64 by descending logit, ties by class, so that the first is the argmax; probabilities
    (B, topk + 1) float16 of these classes, the last entry being all the other classes' mass, summed over them.
    A row does not depend on its neighbours.
    """
    logits = np.ascontiguousarray(logits, np.float32) + np.float32(0)  # no -0, which is 0 but has other bits
    num_classes = logits.shape[1]
    assert 1 <= topk <= num_classes
    # A key of 64 bits sorts by descending logit, then by class: the bits of a float, mirrored where it is negative,
    # sort as integers do.
    bits = logits.view(np.int32)
    descending = ~(bits ^ ((bits >> 31) & 0x7FFFFFFF))
    keys = (descending.astype(np.int64) << 32) | np.arange(num_classes)
    if topk < num_classes:
        keys = np.partition(keys, topk - 1, axis=1)[:, :topk]
    classes = np.sort(keys, axis=1) & 0xFFFFFFFF
    exact = logits.astype(np.float64)
    masses = np.exp((exact - exact.max(axis=1, keepdims=True)) / tau)
    largest = np.take_along_axis(masses, classes, axis=1)
    np.put_along_axis(masses, classes, 0, axis=1)
    parts = np.concatenate([largest, masses.sum(axis=1, keepdims=True)], axis=1)
    return classes, (parts / parts.sum(axis=1, keepdims=True)).astype(np.float16)


def renormalise(classes: np.ndarray, probabilities: np.ndarray) -> SoftLabels[np.ndarray]:
    """What top_classes gave, read back: (B, K) classes and (B, K + 1) float16 -> parts that sum to 1 in float32."""
    parts = probabilities.astype(np.float64)
    parts /= parts.sum(axis=1, keepdims=True)
    parts = parts.astype(np.float32)
    return SoftLabels(classes.astype(np.int64), parts[:, :-1], parts[:, -1])
