"""Where pixels come from: crops, resizing, mirroring, and the affine warps of RandAugment and AutoAugment.

All of it is integer arithmetic. Shears and translations move a row (or column) as a whole, so four taps along it are
enough; their weights lie on a grid so coarse that 32-bit floats hold every product and sum exactly, in whatever order a
kernel adds them up. A rotation takes four taps of four rows.
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

TAP_BITS = 14
_TAP_ONE = 1 << TAP_BITS  # taps are multiples of 1 / _TAP_ONE: times 8 bits, and summed, they have 24 bits
_FLOOR = -0.5 + 0.5 / _TAP_ONE  # added before OpenCV rounds to the nearest, it cuts off instead, as Pillow does

# of a rotation: places in the source are multiples of 1 / PLACE_ONE pixel; taps are those of the nearest
# 1 / NUM_PHASES, in units of 2**-12; what the four of a row give keeps 8 bits below a level: all sums fit 32 bits
PLACE_BITS, PHASE_BITS = 16, 8
PLACE_ONE, NUM_PHASES = 1 << PLACE_BITS, 1 << PHASE_BITS
ROTATED_BITS = 12
ROW_BITS = 8
_FIELD_BITS = 21  # of a row's sum: a channel's share of 64 bits
_LEVEL_ZERO = 128  # added to each level, so that no sum is negative
_FIELD_ZERO = _LEVEL_ZERO << ROTATED_BITS  # what a row's sum has then, as its taps sum to one
AT_ONCE = 1 << 14  # results: so many that calls cost little, so few that what they are made of stays in a cache


def cut(pixels: np.ndarray, box: Box) -> np.ndarray:
    """A view of the box's pixels."""
    return pixels[box.top : box.top + box.height, box.left : box.left + box.width]


def spanned(boxes: np.ndarray) -> np.ndarray:
    """The smallest boxes that hold all of each picture's. boxes (views, n, 4) -> (n, 4)."""
    begin = boxes[:, :, :2].min(axis=0)
    return np.concatenate([begin, (boxes[:, :, :2] + boxes[:, :, 2:]).max(axis=0) - begin], axis=1)


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

    name is rotate (value: degrees), shear_x, shear_y, translate_x or translate_y (share of the side). Pixels are
    Pillow's but for the last bits.
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


def integer_taps(fractions: np.ndarray, interpolation: Interpolation, bits: int) -> np.ndarray:
    """Weights (n, 4) int32, in units of 2**-bits, of the pixels at -1, 0, 1, 2 for places 0 <= fraction < 1 between 0
    and 1: Pillow's for transforms, whose cubic has the coefficient -1 (Geometry.c; its resize has -0.5)."""
    t = fractions
    taps = np.zeros((4, len(t)))
    if interpolation == "bicubic":
        square = t * t
        cube = square * t
        taps[0] = 2.0 * square - t - cube
        taps[2] = t + square - cube
        taps[3] = cube - square
    else:
        taps[2] = t
    taps = np.rint(taps * (1 << bits))
    taps[1] = (1 << bits) - (taps[0] + taps[2] + taps[3])
    return taps.T.astype(np.int32, order="C")


def _taps(fractions: np.ndarray, interpolation: Interpolation) -> np.ndarray:
    """Shares (n, 4) float32 that sum to one."""
    return (integer_taps(fractions, interpolation, TAP_BITS) / _TAP_ONE).astype(np.float32)


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
    x = np.arange(width, dtype=np.int16)
    outside = (x < first[:, None]) | (x >= last[:, None])
    return cv2.copyTo(_background(height, width, fill), outside.view(np.uint8), sheared.reshape(height, width, 3))


@functools.lru_cache(maxsize=8)
def _background(height: int, width: int, fill: Colour) -> np.ndarray:
    """(height, width, 3) uint8 of one colour, read only: kept, as three bytes a pixel are slow to write."""
    background = np.full((height, width, 3), fill, dtype=np.uint8)
    background.flags.writeable = False
    return background


def moved_lines(name: str, values: np.ndarray, height: int, width: int, interpolation: Interpolation) -> np.ndarray:
    """Shears' or translations' rows (columns, of shear_y and translate_y), each as it is moved, with each of values
    (m,): (m, lines, 8) int32 of whole pixels, the first and the last place whose source is inside, four taps in units
    of 2**-TAP_BITS, 0. One line stands for all of a translation."""
    lines, size = (height, width) if name.endswith("_x") else (width, height)
    shifts = (values * size)[:, None]
    if name.startswith("shear"):
        shifts = values[:, None] * (np.arange(lines) + 0.5)
    whole = np.floor(shifts)
    moved = np.zeros((*shifts.shape, 8), np.int32)
    moved[..., 0] = np.clip(whole, -size - 2, size + 2)  # beyond, nothing of the line is left
    moved[..., 1], moved[..., 2] = _inside(shifts, size)
    moved[..., 3:7] = integer_taps((shifts - whole).ravel(), interpolation, TAP_BITS).reshape(*shifts.shape, 4)
    return moved


def rotation_steps(degrees: float, height: int, width: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """A rotation about the centre, from a place in the result to its source, with Pillow's coefficients.

    For the source's x, then its y: the step along x, along y, and the first pixel's, in units of 1 / PLACE_ONE pixel
    from the first pixel's centre.
    """
    angle = -math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = width / 2, height / 2
    matrix = ((cos, sin, x - cos * x - sin * y), (-sin, cos, y + sin * x - cos * y))
    # Pillow counts from a picture's corner; the grid hides where libraries' cosines differ in their last bits
    centred = [(a, b, c + 0.5 * (a + b) - 0.5) for a, b, c in matrix]
    across, down = ([round(on_grid(entry) * PLACE_ONE) for entry in row] for row in centred)
    return (across[0], across[1], across[2]), (down[0], down[1], down[2])


@functools.lru_cache(maxsize=2)
def phase_taps(interpolation: Interpolation) -> np.ndarray:
    """(NUM_PHASES, 4) int32, in units of 2**-ROTATED_BITS, read only."""
    taps = integer_taps(np.arange(NUM_PHASES) / NUM_PHASES, interpolation, ROTATED_BITS)
    taps.flags.writeable = False
    return taps


def _rotate(pixels: np.ndarray, degrees: float, interpolation: Interpolation, fill: Colour) -> np.ndarray:
    """About the centre, some rows at a time."""
    height, width = pixels.shape[:2]
    across, down = rotation_steps(degrees, height, width)
    packed = _packed(cv2.copyMakeBorder(pixels, 2, 2, 2, 2, cv2.BORDER_REPLICATE))
    rotated, outside = np.empty_like(pixels), np.empty((height, width), bool)
    num_rows = max(1, AT_ONCE // width)
    for top in range(0, height, num_rows):
        rows = slice(top, min(top + num_rows, height))
        source_x, source_y = _sources(across, rows, width), _sources(down, rows, width)
        outside[rows] = _is_outside(source_x, width) | _is_outside(source_y, height)
        levels = _sixteen_taps(packed, source_x.ravel(), source_y.ravel(), phase_taps(interpolation))
        cv2.merge(list(levels.reshape(3, -1, width)), rotated[rows])
    return cv2.copyTo(_background(height, width, fill), outside.view(np.uint8), rotated)


def _sources(steps: tuple[int, int, int], rows: slice, width: int) -> np.ndarray:
    """The source's x (or y) of each result in some rows, as `rotation_steps`: (rows, width) int32."""
    x, y = np.arange(width, dtype=np.int32), np.arange(rows.start, rows.stop, dtype=np.int32)
    return (steps[0] * x + steps[2]) + (steps[1] * y)[:, None]


def _is_outside(source: np.ndarray, size: int) -> np.ndarray:
    """The picture ends half a pixel out; what lies before it is beyond it as an unsigned number."""
    return (source + PLACE_ONE // 2).view(np.uint32) >= size * PLACE_ONE


def _sixteen_taps(packed: np.ndarray, source_x: np.ndarray, source_y: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """A level is the sum over four rows of tap x (the row's sum of tap x level >> 4), cut off: (3, n) uint8.

    packed: the picture with two pixels around it, as `_packed`: the channels of a row's sum lie in one word, too. Where
    a source is outside, the level says nothing.
    """
    stride, lost = packed.shape[1], ROTATED_BITS - ROW_BITS
    # half a phase on, so that cutting off rounds, and a pixel on: within the border that is the first of the 4 x 4
    place_x, place_y = (source + (PLACE_ONE // NUM_PHASES // 2 + PLACE_ONE) for source in (source_x, source_y))
    corner = ((place_y >> PLACE_BITS) * stride + (place_x >> PLACE_BITS)).astype(np.intp)
    phase_x, phase_y = (
        (place >> (PLACE_BITS - PHASE_BITS) & (NUM_PHASES - 1)).astype(np.intp) for place in (place_x, place_y)
    )
    across = taps.T.astype(np.int64).take(phase_x, axis=1, mode="clip")
    down = np.ascontiguousarray(taps.T).take(phase_y, axis=1, mode="clip")
    # less what the zeros of the fields add to it, as the taps of the rows sum to one
    total = np.full((3, len(corner)), -(_FIELD_ZERO >> lost) << ROTATED_BITS, np.int32)
    line, tapped = np.empty(len(corner), np.int64), np.empty(len(corner), np.int64)
    for row in range(4):
        for column in range(4):
            packed.ravel()[row * stride + column :].take(corner, out=tapped, mode="clip")
            np.multiply(tapped, across[column], out=tapped if column else line)
            if column:
                line += tapped
        for channel in range(3):
            line >>= _FIELD_BITS if channel else lost
            field = line.astype(np.int32)
            field &= (1 << (_FIELD_BITS - lost)) - 1
            field *= down[row]
            total[channel] += field
    total >>= ROW_BITS + ROTATED_BITS
    return total.clip(0, 255, out=total).astype(np.uint8)


def _packed(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) int64: channels _FIELD_BITS apart, each with _LEVEL_ZERO added."""
    packed = pixels[:, :, 2].astype(np.int64)
    for channel in (1, 0):
        packed <<= _FIELD_BITS
        packed |= pixels[:, :, channel]
    packed += sum(_LEVEL_ZERO << (channel * _FIELD_BITS) for channel in range(3))
    return packed
