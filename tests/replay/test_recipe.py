"""Distributions against timm's own draws, with fixed seeds: a failure is a change, not bad luck."""

import json
import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import LEVEL_TO_ARG
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation

from teacher_cache.replay.policy import Policy, load_policy
from teacher_cache.replay.recipe import Box, Operation, Recipe, draw_recipe
from teacher_cache.replay.seeds import Stream, derive
from tests.replay.statistics import counts_fit, ks_p_value


def draw(policy: Policy, number: int, image_size: tuple[int, int] = (300, 400)) -> Recipe:
    return draw_recipe(policy, Stream(derive(number, "view")), image_size, derive(number, "noise"))


@pytest.mark.parametrize("image_size", [(300, 400), (500, 60), (40, 300), (7, 7)])
def test_crops_are_distributed_as_timms(image_size: tuple[int, int]) -> None:
    policy = load_policy("deit")
    ours = [draw(policy, number, image_size).crop for number in range(1500)]
    random.seed(0)
    image = Image.new("RGB", image_size[::-1])
    theirs = [
        Box(*RandomResizedCropAndInterpolation.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))) for _ in range(1500)
    ]
    for box in ours:
        assert box.top >= 0
        assert box.left >= 0
        assert box.height >= 1
        assert box.width >= 1
        assert box.top + box.height <= image_size[0]
        assert box.left + box.width <= image_size[1]
    for measure in (
        lambda box: box.height * box.width,
        lambda box: box.width / box.height,
        lambda box: box.top / max(1, image_size[0] - box.height),
        lambda box: box.left / max(1, image_size[1] - box.width),
    ):
        assert ks_p_value([measure(box) for box in ours], [measure(box) for box in theirs]) > 1e-3


def test_rand_augment_is_distributed_as_timms() -> None:
    policy = load_policy("deit")
    assert policy.rand_augment is not None
    recipes = [draw(policy, number) for number in range(3000)]
    ours = [operation for recipe in recipes for operation in recipe.operations]
    random.seed(0)
    np.random.seed(0)
    names = list(policy.rand_augment.operations)
    theirs: list[Operation] = []
    applied = []
    for _ in range(3000):  # AugmentOp.__call__, less the image
        before = len(theirs)
        for name in np.random.choice(names, 2):
            if random.random() > 0.5:
                continue
            level = max(0.0, min(random.gauss(9, 0.5), 10.0))
            level_rule = LEVEL_TO_ARG[name]
            value = level_rule(level, {})[0] if level_rule is not None else None
            theirs.append(Operation(OUR_NAMES[name], value))
        applied.append(len(theirs) - before)
    assert counts_fit([len(recipe.operations) for recipe in recipes], applied)
    assert counts_fit([operation.name for operation in ours], [operation.name for operation in theirs])
    for name in {operation.name for operation in theirs}:
        values = [[op.value for op in ops if op.name == name and op.value is not None] for ops in (ours, theirs)]
        if values[1] and isinstance(values[1][0], int):
            assert counts_fit(*values)
        elif values[0]:
            assert ks_p_value(*values) > 1e-3, name
        assert {type(value) for value in values[0]} == {type(value) for value in values[1]}


OUR_NAMES = {
    "AutoContrast": "autocontrast",
    "Equalize": "equalize",
    "Invert": "invert",
    "Rotate": "rotate",
    "PosterizeIncreasing": "posterize",
    "SolarizeIncreasing": "solarize",
    "SolarizeAdd": "solarize_add",
    "ColorIncreasing": "color",
    "ContrastIncreasing": "contrast",
    "BrightnessIncreasing": "brightness",
    "SharpnessIncreasing": "sharpness",
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "TranslateXRel": "translate_x",
    "TranslateYRel": "translate_y",
}


@pytest.mark.parametrize("count", [1, 3])
def test_erased_boxes_are_distributed_as_timms(count: int) -> None:
    policy = load_policy("deit", [f"erase.count={count}", "erase.probability=0.5", "size=[40,60]", "erase.mode=const"])
    recipes = [draw(policy, number) for number in range(3000)]
    ours = [_area(recipe.erased) for recipe in recipes]
    random.seed(0)
    eraser = RandomErasing(0.5, max_count=count, mode="const", device="cpu")
    theirs = [int((eraser(torch.ones(1, 40, 60)) == 0).sum()) for _ in range(3000)]
    assert counts_fit([area > 0 for area in ours], [area > 0 for area in theirs])
    assert ks_p_value([area for area in ours if area], [area for area in theirs if area]) > 1e-3
    for recipe in recipes:
        assert (recipe.noise != "") == (recipe.erased != ()) == (recipe.erase_mode is not None)
        assert all(box.top + box.height <= 40 and box.left + box.width <= 60 for box in recipe.erased)


def _area(boxes: tuple[Box, ...]) -> int:
    covered = np.zeros((40, 60), dtype=bool)
    for box in boxes:
        covered[box.top : box.top + box.height, box.left : box.left + box.width] = True
    return int(covered.sum())


def test_jitter_is_torchvisions() -> None:
    settings = ["rand_augment=none", "jitter.brightness=0.4", "jitter.saturation=1.5", "jitter.hue=0.1"]
    drawn = [draw(load_policy("deit", settings), number).operations for number in range(3000)]
    names = [tuple(operation.name for operation in operations) for operations in drawn]
    orders = {("brightness", "color", "hue")[a:] + ("brightness", "color", "hue")[:a] for a in range(3)}
    assert len(set(names)) == 6
    assert orders < set(names)
    assert counts_fit(names, sorted(set(names)) * 500)
    for name, low, high in (("brightness", 0.6, 1.4), ("color", 0.0, 2.5), ("hue", -0.1, 0.1)):
        values = [operation.value for operations in drawn for operation in operations if operation.name == name]
        reference = random.Random(0)
        assert ks_p_value(values, [reference.uniform(low, high) for _ in range(3000)]) > 1e-3  # type: ignore[arg-type]


def test_flips() -> None:
    assert abs(sum(draw(load_policy("deit"), number).flip for number in range(2000)) - 1000) < 100
    assert not any(draw(load_policy("digits"), number).flip for number in range(50))


@pytest.mark.parametrize(
    ("size", "crop_pct", "image_size", "resized", "window"),
    [
        ((224, 224), 0.875, (500, 375), (341, 256), (58, 16)),
        ((224, 224), 0.875, (375, 500), (256, 341), (16, 58)),
        ((32, 32), 1.0, (32, 32), (32, 32), (0, 0)),
        ((3, 3), 1.0, (3, 6), (3, 6), (0, 2)),  # 1.5 rounds to even
        ((2, 4), 1.0, (10, 10), (4, 4), (1, 0)),
        ((4, 2), 0.5, (10, 30), (8, 24), (2, 11)),
    ],
)
def test_center_crop_is_timms_evaluation(
    size: tuple[int, int],
    crop_pct: float,
    image_size: tuple[int, int],
    resized: tuple[int, int],
    window: tuple[int, int],
) -> None:
    policy = load_policy("none", [f"size={list(size)}", f"crop.crop_pct={crop_pct}"])
    recipe = draw(policy, 0, image_size)
    assert recipe.crop == Box(0, 0, *image_size)
    assert recipe.resized == resized
    assert recipe.window == Box(*window, *size)
    assert not recipe.flip
    assert recipe.operations == ()
    assert recipe.erased == ()


def test_recipes_are_plain_comparable_and_on_the_grid() -> None:
    policy = load_policy("deit")
    for number in range(100):
        recipe = draw(policy, number)
        assert recipe == draw(policy, number)
        assert hash(recipe) == hash(draw(policy, number))
        assert json.loads(json.dumps(recipe.to_json()))["crop"]["top"] == recipe.crop.top
        for operation in recipe.operations:
            assert operation.value is None or float(operation.value * 2**20).is_integer()
    assert draw(policy, 0) != draw(policy, 1)


def test_the_noise_seed_moves_nothing_else() -> None:
    policy = load_policy("deit", ["erase.probability=1"])
    seed = derive(0, "view")
    one, other = (draw_recipe(policy, Stream(seed), (30, 30), derive(n, "noise")) for n in (0, 1))
    assert one.erased == other.erased
    assert one.noise != other.noise
