"""What a wheel is tested by: its library renders views to the bytes of the specification in NumPy, without torch."""

import dataclasses

import numpy as np

from teacher_cache.replay.colour import recolour
from teacher_cache.replay.geometry import cut
from teacher_cache.replay.native import library
from teacher_cache.replay.native.views import native_views
from teacher_cache.replay.params import NAMES, draw_views
from teacher_cache.replay.policy import load_policy
from teacher_cache.replay.resample import resample

NUM_VIEWS = 20
COLOURS = ("equalize", "hue", "color")


def main() -> None:
    assert library.load() is not None, "the wheel has no native library"
    pixels = np.random.default_rng(1).integers(0, 256, (181, 240, 3), np.uint8)
    policy = load_policy("deit", ["rand_augment=none", "erase=none", "mix=none"])
    sizes = np.array([pixels.shape[:2]] * NUM_VIEWS)
    drawn = draw_views(policy, [bytes([number] * 32) for number in range(NUM_VIEWS)], sizes, lambda _: b"")
    chosen = np.array([NAMES.index(COLOURS[number % len(COLOURS)]) for number in range(NUM_VIEWS)])
    drawn = dataclasses.replace(drawn, operations=chosen[:, None], values=np.full((NUM_VIEWS, 1), 0.25))
    views = native_views(drawn)
    assert views is not None
    for number, params in enumerate(drawn):
        rendered = np.empty((*policy.size, 3), np.uint8)
        views.render(number, pixels, rendered)
        expected = cut(resample(cut(pixels, params.crop), params.resized, params.interpolation), params.window)
        expected = np.ascontiguousarray(expected[:, ::-1] if params.flip else expected)
        (operation,) = params.operations
        expected = recolour(expected, operation.name, operation.value)
        assert np.array_equal(rendered, expected), params
    held = library.workspace()
    assert held is not None
    print(f"{NUM_VIEWS} views rendered with {held.kernels}")


if __name__ == "__main__":
    main()
