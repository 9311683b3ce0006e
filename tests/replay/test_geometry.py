"""Floats that must hold every result exactly, or processors would differ in the last bits."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from teacher_cache.replay import geometry
from teacher_cache.replay.geometry import (
    _TAP_ONE,
    NUM_PHASES,
    PLACE_ONE,
    ROTATED_BITS,
    ROW_BITS,
    _taps,
    mirror,
    phase_taps,
    resize,
    rotation_steps,
    warp,
)
from teacher_cache.replay.render import quiet_opencv
from tests.support.images import picture
from tests.support.rendered import operated


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_taps_sum_to_one_on_a_grid_that_floats_hold_exactly(interpolation: str) -> None:
    taps = _taps(np.linspace(0, 1, 4001)[:-1], interpolation)
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


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(9, 14), (1, 1), (2, 7), (15, 3)])
def test_a_rotation_is_its_rule_pixel_by_pixel(interpolation: str, shape: tuple[int, int]) -> None:
    height, width = shape
    source, fill = picture(1, height, width), (1, 2, 3)
    source[::2, ::3] = 255  # sums beyond 255 and below 0
    source[1::2, 1::2] = 0
    taps = phase_taps(interpolation).tolist()
    for degrees in (-30.0, -8.25, 0.0, 0.5, 29.71875, 90.0):
        rotated = warp(source, "rotate", degrees, interpolation, fill)
        across, down = rotation_steps(degrees, height, width)
        for y, x in np.ndindex(height, width):
            place_x, place_y = (a * x + b * y + c for a, b, c in (across, down))
            if not (-32768 <= place_x < 65536 * width - 32768 and -32768 <= place_y < 65536 * height - 32768):
                assert rotated[y, x].tolist() == [1, 2, 3]
                continue
            (whole_x, phase_x), (whole_y, phase_y) = (
                divmod((place + 128) // (PLACE_ONE // NUM_PHASES), NUM_PHASES) for place in (place_x, place_y)
            )
            rows = [min(max(whole_y + step, 0), height - 1) for step in range(-1, 3)]
            columns = [min(max(whole_x + step, 0), width - 1) for step in range(-1, 3)]
            for channel in range(3):
                total = 0
                for row, tap in zip(rows, taps[phase_y], strict=True):
                    line = sum(
                        int(source[row, column, channel]) * each
                        for column, each in zip(columns, taps[phase_x], strict=True)
                    )
                    total += (line >> (ROTATED_BITS - ROW_BITS)) * tap
                assert rotated[y, x, channel] == min(max(total >> (ROTATED_BITS + ROW_BITS), 0), 255)


@pytest.mark.parametrize("at_once", [1, 30, 60, 1000])
def test_a_rotation_is_the_same_in_however_many_parts(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    source = picture(3, 21, 15)
    whole = [warp(source, "rotate", degrees, "bicubic", (1, 2, 3)) for degrees in (-30.0, 12.5, 77.0)]
    monkeypatch.setattr(geometry, "_AT_ONCE", at_once)
    parts = [warp(source, "rotate", degrees, "bicubic", (1, 2, 3)) for degrees in (-30.0, 12.5, 77.0)]
    assert np.array_equal(parts, whole)
    assert (whole[0][0, 0] == (1, 2, 3)).all()


def test_a_rotations_sums_fit_their_words() -> None:
    """Of the largest picture, and of the worst pixels under every pair of phases."""
    steps = np.array([rotation_steps(degrees, 4096, 4096) for degrees in np.linspace(-180, 180, 721)])
    corners = np.abs(steps) @ np.array([4095, 4095, 1])
    assert corners.max() + PLACE_ONE < 2**31
    taps = phase_taps("bicubic").astype(np.int64)
    most, least = 255 * taps.clip(0).sum(axis=1).max(), 255 * taps.clip(None, 0).sum(axis=1).min()
    assert most + (1 << 19) < 1 << 21
    assert least + (1 << 19) >= 0
    line = max(most, -least) >> (ROTATED_BITS - ROW_BITS)
    assert (line + 1) * np.abs(taps).sum(axis=1).max() < 2**31
    assert (taps.sum(axis=1) == 1 << ROTATED_BITS).all()


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
