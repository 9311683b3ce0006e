"""Drawn views and their mixing, by the native library where it is: the bytes of render.py and mix.py, sooner."""

import ctypes
import functools
from collections.abc import Sequence

import numpy as np

from teacher_cache.replay.erase import noise_tables
from teacher_cache.replay.mix import MixPlan, apply_mix
from teacher_cache.replay.native.library import ViewColumns, Workspace, workspace
from teacher_cache.replay.params import NAMES, DrawnViews

INTERPOLATIONS = ("bicubic", "bilinear")
_ERASE_MODES = ("const", "pixel", "rand")


class NativeViews:
    """Drawn views that a workspace renders."""

    def __init__(self, workspace: Workspace, drawn: DrawnViews) -> None:
        policy = drawn.policy
        self._workspace = workspace
        self._arrays = {  # kept, as the library reads them where they lie
            "crops": drawn.crops,
            "resized": drawn.resized,
            "windows": drawn.windows,
            "flips": drawn.flips.view(np.uint8),
            "operations": drawn.operations,
            "values": drawn.values,
            "erased": drawn.erased,
            "noise_streams": drawn.noise,
            "noise": _noise(policy.mean, policy.std) if drawn.erased.size else np.zeros(0, np.uint8),
        }
        self._arrays = {name: np.ascontiguousarray(array) for name, array in self._arrays.items()}
        self._own: np.ndarray = np.any(drawn.operations >= len(NAMES), axis=1)
        self._columns = ViewColumns(
            num=len(drawn),
            height=policy.size[0],
            width=policy.size[1],
            **{name: address(array) for name, array in self._arrays.items()},
            most_operations=drawn.operations.shape[1],
            most_boxes=drawn.erased.shape[1],
            interpolation=INTERPOLATIONS.index(policy.crop.interpolation),
            geometry=INTERPOLATIONS.index(drawn.geometry),
            erase_mode=_ERASE_MODES.index(policy.erase.mode) if policy.erase is not None else 0,
            fill=drawn.fill,
        )

    def is_own(self, number: int) -> bool:
        """Whether a view has an operation of the policy's own, which is Python's to do."""
        return bool(self._own[number])

    def render(self, number: int, decoded: np.ndarray, out: np.ndarray) -> None:
        """As `render_pixels`, into out. decoded (H, W, 3) and out (h, w, 3): uint8, contiguous."""
        assert decoded.flags.c_contiguous
        height, width, _ = decoded.shape
        self._workspace.render(self._columns, number, address(decoded), (height, width), address(out))


def native_views(drawn: DrawnViews) -> NativeViews | None:
    """None where the library is absent or switched off."""
    held = workspace()
    return NativeViews(held, drawn) if held is not None else None


def mix_views(views: np.ndarray | Sequence[np.ndarray], plan: MixPlan) -> None:
    """`apply_mix`, by the library where it is. views (n, H, W, 3) uint8, or n arrays (H, W, 3), each contiguous."""
    held = workspace()
    if held is None or not len(views):
        apply_mix(views, plan)
        return
    rows = (ctypes.c_void_p * len(views))(*map(address, views))
    height, width, _ = views[0].shape
    partners, lambdas, boxes = map(np.ascontiguousarray, (plan.partners, plan.lambdas, plan.boxes))
    held.mix(rows, (height, width), address(partners), address(lambdas), address(boxes))


def address(array: np.ndarray) -> int:
    place: int = array.__array_interface__["data"][0]
    return place


@functools.lru_cache(maxsize=8)
def _noise(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    return np.stack(noise_tables(mean, std))
