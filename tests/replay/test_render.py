import numpy as np
import pytest
import torch
from PIL import Image

from teacher_cache.replay.params import Box, draw_params
from teacher_cache.replay.policy import load_policy
from teacher_cache.replay.render import render, render_pixels
from teacher_cache.replay.seeds import derive
from tests.support import images
from tests.support.images import picture
from tests.support.rendered import levels_apart, params_of

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
    params = draw_params(policy, bytes(32), (48, 40), bytes(32))
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
    drawn_views = [draw_params(policy, derive(n, "view"), (300, 400), derive(n, "noise")) for n in range(12)]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = list(render(image, drawn_views))
        torch.set_num_threads(4)
        assert all(np.array_equal(a, b) for a, b in zip(alone, render(image, drawn_views), strict=True))
    finally:
        torch.set_num_threads(threads)


def test_rendering_leaves_the_decoded_image_alone() -> None:
    source = picture(1, 64, 64)
    source.flags.writeable = False
    policy = load_policy("deit", ["size=64", "crop.scale=[1,1]", "crop.ratio=[1,1]", "erase.probability=1"])
    for number in range(30):
        render_pixels(source, draw_params(policy, derive(number, "view"), (64, 64), derive(number, "noise")))
    assert np.array_equal(source, picture(1, 64, 64))
