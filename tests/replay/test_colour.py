"""Operations that move no pixel, on images of all kinds; tests/replay/test_photographs.py has photographs."""

from collections.abc import Callable
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torchvision.transforms.functional as tvf
from PIL import Image
from timm.data import auto_augment

from teacher_cache.replay.colour import FACTOR_ONE, blend, to_hsv
from teacher_cache.replay.render import quiet_opencv
from teacher_cache.replay.seeds import Stream, derive
from tests.support.images import picture
from tests.support.rendered import levels_apart, operated

EXACT: dict[str, tuple[Callable[..., Image.Image], list[float | int | None]]] = {
    "equalize": (auto_augment.equalize, [None]),
    "invert": (auto_augment.invert, [None]),
    "posterize": (auto_augment.posterize, [1, 2, 3, 4, 8, 9]),
    "solarize": (auto_augment.solarize, [0, 1, 26, 128, 256]),
    "solarize_add": (auto_augment.solarize_add, [0, 50, 110, 128]),
}
WITHIN_A_LEVEL = {
    "color": auto_augment.color,
    "contrast": auto_augment.contrast,
    "brightness": auto_augment.brightness,
    "sharpness": auto_augment.sharpness,
}


def views() -> list[np.ndarray]:
    flat = np.full((20, 30, 3), 77, dtype=np.uint8)
    low_contrast = (picture(9, 50, 40) // 4 + 60).astype(np.uint8)
    two_levels = np.where(picture(9, 50, 40) > 99, 201, 7).astype(np.uint8)
    return [
        picture(7, 224, 224),
        picture(8, 16, 23),
        flat,
        low_contrast,
        two_levels,
        picture(0, 1, 1),
        picture(0, 2, 9),
    ]


@pytest.mark.parametrize("name", EXACT)
def test_table_operations_are_pillows(name: str) -> None:
    reference, values = EXACT[name]
    for view in views():
        for value in values:
            expected = reference(Image.fromarray(view), *(() if value is None else (value,)))
            assert np.array_equal(operated(view, name, value), np.asarray(expected)), value


def test_autocontrast_is_pillows_cut_off_from_the_exact_quotient() -> None:
    """Pillow's product of floats ends below a whole number now and then, and is cut off to a level less."""
    for view in views():
        difference = operated(view, "autocontrast", None).astype(int) - np.asarray(
            auto_augment.auto_contrast(Image.fromarray(view))
        )
        assert set(np.unique(difference)) <= {0, 1}
        for channel, stretched in zip(np.moveaxis(view, 2, 0), np.moveaxis(difference, 2, 0), strict=True):
            low, high = int(channel.min()), int(channel.max())
            exact = [Fraction((int(level) - low) * 255, max(high - low, 1)) for level in channel[stretched != 0]]
            assert all(quotient.denominator == 1 for quotient in exact)


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.25, 0.5])
def test_hue_is_torchvisions_but_for_a_step_of_the_hue(shift: float) -> None:
    for view in views():
        difference = levels_apart(operated(view, "hue", shift), tvf.adjust_hue(Image.fromarray(view), shift))
        assert difference.max() <= 6  # a 255th of the circle
        assert (difference > 0).any(axis=2).mean() < 0.01


def test_hsv_is_pillows_but_for_hues_that_floats_cut_off_lower() -> None:
    """Of every fifth level of each channel; the way back, which is Pillow's, is of whole numbers too."""
    levels = np.arange(0, 256, 5)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3).astype(np.uint8)
    ours, theirs = to_hsv(colours).astype(int), np.asarray(Image.fromarray(colours).convert("HSV")).astype(int)
    assert np.array_equal(ours[..., 1:], theirs[..., 1:])
    assert set(np.unique(ours[..., 0] - theirs[..., 0])) <= {0, 1}
    assert (ours[..., 0] != theirs[..., 0]).mean() < 0.02
    hue, saturation, value = (colours[..., channel].astype(int) for channel in range(3))
    sextant, within = 6 * hue // 255 % 6, 6 * hue % 255
    least = (2 * value * (255 - saturation) + 255) // 510
    falling = (2 * value * (65025 - saturation * within) + 65025) // 130050
    rising = (2 * value * (65025 - saturation * (255 - within)) + 65025) // 130050
    expected = np.stack(
        [
            np.choose(sextant, [value, falling, least, least, rising, value]),
            np.choose(sextant, [rising, value, value, falling, least, least]),
            np.choose(sextant, [least, least, rising, value, value, falling]),
        ],
        axis=-1,
    )
    assert np.array_equal(np.asarray(Image.fromarray(colours, "HSV").convert("RGB")), expected)


@pytest.mark.parametrize("name", WITHIN_A_LEVEL)
@pytest.mark.parametrize("factor", [0.0, 0.1, 0.625, 1.0, 1.328125, 1.9])
def test_blended_operations_are_within_a_level_of_pillow(name: str, factor: float) -> None:
    factor = round(factor * 2**20) / 2**20
    for view in views():
        reference = WITHIN_A_LEVEL[name](Image.fromarray(view), factor)
        assert levels_apart(operated(view, name, factor), reference).max() <= 1
        assert levels_apart(operated(view, name, factor), reference).mean() < 0.3


def test_blends_are_exact_arithmetic_cut_off() -> None:
    stream = Stream(derive(0, "test"))
    quiet_opencv()
    for factor in (0.0, 0.1, 0.3333, 1.0, 1.9, 5.0, 7.99):
        levels = (stream.raw(8 * 3072).view(np.uint8) for _ in range(2))
        degenerate, pixels = (each.reshape(-1, 64, 3).copy() for each in levels)
        share = Fraction(round(factor * FACTOR_ONE), FACTOR_ONE)
        numerator, denominator = share.numerator, share.denominator
        total = pixels.astype(np.int64) * numerator + degenerate.astype(np.int64) * (denominator - numerator)
        expected = np.clip(total // denominator, 0, 255)
        assert np.array_equal(blend(degenerate, pixels, factor), expected)


def test_opencvs_grey_is_its_rule() -> None:
    levels = np.arange(0, 256, 3)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(86, -1, 3)
    expected = (9798 * colours[..., 0] + 19235 * colours[..., 1] + 3735 * colours[..., 2] + (1 << 14)) >> 15
    assert np.array_equal(cv2.cvtColor(np.ascontiguousarray(colours, np.uint8), cv2.COLOR_RGB2GRAY), expected)


def test_opencvs_grey_is_pillows_but_for_a_level() -> None:
    source = picture(3, 256, 256)
    grey = cv2.cvtColor(source, cv2.COLOR_RGB2GRAY).astype(int)
    difference = np.abs(grey - np.asarray(Image.fromarray(source).convert("L")).astype(int))
    assert difference.max() <= 1
    assert difference.mean() < 0.02
