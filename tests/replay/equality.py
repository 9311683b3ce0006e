"""Views that another implementation renders, against those of the pixel specification: what its tests run, and the
experiments under docs/. Every function yields its comparisons one by one."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from teacher_cache.replay.block import view_params
from teacher_cache.replay.params import NAMES, NONE, Box, DrawnViews, Operation, ViewParams
from teacher_cache.replay.policy import Policy, load_policy
from teacher_cache.replay.render import render_pixels
from tests.support import images

SEED = 7
ON_GRID = 1 << 20

# each picture by its view parameters, unmixed: (n, h, w, 3) uint8
Render = Callable[[Policy, list[np.ndarray], list[ViewParams]], np.ndarray]


class Compared(NamedTuple):
    """largest: difference of a level."""

    name: str
    equal: int
    views: int
    largest: int

    @property
    def is_equal(self) -> bool:
        return self.equal == self.views > 0 and not self.largest


def compared(name: str, ours: np.ndarray, theirs: np.ndarray) -> Compared:
    differing = (ours != theirs).reshape(len(ours), -1).any(axis=1)
    largest = int(np.abs(ours.astype(int) - theirs).max(initial=0))
    return Compared(name, len(ours) - int(differing.sum()), len(ours), largest)


def gathered(policy: Policy, views: list[ViewParams]) -> DrawnViews:
    """Views that were changed one by one, as if drawn together."""
    num = len(views)
    operations = np.full((num, max(len(params.operations) for params in views)), NONE)
    values = np.zeros(operations.shape)
    erased = np.zeros((num, max(len(params.erased) for params in views), 4), np.int64)
    noise = np.zeros((num, 32), np.uint8)
    for number, params in enumerate(views):
        for place, (name, value) in enumerate(params.operations):
            operations[number, place], values[number, place] = NAMES.index(name), value or 0
        for place, box in enumerate(params.erased):
            erased[number, place] = box
            noise[number] = np.frombuffer(bytes.fromhex(params.noise), np.uint8)
    crops, resized, windows = (
        np.array([getattr(params, name) for params in views]) for name in ("crop", "resized", "window")
    )
    flips = np.array([params.flip for params in views])
    found = DrawnViews(policy, crops, resized, windows, flips, operations, values, erased, noise)
    assert list(found) == views
    return found


def on_grid(value: float) -> float:
    return round(value * ON_GRID) / ON_GRID


VALUES: dict[str, Callable[[np.random.Generator], float | int | None]] = {
    "autocontrast": lambda random: None,
    "equalize": lambda random: None,
    "invert": lambda random: None,
    "posterize": lambda random: int(random.integers(0, 10)),
    "solarize": lambda random: int(random.integers(0, 257)),
    "solarize_add": lambda random: int(random.integers(0, 129)),
    "hue": lambda random: on_grid(random.uniform(-0.5, 0.5)),
    **{name: lambda random: on_grid(random.uniform(0, 5)) for name in ("brightness", "contrast", "color", "sharpness")},
    **{name: lambda random: on_grid(random.uniform(-0.4, 0.4)) for name in ("shear_x", "shear_y")},
    **{name: lambda random: on_grid(random.uniform(-0.6, 0.6)) for name in ("translate_x", "translate_y")},
    "rotate": lambda random: on_grid(random.uniform(-60, 60)),
}


def pictures(num: int, height: int, width: int) -> list[np.ndarray]:
    """Of about that size, photograph-like; a grey one and one of few levels among them."""
    made = [images.picture(number, height + 7 * number % 31, width + 11 * number % 43) for number in range(num)]
    if num > 2:
        made[1] = np.repeat(made[1][:, :, :1], 3, axis=2)
        made[2] = (made[2] // 3 + 60).astype(np.uint8)
    return made


def operations(sources: list[np.ndarray], size: tuple[int, int], num: int, render: Render) -> Iterator[Compared]:
    """Each operation alone, after a crop and a resize; geometry with either interpolation."""
    plain = [f"size={list(size)}", "rand_augment.probability=0", "erase=none", "mix=none"]
    for name, value in VALUES.items():
        random = np.random.default_rng(len(name))
        ours, theirs = [], []
        for odd, geometry in enumerate(("bicubic", "bilinear")):
            policy = load_policy("deit", [*plain, f"rand_augment.interpolation={geometry}"])
            used = [sources[number % len(sources)] for number in range(odd, num, 2)]
            views = []
            for number, pixels in zip(range(odd, num, 2), used, strict=True):
                drawn = (Operation(name, value(random)),)
                if name in ("autocontrast", "equalize") and odd:
                    drawn = (Operation("contrast", on_grid(0.3)), *drawn)
                params = view_params(policy, SEED, "operations", name, number, pixels.shape[:2])
                assert (params.operations, params.geometry) == ((), geometry)
                views.append(dataclasses.replace(params, operations=drawn))
            ours.append(render(policy, used, views))
            theirs.append(np.stack([render_pixels(*pair) for pair in zip(used, views, strict=True)]))
        yield compared(name, np.concatenate(ours), np.concatenate(theirs))


def crops(sources: list[np.ndarray], size: tuple[int, int], num: int, render: Render) -> Iterator[Compared]:
    """Random and centre crops, with either interpolation; windows, whole pictures and crops of a pixel."""
    for interpolation in ("bicubic", "bilinear"):
        overrides = [f"size={list(size)}", "rand_augment=none", "erase=none", "mix=none", "flip=0.5"]
        overrides.append(f"crop.interpolation={interpolation}")
        policy = load_policy("deit", overrides)
        used = [sources[number % len(sources)] for number in range(num)]
        views = [
            view_params(policy, SEED, "crops", str(number), number, pixels.shape[:2])
            for number, pixels in enumerate(used)
        ]
        whole = used[0].shape[:2]
        views[0] = dataclasses.replace(views[0], crop=Box(0, 0, *whole))
        views[1] = dataclasses.replace(views[1], crop=Box(*(side - 1 for side in used[1].shape[:2]), 1, 1))
        views[2] = dataclasses.replace(views[2], crop=Box(1, used[2].shape[1] - 3, 9, 3))
        theirs = np.stack([render_pixels(*pair) for pair in zip(used, views, strict=True)])
        yield compared(f"crops, {interpolation}", render(policy, used, views), theirs)
        centre = load_policy("none", [f"size={list(size)}", "crop.crop_pct=0.875", overrides[-1], "flip=0.5"])
        views = [
            view_params(centre, SEED, "crops", str(number), number, pixels.shape[:2])
            for number, pixels in enumerate(used)
        ]
        theirs = np.stack([render_pixels(*pair) for pair in zip(used, views, strict=True)])
        yield compared(f"centre crops, {interpolation}", render(centre, used, views), theirs)


def erasing(sources: list[np.ndarray], size: tuple[int, int], num: int, render: Render) -> Iterator[Compared]:
    for mode in ("const", "pixel", "rand"):
        settings = ["rand_augment=none", "mix=none", "erase.probability=1", "erase.count=3", f"erase.mode={mode}"]
        policy = load_policy("deit", [f"size={list(size)}", *settings])
        used = [sources[number % len(sources)] for number in range(num)]
        views = [
            view_params(policy, SEED, "erased", str(number), number, pixels.shape[:2])
            for number, pixels in enumerate(used)
        ]
        assert max(len(params.erased) for params in views) > 1
        theirs = np.stack([render_pixels(*pair) for pair in zip(used, views, strict=True)])
        yield compared(f"erasing, {mode}", render(policy, used, views), theirs)


def policies(size: tuple[int, int]) -> dict[str, Policy]:
    side = f"size={list(size)}"
    every = "jitter={brightness=0.4,contrast=0.4,saturation=0.4,hue=0.1}"
    return {
        "deit": load_policy("deit", [side]),
        "deit, six operations": load_policy("deit", [side, "rand_augment.num_ops=6", "rand_augment.probability=0.9"]),
        "AutoAugment and jitter, bilinear": load_policy(
            "deit",
            [
                *(side, "rand_augment=none", "auto_augment={magnitude_std=0.5,interpolation='bilinear'}", every),
                *("crop.interpolation=bilinear", "erase.count=3", "erase.mode=rand", "erase.probability=0.8"),
            ],
        ),
        "transfer": load_policy("transfer", [side]),
        "none": load_policy("none", [side]),
    }
