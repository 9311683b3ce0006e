"""Erased boxes: what fills them, and that nothing else changes."""

import math

import numpy as np

from teacher_cache.replay.params import Box
from teacher_cache.replay.render import render_pixels
from teacher_cache.replay.seeds import derive
from tests.support.rendered import params_of


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
