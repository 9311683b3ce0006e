"""What a device is told of drawn views, planned by the native library where it is: the bytes of gpu/plan.py, sooner."""

import ctypes
from collections.abc import Sequence

import numpy as np

from teacher_cache.replay.gpu import plan as numpys
from teacher_cache.replay.gpu.plan import ALIGNED, Entries, RenderPlan, Sources
from teacher_cache.replay.mix import MixPlan
from teacher_cache.replay.native.library import workspace
from teacher_cache.replay.native.views import INTERPOLATIONS, address
from teacher_cache.replay.params import DrawnViews

# in the order of `enum kernel` of plan.c
KERNELS = (
    *("resize", "count_levels", "tables_of_counts", "sum_grey", "tables_of_sums", "look_up", "blend_with_grey"),
    *("sharpen", "shift_hue", "rotate", "move_rows", "move_columns", "erase", "mix"),
)
_LAUNCH_FIELDS = 6
_READ = (
    *("numbers", "offsets", "parts", "crops", "resized", "windows", "flips", "operations", "values", "erased", "noise"),
)
_NUMBERS = ("most_operations", "most_boxes", "interpolation", "geometry", "erase_mode", "fill", "num_runs")


class _Plan(ctypes.Structure):
    """`Plan` of plan.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num", "num_views", "height", "width")),
        *((name, ctypes.c_void_p) for name in _READ),
        *((name, ctypes.c_int64) for name in _NUMBERS),
        *((name, ctypes.c_void_p) for name in ("runs", "partners", "lambdas", "boxes")),
        *((name, ctypes.c_void_p) for name in ("buffer", "launches", "sides")),
        *((name, ctypes.c_int64) for name in ("room", "most_launches", "num_bytes", "num_launches")),
        *((name, ctypes.c_int64) for name in ("most_rows", "across_bytes", "num_counts", "num_sums")),
    )


def plan_views(
    views: DrawnViews, numbers: np.ndarray, sources: Sources, mixes: Sequence[MixPlan], num_views: int
) -> RenderPlan:
    """`plan.plan_views`, by the library where it is."""
    held = workspace()
    if held is None:
        return numpys.plan_views(views, numbers, sources, mixes, num_views)
    read = _read(views, numbers, sources, mixes)
    assert len(read["partners"]) == num_views
    made = {"sides": np.empty((len(views), 2, 2), np.int64)}
    plan = _settings(views)
    plan.num, plan.num_views, plan.num_runs = len(views), num_views, len(mixes)
    for name, array in (read | made).items():
        setattr(plan, name, address(array))

    def empty() -> None:
        made["buffer"] = np.zeros(plan.room, np.uint8)
        made["launches"] = np.empty((plan.most_launches, _LAUNCH_FIELDS), np.int64)
        plan.buffer, plan.launches = address(made["buffer"]), address(made["launches"])

    held.plan(plan, empty)
    num_bytes = max(plan.num_bytes, ALIGNED)
    return RenderPlan(
        num_views=num_views,
        size=views.policy.size,
        num_bytes=num_bytes,
        parts=[(0, made["buffer"][:num_bytes])],
        launches=[
            Entries(KERNELS[kernel], (turn, turn_place), place, num, most_pixels)
            for kernel, turn, turn_place, place, num, most_pixels in made["launches"][: plan.num_launches].tolist()
        ],
        most_rows=plan.most_rows,
        across_bytes=plan.across_bytes,
        num_counts=plan.num_counts,
        num_sums=plan.num_sums,
        sides=made["sides"],
        interpolation=views.policy.crop.interpolation,
    )


def _settings(views: DrawnViews) -> _Plan:
    policy = views.policy
    return _Plan(
        height=policy.size[0],
        width=policy.size[1],
        most_operations=views.operations.shape[1],
        most_boxes=views.erased.shape[1],
        interpolation=INTERPOLATIONS.index(policy.crop.interpolation),
        geometry=INTERPOLATIONS.index(views.geometry),
        erase_mode=numpys.MODES[policy.erase.mode] if policy.erase is not None else 0,
        fill=views.fill[0] | views.fill[1] << 8 | views.fill[2] << 16,
    )


def _read(views: DrawnViews, numbers: np.ndarray, sources: Sources, mixes: Sequence[MixPlan]) -> dict[str, np.ndarray]:
    """The arrays that the library reads, each of the type that it has there."""
    arrays = {
        "numbers": (numbers, np.int64),
        "offsets": (sources.offsets, np.int64),
        "parts": (sources.parts, np.int64),
        "crops": (views.crops, np.int64),
        "resized": (views.resized, np.int64),
        "windows": (views.windows, np.int64),
        "flips": (views.flips, np.bool_),
        "operations": (views.operations, np.int64),
        "values": (views.values, np.float64),
        "erased": (views.erased, np.int64),
        "noise": (views.noise, np.uint8),
        "runs": ([len(mix.partners) for mix in mixes], np.int64),
        "partners": (np.concatenate([mix.partners for mix in mixes]), np.int64),
        "lambdas": (np.concatenate([mix.lambdas for mix in mixes]), np.uint32),
        "boxes": (np.concatenate([mix.boxes for mix in mixes]), np.int32),
    }
    return {name: np.ascontiguousarray(array, kind) for name, (array, kind) in arrays.items()}
