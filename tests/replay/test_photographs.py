"""Pixels of photographs against Pillow's and timm's own functions, operation by operation and view by view.

Exact: what looks levels up in a table, but for autocontrast, whose quotients Pillow takes of floats. Within a level:
what blends, shears, translates or rotates.
"""

import dataclasses
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torchvision.transforms
from PIL import Image
from timm.data import auto_augment
from timm.data.transforms import RandomResizedCropAndInterpolation

from teacher_cache.replay.block import view_params
from teacher_cache.replay.params import NAMES, Box, Operation, Rules, ViewParams, as_operation
from teacher_cache.replay.policy import OPERATIONS, load_policy
from teacher_cache.replay.render import render_pixels
from tests.support.images import photographs, picture
from tests.support.rendered import levels_apart, operated, params_of
from tests.support.timms import OUR_NAMES

FILL = (124, 116, 104)  # ImageNet's mean colour
TIMMS_NAMES = {ours: timms for timms, ours in OUR_NAMES.items()}
MOVES = ("shear_x", "shear_y", "translate_x", "translate_y")
GEOMETRY = ("rotate", *MOVES)
BLENDS = ("color", "contrast", "brightness", "sharpness")
TABLES = ("equalize", "invert", "posterize", "solarize", "solarize_add")
LEVELS = (0.0, 0.1, 0.45, 0.72, 0.9, 0.97, 1.0)  # magnitude / 10
IDENTITIES = [
    *((name, 0.0) for name in GEOMETRY),
    *((name, -0.0) for name in GEOMETRY),
    *((name, 1.0) for name in BLENDS),
    ("posterize", 8),
    ("solarize", 256),
    ("solarize_add", 0),
]


def timms(operation: Operation) -> auto_augment.AugmentOp:
    """timm's operation, as DeiT makes it, always applied, with this value."""
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
    made = auto_augment.AugmentOp(TIMMS_NAMES[operation.name], prob=1.0, hparams=hparams)
    made.level_fn = None if operation.value is None else lambda level, hparams: (operation.value,)
    if operation == ("posterize", 0):  # Pillow 13 refuses to keep no bits; 12 and before make it black, as timm means
        made.aug_fn = lambda image, bits, **options: Image.new("RGB", image.size)
    return made


@cache
def sources() -> dict[str, np.ndarray]:
    """The photographs at a view's size, and a made picture."""
    pictures = {**photographs(), "made": picture(0, 300, 400)}
    return {
        name: render_pixels(pixels, params_of(pixels.shape[:2], resized=(224, 224), window=Box(0, 0, 224, 224)))
        for name, pixels in pictures.items()
    }


def operations_at(level: float, names: tuple[str, ...]) -> list[Operation]:
    """RandAugment's operations at a level, with either sign."""
    found = []
    for sign in (0.0, 1.0):
        always: Any = SimpleNamespace(uniform=lambda of, sign=sign: np.full(len(of), sign))
        wanted = [name for name in OPERATIONS if OUR_NAMES[name] in names]
        rules = Rules(wanted, {name: number for number, name in enumerate(NAMES)})
        each = np.arange(len(wanted))
        values = rules.draw_values(each, np.full(len(wanted), level), always, each)
        found += [
            as_operation(NAMES[number], value)
            for number, value in zip(rules.operations.tolist(), values.tolist(), strict=True)
        ]
    return sorted(set(found), key=str)


def apart(pixels: np.ndarray, operation: Operation, **changes: object) -> np.ndarray:
    return levels_apart(operated(pixels, *operation, **changes), timms(operation)(Image.fromarray(pixels)))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", TABLES)
def test_tables_are_exact(name: str, level: float) -> None:
    for pixels in sources().values():
        for operation in operations_at(level, (name,)):
            assert not apart(pixels, operation).any(), operation


def test_autocontrast_is_within_a_level() -> None:
    """Where floats cut off what is whole: tests/replay/test_colour.py has the rule."""
    for pixels in sources().values():
        difference = apart(pixels, Operation("autocontrast"))
        assert difference.max() <= 1
        assert difference.mean() < 0.02


@pytest.mark.parametrize("bits", range(9))
def test_posterize_is_exact_down_to_no_bits(bits: int) -> None:
    for pixels in sources().values():
        assert not apart(pixels, Operation("posterize", bits)).any()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", BLENDS)
def test_blends_are_within_a_level(name: str, level: float) -> None:
    for pixels in sources().values():
        for operation in operations_at(level, (name,)):
            difference = apart(pixels, operation)
            assert difference.max() <= (0 if name == "brightness" else 1), operation
            assert difference.mean() < 0.05, operation


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_is_within_a_twentieth_of_a_level_on_the_mean(name: str) -> None:
    """And told from bilinear, and from another fill colour."""
    bicubic, bilinear, grey = [], [], []
    for pixels in sources().values():
        for level in LEVELS[1:]:
            for operation in operations_at(level, (name,)):
                bicubic.append(apart(pixels, operation).mean())
                bilinear.append(apart(pixels, operation, geometry="bilinear").mean())
                grey.append(apart(pixels, operation, fill=(128, 128, 128)).mean())
    assert np.mean(bicubic) < 0.05
    assert np.max(bicubic) < 0.06
    assert np.mean(bilinear) > 0.5
    assert np.mean(grey) > 0.5


@pytest.mark.parametrize("geometry", ["bicubic", "bilinear"])
@pytest.mark.parametrize("name", MOVES)
def test_shears_and_translations_are_within_a_level_everywhere(name: str, geometry: str) -> None:
    """Edges and what is brought in included, on squares and on others."""
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling[geometry.upper()]}
    values = (-1.7, -0.45, -0.301, -1 / 64, -0.003, 0.0, 0.002, 0.0625, 0.1, 0.2871, 0.3, 0.5, 1.0, 2.5)
    for pixels in (*sources().values(), picture(3, 61, 97), picture(4, 97, 61), picture(5, 1, 9), picture(6, 3, 2)):
        for value in (round(value * 2**20) / 2**20 for value in values):
            made = auto_augment.AugmentOp(TIMMS_NAMES[name], prob=1.0, hparams=hparams)
            made.level_fn = lambda level, hparams, value=value: (value,)
            difference = levels_apart(operated(pixels, name, value, geometry=geometry), made(Image.fromarray(pixels)))
            assert difference.max(initial=0) <= 1, (value, pixels.shape)
            assert difference.mean() < 0.06, (value, pixels.shape)


@pytest.mark.parametrize("geometry", ["bicubic", "bilinear"])
def test_rotations_are_within_a_level_everywhere(geometry: str) -> None:
    """Edges and what is brought in included, on squares and on others."""
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling[geometry.upper()]}
    values = (-180.0, -90.0, -30.0, -27.3, -3.21, -0.01, 0.0, 0.4, 11.11, 27.0, 30.0, 45.0, 90.0, 180.0)
    for pixels in (*sources().values(), picture(3, 61, 97), picture(4, 97, 61), picture(5, 1, 9), picture(6, 3, 2)):
        for value in (round(value * 2**20) / 2**20 for value in values):
            made = auto_augment.AugmentOp("Rotate", prob=1.0, hparams=hparams)
            made.level_fn = lambda level, hparams, value=value: (value,)
            difference = levels_apart(
                operated(pixels, "rotate", value, geometry=geometry), made(Image.fromarray(pixels))
            )
            assert difference.max(initial=0) <= 1, (value, pixels.shape)
            if pixels.size > 1000:
                # turned by next to nothing, places round to a phase of 0, whose pixels stay
                assert difference.mean() < (0.06 if abs(value) > 1 else 0.12), (value, pixels.shape)


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_brings_in_the_fill_colour_where_timm_does(name: str) -> None:
    white = np.full((224, 224, 3), 255, dtype=np.uint8)
    for operation in operations_at(0.9, (name,)):
        ours, theirs = operated(white, *operation), np.asarray(timms(operation)(Image.fromarray(white)))
        filled, expected = (ours == FILL).all(axis=2), (theirs == FILL).all(axis=2)
        assert 0.05 < expected.mean() < 0.95
        assert np.array_equal(filled, expected), operation
        assert {tuple(colour) for colour in ours[filled & expected].tolist()} == {FILL}


@pytest.mark.parametrize(("name", "value"), IDENTITIES)
def test_the_identity_changes_nothing(name: str, value: float | int) -> None:
    for pixels in sources().values():
        assert np.array_equal(operated(pixels, name, value), pixels)
        assert np.array_equal(np.asarray(timms(Operation(name, value))(Image.fromarray(pixels))), pixels)


def test_magnitude_nought_is_the_identity_of_all_but_tables() -> None:
    pixels = sources()["china"]
    for operation in operations_at(0.0, GEOMETRY + BLENDS):
        assert np.array_equal(operated(pixels, *operation), pixels)


# Whole views


def timms_view(decoded: np.ndarray, params: ViewParams) -> np.ndarray:
    """timm's transforms, told what was drawn for the view."""
    crop = RandomResizedCropAndInterpolation(params.resized, interpolation=params.interpolation)
    crop.get_params = lambda image, scale, ratio: tuple(params.crop)
    flip = torchvision.transforms.RandomHorizontalFlip(float(params.flip))
    image = flip(crop(Image.fromarray(decoded)))
    for operation in params.operations:
        image = timms(operation)(image)
    return np.asarray(image)


def views_apart(decoded: np.ndarray, change: Callable[[ViewParams], ViewParams] = lambda params: params) -> np.ndarray:
    """Mean differences of 60 views, (60,)."""
    policy = load_policy("deit", ["erase=none"])
    drawn_views = [view_params(policy, 0, "train-0000.tar", "key", view, decoded.shape[:2]) for view in range(60)]
    assert sum(any(operation.name in GEOMETRY for operation in params.operations) for params in drawn_views) > 15
    means = [
        levels_apart(render_pixels(decoded, change(params)), timms_view(decoded, params)).mean()
        for params in drawn_views
    ]
    return np.array(means)


@pytest.mark.parametrize("name", ["china", "flower", "made"])
def test_whole_views_are_timms(name: str) -> None:
    """A twentieth of a level on the mean; a table after geometry, equalize say, enlarges it."""
    means = views_apart({**photographs(), "made": picture(0, 300, 400)}[name])
    assert means.mean() < 0.05
    assert np.median(means) < 0.03
    assert np.quantile(means, 0.9) < 0.25
    assert means.max() < 0.6


WRONG: dict[str, Callable[[ViewParams], ViewParams]] = {
    "bilinear crop": lambda params: dataclasses.replace(params, interpolation="bilinear"),
    "bilinear geometry": lambda params: dataclasses.replace(params, geometry="bilinear"),
    "grey fill": lambda params: dataclasses.replace(params, fill=(128, 128, 128)),
    "crop a pixel off": lambda params: dataclasses.replace(
        params, crop=params.crop._replace(left=max(0, params.crop.left - 1))
    ),
    "operations the other way round": lambda params: dataclasses.replace(params, operations=params.operations[::-1]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_slightly_wrong_view_is_told(wrong: str) -> None:
    assert views_apart(photographs()["china"], WRONG[wrong]).mean() > 0.5
