"""What levels become: RandAugment's, AutoAugment's and the jitter's operations that move no pixel.

Their results are Pillow's; where Pillow's are of floats that end a hair below a whole number, of the exact fraction.
"""

import functools

import cv2
import numpy as np
from PIL import Image

from teacher_cache.replay.seeds import GRID

_LEVELS = np.arange(256, dtype=np.uint8)
FACTOR_ONE = 1 << 12  # factors of a blend are multiples of 1 / FACTOR_ONE: times 8 bits, and summed, they have 24 bits
_FLOOR = -0.5 + 0.5 / FACTOR_ONE  # added before OpenCV rounds to the nearest, it cuts off instead, as Pillow does


def recolour(pixels: np.ndarray, name: str, value: float | int | None) -> np.ndarray:
    """An operation that is no warp and no own one. pixels (H, W, 3) uint8 -> the same shape, new memory."""
    match name:
        case "autocontrast":
            return cv2.LUT(pixels, _autocontrast_tables(pixels))
        case "equalize":
            return cv2.LUT(pixels, _equalize_tables(_histograms(pixels)))
        case "invert":
            return ~pixels
    assert value is not None, name
    match name:
        case "posterize":
            return pixels & np.uint8(0xFF00 >> min(int(value), 8) & 0xFF)
        case "solarize":  # levels from value on are inverted
            return pixels ^ -(pixels >= int(value)).view(np.uint8)
        case "solarize_add":
            return pixels + (pixels < 128).view(np.uint8) * np.uint8(value)  # at most 127 + 128
        case "brightness":
            return cv2.LUT(pixels, _blended_levels(0, value))
        case "contrast":
            grey = _grey(pixels)
            mean = (2 * int(cv2.sumElems(grey)[0]) + grey.size) // (2 * grey.size)  # rounded
            return cv2.LUT(pixels, _blended_levels(mean, value))
        case "color":
            return blend(cv2.cvtColor(_grey(pixels), cv2.COLOR_GRAY2RGB), pixels, value)
        case "sharpness":
            return blend(_smooth(pixels), pixels, value)
        case "hue":
            return _shift_hue(pixels, hue_step(value))
    raise AssertionError(name)


def level_tables(name: str, values: np.ndarray) -> np.ndarray:
    """What an operation that knows no other pixel makes of each level, with each value: (m, 256) uint8."""
    if name == "brightness":
        return _blended_levels(0, values[:, None])
    return np.array([_level_table(name, int(value)) for value in values.tolist()])


@functools.lru_cache(maxsize=1 << 10)
def _level_table(name: str, value: int) -> np.ndarray:
    pixels = np.repeat(_LEVELS[None, :, None], 3, axis=2)
    return np.ascontiguousarray(recolour(pixels, name, value)[0, :, 0])


def _blended_levels(degenerate: int, factor: float | np.ndarray) -> np.ndarray:
    """Pillow's Image.blend of one degenerate level and each of the 256: clipped, then cut off. A table (256,) uint8, or
    (m, 256) of factors (m, 1)."""
    difference = _LEVELS.astype(np.int64) - degenerate
    scaled = difference * np.rint(factor * GRID).astype(np.int64) >> 20
    return np.clip(scaled + degenerate, 0, 255).astype(np.uint8)


def blend(degenerate: np.ndarray, pixels: np.ndarray, factor: float) -> np.ndarray:
    """Pillow's Image.blend(degenerate, pixels, factor): clipped, then cut off; factor below 8.

    OpenCV does it in 32-bit floats, exactly, whether it fuses multiplication and addition or not.
    """
    factor = round(factor * FACTOR_ONE) / FACTOR_ONE
    return cv2.addWeighted(pixels, factor, degenerate, 1.0 - factor, _FLOOR)


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Pillow's convert("L") but for the last bit of its weights: (H, W) uint8."""
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def _smooth(pixels: np.ndarray) -> np.ndarray:
    """Pillow's ImageFilter.SMOOTH: weights 1 (centre 5), over 13, rounded; the outermost pixels stay."""
    smoothed = pixels.copy()
    if min(pixels.shape[:2]) > 2:
        total = cv2.boxFilter(pixels, cv2.CV_16U, (3, 3), normalize=False)
        total = cv2.scaleAdd(pixels.astype(np.uint16), 4.0, total)
        # a thirteenth is never half a level away from a level, so that any rounding of it gives the same
        smoothed[1:-1, 1:-1] = cv2.convertScaleAbs(total, alpha=1.0 / 13.0)[1:-1, 1:-1]
    return smoothed


def _histograms(pixels: np.ndarray) -> np.ndarray:
    """(3, 256) int64; OpenCV counts in 32-bit floats, exactly up to 2**24 pixels."""
    counts = [cv2.calcHist([channel], [0], None, [256], [0, 256]).ravel() for channel in cv2.split(pixels)]
    return np.array(counts).astype(np.int64)


def _autocontrast_tables(pixels: np.ndarray) -> np.ndarray:
    """ImageOps.autocontrast, cut off from the exact quotient: (1, 256, 3)."""
    tables = np.empty((1, 256, 3), np.uint8)
    columns = pixels.reshape(len(pixels), -1)  # numpy has vector code for extremes down a column, not along it
    darkest, brightest = columns.min(axis=0).reshape(-1, 3).min(axis=0), columns.max(axis=0).reshape(-1, 3).max(axis=0)
    for channel, (low, high) in enumerate(zip(darkest.tolist(), brightest.tolist(), strict=True)):
        if high <= low:
            tables[0, :, channel] = _LEVELS
            continue
        # 255 is reached: Pillow's product of floats may end below it
        tables[0, :, channel] = ((_LEVELS.astype(np.int64) - low) * 255 // (high - low)).clip(0, 255)
    return tables


def _equalize_tables(histograms: np.ndarray) -> np.ndarray:
    """ImageOps.equalize: (1, 256, 3)."""
    tables = np.empty((1, 256, 3), np.uint8)
    for channel, histogram in enumerate(histograms):
        present = histogram[histogram > 0]
        step = (int(present.sum()) - int(present[-1])) // 255
        if len(present) <= 1 or not step:
            tables[0, :, channel] = _LEVELS
            continue
        below = np.cumsum(histogram) - histogram + step // 2
        tables[0, :, channel] = np.minimum(below // step, 255)
    return tables


def hue_step(shift: float) -> int:
    """A shift of the hue, a share of the circle, as what is added to a hue of 8 bits, which wraps around: 0..255."""
    return int(shift * 255) & 0xFF


def _shift_hue(pixels: np.ndarray, step: int) -> np.ndarray:
    """torchvision's adjust_hue on Pillow images; the way back from HSV is Pillow's own."""
    hsv = to_hsv(pixels)
    hsv[:, :, 0] += np.uint8(step)  # wraps around
    return np.array(Image.fromarray(hsv, "HSV").convert("RGB"))


def to_hsv(pixels: np.ndarray) -> np.ndarray:
    """Pillow's convert("HSV"), cut off from exact fractions: its floats give 3 of 1,000 colours a hue lower by one."""
    red, green, blue = (pixels[:, :, channel].astype(np.int32) for channel in range(3))
    brightest = np.maximum(np.maximum(red, green), blue)
    chroma = brightest - np.minimum(np.minimum(red, green), blue)
    # the hue in sixths of the circle, times chroma
    sixths = np.where(
        red == brightest,
        green - blue,
        np.where(green == brightest, 2 * chroma + blue - red, 4 * chroma + red - green),
    )
    sixths += 6 * chroma * (sixths < 0)
    hue = 255 * sixths // np.maximum(6 * chroma, 1)
    saturation = 255 * chroma // np.maximum(brightest, 1)
    return np.stack([hue, saturation, brightest], axis=2).astype(np.uint8)
