"""Where pixels come from: crops, resizing, mirroring, and RandAugment's affine warps.

Shears and translations move a row (or column) as a whole, so four taps along it are enough; their weights lie on a grid
so coarse that 32-bit floats hold every product and sum exactly, in whatever order a kernel adds them up.
"""

import functools
import math
from typing import Literal

import cv2
import numpy as np

from teacher_cache.replay.params import Box, Interpolation
from teacher_cache.replay.seeds import on_grid

WARPS = frozenset({"rotate", "shear_x", "shear_y", "translate_x", "translate_y"})

Colour = tuple[int, int, int]

_TAP_ONE = 1 << 14  # taps are multiples of 1 / _TAP_ONE: times 8 bits, and summed, they have 24 bits
_FLOOR = -0.5 + 0.5 / _TAP_ONE  # added before OpenCV rounds to the nearest, it cuts off instead, as Pillow does


def cut(pixels: np.ndarray, box: Box) -> np.ndarray:
    """A view of the box's pixels."""
    return pixels[box.top : box.top + box.height, box.left : box.left + box.width]


def resize(pixels: np.ndarray, size: tuple[int, int], interpolation: Interpolation) -> np.ndarray:
    """Antialiased, as Pillow's resize, whose fixed-point kernel torch has for uint8. size: height and width."""
    if pixels.shape[:2] == size:
        return pixels
    import torch

    # the dimension of one comes first: added after the permutation it has strides from which torch makes planes
    tensor = torch.from_numpy(np.ascontiguousarray(pixels))[None].permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(tensor, size, mode=interpolation, antialias=True, align_corners=False)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def mirror(pixels: np.ndarray) -> np.ndarray:
    """Left to right."""
    import torch

    mirrored: np.ndarray = torch.from_numpy(pixels).flip(1).numpy()  # a third of the time that cv2.flip takes
    return mirrored


def warp(pixels: np.ndarray, name: str, value: float, interpolation: Interpolation, fill: Colour) -> np.ndarray:
    """A geometric operation of a view, as Pillow's Image.transform does it; what it brings in has the colour fill.

    name is rotate (value: degrees), shear_x, shear_y, translate_x or translate_y (share of the side). Shears and
    translations are Pillow's but for the last bits; rotations are OpenCV's, whose cubic has another coefficient.
    """
    height, width = pixels.shape[:2]
    match name:
        case "translate_x":
            return _translate(pixels, value * width, 1, interpolation, fill)
        case "translate_y":
            return _translate(pixels, value * height, 0, interpolation, fill)
        case "shear_x":
            return _shear_rows(pixels, value, interpolation, fill)
        case "shear_y":
            return cv2.transpose(_shear_rows(cv2.transpose(pixels), value, interpolation, fill))
    assert name == "rotate", name
    return _rotate(pixels, value, interpolation, fill)


def _taps(fractions: np.ndarray, interpolation: Interpolation) -> np.ndarray:
    """Weights (n, 4) float32 of the pixels at -1, 0, 1, 2 for places 0 <= fraction < 1 between 0 and 1: Pillow's for
    transforms, whose cubic has the coefficient -1 (Geometry.c; its resize has -0.5)."""
    t = fractions
    taps = np.zeros((len(t), 4))
    if interpolation == "bicubic":
        square = t * t
        cube = square * t
        taps[:, 0] = 2.0 * square - t - cube
        taps[:, 2] = t + square - cube
        taps[:, 3] = cube - square
    else:
        taps[:, 2] = t
    taps = np.rint(taps * _TAP_ONE)
    taps[:, 1] = _TAP_ONE - taps.sum(axis=1)
    return (taps / _TAP_ONE).astype(np.float32)


def _inside(shift: np.ndarray | float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The places first <= x < last whose source x + shift lies on the picture, which ends half a pixel out."""
    first = np.clip(np.ceil(-0.5 - np.asarray(shift)), 0, size)
    last = np.clip(np.ceil(size - 0.5 - np.asarray(shift)), 0, size)
    return first.astype(np.int16), np.maximum(first, last).astype(np.int16)


def _translate(
    pixels: np.ndarray, shift: float, axis: Literal[0, 1], interpolation: Interpolation, fill: Colour
) -> np.ndarray:
    """The result's place x is the source's place x + shift along an axis."""
    size = pixels.shape[axis]
    first, last = (int(place) for place in _inside(shift, size))
    if first == last:
        return _background(*pixels.shape[:2], fill).copy()
    whole = math.floor(shift)
    taps = _taps(np.array([shift - whole]), interpolation)
    # the source of the first place may be a pixel outside, where the picture's edge goes on
    outside = int(first + whole < 0)
    filtered = cv2.filter2D(
        pixels,
        -1,
        taps if axis == 1 else taps.T,
        anchor=(1 + outside, 0) if axis == 1 else (0, 1 + outside),
        delta=_FLOOR,
        borderType=cv2.BORDER_REPLICATE,
    )
    start, stop = first + whole + outside, last + whole + outside
    if axis == 1:
        return cv2.copyMakeBorder(filtered[:, start:stop], 0, 0, first, size - last, cv2.BORDER_CONSTANT, value=fill)
    return cv2.copyMakeBorder(filtered[start:stop], first, size - last, 0, 0, cv2.BORDER_CONSTANT, value=fill)


def _shear_rows(pixels: np.ndarray, shear: float, interpolation: Interpolation, fill: Colour) -> np.ndarray:
    """The result's place x is the source's place x + shear (y + 1/2) in row y."""
    import torch

    height, width = pixels.shape[:2]
    shifts = shear * (np.arange(height) + 0.5)
    whole = np.floor(shifts)
    first, last = _inside(shifts, width)
    taps = torch.from_numpy(_taps(shifts - whole, interpolation))
    starts = np.clip(whole, -width - 2, width + 1).astype(np.int64) - 1  # beyond, nothing of the row is left
    left, right = max(0, -int(starts.min())), max(0, int(starts.max()) + 3)
    bordered = cv2.copyMakeBorder(pixels, 0, 0, left, right, cv2.BORDER_CONSTANT)
    # the edge goes on for as far as taps of places on the picture reach; what lies beyond is covered by the fill
    bordered[:, max(0, left - 2) : left] = pixels[:, :1]
    bordered[:, left + width : left + width + 2] = pixels[:, -1:]
    # of each row the bytes from its own start on: all windows of all rows, of which one a row is taken
    row_bytes, window = bordered.strides[0], 3 * (width + 3)
    windows = np.ndarray((height, row_bytes - window + 1, window), np.uint8, bordered, 0, (row_bytes, 1, 1))
    moved = torch.from_numpy(windows[np.arange(height), 3 * (starts + left)]).float()
    total = moved[:, : 3 * width] * taps[:, :1]
    for tap in range(1, 4):
        total.addcmul_(moved[:, 3 * tap : 3 * (tap + width)], taps[:, tap : tap + 1])
    sheared: np.ndarray = total.clamp_(0, 255).numpy().astype(np.uint8)  # cut off, as Pillow
    x = np.arange(3 * width, dtype=np.int16) // 3
    outside = (x < first[:, None]) | (x >= last[:, None])
    background = _background(height, width, fill).reshape(height, -1)
    return cv2.copyTo(background, outside.view(np.uint8), sheared).reshape(height, width, 3)


@functools.lru_cache(maxsize=8)
def _background(height: int, width: int, fill: Colour) -> np.ndarray:
    """(height, width, 3) uint8 of one colour, read only: kept, as three bytes a pixel are slow to write."""
    background = np.full((height, width, 3), fill, dtype=np.uint8)
    background.flags.writeable = False
    return background


def _rotate(pixels: np.ndarray, degrees: float, interpolation: Interpolation, fill: Colour) -> np.ndarray:
    """About the centre. Pillow's coefficients, from a place in the result to one in the source."""
    height, width = pixels.shape[:2]
    angle = -math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = width / 2, height / 2
    matrix = ((cos, sin, x - cos * x - sin * y), (-sin, cos, y + sin * x - cos * y))
    # Pillow counts from a pixel's corner, OpenCV from its centre
    shifted = [(a, b, c + 0.5 * (a + b) - 0.5) for a, b, c in matrix]
    return cv2.warpAffine(
        pixels,
        np.array([[on_grid(entry) for entry in row] for row in shifted]),
        (width, height),
        flags=cv2.WARP_INVERSE_MAP | (cv2.INTER_CUBIC if interpolation == "bicubic" else cv2.INTER_LINEAR),
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=fill,
    )
