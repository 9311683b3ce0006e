"""What the native library plans for a device is what gpu/plan.py plans, byte for byte."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from teacher_cache.replay.gpu import plan as numpys
from teacher_cache.replay.gpu.plan import ALIGNED, RenderPlan, Sources
from teacher_cache.replay.mix import MixPlan, draw_mix
from teacher_cache.replay.native import plans
from teacher_cache.replay.native.library import SWITCH, Workspace, load
from teacher_cache.replay.operations import open_operations
from teacher_cache.replay.params import DrawnViews, draw_views
from teacher_cache.replay.policy import Policy, load_policy, shipped_policies
from teacher_cache.replay.seeds import Stream, derive
from tests.replay.native.test_draws import ODD, picture_sizes, policies
from tests.replay.native.test_views import ABSENT
from tests.support import own_operations

pytestmark = pytest.mark.skipif(load() is None, reason=ABSENT)


@pytest.fixture(autouse=True)
def switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)


Given = tuple[DrawnViews, np.ndarray, Sources, list[MixPlan], int]  # to plan_views


def drawn_batch(policy: Policy, runs: list[int], skipped: frozenset[int] = frozenset(), first: int = 0) -> Given:
    """Runs of so many views, of which some positions are skipped; crops lie in parts of pictures that are larger."""
    begin = np.cumsum([0, *runs])
    numbers = np.array(
        [start + place for start, num in zip(begin.tolist(), runs, strict=False) for place in range(num)], np.int64
    )
    places = numbers - np.repeat(begin[:-1], runs)
    numbers = numbers[~np.isin(places, sorted(skipped))]
    seeds = [derive(first + number, "view") for number in numbers.tolist()]
    views = draw_views(policy, seeds, picture_sizes(len(seeds)), lambda number: derive(number, "noise"))
    begins = np.minimum(views.crops[:, :2], 5)
    parts = np.concatenate([views.crops[:, :2] - begins, views.crops[:, 2:] + 2 * begins], axis=1)
    sources = Sources(ALIGNED * np.arange(len(seeds)) ** 2, parts)
    mixes = [
        draw_mix(policy, Stream(derive(first + run, "mix")), num, frozenset(each for each in skipped if each < num))
        for run, num in enumerate(runs)
    ]
    return views, numbers, sources, mixes, sum(runs)


def assert_same_plans(given: Given) -> RenderPlan:
    found, expected = plans.plan_views(*given), numpys.plan_views(*given)
    for field in dataclasses.fields(RenderPlan):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "sides":
            assert np.array_equal(one, other)
            assert one.shape == other.shape
        elif field.name != "parts":
            assert one == other, field.name
    assert np.array_equal(found.written(), expected.written())
    return found


@pytest.mark.parametrize("name", shipped_policies())
def test_plans_of_shipped_policies_are_numpys(name: str) -> None:
    assert_same_plans(drawn_batch(load_policy(name), [64] * 20))


@pytest.mark.parametrize("name", ODD)
def test_plans_of_odd_policies_are_numpys(name: str) -> None:
    assert_same_plans(drawn_batch(load_policy(*ODD[name]), [40, 1, 31], frozenset({0, 7}), first=9000))


def test_every_kernel_is_planned_as_numpys() -> None:
    auto = ["rand_augment=none", "auto_augment.magnitude_std=3", "jitter={contrast=1,saturation=1,hue=0.5}"]
    rand = ["rand_augment.num_ops=4", "rand_augment.probability=0.8", "erase={count=3,mode='rand',probability=0.9}"]
    launched = set()
    for settings in (auto, rand, [*rand, "rand_augment.interpolation='bilinear'", "erase.mode=const", "size=[9,20]"]):
        plan = assert_same_plans(drawn_batch(load_policy("deit", settings), [50] * 6))
        launched |= {entries.kernel for entries in plan.launches}
    assert launched == set(plans.KERNELS)


@hypothesis_settings(max_examples=60, deadline=None)
@given(policies(), st.lists(st.integers(0, 24), min_size=1, max_size=4), st.sets(st.integers(0, 24), max_size=25))
def test_plans_of_any_batch_are_numpys(policy: Policy, runs: list[int], skipped: set[int]) -> None:
    assert_same_plans(drawn_batch(policy, runs, frozenset(skipped), first=100 * sum(runs)))


@pytest.mark.parametrize("operation", ["shear_x", "shear_y", "translate_x", "translate_y"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (224, 3), (700, 699)])
def test_lines_of_the_largest_moves_are_numpys(operation: str, size: tuple[int, int]) -> None:
    """Far beyond the view, and where rounding ends at its edge."""
    views, *others = drawn_batch(load_policy("deit", [f"size={list(size)}", "mix=none"]), [90])
    values = np.concatenate([np.linspace(-1, 1, 41), np.arange(-24, 24) / 16, [360.0]])[:, None]
    moved = np.full((90, 1), views.names.index(operation))
    assert_same_plans((dataclasses.replace(views, operations=moved, values=values), *others))


def test_batches_are_planned_by_the_library_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    given, asked = drawn_batch(load_policy("deit"), [8]), []
    plan_views = numpys.plan_views
    monkeypatch.setattr(numpys, "plan_views", lambda *given: asked.append(given) or plan_views(*given))
    native = plans.plan_views(*given)
    assert not asked
    monkeypatch.setenv(SWITCH, "off")
    assert np.array_equal(plans.plan_views(*given).written(), native.written())
    assert len(asked) == 1


# -- bounds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        *(("crops", (3, 2), 0), ("crops", (3, 0), -1), ("resized", (3, 0), 0), ("resized", (3, 1), 1 << 31)),
        *(("windows", (3, 0), -1), ("operations", (3, 0), -2), ("operations", (3, 0), 16), ("values", (3, 0), 361.0)),
        *(("values", (3, 0), np.nan), ("erased", (3, 0, 2), 1 << 31), ("erased", (3, 0, 0), -1)),
        *(("crops", (3, 2), (1 << 24) + 1), ("resized", (3, 0), 223), ("resized", (3, 1), 223)),
        *(("windows", (3, 0), 1), ("windows", (3, 1), 1), ("erased", (3, 0, 2), 225), ("erased", (3, 0, 3), 0)),
    ],
)
def test_views_out_of_bounds_are_refused(name: str, place: tuple[int, ...], value: float) -> None:
    settings = ["rand_augment.probability=1", "rand_augment.operations=['Rotate']", "erase.probability=1"]
    views, *others = drawn_batch(load_policy("deit", settings), [9])
    array = getattr(views, name).copy()
    array[place] = value
    with pytest.raises(ValueError, match="views cannot be planned: their parameters are out of bounds"):
        plans.plan_views(dataclasses.replace(views, **{name: array}), *others)


@pytest.mark.parametrize("partner", [-1, 9])
def test_partners_and_numbers_out_of_bounds_are_refused(partner: int) -> None:
    views, numbers, sources, (mix, other), num_views = drawn_batch(load_policy("deit"), [9, 9])
    partners = mix.partners.copy()
    partners[4] = partner
    wrong = [dataclasses.replace(mix, partners=partners), other]
    with pytest.raises(ValueError, match="cannot be planned"):
        plans.plan_views(views, numbers, sources, wrong, num_views)
    with pytest.raises(ValueError, match="cannot be planned"):
        plans.plan_views(views, numbers + 2 * partner + 1, sources, [mix, other], num_views)
    with pytest.raises(ValueError, match="cannot be planned"):
        plans.plan_views(views, numbers, Sources(sources.offsets - 1, sources.parts), [mix, other], num_views)


def test_parts_that_lack_rows_of_their_crops_are_refused() -> None:
    views, numbers, sources, *others = drawn_batch(load_policy("deit"), [9])
    for column, beside in ((0, 6), (2, -11)):
        parts = sources.parts.copy()
        parts[4, column] += beside
        with pytest.raises(ValueError, match="cannot be planned"):
            plans.plan_views(views, numbers, Sources(sources.offsets, parts), *others)


@pytest.mark.parametrize("box", [(0, 0, 225, 1), (220, 0, 5, 5), (-1, 0, 5, 5), (0, 0, -1, 5), (0, 0, 5, 0)])
def test_pasted_boxes_out_of_bounds_are_refused(box: tuple[int, ...]) -> None:
    views, numbers, sources, (mix,), num_views = drawn_batch(load_policy("deit"), [9])
    boxes = mix.boxes.copy()
    boxes[4] = box
    with pytest.raises(ValueError, match="cannot be planned"):
        plans.plan_views(views, numbers, sources, [dataclasses.replace(mix, boxes=boxes)], num_views)


@pytest.mark.parametrize("name", ["room", "most_launches"])
def test_nothing_is_written_beyond_the_room_that_is_given(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_less(held: Workspace, plan: plans._Plan, empty: Callable[[], None]) -> None:
        def empty_less() -> None:
            empty()
            setattr(plan, name, getattr(plan, name) - 1)

        of_library(held, plan, empty_less)

    of_library = Workspace.plan
    monkeypatch.setattr(Workspace, "plan", in_less)
    with pytest.raises(ValueError, match="cannot be planned"):
        plans.plan_views(*drawn_batch(load_policy("deit"), [9]))


def test_own_operations_are_no_devices_to_plan() -> None:
    own = open_operations(f"{own_operations.__file__}:operations")
    given = drawn_batch(load_policy("deit", ["rand_augment.operations=['roll']"], own), [20])
    with pytest.raises(ValueError, match="cannot be planned"):
        plans.plan_views(*given)
