"""The library's bytes are the pixel specification's, with whatever instructions of the processor it may use."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import numpy as np
import pytest

from teacher_cache.replay.block import DecodedBlock, replay_view, view_params
from teacher_cache.replay.mix import LAMBDA_ONE, MixPlan, apply_mix
from teacher_cache.replay.native import library
from teacher_cache.replay.native.views import mix_views, native_views
from teacher_cache.replay.operations import open_operations
from teacher_cache.replay.params import Box, Operation, ViewParams
from teacher_cache.replay.policy import Policy, load_policy
from teacher_cache.replay.render import render_pixels
from tests.replay import equality
from tests.support import images
from tests.support.decoded import decoded_block

ABSENT = "the native library is not built: no C compiler was found when the package was installed"
pytestmark = pytest.mark.skipif(library.load() is None, reason=ABSENT)
SHIPPED = ("deit", "transfer", "cifar", "digits", "none")


Made = TypeVar("Made")


def by_kernels(make: Callable[[], Made]) -> Iterator[tuple[str, Made]]:
    """What is made with each kind of instructions that the processor has."""
    with pytest.MonkeyPatch.context() as patch:
        for kernels in library.offered():
            patch.setenv(library.SWITCH, kernels)
            held = library.workspace()
            assert held is not None
            assert held.kernels == kernels
            yield kernels, make()


def rendered(policy: Policy, pictures: list[np.ndarray], views: list[ViewParams]) -> np.ndarray:
    """With each kind of instructions, to the same bytes."""
    drawn = equality.gathered(policy, views)

    def render() -> np.ndarray:
        native = native_views(drawn)
        assert native is not None
        found = np.empty((len(views), *policy.size, 3), np.uint8)
        for number, (pixels, row) in enumerate(zip(pictures, found, strict=True)):
            native.render(number, pixels, row)
        return found

    (first, found), *others = by_kernels(render)
    for kernels, other in others:
        assert np.array_equal(other, found), f"{kernels} and {first} differ"
    return found


@pytest.mark.parametrize(
    ("picture", "size"),
    [((390, 480), (224, 224)), ((50, 60), (17, 28)), ((60, 80), (5, 9)), ((90, 20), (2, 70)), ((5, 9), (48, 32))],
)
@pytest.mark.parametrize("part", [equality.crops, equality.operations, equality.erasing])
def test_every_operation_has_the_specifications_bytes(part, picture, size) -> None:
    lines = list(part(equality.pictures(6, *picture), size, 12, rendered))
    assert lines
    assert [line for line in lines if not line.is_equal] == []


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_every_size_from_1_to_700_is_resized_to_the_specifications_bytes(interpolation: str) -> None:
    random = np.random.default_rng(len(interpolation))
    source = random.integers(0, 256, (700, 700, 3), dtype=np.uint8)
    for height in range(1, 701):
        width, *size = random.integers(1, 701, 3).tolist()
        if height % 2:  # sides of few pixels are where taps leave the picture
            size = [1 + side % 40 for side in size]
        policy = load_policy(
            "none", [f"size={size}", f"crop.interpolation={interpolation}", "crop.crop_pct=1.0", "flip=0.5"]
        )
        params = view_params(policy, equality.SEED, "sizes", "key", height, (height, width))
        params = dataclasses.replace(
            params, crop=Box(0, 0, height, width), resized=tuple(size), window=Box(0, 0, *size)
        )
        pixels = np.ascontiguousarray(source[:height, :width])
        assert np.array_equal(rendered(policy, [pixels], [params])[0], render_pixels(pixels, params)), params


def test_views_of_every_size_from_1_to_700_are_operated_on_to_the_specifications_bytes() -> None:
    """Each size with an operation of its own; every operation in views of 44 sizes, every other one of them narrow."""
    random = np.random.default_rng(5)
    source = images.picture(5, 60, 70)
    for side in range(1, 701):
        other = int(random.integers(1, 701)) if side % 2 else int(random.integers(1, 34))
        size = [side, other] if side % 4 < 2 else [other, side]
        name = list(equality.VALUES)[side // 4 % len(equality.VALUES)]
        geometry = ("bicubic", "bilinear")[side // 64 % 2]
        policy = load_policy(
            "deit", [f"size={size}", f"rand_augment.interpolation={geometry}", "erase.probability=1", "mix=none"]
        )
        params = view_params(policy, equality.SEED, "operated", "key", side, (60, 70))
        params = dataclasses.replace(params, operations=(Operation(name, equality.VALUES[name](random)),))
        assert np.array_equal(rendered(policy, [source], [params])[0], render_pixels(source, params)), params


@pytest.mark.parametrize("shape", [(3, 70_000), (70_000, 2)])
def test_pictures_longer_than_a_jpeg_and_thinner_than_their_view_have_the_specifications_bytes(shape) -> None:
    """Of the thin ones a centre crop is cut out of 32 x 746,667 and 1,120,000 x 32 pixels."""
    picture = np.random.default_rng(4).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for name in ("deit", "none"):
        policy = load_policy(name, ["size=32"])
        params = view_params(policy, equality.SEED, "thin", "key", 0, shape)
        assert np.array_equal(rendered(policy, [picture], [params])[0], render_pixels(picture, params))


def test_every_factor_and_value_of_a_whole_range_has_the_specifications_bytes() -> None:
    """Values on a grid over and beyond what policies draw, each on a picture that has every level in every channel."""
    levels = np.arange(3 * 256, dtype=np.int64).reshape(16, 16, 3)
    source = (levels * 7 % 256).astype(np.uint8)
    policy = load_policy("deit", ["size=[16, 16]", "erase=none", "mix=none"])
    plain = view_params(policy, equality.SEED, "values", "key", 0, (16, 16))
    plain = dataclasses.replace(plain, crop=Box(0, 0, 16, 16), flip=False, operations=())
    whole = {"posterize": range(9), "solarize": range(257), "solarize_add": range(129)}
    real = {"hue": (-0.5, 0.5), "brightness": (0, 7.5), "contrast": (0, 7.5), "color": (0, 7.5), "sharpness": (0, 7.5)}
    real |= {"rotate": (-180, 180), "shear_x": (-2, 2), "shear_y": (-2, 2)}
    real |= {"translate_x": (-1.2, 1.2), "translate_y": (-1.2, 1.2)}
    values = {name: list(range_) for name, range_ in whole.items()}
    values |= {name: np.linspace(*ends, 201).tolist() for name, ends in real.items()}
    for name, each in values.items():
        views = [
            dataclasses.replace(plain, operations=(Operation(name, value if name in whole else on_grid(value)),))
            for value in each
        ]
        found = rendered(policy, [source] * len(views), views)
        expected = np.stack([render_pixels(source, params) for params in views])
        assert np.array_equal(found, expected), name


def on_grid(value: float) -> float:
    return round(value * equality.ON_GRID) / equality.ON_GRID


@pytest.fixture(scope="module")
def block() -> DecodedBlock:
    """64 pictures of many sizes, two of them skipped."""
    random = np.random.default_rng(1)
    sizes = random.integers(20, 300, (64, 2)).tolist()
    pictures = [images.picture(number, *size) for number, size in enumerate(sizes)]
    return decoded_block(pictures, frozenset({5, 40}))


NUM_VIEWS = 17  # of 62 samples: more than 1,000 views of each policy


def check_replays(policy: Policy, block: DecodedBlock) -> None:
    """With each kind of instructions, against NumPy's."""
    for view in range(NUM_VIEWS):
        replay = partial(replay_view, policy, equality.SEED, block, view)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(library.SWITCH, "off")
            expected = replay()
        for kernels, found in by_kernels(replay):
            assert np.array_equal(found.pixels, expected.pixels), (view, kernels)
            assert found.digest == expected.digest, (view, kernels)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_thousand_views_of_each_shipped_policy_have_the_specifications_bytes_and_digests(
    name: str, block: DecodedBlock
) -> None:
    check_replays(load_policy(name), block)


def test_a_views_own_operations_are_pythons(block: DecodedBlock) -> None:
    own = open_operations("tests/support/own_operations.py:operations")
    check_replays(load_policy("deit", ["size=32", "rand_augment.num_ops=3"], own), block)


@pytest.mark.parametrize("shape", [(7, 5), (32, 32), (1, 1)])
def test_pairs_are_mixed_to_the_specifications_bytes(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(3)
    views = random.integers(0, 256, (9, *shape, 3), dtype=np.uint8)
    partners = np.array([1, 0, 2, 4, 3, 6, 5, 8, 7])
    lambdas = np.repeat([LAMBDA_ONE, 0, 2 * 12_345, LAMBDA_ONE, 32_768], 2)[:9].astype(np.uint32)
    lambdas[[3, 4, 5, 6, 7, 8]] = [2, 2, 65_534, 65_534, 40_000, 40_000]
    boxes = np.zeros((9, 4), np.int32)
    boxes[[7, 8]] = (0, 0, shape[0], (shape[1] + 1) // 2)
    plan = MixPlan(partners, lambdas, boxes)
    expected = views.copy()
    apply_mix(expected, plan)

    def mixed() -> tuple[np.ndarray, np.ndarray]:
        whole, rows = views.copy(), [row.copy() for row in views]
        mix_views(whole, plan)
        mix_views(rows, plan)
        return whole, np.stack(rows)

    for kernels, found in by_kernels(mixed):
        assert all(np.array_equal(each, expected) for each in found), kernels


def test_what_does_not_fit_its_picture_is_refused() -> None:
    policy = load_policy("deit", ["size=8", "erase.probability=1"])
    params = view_params(policy, equality.SEED, "bounds", "key", 0, (20, 30))
    drawn = equality.gathered(policy, [dataclasses.replace(params, operations=(Operation("sharpness", 0.5),))])
    pixels, out = np.zeros((20, 30, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    changed: list[dict[str, np.ndarray]] = [
        {"crops": np.array([box])}
        for box in ((0, 0, 21, 30), (0, 1, 20, 30), (-1, 0, 5, 5), (0, 0, 0, 5), (1 << 62, 0, 1 << 62, 5))
    ]
    changed += [{"windows": np.array([[1, 0, 8, 8]])}, {"windows": np.array([[0, 0, 8, 7]])}]
    changed += [{"values": np.array([[value]])} for value in (np.nan, np.inf, 9.0, -1e300)]
    changed += [{"erased": np.array([[[4, 4, 5, 1]]])}, {"erased": np.array([[[0, 0, 1, 1 << 40]]])}]
    for change in changed:
        native = native_views(dataclasses.replace(drawn, **change))
        assert native is not None
        with pytest.raises(ValueError, match="do not fit their picture"):
            native.render(0, pixels, out)
    assert not out.any()


def test_views_share_no_memory_with_their_pictures() -> None:
    policy = load_policy("none", ["size=8", "crop.crop_pct=1.0"])
    params = view_params(policy, equality.SEED, "alone", "key", 0, (8, 8))
    pixels = np.zeros((8, 8, 3), np.uint8)
    out = rendered(policy, [pixels], [params])[0]
    assert not out.any()
    out[:] = 7
    assert not pixels.any()
