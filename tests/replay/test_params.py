"""What is drawn for one view; its distributions are compared with timm's in test_against_timm.py."""

import json

import numpy as np
import pytest

from teacher_cache.replay.operations import open_operations
from teacher_cache.replay.params import Box, ViewParams, draw_params, draw_views
from teacher_cache.replay.policy import Policy, load_policy, shipped_policies
from teacher_cache.replay.seeds import Stream, derive
from tests.replay.one_by_one import draw_one
from tests.support import own_operations

AUTO = ["rand_augment=none", "auto_augment={magnitude_std=0.5,interpolation='bilinear'}"]
SETTINGS: dict[str, tuple[str, list[str]]] = {
    **{name: (name, []) for name in shipped_policies()},
    "many operations and boxes": (
        "deit",
        [
            *("size=[23,37]", "rand_augment.num_ops=6", "rand_augment.probability=0.9"),
            *("erase.count=4", "erase.probability=0.7", "erase.mode=rand"),
        ],
    ),
    "AutoAugment, jitter, and boxes that seldom fit": (
        "deit",
        [
            *("size=[23,37]", *AUTO, "jitter={brightness=0.4,contrast=0.4,saturation=0.4,hue=0.1}"),
            *("erase.count=3", "erase.mode=const", "erase.area=[0.9,1.0]", "erase.probability=1.0"),
        ],
    ),
    "AutoAugment of one magnitude, boxes without pixels": (
        "deit",
        [
            *("size=3", "rand_augment=none", "auto_augment={}", "flip=none"),
            *("erase.count=3", "erase.probability=1.0", "erase.area=[0.001,0.9]"),
        ],
    ),
    "crops that seldom fit, operations that always are": (
        "deit",
        ["crop.scale=[1,1]", "crop.ratio=[0.5,0.6]", "rand_augment.magnitude_std=0", "rand_augment.probability=1.0"],
    ),
    "magnitudes out of bounds, one jitter": (
        "deit",
        [
            *("rand_augment.magnitude=0", "rand_augment.magnitude_std=6.0", "erase=none"),
            *("rand_augment.operations=['Rotate','ShearX','SolarizeAdd']", "jitter={brightness=3.0}"),
        ],
    ),
    "centre of a landscape": ("none", ["size=[60,80]", "crop.crop_pct=0.9", "flip=0.5"]),
    "centre of a portrait": ("none", ["size=[81,60]", "crop.crop_pct=0.33"]),
}


def drawn_both_ways(policy: Policy, num: int) -> tuple[list[ViewParams], list[ViewParams]]:
    """Views of pictures of all sizes and shapes, together and number by number."""
    seeds, noises = ([derive(0, purpose, view) for view in range(num)] for purpose in ("view", "noise"))
    sizes = 1 + np.array([Stream(derive(0, "size", view)).raw(2) >> 55 for view in range(num)]).astype(np.int64)
    sizes[::3] = 1 + sizes[::3] % 40
    together = draw_views(policy, seeds, sizes, noises.__getitem__)
    assert len(together) == num
    shapes = [(height, width) for height, width in sizes.tolist()]
    one_by_one = [
        draw_one(policy, Stream(seed), shape, noise) for seed, shape, noise in zip(seeds, shapes, noises, strict=True)
    ]
    return list(together), one_by_one


@pytest.mark.parametrize("settings", SETTINGS)
def test_views_drawn_together_are_those_drawn_number_by_number(settings: str) -> None:
    name, overrides = SETTINGS[settings]
    together, one_by_one = drawn_both_ways(load_policy(name, overrides), 1000)
    assert together == one_by_one
    # nor does -0.0 stand for 0.0, or 4.0 for 4
    assert [repr(params) for params in together] == [repr(params) for params in one_by_one]


def test_own_operations_are_drawn_as_number_by_number() -> None:
    own = open_operations(f"{own_operations.__file__}:operations")
    together, one_by_one = drawn_both_ways(load_policy("deit", ["rand_augment.num_ops=3"], own), 300)
    assert [repr(params) for params in together] == [repr(params) for params in one_by_one]
    assert {"darken", "roll"} < {operation.name for params in together for operation in params.operations}


def test_which_views_are_drawn_together_does_not_matter() -> None:
    policy = load_policy("deit", ["erase.count=3", "rand_augment.num_ops=5"])
    seeds, sizes = [derive(0, "view", view) for view in range(40)], np.full((40, 2), 90)
    together = draw_views(policy, seeds, sizes, lambda number: derive(number, "noise"))
    some = [31, 2, 17]
    found = draw_views(policy, [seeds[n] for n in some], sizes[some], lambda place: derive(some[place], "noise"))
    assert list(found) == [together[number] for number in some]
    assert list(draw_views(policy, [], sizes[:0], lambda number: b"")) == []


def draw(policy: Policy, number: int, image_size: tuple[int, int] = (300, 400)) -> ViewParams:
    return draw_params(policy, derive(number, "view"), image_size, derive(number, "noise"))


def draw_many(policy: Policy, num: int, image_size: tuple[int, int] = (300, 400)) -> list[ViewParams]:
    seeds = [derive(number, "view") for number in range(num)]
    return list(draw_views(policy, seeds, np.tile(image_size, (num, 1)), lambda number: derive(number, "noise")))


@pytest.mark.parametrize("image_size", [(300, 400), (500, 60), (40, 300), (7, 7), (1, 1), (1, 90)])
def test_crops_lie_in_the_image(image_size: tuple[int, int]) -> None:
    for box in [params.crop for params in draw_many(load_policy("deit"), 500, image_size)]:
        assert box.top >= 0
        assert box.left >= 0
        assert box.height >= 1
        assert box.width >= 1
        assert box.top + box.height <= image_size[0]
        assert box.left + box.width <= image_size[1]


@pytest.mark.parametrize("count", [1, 3])
def test_erased_boxes_lie_in_the_view(count: int) -> None:
    policy = load_policy("deit", [f"erase.count={count}", "erase.probability=0.5", "size=[40,60]", "erase.mode=const"])
    for params in draw_many(policy, 500):
        assert len(params.erased) <= count
        assert (params.noise != "") == (params.erased != ()) == (params.erase_mode is not None)
        assert all(box.top + box.height <= 40 and box.left + box.width <= 60 for box in params.erased)


def test_what_a_policy_leaves_out_is_not_done() -> None:
    policy = load_policy("deit", ["flip=none", "rand_augment=none", "erase=none"])
    for params in draw_many(policy, 50):
        assert not params.flip
        assert params.operations == ()
        assert params.erased == ()


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
    params = draw(policy, 0, image_size)
    assert params.crop == Box(0, 0, *image_size)
    assert params.resized == resized
    assert params.window == Box(*window, *size)
    assert not params.flip
    assert params.operations == ()
    assert params.erased == ()


def test_parameters_are_plain_comparable_and_on_the_grid() -> None:
    policy = load_policy("deit")
    for number in range(100):
        params = draw(policy, number)
        assert params == draw(policy, number)
        assert hash(params) == hash(draw(policy, number))
        assert json.loads(json.dumps(params.to_json()))["crop"]["top"] == params.crop.top
        for operation in params.operations:
            assert operation.value is None or float(operation.value * 2**20).is_integer()
    assert draw(policy, 0) != draw(policy, 1)


def test_the_noise_seed_moves_nothing_else() -> None:
    policy = load_policy("deit", ["erase.probability=1"])
    seed = derive(0, "view")
    one, other = (draw_params(policy, seed, (30, 30), derive(n, "noise")) for n in (0, 1))
    assert one.erased == other.erased
    assert one.noise != other.noise
