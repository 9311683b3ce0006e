"""What is drawn is distributed as in timm's own transforms: thousands of draws of ours against thousands of theirs.

Every quantity is a case. Seeds are fixed: a failure is a change, not bad luck.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms
from PIL import Image
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing

from teacher_cache.replay import params as params_module
from teacher_cache.replay.mix import LAMBDA_ONE, draw_mix
from teacher_cache.replay.params import Box, Operation, draw_params, draw_views
from teacher_cache.replay.policy import Policy, load_policy
from teacher_cache.replay.render import render_pixels
from teacher_cache.replay.seeds import Stream, derive, on_grid
from tests.support.statistics import ALPHA, same_counts, same_values
from tests.support.timms import OUR_NAMES, Mixed, TimmsTransforms, erased, mixed, seeded

DRAWS = 5_000  # views, and pairs where that is enough
PAIRS = 10_000  # Mixup at alpha 1.0 is not told from 0.8 by fewer
OUR_SEED, TIMMS_SEED = 0, 1

# DeiT's own settings; and others whose ranges are not symmetric, where height for width would show
DEIT = TimmsTransforms(
    input_size=224, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic", re_prob=0.25, re_mode="pixel"
)
LOPSIDED = TimmsTransforms(
    input_size=(40, 60),
    scale=(0.1, 0.6),
    ratio=(0.4, 1.1),
    hflip=0.3,
    auto_augment="rand-m6-n3-p0.3-mstd3-inc1",
    interpolation="bilinear",
    re_prob=0.5,
    re_mode="const",
    re_count=3,
)
TIMMS = {"deit": DEIT, "lopsided": LOPSIDED}
LOPSIDED_ERASER = RandomErasing(0.5, 0.05, 0.5, 0.2, 0.9, mode="const", max_count=3, device="cpu")
OURS = {
    "deit": load_policy("deit"),
    "lopsided": load_policy(
        "deit",
        [
            "size=[40,60]",
            "crop.scale=[0.1,0.6]",
            "crop.ratio=[0.4,1.1]",
            "crop.interpolation=bilinear",
            "flip=0.3",
            "rand_augment={num_ops=3,magnitude=6,magnitude_std=3,probability=0.3,interpolation='bilinear'}",
            "erase={probability=0.5,mode='const',count=3,area=[0.05,0.5],aspect=[0.2,0.9]}",
        ],
    ),
}
SIZES = {"deit": (224, 224), "lopsided": (40, 60)}

# The same RandAugments with so many operations a view that there are thousands of each
MANY = {
    "deit, many": (
        load_policy("deit", ["rand_augment.num_ops=15", "rand_augment.probability=0.9"]),
        TimmsTransforms(
            input_size=224, auto_augment="rand-m9-n15-p0.9-mstd0.5-inc1", interpolation="bicubic", re_prob=0.25
        ),
    ),
    "loose, many": (
        load_policy("deit", ["rand_augment={num_ops=15,magnitude=6,magnitude_std=3,probability=0.9}"]),
        TimmsTransforms(
            input_size=224, auto_augment="rand-m6-n15-p0.9-mstd3-inc1", interpolation="bicubic", re_prob=0.25
        ),
    ),
}


@dataclass(frozen=True)
class Drawn:
    """One view's draws, ours or timm's."""

    crop: Box
    flip: bool
    operations: tuple[Operation, ...]
    erased: tuple[Box, ...]


def draw_ours(policy: Policy, image_size: tuple[int, int] = (300, 400), num: int = DRAWS) -> list[Drawn]:
    seeds = [derive(OUR_SEED, "view", number) for number in range(num)]
    views = draw_views(policy, seeds, np.tile(image_size, (num, 1)), lambda _: bytes(32))
    return [Drawn(params.crop, params.flip, params.operations, params.erased) for params in views]


@cache
def ours(settings: str) -> list[Drawn]:
    return draw_ours(OURS[settings])


@cache
def theirs(settings: str) -> list[Drawn]:
    timm, size = TIMMS[settings], SIZES[settings]
    drawn = []
    with seeded(TIMMS_SEED):
        for _ in range(DRAWS):
            crop, flip, operations = timm.crop(300, 400), timm.flip(), timms_operations(timm)
            boxes = erased(LOPSIDED_ERASER, *size) if settings == "lopsided" else timm.erased(*size)
            drawn.append(Drawn(crop, flip, operations, tuple(boxes)))
    return drawn


def timms_operations(timm: TimmsTransforms) -> tuple[Operation, ...]:
    """Of one view; on our grid, so that the highest magnitude is one number in both."""
    return tuple(
        Operation(name, on_grid(value) if isinstance(value, float) else value) for (name, value), _ in timm.operations()
    )


@cache
def values(settings: str) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Ours and timm's values of each operation, thousands."""
    policy, timm = MANY[settings]
    with seeded(TIMMS_SEED):
        timms = [timms_operations(timm) for _ in range(DRAWS)]
    found: tuple[dict[str, list[Any]], dict[str, list[Any]]] = ({}, {})
    for side, drawn in zip(found, ([view.operations for view in draw_ours(policy)], timms), strict=True):
        for name, value in (operation for operations in drawn for operation in operations):
            side.setdefault(name, []).append(value)
    assert min(len(of_one) for side in found for of_one in side.values()) > 4000
    return found


# What is compared. Reals by Kolmogorov and Smirnov's test, outcomes by chi-square.

Reals = Callable[[Drawn], Iterable[float]]
Outcomes = Callable[[Drawn], Iterable[Hashable]]


def place(start: int, length: int, whole: int) -> list[float]:
    """Where a box lies in the room that it has; nothing where it has none."""
    return [start / (whole - length)] if whole > length else []


def of_each_box(measure: Callable[[Box], list[float]]) -> Reals:
    return lambda view: [value for box in view.erased for value in measure(box)]


CROP_REALS: dict[str, Callable[[Box, int, int], list[float]]] = {
    "area of the crop": lambda box, height, width: [box.height * box.width],
    "aspect of the crop": lambda box, height, width: [box.width / box.height],
    "top of the crop": lambda box, height, width: place(box.top, box.height, height),
    "left of the crop": lambda box, height, width: place(box.left, box.width, width),
    "height of the crop": lambda box, height, width: [box.height],
    "width of the crop": lambda box, height, width: [box.width],
}
REALS: dict[str, Reals] = {
    **{name: lambda view, of=of: of(view.crop, 300, 400) for name, of in CROP_REALS.items()},
    "area of an erased box": of_each_box(lambda box: [box.height * box.width]),
    "aspect of an erased box": of_each_box(lambda box: [box.height / box.width]),
    "erased area in all": lambda view: [sum(box.height * box.width for box in view.erased)] if view.erased else [],
}
ERASED_PLACES: dict[str, Callable[[Box, int, int], list[float]]] = {
    "top of an erased box": lambda box, height, width: place(box.top, box.height, height),
    "left of an erased box": lambda box, height, width: place(box.left, box.width, width),
}
OUTCOMES: dict[str, Outcomes] = {
    "flip": lambda view: [view.flip],
    "operations applied": lambda view: [len(view.operations)],  # the skip rate
    "operation": lambda view: [operation.name for operation in view.operations],
    "first operation": lambda view: [operation.name for operation in view.operations[:1]],
    "the same operation twice": lambda view: (
        [view.operations[0].name == view.operations[1].name] if len(view.operations) == 2 else []
    ),
    "number of erased boxes": lambda view: [len(view.erased)],
}


def all_of(measure: Callable[[Drawn], Iterable[Any]], views: Sequence[Drawn]) -> list[Any]:
    return [value for view in views for value in measure(view)]


def measures_of(settings: str) -> dict[str, Reals]:
    height, width = SIZES[settings]
    places = {name: of_each_box(lambda box, of=of: of(box, height, width)) for name, of in ERASED_PLACES.items()}
    return REALS | places


@pytest.mark.parametrize("settings", OURS)
@pytest.mark.parametrize("quantity", [*REALS, *ERASED_PLACES])
def test_reals_are_distributed_as_timms(quantity: str, settings: str) -> None:
    measure = measures_of(settings)[quantity]
    assert same_values(all_of(measure, ours(settings)), all_of(measure, theirs(settings))) > ALPHA


@pytest.mark.parametrize("settings", OURS)
@pytest.mark.parametrize("quantity", OUTCOMES)
def test_outcomes_are_distributed_as_timms(quantity: str, settings: str) -> None:
    measure = OUTCOMES[quantity]
    assert same_counts(all_of(measure, ours(settings)), all_of(measure, theirs(settings))) > ALPHA


AROUND = dict.fromkeys(("rotate", "shear_x", "shear_y", "translate_x", "translate_y"), 0.0)
AROUND |= dict.fromkeys(("color", "contrast", "brightness", "sharpness"), 1.0)
COUNTED = ("posterize", "solarize", "solarize_add")


def magnitudes(name: str, drawn: dict[str, list[Any]]) -> list[float]:
    """Rounded as sums are that were taken in another order."""
    return [round(abs(value - AROUND[name]), 9) for value in drawn[name]]


def signs(name: str, drawn: dict[str, list[Any]]) -> list[bool]:
    return [value > AROUND[name] for value in drawn[name]]


@pytest.mark.parametrize("settings", MANY)
@pytest.mark.parametrize("name", AROUND)
def test_magnitudes_are_distributed_as_timms(name: str, settings: str) -> None:
    assert same_values(*(magnitudes(name, side) for side in values(settings))) > ALPHA


@pytest.mark.parametrize("settings", MANY)
@pytest.mark.parametrize("name", AROUND)
def test_signs_are_distributed_as_timms(name: str, settings: str) -> None:
    assert same_counts(*(signs(name, side) for side in values(settings))) > ALPHA


@pytest.mark.parametrize("settings", MANY)
@pytest.mark.parametrize("name", COUNTED)
def test_bits_and_thresholds_are_distributed_as_timms(name: str, settings: str) -> None:
    ours_of, theirs_of = (side[name] for side in values(settings))
    assert same_counts(ours_of, theirs_of) > ALPHA
    assert same_values(ours_of, theirs_of) > ALPHA


@cache
def crops(image_size: tuple[int, int]) -> tuple[list[Box], list[Box]]:
    """Ours and timm's of images that few of the boxes tried fit into, or none."""
    with seeded(TIMMS_SEED):
        timms = [DEIT.crop(*image_size) for _ in range(DRAWS)]
    policy = load_policy("deit", ["flip=none", "rand_augment=none", "erase=none"])
    return [view.crop for view in draw_ours(policy, image_size)], timms


@pytest.mark.parametrize("image_size", [(500, 60), (40, 300), (128, 128)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("quantity", CROP_REALS)
def test_crops_of_any_image_are_distributed_as_timms(quantity: str, image_size: tuple[int, int]) -> None:
    samples = [
        [value for box in boxes for value in CROP_REALS[quantity](box, *image_size)] for boxes in crops(image_size)
    ]
    assert {bool(sample) for sample in samples} in ({True}, {False})
    assert not samples[0] or same_values(*samples) > ALPHA


def test_crops_of_a_tiny_image_are_distributed_as_timms() -> None:
    assert same_counts(*crops((7, 7))) > ALPHA


def test_operations_fill_and_resample_as_timms() -> None:
    """The colour and the interpolation that DeiT's RandAugment is made with, and the types of the values."""
    with seeded(TIMMS_SEED):
        timms = [noted for _ in range(2000) for noted in DEIT.operations()]
    params = draw_params(OURS["deit"], derive(0, "view"), (300, 400), bytes(32))
    assert {options["fillcolor"] for _, options in timms} == {params.fill}
    assert {options["resample"] for _, options in timms} == {Image.Resampling.BICUBIC}
    assert params.geometry == params.interpolation == "bicubic"
    assert {(name, type(value)) for (name, value), _ in timms} == {
        (operation.name, type(operation.value)) for view in ours("deit") for operation in view.operations
    }
    assert {name for (name, _), _ in timms} == set(OUR_NAMES.values())


# ColorJitter, which is torchvision's


@cache
def jitters() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    policy = load_policy("deit", ["rand_augment=none", "jitter={brightness=0.4,contrast=0.2,saturation=1.5,hue=0.1}"])
    drawn = [dict(view.operations) for view in draw_ours(policy)]
    names = ("brightness", "contrast", "color", "hue")
    jitter = torchvision.transforms.ColorJitter(0.4, 0.2, 1.5, 0.1)
    timms = []
    with seeded(TIMMS_SEED):
        for _ in range(DRAWS):
            order, *values = jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
            timms.append({names[number]: values[number] for number in order.tolist()})
    return drawn, timms


@pytest.mark.parametrize("quantity", ["brightness", "contrast", "color", "hue"])
def test_jitters_are_distributed_as_torchvisions(quantity: str) -> None:
    assert same_values(*([view[quantity] for view in views] for views in jitters())) > ALPHA


def test_the_order_of_jitters_is_distributed_as_torchvisions() -> None:
    assert same_counts(*([tuple(view) for view in views] for views in jitters())) > ALPHA


# The erasing noise


@cache
def noises(mode: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """One pixel of each erased box, (3,), as others are not independent in every mode: ours, timm's denormalised."""
    policy = load_policy("deit", ["size=24", f"erase.mode={mode}", "erase.probability=1", "crop.kind=center"])
    eraser = RandomErasing(1.0, mode=mode, device="cpu")
    black = np.zeros((24, 24, 3), dtype=np.uint8)
    drawn, timms = [], []
    with seeded(TIMMS_SEED):
        for params in draw_views(
            policy,
            [derive(OUR_SEED, "view", number) for number in range(DRAWS)],
            np.full((DRAWS, 2), 24),
            lambda number: derive(OUR_SEED, "noise", number),
        ):
            pixels = render_pixels(black, dataclasses.replace(params, operations=()))
            drawn += [pixels[box.top, box.left] for box in params.erased]
            image = eraser(torch.full((3, 24, 24), torch.nan)).numpy()
            places = np.argwhere(~np.isnan(image[0]))
            timms += [image[:, row, column] for row, column in places[:1].tolist()]
    levels = [np.rint(255 * (np.array(policy.mean) + np.array(policy.std) * z)).clip(0, 255) for z in timms]
    return drawn, levels


@pytest.mark.parametrize("mode", ["pixel", "rand"])
@pytest.mark.parametrize("channel", [0, 1, 2], ids=["red", "green", "blue"])
def test_erasing_noise_is_distributed_as_timms_rounded(mode: str, channel: int) -> None:
    """timm erases after it has normalised; ours is in bytes, rounded and clipped."""
    drawn, timms = ([int(pixel[channel]) for pixel in side] for side in noises(mode))
    assert same_values(drawn, timms) > ALPHA
    assert same_counts([level // 32 for level in drawn], [level // 32 for level in timms]) > ALPHA
    assert same_counts([level in (0, 255) for level in drawn], [level in (0, 255) for level in timms]) > ALPHA


# Mixup and CutMix

MIXES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "deit": ([], {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}),
    "rare": (
        ["mix.probability=0.6", "mix.switch_probability=0.3", "mix.mixup_alpha=2.0", "mix.cutmix_alpha=0.5"],
        {"mixup_alpha": 2.0, "cutmix_alpha": 0.5, "prob": 0.6, "switch_prob": 0.3},
    ),
    "only Mixup": (["mix.cutmix_alpha=none"], {"mixup_alpha": 0.8}),
    "only CutMix": (["mix.mixup_alpha=none"], {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}),
}
MIX_SIZE = (24, 32)

MIX_REALS: dict[str, Callable[[Mixed], list[float]]] = {
    "lambda of Mixup": lambda pair: [pair.lam] if pair.mode == "blended" else [],
    "lambda of CutMix": lambda pair: [pair.lam] if pair.mode == "pasted" else [],
    "top of the pasted box": lambda pair: [pair.box.top] if pair.box else [],
    "left of the pasted box": lambda pair: [pair.box.left] if pair.box else [],
    "height of the pasted box": lambda pair: [pair.box.height] if pair.box else [],
    "width of the pasted box": lambda pair: [pair.box.width] if pair.box else [],
    "bottom of the pasted box": lambda pair: [pair.box.top + pair.box.height] if pair.box else [],
    "right of the pasted box": lambda pair: [pair.box.left + pair.box.width] if pair.box else [],
}


def draw_our_pairs(*settings: str, num: int = PAIRS) -> list[Mixed]:
    """Of whole blocks; two samples that are not mixed count as a pair."""
    policy = load_policy("deit", [f"size={list(MIX_SIZE)}", *settings])
    pairs = []
    for number in range(num // 32):
        plan = draw_mix(policy, Stream(derive(OUR_SEED, "mix", number)), 64, frozenset())
        alone = 0
        for first, partner in enumerate(plan.partners.tolist()):
            if first < partner:
                box, lam = Box(*plan.boxes[first].tolist()), int(plan.lambdas[first]) / LAMBDA_ONE
                pairs.append(Mixed("pasted", lam, box) if box.height else Mixed("blended", lam))
            alone += first == partner
        pairs += [Mixed("alone", 1.0)] * (alone // 2)
    return pairs


def draw_timms_pairs(num: int = PAIRS, **arguments: Any) -> list[Mixed]:
    mixup = Mixup(label_smoothing=0.0, num_classes=2, **arguments)
    with seeded(TIMMS_SEED):
        drawn = [mixed(mixup, *MIX_SIZE) for _ in range(num)]
    return [Mixed(pair.mode, round(pair.lam * LAMBDA_ONE) / LAMBDA_ONE, pair.box) for pair in drawn]  # our grid


@cache
def pairs(settings: str) -> tuple[list[Mixed], list[Mixed]]:
    our_settings, timms_arguments = MIXES[settings]
    num = PAIRS if settings == "only Mixup" else DRAWS
    return draw_our_pairs(*our_settings, num=num), draw_timms_pairs(num, **timms_arguments)


def reals_of(quantity: str, drawn: Sequence[Mixed]) -> list[float]:
    return [value for pair in drawn for value in MIX_REALS[quantity](pair)]


@pytest.mark.parametrize("settings", MIXES)
@pytest.mark.parametrize("quantity", MIX_REALS)
def test_mixes_are_distributed_as_timms(quantity: str, settings: str) -> None:
    drawn, timms = (reals_of(quantity, side) for side in pairs(settings))
    assert (not drawn and not timms) or same_values(drawn, timms) > ALPHA


@pytest.mark.parametrize("settings", MIXES)
def test_the_mode_of_mixing_is_distributed_as_timms(settings: str) -> None:
    assert same_counts(*([pair.mode for pair in side] for side in pairs(settings))) > ALPHA


# The tests can fail: what is nearly right is told from what is right


def squashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Aspects drawn uniformly, their logarithms not."""
    plain = SimpleNamespace(log=float, exp=float, sqrt=math.sqrt, floor=math.floor)
    monkeypatch.setattr(params_module, "math", plain)


def swapped(box: Box) -> Box:
    return Box(box.left, box.top, box.width, box.height)


@pytest.mark.parametrize("quantity", ["aspect of the crop", "aspect of an erased box"])
@pytest.mark.parametrize("settings", OURS)
def test_a_uniform_aspect_is_told(quantity: str, settings: str, monkeypatch: pytest.MonkeyPatch) -> None:
    squashed(monkeypatch)
    wrong = all_of(REALS[quantity], draw_ours(OURS[settings]))
    assert same_values(wrong, all_of(REALS[quantity], theirs(settings))) < ALPHA


WRONG_POLICIES = {
    "aspect of the crop": ["crop.ratio=[0.8,1.25]"],
    "area of the crop": ["crop.scale=[0.14,1]"],
    "flip": ["flip=0.45"],
    "operations applied": ["rand_augment.probability=0.55"],
    "number of erased boxes": ["erase.probability=0.29", "erase.count=2"],
    "area of an erased box": ["erase.area=[0.02,0.4]"],
    "aspect of an erased box": ["erase.aspect=[0.45,2.2]"],
}


@pytest.mark.parametrize("quantity", WRONG_POLICIES)
def test_a_slightly_other_policy_is_told(quantity: str) -> None:
    policy = load_policy("deit", WRONG_POLICIES[quantity])
    measure = REALS.get(quantity) or OUTCOMES[quantity]
    p_value = same_values if quantity in REALS else same_counts
    assert p_value(all_of(measure, draw_ours(policy)), all_of(measure, theirs("deit"))) < ALPHA


WRONG_VIEWS: dict[str, Callable[[Drawn], Drawn]] = {
    "the same operation twice": lambda view: (
        view if len({name for name, _ in view.operations}) > 1 else dataclasses.replace(view, operations=())
    ),
    "aspect of the crop": lambda view: dataclasses.replace(view, crop=swapped(view.crop)),
    "aspect of an erased box": lambda view: dataclasses.replace(view, erased=tuple(map(swapped, view.erased))),
    "top of the crop": lambda view: dataclasses.replace(
        view, crop=view.crop._replace(top=(300 - view.crop.height) // 2)
    ),
}


@pytest.mark.parametrize("quantity", WRONG_VIEWS)
def test_a_wrong_side_or_place_is_told(quantity: str) -> None:
    wrong = [WRONG_VIEWS[quantity](view) for view in ours("lopsided")]
    measure = REALS.get(quantity) or OUTCOMES[quantity]
    p_value = same_values if quantity in REALS else same_counts
    assert p_value(all_of(measure, wrong), all_of(measure, theirs("lopsided"))) < ALPHA


@pytest.mark.parametrize("name", AROUND)
def test_a_wrong_sign_or_magnitude_is_told(name: str) -> None:
    ours_of, theirs_of = values("loose, many")
    found, timms = magnitudes(name, ours_of), magnitudes(name, theirs_of)
    assert same_counts([True for _ in found], signs(name, theirs_of)) < ALPHA
    highest = max(timms)
    not_clipped = [1.01 * value if value == highest else value for value in found]
    assert same_values(not_clipped, timms) < ALPHA
    assert same_values([0.95 * value for value in found], timms) < ALPHA


def test_a_lambda_that_is_not_corrected_is_told() -> None:
    wrong = draw_timms_pairs(3000, mixup_alpha=0.8, cutmix_alpha=1.0, correct_lam=False)
    assert same_values(reals_of("lambda of CutMix", pairs("deit")[0]), reals_of("lambda of CutMix", wrong)) < ALPHA


def test_another_alpha_of_mixup_is_told() -> None:
    wrong = draw_our_pairs("mix.mixup_alpha=1.0", "mix.cutmix_alpha=none")
    assert same_values(reals_of("lambda of Mixup", wrong), reals_of("lambda of Mixup", pairs("only Mixup")[1])) < ALPHA
