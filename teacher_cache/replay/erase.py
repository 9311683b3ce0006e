"""Erased boxes, filled with noise or with the mean colour: timm's RandomErasing, in uint8."""

import functools
import math

import cv2
import numpy as np

from teacher_cache.replay.geometry import cut
from teacher_cache.replay.params import ViewParams
from teacher_cache.replay.seeds import Stream


def erase(pixels: np.ndarray, params: ViewParams) -> None:
    """Fill a view's boxes, in place. timm draws N(0, 1) after normalisation; here levels have its distribution."""
    stream = Stream(bytes.fromhex(params.noise))
    tables = noise_tables(params.mean, params.std)
    for box in params.erased:
        erased = cut(pixels, box)
        if params.erase_mode == "const":
            erased[:] = params.fill
            continue
        planes = (3, box.height, box.width) if params.erase_mode == "pixel" else (3, 1, 1)
        pieces = stream.raw(-(-math.prod(planes) // 4)).astype("<u8").view("<u2")[: math.prod(planes)].reshape(planes)
        erased[:] = cv2.merge([np.take(table, plane) for table, plane in zip(tables, pieces, strict=True)])


@functools.lru_cache(maxsize=8)
def noise_tables(mean: tuple[float, ...], std: tuple[float, ...]) -> list[np.ndarray]:
    """For each channel 65,536 levels, as frequent as those of round(255 (mean + std z)), clipped, for normal z."""
    return [_noise_table(*channel) for channel in zip(mean, std, strict=True)]


def _noise_table(mean: float, std: float) -> np.ndarray:
    below = [0]
    for level in range(255):  # the chance of at most `level`
        z = ((level + 0.5) / 255 - mean) / std
        below.append(round(65536 * 0.5 * (1.0 + math.erf(z / math.sqrt(2.0)))))
    below.append(65536)
    return np.repeat(np.arange(256, dtype=np.uint8), np.diff(below))
