"""What is drawn for one view; its distributions are compared with timm's in test_against_timm.py."""

import json

import pytest

from teacher_cache.replay.params import Box, ViewParams, draw_params
from teacher_cache.replay.policy import Policy, load_policy
from teacher_cache.replay.seeds import derive


def draw(policy: Policy, number: int, image_size: tuple[int, int] = (300, 400)) -> ViewParams:
    return draw_params(policy, derive(number, "view"), image_size, derive(number, "noise"))


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
    for params in [draw(policy, number) for number in range(500)]:
        assert len(params.erased) <= count
        assert (params.noise != "") == (params.erased != ()) == (params.erase_mode is not None)
        assert all(box.top + box.height <= 40 and box.left + box.width <= 60 for box in params.erased)


def test_what_a_policy_leaves_out_is_not_done() -> None:
    policy = load_policy("deit", ["flip=none", "rand_augment=none", "erase=none"])
    for number in range(50):
        params = draw(policy, number)
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
