"""Operations that move no pixel, on images of all kinds; tests/replay/test_photographs.py has photographs."""

from collections.abc import Callable
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torchvision.transforms.functional as tvf
from PIL import Image
from timm.data import auto_augment

from teacher_cache.replay.colour import _FACTOR_ONE, _blend
from teacher_cache.replay.render import quiet_opencv
from teacher_cache.replay.seeds import Stream, derive
from tests.support.images import picture
from tests.support.rendered import levels_apart, operated

EXACT: dict[str, tuple[Callable[..., Image.Image], list[float | int | None]]] = {
    "autocontrast": (auto_augment.auto_contrast, [None]),
    "equalize": (auto_augment.equalize, [None]),
    "invert": (auto_augment.invert, [None]),
    "posterize": (auto_augment.posterize, [1, 2, 3, 4, 8, 9]),
    "solarize": (auto_augment.solarize, [0, 1, 26, 128, 256]),
    "solarize_add": (auto_augment.solarize_add, [0, 50, 110, 128]),
    "hue": (lambda image, shift, **_: tvf.adjust_hue(image, shift), [-0.5, -0.1, 0.0, 0.25, 0.5]),
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
        share = Fraction(round(factor * _FACTOR_ONE), _FACTOR_ONE)
        numerator, denominator = share.numerator, share.denominator
        total = pixels.astype(np.int64) * numerator + degenerate.astype(np.int64) * (denominator - numerator)
        expected = np.clip(total // denominator, 0, 255)
        assert np.array_equal(_blend(degenerate, pixels, factor), expected)


def test_opencvs_grey_is_pillows_but_for_a_level() -> None:
    source = picture(3, 256, 256)
    grey = cv2.cvtColor(source, cv2.COLOR_RGB2GRAY).astype(int)
    difference = np.abs(grey - np.asarray(Image.fromarray(source).convert("L")).astype(int))
    assert difference.max() <= 1
    assert difference.mean() < 0.02
