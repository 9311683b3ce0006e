"""What is drawn for one view; its distributions are compared with timm's in test_against_timm.py."""

import json

import pytest

from teacher_cache.replay.policy import Policy, load_policy
from teacher_cache.replay.recipe import Box, Recipe, draw_recipe
from teacher_cache.replay.seeds import Stream, derive


def draw(policy: Policy, number: int, image_size: tuple[int, int] = (300, 400)) -> Recipe:
    return draw_recipe(policy, Stream(derive(number, "view")), image_size, derive(number, "noise"))


@pytest.mark.parametrize("image_size", [(300, 400), (500, 60), (40, 300), (7, 7), (1, 1), (1, 90)])
def test_crops_lie_in_the_image(image_size: tuple[int, int]) -> None:
    for number in range(500):
        box = draw(load_policy("deit"), number, image_size).crop
        assert box.top >= 0
        assert box.left >= 0
        assert box.height >= 1
        assert box.width >= 1
        assert box.top + box.height <= image_size[0]
        assert box.left + box.width <= image_size[1]


@pytest.mark.parametrize("count", [1, 3])
def test_erased_boxes_lie_in_the_view(count: int) -> None:
    policy = load_policy("deit", [f"erase.count={count}", "erase.probability=0.5", "size=[40,60]", "erase.mode=const"])
    for recipe in [draw(policy, number) for number in range(500)]:
        assert len(recipe.erased) <= count
        assert (recipe.noise != "") == (recipe.erased != ()) == (recipe.erase_mode is not None)
        assert all(box.top + box.height <= 40 and box.left + box.width <= 60 for box in recipe.erased)


def test_what_a_policy_leaves_out_is_not_done() -> None:
    policy = load_policy("deit", ["flip=none", "rand_augment=none", "erase=none"])
    for number in range(50):
        recipe = draw(policy, number)
        assert not recipe.flip
        assert recipe.operations == ()
        assert recipe.erased == ()


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
