"""What the native library draws is what params.py and mix.py draw, bit for bit."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from teacher_cache.replay import mix, params
from teacher_cache.replay.block import draw_samples, view_mix
from teacher_cache.replay.mix import LAMBDA_ONE, MixPlan
from teacher_cache.replay.native import draws
from teacher_cache.replay.native.library import SWITCH, load, workspace
from teacher_cache.replay.operations import open_operations
from teacher_cache.replay.params import NAMES, NONE, RULES, DrawnViews
from teacher_cache.replay.policy import OPERATIONS, Policy, load_policy, shipped_policies
from teacher_cache.replay.seeds import Stream, derive
from tests.replay.freeze import GOLDEN, golden_values
from tests.replay.native.test_views import ABSENT
from tests.replay.test_params import SETTINGS
from tests.support import own_operations

pytestmark = pytest.mark.skipif(load() is None, reason=ABSENT)


@pytest.fixture(autouse=True)
def switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)


ODD: dict[str, tuple[str, list[str]]] = {
    **SETTINGS,
    "operations of every rule": (
        "deit",
        [f"rand_augment.operations={json.dumps(OPERATIONS[::-1])}", "rand_augment.num_ops=40", "flip=0"],
    ),
    "one operation named twice, sure": (
        "deit",
        ["rand_augment.operations=['Rotate','Rotate']", "rand_augment.probability=1", "rand_augment.num_ops=1"],
    ),
    "operations never": ("deit", ["rand_augment.probability=0", "rand_augment.magnitude=10", "flip=1"]),
    "AutoAugment of one magnitude and two jitters": (
        "deit",
        ["rand_augment=none", "auto_augment={}", "jitter={contrast=4,hue=0.5}", "erase.count=60", "size=[4,700]"],
    ),
    "jitter of saturation alone": ("deit", ["rand_augment=none", "jitter={saturation=1.5}", "erase.count=2"]),
    "crops of all shapes": ("deit", ["crop.scale=[0.001,1]", "crop.ratio=[0.001,1000]", "erase.aspect=[0.001,1000]"]),
    "crops of one shape": ("deit", ["crop.scale=[0.3,0.3]", "crop.ratio=[1000,1000]", "erase.aspect=[0.001,0.001]"]),
    "boxes of the whole view": ("deit", ["erase={probability=1,area=[1,1],aspect=[1,1],count=5,mode='rand'}"]),
    "views of one pixel": ("deit", ["size=1", "erase={probability=1,mode='const'}"]),
    "centre, enlarged": ("none", ["size=[3,4096]", "crop.crop_pct=0.01"]),
}


def picture_sizes(num: int) -> np.ndarray:
    """(num, 2): 1 to 700, a third of them with a short side."""
    words = [Stream(derive(0, "size", view)).raw(2) for view in range(num)]
    sizes = 1 + (np.array(words, np.uint64).reshape(-1, 2) % 700).astype(np.int64)
    sizes[::6, 0], sizes[3::6, 1] = 1 + sizes[::6, 0] % 9, 1 + sizes[3::6, 1] % 9
    return sizes


def assert_same(found: Any, expected: Any) -> None:
    """Arrays of the same shapes, types and bytes."""
    for field in dataclasses.fields(expected):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(other, np.ndarray):
            assert (one.shape, one.dtype) == (other.shape, other.dtype), field.name
            assert one.tobytes() == other.tobytes(), field.name
        else:
            assert one == other, field.name


def drawn_both_ways(policy: Policy, num: int, first: int = 0) -> DrawnViews:
    """Views, which are asserted to be drawn alike by the library and by NumPy."""
    seeds, sizes = [derive(first + number, "view") for number in range(num)], picture_sizes(num)
    asked: dict[bool, list[int]] = {True: [], False: []}

    def noise(native: bool, number: int) -> bytes:
        asked[native].append(number)
        return derive(number, "noise")

    found = draws.draw_views(policy, seeds, sizes, lambda number: noise(True, number))
    expected = params.draw_views(policy, seeds, sizes, lambda number: noise(False, number))
    assert_same(found, expected)
    assert asked[True] == asked[False]
    return found


@pytest.mark.parametrize("name", shipped_policies())
def test_views_of_shipped_policies_are_numpys(name: str) -> None:
    drawn = drawn_both_ways(load_policy(name), 2000)
    assert len({params.crop for params in drawn}) > 1000


@pytest.mark.parametrize("name", ODD)
def test_views_of_odd_policies_are_numpys(name: str) -> None:
    drawn_both_ways(load_policy(*ODD[name]), 1000, first=5000)


def test_whole_crops_at_the_limits_of_their_shape_are_numpys() -> None:
    """No crop fits, as each is to have the picture's area and another shape."""
    policy, num = load_policy("deit", ["crop.scale=[1,1]", "crop.ratio=[0.5,0.6]"]), 200
    sizes = np.stack([np.full(num, 500), np.arange(200, 200 + num)], axis=1)
    seeds = [derive(number, "view") for number in range(num)]
    found = draws.draw_views(policy, seeds, sizes, lambda _: bytes(32))
    assert_same(found, params.draw_views(policy, seeds, sizes, lambda _: bytes(32)))
    height, width = found.crops[:, 2], found.crops[:, 3]
    assert (height[:50] < 500).all()
    assert (width[101:] < sizes[101:, 1]).all()


def test_every_rule_is_numpys() -> None:
    """Each operation that RandAugment may be told, at all magnitudes, and all pairs of AutoAugment."""
    seen = set()
    for name in OPERATIONS:
        policy = load_policy("deit", [f"rand_augment.operations=['{name}']", "rand_augment.magnitude_std=4"])
        seen |= set(drawn_both_ways(policy, 1000).operations[:, 0].tolist())
    auto = load_policy("deit", ["rand_augment=none", "auto_augment.magnitude_std=3"])
    seen |= set(drawn_both_ways(auto, 3000).operations.ravel().tolist())
    jittered = load_policy("deit", ["rand_augment=none", "jitter={hue=0.1}"])
    seen |= set(drawn_both_ways(jittered, 10).operations.ravel().tolist())
    assert seen == {NONE, *range(len(NAMES))}


def test_own_operations_are_numpys() -> None:
    own = open_operations(f"{own_operations.__file__}:operations")
    policy = load_policy("deit", ["rand_augment.num_ops=5", "rand_augment.operations=['roll','Invert','darken']"], own)
    seen = set(drawn_both_ways(policy, 1000).operations.ravel().tolist())
    assert seen == {NONE, NAMES.index("invert"), len(NAMES), len(NAMES) + 1}


def limits(smallest: float, largest: float) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(smallest, largest), min_size=2, max_size=2).map(sorted)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Every setting that moves a draw, from its least to its largest."""
    sides = st.integers(1, 700)
    values: dict[str, Any] = load_policy("deit", [f"size=[{draw(sides)},{draw(sides)}]"]).to_json()
    share, shape, chance = limits(1e-6, 1), limits(0.001, 1000), st.floats(0, 1)
    values["crop"] = draw(
        st.one_of(
            st.fixed_dictionaries({"kind": st.just("random_resized"), "scale": share, "ratio": shape}),
            st.fixed_dictionaries({"kind": st.just("center"), "crop_pct": st.floats(0.01, 1)}),
        )
    )
    values["flip"] = draw(st.none() | chance)
    values["rand_augment"] = draw(
        st.none()
        | st.fixed_dictionaries(
            {
                "num_ops": st.integers(1, 12),
                "magnitude": st.floats(0, 10),
                "magnitude_std": st.floats(0, 100),
                "probability": chance,
                "operations": st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=20),
            }
        )
    )
    if values["rand_augment"] is None:
        auto = st.fixed_dictionaries({"magnitude_std": st.floats(0, 100)})
        values["auto_augment"] = draw(st.none() | auto)
    extent, hue = st.just(0.0) | st.floats(0, 4), st.just(0.0) | st.floats(0, 0.5)
    jitter = draw(st.fixed_dictionaries({"brightness": extent, "contrast": extent, "saturation": extent, "hue": hue}))
    values["jitter"] = jitter if any(jitter.values()) else None
    values["erase"] = draw(
        st.none()
        | st.fixed_dictionaries(
            {
                "probability": chance,
                "count": st.integers(1, 9),
                "area": share,
                "aspect": shape,
                "mode": st.sampled_from(["pixel", "const", "rand"]),
            }
        )
    )
    return Policy.from_json(values)


@hypothesis_settings(max_examples=150, deadline=None)
@given(policies(), st.integers(0, 40), st.integers(0, 10**6))
def test_views_of_any_policy_are_numpys(policy: Policy, num: int, first: int) -> None:
    drawn_both_ways(policy, num, first)


# -- mixes -------------------------------------------------------------------------------------------------------------


def mixed_both_ways(policy: Policy, number: int, num_samples: int, skipped: frozenset[int]) -> MixPlan:
    seed = derive(number, "mix")
    found = draws.draw_mix(policy, seed, num_samples, skipped)
    assert_same(found, mix.draw_mix(policy, Stream(seed), num_samples, skipped))
    return found


@pytest.mark.parametrize("name", shipped_policies())
def test_mixes_of_shipped_policies_are_numpys(name: str) -> None:
    for number in range(200):
        mixed_both_ways(load_policy(name), number, 64, frozenset())


@pytest.mark.parametrize("mixing", ["mixup_alpha=0.8", "cutmix_alpha=1.0", "mixup_alpha=1,cutmix_alpha=0.2"])
def test_each_way_of_mixing_is_numpys(mixing: str) -> None:
    policy = load_policy("deit", ["size=[31,57]", f"mix={{{mixing},probability=0.9}}"])
    plans = [mixed_both_ways(policy, number, 33, frozenset({3, number % 33})) for number in range(100)]
    cut = np.array([(plan.boxes[:, 2] > 0).any() for plan in plans])
    blended = np.array([((plan.lambdas < LAMBDA_ONE) & (plan.boxes[:, 2] == 0)).any() for plan in plans])
    assert cut.all() == ("cutmix" in mixing)
    assert blended.all() == ("mixup" in mixing)


@hypothesis_settings(max_examples=300, deadline=None)
@given(
    st.floats(math.log(2e-38), math.log(3e38)).map(math.exp) | st.floats(0.05, 4) | st.none(),
    st.floats(math.log(2e-38), math.log(3e38)).map(math.exp) | st.floats(0.05, 4) | st.none(),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.tuples(st.integers(1, 700), st.integers(1, 700)),
    st.integers(0, 70),
    st.sets(st.integers(0, 69), max_size=9),
    st.integers(0, 10**6),
)
def test_any_mixes_are_numpys(
    mixup: float | None,
    cutmix: float | None,
    chances: tuple[float, float],
    size: tuple[int, int],
    num_samples: int,
    skipped: set[int],
    number: int,
) -> None:
    values = load_policy("none", [f"size={list(size)}"]).to_json()
    if mixup is not None or cutmix is not None:
        probability, switch = chances
        values["mix"] = {"probability": probability, "switch_probability": switch}
        values["mix"] |= {"mixup_alpha": mixup, "cutmix_alpha": cutmix}
    present = frozenset(position for position in skipped if position < num_samples)
    mixed_both_ways(Policy.from_json(values), number, num_samples, present)


# -- which of the two draws --------------------------------------------------------------------------------------------


def test_blocks_are_drawn_by_the_library_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, ids = load_policy("deit"), [("a.tar", "k", view) for view in range(9)]
    numpys: list[str] = []
    for module, name in ((params, "draw_views"), (mix, "draw_mix")):
        of_numpy = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, of=of_numpy, name=name: numpys.append(name) or of(*given))

    def drawn() -> tuple[DrawnViews, MixPlan]:
        plan = view_mix(policy, 0, shard="a.tar", block=0, num_samples=9, skipped=frozenset(), view=1)
        return draw_samples(policy, 0, ids, np.full((9, 2), 300)), plan

    native = drawn()
    assert numpys == []
    monkeypatch.setenv(SWITCH, "off")
    for one, other in zip(native, drawn(), strict=True):
        assert_same(one, other)
    assert numpys == ["draw_mix", "draw_views"]


@pytest.mark.parametrize("switch", ["", "off"])
def test_golden_parameters_and_digests_are_either_ways(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, switch)
    assert golden_values() == json.loads((GOLDEN / "replay.json").read_text())


# -- bounds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5), (5, 1 << 31)])
def test_a_picture_of_no_size_is_refused(size: tuple[int, int]) -> None:
    sizes = np.array([(300, 400), size])
    with pytest.raises(ValueError, match="settings or sizes of pictures are out of bounds"):
        draws.draw_views(load_policy("deit"), [bytes(32)] * 2, sizes, lambda _: bytes(32))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("num", -1), ("height", 0), ("width", 8193), ("row", 1), ("boxes_row", 0), ("most_boxes", 0)),
        *(("num_slots", -1), ("num_slots", 3), ("num_choices", 0), ("num_choices", 16), ("num_rules", 14)),
        *(("chosen_together", 1), ("jitters_some", 1)),
    ],
)
def test_settings_beyond_their_arrays_are_refused(name: str, value: int) -> None:
    held, (drawing, arrays) = workspace(), draws._settings(load_policy("deit"))
    assert held is not None
    drawing.rules = draws.address(arrays["rules"])
    drawing.row, drawing.boxes_row = 2, 1
    held.draw(drawing)  # of no views, nothing is drawn
    setattr(drawing, name, value)
    with pytest.raises(ValueError, match="out of bounds"):
        held.draw(drawing)


@pytest.mark.parametrize(("name", "value"), [("rules", -1), ("least", 0)])
def test_numbers_of_settings_are_checked(name: str, value: int) -> None:
    held, (drawing, arrays) = workspace(), draws._settings(load_policy("deit"))
    assert held is not None
    drawing.row, drawing.boxes_row = 2, 1
    arrays["rules"][7] = value if name == "rules" else 7
    drawing.rules, drawing.crops_centre = draws.address(arrays["rules"]), name == "least"
    with pytest.raises(ValueError, match="out of bounds"):
        held.draw(drawing)


@pytest.mark.parametrize(
    ("name", "value"),
    [("num", -1), ("height", 0), ("width", 0), ("width", 8193), ("mixup_alpha", 0.0), ("cutmix_alpha", math.nan)],
)
def test_mixes_out_of_bounds_are_refused(name: str, value: float) -> None:
    held, pairs = workspace(), draws._Pairs(height=4, width=4, mixes=1, cuts=1, mixup_alpha=1.0, cutmix_alpha=1.0)
    assert held is not None
    held.pair(pairs)  # of no samples
    setattr(pairs, name, value)
    with pytest.raises(ValueError, match="settings of a mix are out of bounds"):
        held.pair(pairs)


def test_the_librarys_rules_are_told_by_their_order() -> None:
    """RULES of draw.c is this list; a rule that is added or moved is to be there too."""
    assert list(RULES) == [
        *("AutoContrast", "Equalize", "Invert", "PosterizeIncreasing", "PosterizeOriginal"),
        *("Solarize", "SolarizeIncreasing", "SolarizeAdd", "Color", "Contrast", "Sharpness"),
        *("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing"),
        *("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"),
    ]
