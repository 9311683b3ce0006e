"""(image bytes, view parameters) -> pixels. One decode serves every view asked for.

Pixels must come out equal on every x86-64 machine with AVX2: integer arithmetic, table look-ups, floats that hold every
result exactly, and library kernels that are integer inside.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

import cv2
import numpy as np

from teacher_cache.errors import PolicyError
from teacher_cache.replay.colour import recolour
from teacher_cache.replay.decode import decode
from teacher_cache.replay.erase import erase
from teacher_cache.replay.geometry import WARPS, cut, mirror, resize, warp
from teacher_cache.replay.operations import OwnOperation, one_line
from teacher_cache.replay.params import Operation, ViewParams

_NONE: Mapping[str, OwnOperation] = MappingProxyType({})


def render(image: bytes, views: Iterable[ViewParams]) -> Iterator[np.ndarray]:
    """Decode once, render each view. Raises ImageError, as `decode`."""
    decoded = decode(image)
    for params in views:
        yield render_pixels(decoded, params)


def render_pixels(decoded: np.ndarray, params: ViewParams, own: Mapping[str, OwnOperation] = _NONE) -> np.ndarray:
    """decoded (H, W, 3) uint8 -> the view, (h, w, 3) uint8, contiguous, sharing no memory with decoded.

    own: the policy's own operations. Raises PolicyError (without shard and key) where one of them fails.
    """
    quiet_opencv()
    pixels = resize(cut(decoded, params.crop), params.resized, params.interpolation)
    pixels = np.ascontiguousarray(cut(pixels, params.window))
    if np.may_share_memory(pixels, decoded):
        pixels = pixels.copy()
    if params.flip:
        pixels = mirror(pixels)
    for operation in params.operations:
        if operation.name in own:
            pixels = _operate_own(pixels, operation, own[operation.name])
        elif operation.name in WARPS:
            assert operation.value is not None
            pixels = warp(pixels, operation.name, operation.value, params.geometry, params.fill)
        else:
            pixels = recolour(pixels, operation.name, operation.value)
    if params.erased:
        erase(pixels, params)
    return pixels


def _operate_own(pixels: np.ndarray, operation: Operation, function: OwnOperation) -> np.ndarray:
    name, level = operation
    assert level is not None
    expected = pixels.shape
    try:
        result = function(pixels.copy(), float(level))
    except (Exception, SystemExit) as error:
        raise PolicyError(f"operation {name} at level {level:.4f} failed: {one_line(error)}") from error
    if isinstance(result, np.ndarray) and result.shape == expected and result.dtype == np.uint8:
        return np.array(result, order="C")  # a copy: what it returned may be its own
    what = f"a {type(result).__name__}"
    if isinstance(result, np.ndarray):
        what = f"an array {result.shape} of {result.dtype}"
    raise PolicyError(f"operation {name} at level {level:.4f} returned {what}, expected {expected} of uint8")


_opencv = threading.local()


def quiet_opencv() -> None:
    """OpenCV's threads and IPP's kernels off: both may change the last bit, and IPP's switch is one a thread."""
    if not getattr(_opencv, "is_quiet", False):
        cv2.setNumThreads(0)
        cv2.ipp.setUseIPP(False)
        _opencv.is_quiet = True
