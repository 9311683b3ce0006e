"""Resizing in integers, antialiased as Pillow's: the specification of what torch's kernel for uint8 computes."""

import math

import numpy as np

from teacher_cache.replay.policy import Interpolation

_SUPPORT = {"bicubic": 2.0, "bilinear": 1.0}  # of the filter, in pixels of the coarser picture
_MOST_BITS = 22


class ResizeWeights:
    """What one side of a picture is resized with, from size_in to size_out pixels.

    first: (size_out,) int32, the first source pixel of each result; weights: (taps, size_out) int16 in units of
    2**-bits, 0 beyond the source's end. A result is (sum of weight x level + 2**(bits - 1)) >> bits, clipped to 0..255.
    """

    def __init__(self, size_in: int, size_out: int, interpolation: Interpolation) -> None:
        stretch = max(size_in / size_out, 1.0)
        most_taps = math.ceil(_SUPPORT[interpolation] * stretch) * 2 + 1
        first, last, centre = tapped(size_in, size_out, np.arange(size_out), interpolation)
        num = last - first
        shares = np.zeros((most_taps, size_out))
        total = np.zeros(size_out)
        for tap in range(most_taps):
            distance = np.abs((tap + first - centre + 0.5) * (1.0 / stretch))
            shares[tap] = np.where(tap < num, _filter(distance, interpolation), 0.0)
            total = total + shares[tap]
        shares /= np.where(total != 0, total, 1)
        self.bits = _precision(max(float(shares.max()), 0.0))
        scaled = shares * (1 << self.bits)
        rounded = np.where(scaled < 0, scaled - 0.5, scaled + 0.5).astype(np.int64)  # halves away from zero
        self.first = first.astype(np.int32)
        self.weights = np.ascontiguousarray(rounded[: int(num.max())].astype(np.int16))


def tapped(
    size_in: int | np.ndarray, size_out: int | np.ndarray, places: np.ndarray, interpolation: Interpolation
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first source pixel that a result's place is made of, the one after the last, and the centre among them."""
    scale = np.asarray(size_in) / np.asarray(size_out)
    support = _SUPPORT[interpolation] * np.maximum(scale, 1.0)
    centre = scale * (places + 0.5)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)  # towards zero
    beyond = np.minimum((centre + support + 0.5).astype(np.int64), size_in)
    return first, first + np.clip(beyond - first, 0, 2 * np.ceil(support).astype(np.int64) + 1), centre


def resample(pixels: np.ndarray, size: tuple[int, int], interpolation: Interpolation) -> np.ndarray:
    """Across, then down. pixels (H, W, 3) uint8; size: height and width."""
    across = _along(pixels.transpose(1, 0, 2), size[1], interpolation)
    return np.ascontiguousarray(_along(across.transpose(1, 0, 2), size[0], interpolation))


def _along(pixels: np.ndarray, size_out: int, interpolation: Interpolation) -> np.ndarray:
    """The first axis resized."""
    table = ResizeWeights(len(pixels), size_out, interpolation)
    total = np.full((size_out, *pixels.shape[1:]), 1 << (table.bits - 1), np.int32)
    for tap, weights in enumerate(table.weights.astype(np.int32)):
        places = np.minimum(table.first + tap, len(pixels) - 1)  # those beyond have no weight
        total += pixels[places] * weights[:, None, None]
    return (total >> table.bits).clip(0, 255).astype(np.uint8)


def _filter(distance: np.ndarray, interpolation: Interpolation) -> np.ndarray:
    """Pillow's filters of resize; its cubic has the coefficient -0.5."""
    if interpolation == "bilinear":
        return np.maximum(1.0 - distance, 0.0)
    near = ((-0.5 + 2.0) * distance - (-0.5 + 3.0)) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * -0.5
    return np.where(distance < 1.0, near, np.where(distance < 2.0, far, 0.0))


def _precision(largest: float) -> int:
    """The most bits with which the largest weight fits 16."""
    bits = 0
    while bits < _MOST_BITS and int(0.5 + largest * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    return bits
