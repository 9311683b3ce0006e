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


def join_intervals(data: np.ndarray, starts: np.ndarray, out: np.ndarray) -> None:
    """As `restarts.join_intervals`."""
    held = workspace()
    if held is None:
        restarts.join_intervals(data, starts, out)
        return
    starts = np.ascontiguousarray(starts)
    held.join_intervals(address(data), len(data), address(starts), starts.shape, address(out), len(out))
