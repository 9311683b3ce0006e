"""Restart markers found, and what is between them joined, by the native library where it is: as restarts.py, sooner."""

import numpy as np

from teacher_cache.replay import restarts
from teacher_cache.replay.native.library import workspace
from teacher_cache.replay.native.views import address


def find_starts(data: np.ndarray, num: int) -> np.ndarray | None:
    """As `restarts.find_starts`."""
    held = workspace()
    if held is None:
        return restarts.find_starts(data, num)
    starts = np.empty(num + 1, np.int64)
    return starts if held.find_restarts(address(data), len(data), num, address(starts)) else None


def join_intervals(data: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """As `restarts.join_intervals`."""
    held = workspace()
    if held is None:
        return restarts.join_intervals(data, starts)
    starts = np.ascontiguousarray(starts)
    joined = np.empty(int((starts[:, -1] - starts[:, 0]).sum()), np.uint8)
    held.join_intervals(address(data), len(data), address(starts), starts.shape, address(joined), len(joined))
    return joined
