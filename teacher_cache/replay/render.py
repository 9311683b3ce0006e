"""(image bytes, recipes) -> pixels. One decode serves every view asked for.

Pixels must come out equal on every x86-64 machine with AVX2: integer arithmetic, table look-ups, and library kernels
that are integer inside. Decoding and OpenCV's geometry are several times faster than Pillow, whose results they match.
"""

import functools
import io
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

import cv2
import numpy as np
import PIL
import torch
import torchvision
from PIL import Image, ImageFile
from torchvision.io import ImageReadMode

from teacher_cache.errors import ImageError, PolicyError
from teacher_cache.replay.operations import OwnOperation, one_line
from teacher_cache.replay.recipe import Box, Operation, Recipe
from teacher_cache.replay.seeds import GRID, Stream, on_grid

_RGB = ImageReadMode.RGB.value
_NONE: Mapping[str, OwnOperation] = MappingProxyType({})


def pixel_libraries() -> dict[str, str]:
    """Names and versions of everything that decides pixels, to explain a drift."""
    return {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
        "numpy": np.__version__,
    }


def render(image: bytes, recipes: Iterable[Recipe]) -> Iterator[np.ndarray]:
    """Decode once, render each recipe. Raises ImageError, as `decode`."""
    decoded = decode(image)
    for recipe in recipes:
        yield render_pixels(decoded, recipe)


def render_pixels(decoded: np.ndarray, recipe: Recipe, own: Mapping[str, OwnOperation] = _NONE) -> np.ndarray:
    """decoded (H, W, 3) uint8 -> the view, (h, w, 3) uint8, contiguous, sharing no memory with decoded.

    own: the policy's own operations. Raises PolicyError (without shard and key) where one of them fails.
    """
    _quiet_opencv()
    pixels = _resize(_cut(decoded, recipe.crop), recipe.resized, recipe.interpolation)
    pixels = np.ascontiguousarray(_cut(pixels, recipe.window))
    if recipe.flip:
        pixels = cv2.flip(pixels, 1)
    for operation in recipe.operations:
        if operation.name in own:
            pixels = _operate_own(pixels, operation, own[operation.name])
        else:
            pixels = _operate(pixels, operation, recipe)
    if recipe.erased:
        if np.may_share_memory(pixels, decoded):
            pixels = pixels.copy()
        _erase(pixels, recipe)
    return pixels.copy() if np.may_share_memory(pixels, decoded) else pixels


# Decoding


def decode(image: bytes) -> np.ndarray:
    """Encoded image -> (H, W, 3) uint8 RGB, by Pillow's convert("RGB"); EXIF orientation is ignored, as in timm.

    Told by content, not by extension. Raises ImageError (without shard and key): truncated or otherwise undecodable.
    """
    if _jpeg_layout(image) in ((8, 1), (8, 3)):
        try:  # twice Pillow's speed, the same bytes
            # torchvision.io.decode_jpeg without its notice of deprecation
            pixels = torch.ops.image.decode_jpeg(torch.frombuffer(bytearray(image), dtype=torch.uint8), _RGB)
            return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
        except (RuntimeError, AttributeError):  # refused, or a torchvision that has no such operator any more
            pass  # Pillow, the rule's reference, reads it or says why not
    return _decode_with_pillow(image)


def _decode_with_pillow(image: bytes) -> np.ndarray:
    if not image:
        raise ImageError("the image has no bytes")
    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False  # other libraries set it
    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.load()
            if opened.mode.startswith("I"):  # 16 bits: other versions of Pillow than 13 do otherwise
                grey = np.asarray(opened).clip(0, 255).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            opened.info.pop("transparency", None)  # warned of, and dropped, in the conversion
            return np.array(opened.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # each of Pillow's decoders raises its own
        what = str(error).replace("\n", " ") if not isinstance(error, PIL.UnidentifiedImageError) else "no known format"
        raise ImageError(f"the image cannot be decoded: {what} ({len(image)} bytes)") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _jpeg_layout(image: bytes) -> tuple[int, int] | None:
    """Bits a sample and number of components, of a JPEG's frame header; None where there is none."""
    if image[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 10 <= len(image) and image[place] == 0xFF:
        marker = image[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return image[place + 4], image[place + 9]
        else:
            place += 2 + int.from_bytes(image[place + 2 : place + 4], "big")
    return None


# Crop and resize


def _cut(pixels: np.ndarray, box: Box) -> np.ndarray:
    return pixels[box.top : box.top + box.height, box.left : box.left + box.width]


def _resize(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Antialiased, as Pillow's resize, whose fixed-point kernel torch has for uint8."""
    if pixels.shape[:2] == size:
        return pixels
    tensor = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(tensor, size, mode=interpolation, antialias=True, align_corners=False)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


# Operations, as Pillow's and timm's; and a user's own


def _operate_own(pixels: np.ndarray, operation: Operation, function: OwnOperation) -> np.ndarray:
    name, level = operation
    assert level is not None
    expected = pixels.shape
    try:
        result = function(pixels.copy(), float(level))
    except Exception as error:
        raise PolicyError(f"operation {name} at level {level:.4f} failed: {one_line(error)}") from error
    if isinstance(result, np.ndarray) and result.shape == expected and result.dtype == np.uint8:
        return np.array(result, order="C")  # a copy: what it returned may be its own
    what = f"a {type(result).__name__}"
    if isinstance(result, np.ndarray):
        what = f"an array {result.shape} of {result.dtype}"
    raise PolicyError(f"operation {name} at level {level:.4f} returned {what}, expected {expected} of uint8")


def _operate(pixels: np.ndarray, operation: Operation, recipe: Recipe) -> np.ndarray:
    name, value = operation
    match name:
        case "autocontrast":
            return _look_up_channels(pixels, _autocontrast_table)
        case "equalize":
            return _look_up_channels(pixels, _equalize_table)
        case "invert":
            return ~pixels
    assert value is not None, name
    match name:
        case "posterize":
            return cv2.LUT(pixels, _LEVELS & (0xFF00 >> min(int(value), 8) & 0xFF))
        case "solarize":
            return cv2.LUT(pixels, np.where(int(value) <= _LEVELS, 255 - _LEVELS, _LEVELS))
        case "solarize_add":
            brighter = np.minimum(_LEVELS.astype(np.int32) + int(value), 255).astype(np.uint8)
            return cv2.LUT(pixels, np.where(_LEVELS < 128, brighter, _LEVELS))
        case "brightness":
            return cv2.LUT(pixels, _blend(np.zeros_like(_LEVELS), _LEVELS, value))
        case "contrast":
            return cv2.LUT(pixels, _blend(np.full_like(_LEVELS, _mean_grey(pixels)), _LEVELS, value))
        case "color":
            return _blend(cv2.cvtColor(_grey(pixels), cv2.COLOR_GRAY2RGB), pixels, value)
        case "sharpness":
            return _blend(_smooth(pixels), pixels, value)
        case "hue":
            return _shift_hue(pixels, value)
        case _:
            return _warp(pixels, _matrix(name, value, *pixels.shape[:2]), recipe)


_LEVELS = np.arange(256, dtype=np.uint8)


def _blend(degenerate: np.ndarray, pixels: np.ndarray, factor: float) -> np.ndarray:
    """Pillow's Image.blend(degenerate, pixels, factor): clipped, then cut off; factor on the grid, below 8."""
    mixed: np.ndarray = cv2.subtract(pixels, degenerate, dtype=cv2.CV_32S)
    mixed *= round(factor * GRID)
    np.right_shift(mixed, 20, out=mixed)
    return cv2.add(mixed, degenerate, dtype=cv2.CV_8U)


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Pillow's convert("L"): (H, W) uint8."""
    red, green, blue = (pixels[:, :, channel].astype(np.uint32) for channel in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)


def _mean_grey(pixels: np.ndarray) -> int:
    grey = _grey(pixels)
    return int(int(grey.sum(dtype=np.int64)) / grey.size + 0.5)


def _smooth(pixels: np.ndarray) -> np.ndarray:
    """Pillow's ImageFilter.SMOOTH: weights 1 (centre 5), over 13, rounded; the outermost pixels stay."""
    smoothed = pixels.copy()
    if min(pixels.shape[:2]) > 2:
        total = cv2.boxFilter(pixels, cv2.CV_16U, (3, 3), normalize=False)[1:-1, 1:-1].astype(np.uint32)
        total += pixels[1:-1, 1:-1].astype(np.uint32) * 4
        smoothed[1:-1, 1:-1] = (2 * total + 13) // 26
    return smoothed


def _look_up_channels(pixels: np.ndarray, make_table: Callable[[list[int]], list[int]]) -> np.ndarray:
    tables = []
    for channel in range(3):
        histogram = cv2.calcHist([pixels], [channel], None, [256], [0, 256])  # float32, exact up to 2**24 pixels
        tables.append(make_table(histogram.ravel().astype(np.int64).tolist()))
    return cv2.LUT(pixels, np.array(tables, dtype=np.uint8).T[None])


def _autocontrast_table(histogram: list[int]) -> list[int]:
    """ImageOps.autocontrast."""
    low = next(level for level in range(256) if histogram[level])
    high = next(level for level in reversed(range(256)) if histogram[level])
    if high <= low:
        return list(range(256))
    scale = 255.0 / (high - low)
    offset = -low * scale
    stretched = [min(255, int(level * scale + offset)) for level in range(low, high + 1)]
    return [0] * low + stretched + [255] * (255 - high)


def _equalize_table(histogram: list[int]) -> list[int]:
    """ImageOps.equalize."""
    present = [count for count in histogram if count]
    step = (sum(present) - present[-1]) // 255
    if len(present) <= 1 or not step:
        return list(range(256))
    below = itertools.accumulate(histogram[:-1], initial=step // 2)
    return [min(255, total // step) for total in below]


def _shift_hue(pixels: np.ndarray, shift: float) -> np.ndarray:
    """torchvision's adjust_hue on Pillow images."""
    hsv = np.array(Image.fromarray(pixels).convert("HSV"))
    hsv[:, :, 0] += np.uint8(int(shift * 255) & 0xFF)  # wraps around
    return np.array(Image.fromarray(hsv, "HSV").convert("RGB"))


def _matrix(name: str, value: float, height: int, width: int) -> list[list[float]]:
    """Pillow's AFFINE coefficients (from a place in the result to one in the source), as timm sets them."""
    match name:
        case "shear_x":
            return [[1.0, value, 0.0], [0.0, 1.0, 0.0]]
        case "shear_y":
            return [[1.0, 0.0, 0.0], [value, 1.0, 0.0]]
        case "translate_x":
            return [[1.0, 0.0, value * width], [0.0, 1.0, 0.0]]
        case "translate_y":
            return [[1.0, 0.0, 0.0], [0.0, 1.0, value * height]]
        case "rotate":  # about (width / 2, height / 2)
            angle = -math.radians(value)
            cos, sin = math.cos(angle), math.sin(angle)
            x, y = width / 2, height / 2
            return [[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y]]
    raise AssertionError(name)


def _warp(pixels: np.ndarray, matrix: list[list[float]], recipe: Recipe) -> np.ndarray:
    # Pillow counts from a pixel's corner, OpenCV from its centre
    shifted = [(a, b, c + 0.5 * (a + b) - 0.5) for a, b, c in matrix]
    height, width = pixels.shape[:2]
    return cv2.warpAffine(
        pixels,
        np.array([[on_grid(entry) for entry in row] for row in shifted]),
        (width, height),
        flags=cv2.WARP_INVERSE_MAP | (cv2.INTER_CUBIC if recipe.geometry == "bicubic" else cv2.INTER_LINEAR),
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=recipe.fill,
    )


_opencv = threading.local()


def _quiet_opencv() -> None:
    """OpenCV's threads and IPP's kernels off: both may change the last bit, and IPP's switch is one a thread."""
    if not getattr(_opencv, "is_quiet", False):
        cv2.setNumThreads(0)
        cv2.ipp.setUseIPP(False)
        _opencv.is_quiet = True


# Erasing


def _erase(pixels: np.ndarray, recipe: Recipe) -> None:
    """timm's RandomErasing, which draws N(0, 1) after normalisation, in uint8. In place."""
    stream = Stream(bytes.fromhex(recipe.noise))
    tables = _noise_tables(recipe.mean, recipe.std)
    for box in recipe.erased:
        erased = _cut(pixels, box)
        if recipe.erase_mode == "const":
            erased[:] = recipe.fill
            continue
        noise_size = (box.height, box.width, 3) if recipe.erase_mode == "pixel" else (1, 1, 3)
        pieces = stream.raw(-(-math.prod(noise_size) // 4)).astype("<u8").view("<u2")[: math.prod(noise_size)]
        pieces = pieces.reshape(noise_size)
        for channel in range(3):
            erased[:, :, channel] = tables[channel][pieces[:, :, channel]]


@functools.lru_cache(maxsize=8)
def _noise_tables(mean: tuple[float, ...], std: tuple[float, ...]) -> list[np.ndarray]:
    """For each channel 65,536 levels, as frequent as those of round(255 (mean + std z)), clipped, for normal z."""
    return [_noise_table(*channel) for channel in zip(mean, std, strict=True)]


def _noise_table(mean: float, std: float) -> np.ndarray:
    below = [0]
    for level in range(255):  # the chance of at most `level`
        z = ((level + 0.5) / 255 - mean) / std
        below.append(round(65536 * 0.5 * (1.0 + math.erf(z / math.sqrt(2.0)))))
    below.append(65536)
    return np.repeat(_LEVELS, np.diff(below))
