import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tvf
from PIL import Image
from timm.data import auto_augment

from teacher_cache.replay.params import Box, Operation, ViewParams, draw_params
from teacher_cache.replay.policy import load_policy
from teacher_cache.replay.render import render, render_pixels
from teacher_cache.replay.seeds import Stream, derive
from tests.support import images
from tests.support.images import picture


def params_of(image_size: tuple[int, int], **changes: object) -> ViewParams:
    """View parameters that changes nothing, with changes."""
    policy = load_policy("deit", [f"size={list(image_size)}", "crop.kind=center", "flip=none", "erase=none"])
    plain = draw_params(policy, Stream(bytes(32)), image_size, bytes(32))
    return dataclasses.replace(plain, operations=(), **changes)  # type: ignore[arg-type]


def operated(pixels: np.ndarray, name: str, value: float | int | None, **changes: object) -> np.ndarray:
    height, width = pixels.shape[:2]
    params = dataclasses.replace(params_of((height, width), **changes), operations=(Operation(name, value),))
    return render_pixels(pixels, params)


def levels_apart(a: np.ndarray, b: np.ndarray | Image.Image) -> np.ndarray:
    return abs(a.astype(np.int64) - np.asarray(b).astype(np.int64))


# Crop and resize


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    "box",
    [
        Box(3, 5, 180, 240),
        Box(40, 2, 31, 300),
        Box(0, 7, 290, 33),
        Box(10, 10, 1, 1),
        Box(9, 9, 1, 70),
        Box(0, 0, 300, 400),
    ],
)
def test_crops_are_pillows(box: Box, interpolation: str) -> None:
    """Within a level of Pillow's two passes, across and then down. (Pillow 13 goes down first where that is cheaper,
    which clips elsewhere; on whole pictures the mean is far below a level.)"""
    source = picture(3, 300, 400)
    size = (112, 96)
    params = params_of((300, 400), crop=box, resized=size, window=Box(0, 0, *size), interpolation=interpolation)
    view = render_pixels(source, params)
    method = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    edges = (box.left, box.top, box.left + box.width, box.top + box.height)
    cropped = Image.fromarray(source).crop(edges)
    across = cropped.resize((size[1], box.height), method)
    assert levels_apart(view, across.resize(size[::-1], method)).max() <= 1
    assert levels_apart(view, cropped.resize(size[::-1], method)).mean() < 0.3


def test_a_bilinear_crop_is_told_from_a_bicubic_one() -> None:
    source, size = picture(3, 300, 400), (112, 96)
    views = [
        render_pixels(source, params_of((300, 400), resized=size, window=Box(0, 0, *size), interpolation=interpolation))
        for interpolation in ("bicubic", "bilinear")
    ]
    assert levels_apart(*views).mean() > 1


def test_at_its_own_size_a_view_is_the_decoded_image() -> None:
    source = picture(4, 48, 40)
    policy = load_policy("none", ["size=[48,40]"])
    params = draw_params(policy, Stream(bytes(32)), (48, 40), bytes(32))
    view = render_pixels(source, params)
    assert np.array_equal(view, source)
    assert not np.may_share_memory(view, source)


def test_flip_and_window() -> None:
    source = picture(5, 30, 44)
    assert np.array_equal(render_pixels(source, params_of((30, 44), flip=True)), source[:, ::-1])
    window = render_pixels(source, params_of((30, 44), window=Box(3, 8, 20, 10)))
    assert np.array_equal(window, source[3:23, 8:18])
    assert window.flags.c_contiguous


def test_threads_change_nothing() -> None:
    image = images.jpeg(picture(6, 300, 400))
    policy = load_policy("deit")
    drawn_views = [draw_params(policy, Stream(derive(n, "view")), (300, 400), derive(n, "noise")) for n in range(12)]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = list(render(image, drawn_views))
        torch.set_num_threads(4)
        assert all(np.array_equal(a, b) for a, b in zip(alone, render(image, drawn_views), strict=True))
    finally:
        torch.set_num_threads(threads)


# Operations on images of all kinds; tests/replay/test_photographs.py has photographs

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


def test_geometry_fills_with_the_mean_colour() -> None:
    moved = operated(picture(1, 40, 40), "translate_x", 0.45)
    assert (moved[:, 30:] == (124, 116, 104)).all()
    assert np.array_equal(operated(picture(1, 40, 40), "rotate", 0.0), picture(1, 40, 40))
    assert np.array_equal(operated(picture(1, 40, 40), "translate_y", 0.25)[:28], picture(1, 40, 40)[10:38])


# Erasing


def erased(mode: str, boxes: tuple[Box, ...], number: int = 0) -> np.ndarray:
    changes = {"erased": boxes, "erase_mode": mode, "noise": derive(number, "noise").hex()}
    return render_pixels(np.full((220, 210, 3), 9, dtype=np.uint8), params_of((220, 210), **changes))


def test_erasing_noise_is_normal_after_normalisation() -> None:
    params = params_of((220, 210))
    noise = erased("pixel", (Box(10, 0, 200, 210),))
    assert (noise[:10] == 9).all()
    assert (noise[210:] == 9).all()
    for channel in range(3):
        mean, std = params.mean[channel], params.std[channel]
        levels = noise[10:210, :, channel].ravel()
        for level in range(0, 255, 17):
            z = ((level + 0.5) / 255 - mean) / std
            expected = 0.5 * (1 + math.erf(z / math.sqrt(2)))
            deviation = math.sqrt(expected * (1 - expected) / len(levels)) + 1e-4
            assert abs((levels <= level).mean() - expected) < 4 * deviation


def test_erasing_modes() -> None:
    boxes = (Box(5, 6, 50, 40), Box(100, 90, 3, 5))
    constant, one_colour, noise = (erased(mode, boxes) for mode in ("const", "rand", "pixel"))
    for view in (constant, one_colour, noise):
        untouched = np.ones((220, 210), dtype=bool)
        untouched[5:55, 6:46] = untouched[100:103, 90:95] = False
        assert (view[untouched] == 9).all()
    assert (constant[5:55, 6:46] == (124, 116, 104)).all()
    first, second = one_colour[5:55, 6:46], one_colour[100:103, 90:95]
    assert (first == first[0, 0]).all()
    assert (second == second[0, 0]).all()
    assert (first[0, 0] != second[0, 0]).any()
    assert noise[5:55, 6:46].std() > 40
    assert not np.array_equal(noise, erased("pixel", boxes, number=1))


def test_rendering_leaves_the_decoded_image_alone() -> None:
    source = picture(1, 64, 64)
    source.flags.writeable = False
    policy = load_policy("deit", ["size=64", "crop.scale=[1,1]", "crop.ratio=[1,1]", "erase.probability=1"])
    for number in range(30):
        render_pixels(source, draw_params(policy, Stream(derive(number, "view")), (64, 64), derive(number, "noise")))
    assert np.array_equal(source, picture(1, 64, 64))
