"""RandAugment operations of a user's own, given as tests/support/own_operations.py:operations."""

import numpy as np


def darken(pixels: np.ndarray, level: float) -> np.ndarray:
    """Halves at the highest level, whatever its sign."""
    return (pixels * (1 - abs(level) / 2)).astype(np.uint8)


def roll(pixels: np.ndarray, level: float) -> np.ndarray:
    """Down or up by up to half of the height, what leaves coming in again."""
    return np.roll(pixels, round(level * len(pixels) / 2), axis=0)


def operations() -> dict:
    return {"roll": roll, "darken": darken}


def others() -> dict:
    return {"Turn": lambda pixels, level: pixels[::-1, ::-1]}
