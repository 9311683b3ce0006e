"""The rule of resizing, against torch's kernel for uint8, which the pictures are resized with."""

import numpy as np
import pytest

from teacher_cache.replay.geometry import resize
from teacher_cache.replay.resample import ResizeWeights, resample
from teacher_cache.replay.seeds import Stream, derive
from tests.support.images import picture

SIZES = [(1, 1), (1, 9), (13, 1), (16, 16), (48, 64), (224, 224), (37, 211), (333, 40)]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_torchs_bytes_are_the_rules(shape: tuple[int, int], interpolation: str) -> None:
    """From any size to any other; of a picture, and of black and white, which overshoots."""
    smooth = picture(sum(shape), *shape)
    for pixels in (smooth, np.where(smooth > 127, 255, 0).astype(np.uint8)):
        for size in SIZES:
            found = resample(pixels, size, interpolation)
            assert np.array_equal(found, resize(pixels, size, interpolation)), size


def test_torchs_bytes_are_the_rules_for_drawn_sizes() -> None:
    stream = Stream(derive(0, "sizes"))
    for number in range(25):
        shape, size = ((1 + stream.integer(300), 1 + stream.integer(230)) for _ in range(2))
        pixels = stream.raw(-(-3 * shape[0] * shape[1] // 8)).view(np.uint8)[: 3 * shape[0] * shape[1]]
        pixels = pixels.reshape(*shape, 3).copy()
        interpolation = "bicubic" if number % 2 else "bilinear"
        assert np.array_equal(resample(pixels, size, interpolation), resize(pixels, size, interpolation)), (shape, size)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_weights_stay_on_the_picture_and_sums_in_32_bits(interpolation: str) -> None:
    for size_in, size_out in ((1, 1), (1, 224), (7, 224), (224, 224), (500, 224), (9000, 16)):
        table = ResizeWeights(size_in, size_out, interpolation)
        taps = np.arange(len(table.weights))[:, None]
        assert not table.weights[taps + table.first >= size_in].any()
        assert (table.first >= 0).all()
        assert (abs(table.weights.astype(np.int64)).sum(axis=0) * 255 + (1 << table.bits) < 2**31).all()
        shares = table.weights.sum(axis=0, dtype=np.int64) / (1 << table.bits)
        assert abs(shares - 1).max() < 0.5 * len(table.weights) / (1 << table.bits) + 1e-9
