"""Floats that must hold every result exactly, or processors would differ in the last bits."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from teacher_cache.replay.geometry import _TAP_ONE, _taps, mirror, resize, warp
from teacher_cache.replay.render import quiet_opencv
from tests.support.images import picture
from tests.support.rendered import operated


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_taps_sum_to_one_on_a_grid_that_floats_hold_exactly(interpolation: str) -> None:
    taps = _taps(np.linspace(0, 1, 4001)[:-1], interpolation)  # type: ignore[arg-type]
    assert taps.dtype == np.float32
    scaled = taps.astype(np.float64) * _TAP_ONE
    assert np.array_equal(scaled, np.rint(scaled))
    assert (scaled.sum(axis=1) == _TAP_ONE).all()
    # the largest sum of products, and half a step below, in whole steps: below 2**24 in magnitude
    assert 255 * np.abs(2 * scaled).sum(axis=1).max() + _TAP_ONE < 2**24
    assert taps[0].tolist() == [0, 1, 0, 0]


def test_rows_are_sheared_by_exact_arithmetic() -> None:
    """Against rational numbers, pixel by pixel."""
    source, shear = picture(1, 9, 14), round(0.27 * 2**20) / 2**20
    quiet_opencv()
    sheared = warp(source, "shear_x", shear, "bicubic", (1, 2, 3))
    height, width = source.shape[:2]
    for y in range(height):
        shift = Fraction(shear) * Fraction(2 * y + 1, 2)
        taps = [Fraction(float(tap)) for tap in _taps(np.array([float(shift % 1)]), "bicubic")[0]]
        for x in range(width):
            if not 0 <= x + shift + Fraction(1, 2) < width:
                assert sheared[y, x].tolist() == [1, 2, 3]
                continue
            places = [min(max(x + int(shift // 1) + tap, 0), width - 1) for tap in range(-1, 3)]
            for channel in range(3):
                exact = sum(tap * int(source[y, place, channel]) for tap, place in zip(taps, places, strict=True))
                assert sheared[y, x, channel] == min(max(int(exact // 1), 0), 255)


def test_mirroring_and_resizing_leave_pixels_interleaved() -> None:
    """torch makes planes of a tensor whose strides leave it the choice; turning them back takes as long as a resize."""
    source = picture(2, 50, 70)
    assert np.array_equal(mirror(source), source[:, ::-1])
    tensor = torch.from_numpy(source)[None].permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(tensor, (20, 30), mode="bicubic", antialias=True)
    assert resized.stride()[1] == 1
    assert np.array_equal(resize(source, (20, 30), "bicubic"), resized[0].permute(1, 2, 0).numpy())


def test_geometry_fills_with_the_mean_colour() -> None:
    moved = operated(picture(1, 40, 40), "translate_x", 0.45)
    assert (moved[:, 30:] == (124, 116, 104)).all()
    assert np.array_equal(operated(picture(1, 40, 40), "rotate", 0.0), picture(1, 40, 40))
    assert np.array_equal(operated(picture(1, 40, 40), "translate_y", 0.25)[:28], picture(1, 40, 40)[10:38])
