"""AutoAugment's policy for ImageNet against timm's table, torchvision's, and timm's own draws."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from timm.data.auto_augment import AutoAugment, auto_augment_policy_original
from torchvision.transforms import AutoAugment as TorchvisionsAutoAugment

from teacher_cache.replay.auto_augment import IMAGENET_PAIRS
from teacher_cache.replay.params import Operation, draw_params, draw_views
from teacher_cache.replay.policy import load_policy
from teacher_cache.replay.seeds import derive, on_grid
from tests.support.statistics import ALPHA, same_counts, same_values
from tests.support.timms import OUR_NAMES, seeded

DRAWS = 4_000
NAMES = OUR_NAMES | {
    "PosterizeOriginal": "posterize",
    "Solarize": "solarize",
    **{name: name.lower() for name in ("Color", "Contrast", "Sharpness")},
}


def test_the_table_is_timms() -> None:
    timms = auto_augment_policy_original({})
    assert tuple(tuple((op.name, op.prob, op.magnitude) for op in pair) for pair in timms) == IMAGENET_PAIRS


def test_the_table_is_torchvisions_but_for_magnitudes_that_are_not_used() -> None:
    theirs = TorchvisionsAutoAugment().policies
    renamed = {"PosterizeOriginal": "Posterize", "AutoContrast": "AutoContrast"}
    assert [tuple((name, probability) for name, probability, _ in pair) for pair in theirs] == [
        tuple((renamed.get(name, name), probability) for name, probability, _ in pair) for pair in IMAGENET_PAIRS
    ]
    for pair, ours in zip(theirs, IMAGENET_PAIRS, strict=True):
        for (_, _, magnitude), (name, _, our_magnitude) in zip(pair, ours, strict=True):
            assert magnitude == (None if name in ("AutoContrast", "Equalize", "Invert") else our_magnitude)


def draw_ours(magnitude_std: float) -> list[tuple[Operation, ...]]:
    settings = ["rand_augment=none", f"auto_augment.magnitude_std={magnitude_std}"]
    policy = load_policy("deit", settings)
    seeds = [derive(0, "view", number) for number in range(DRAWS)]
    return [
        params.operations for params in draw_views(policy, seeds, np.tile((300, 400), (DRAWS, 1)), lambda _: bytes(32))
    ]


def draw_timms(magnitude_std: float) -> list[tuple[Operation, ...]]:
    augment = AutoAugment(auto_augment_policy_original({"magnitude_std": magnitude_std}))

    def note(name: str) -> Any:
        def noted(noted: tuple, value: float | int | None = None, **options: Any) -> tuple:
            return (*noted, Operation(NAMES[name], value))

        return noted

    for pair in augment.policy:
        for operation in pair:
            operation.aug_fn = note(operation.name)
    with seeded(1):
        return [augment(()) for _ in range(DRAWS)]


def grid(operation: Operation) -> Operation:
    value = operation.value
    return operation if value is None or isinstance(value, int) else Operation(operation.name, on_grid(value))


def test_what_is_drawn_is_distributed_as_timms() -> None:
    """Whole pairs, with their values and signs: there are few."""
    ours, timms = draw_ours(0.0), [tuple(map(grid, drawn)) for drawn in draw_timms(0.0)]
    assert {type(operation.value) for drawn in ours for operation in drawn} == {type(None), int, float}
    assert {operation for drawn in ours for operation in drawn} == {operation for drawn in timms for operation in drawn}
    common = [drawn for drawn, count in Counter(timms).items() if count > 20]
    assert same_counts([d for d in ours if d in common], [d for d in timms if d in common]) > ALPHA
    assert same_counts([len(drawn) for drawn in ours], [len(drawn) for drawn in timms]) > ALPHA


@pytest.mark.parametrize("name", ["rotate", "color", "solarize", "posterize"])
def test_noisy_magnitudes_are_distributed_as_timms(name: str) -> None:
    ours, timms = (
        [grid(operation).value for drawn in side for operation in drawn if operation.name == name]
        for side in (draw_ours(1.5), draw_timms(1.5))
    )
    assert len(set(ours)) > 2
    assert same_values(ours, timms) > ALPHA


def test_geometry_resamples_as_the_section_says() -> None:
    policy = load_policy("deit", ["rand_augment=none", "auto_augment.interpolation=bilinear"])
    assert draw_params(policy, derive(0, "view"), (300, 400), bytes(32)).geometry == "bilinear"
