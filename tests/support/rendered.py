"""View parameters that change nothing but what a test is about, and how far pixels are from others."""

import dataclasses
from functools import cache

import numpy as np
from PIL import Image

from teacher_cache.replay.params import Operation, ViewParams, draw_params
from teacher_cache.replay.policy import load_policy
from teacher_cache.replay.render import render_pixels


def params_of(image_size: tuple[int, int], **changes: object) -> ViewParams:
    """View parameters that change nothing, with changes."""
    return dataclasses.replace(_plain(image_size), **changes)  # type: ignore[arg-type]


@cache
def _plain(image_size: tuple[int, int]) -> ViewParams:
    policy = load_policy("deit", [f"size={list(image_size)}", "crop.kind=center", "flip=none", "erase=none"])
    return dataclasses.replace(draw_params(policy, bytes(32), image_size, bytes(32)), operations=())


def operated(pixels: np.ndarray, name: str, value: float | int | None, **changes: object) -> np.ndarray:
    height, width = pixels.shape[:2]
    params = dataclasses.replace(params_of((height, width), **changes), operations=(Operation(name, value),))
    return render_pixels(pixels, params)


def levels_apart(a: np.ndarray, b: np.ndarray | Image.Image) -> np.ndarray:
    return abs(a.astype(np.int64) - np.asarray(b).astype(np.int64))
