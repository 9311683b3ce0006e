"""The grid: held to counting samples and views one by one, and computed with nowhere else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teacher_cache.errors import StoreError
from teacher_cache.store.layout import (
    MAX_UNITS,
    Layout,
    Location,
    array_grids,
    enumerate_blocks,
    fitting_unit,
    num_blocks,
    plan_layout,
)
from teacher_cache.store.unit import Unit

ROOT = Path(__file__).parents[2]
COUNTS = (130, 1, 0, 200)
LAYOUT = Layout(np.array(COUNTS), unit_samples=128, group=2, views=6)

layouts = st.builds(
    lambda counts, blocks, group, groups: Layout(np.array(counts), 64 * blocks, group, group * groups),
    st.lists(st.integers(0, 300), min_size=1, max_size=5).filter(any),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 4),
)


def counted(layout: Layout) -> list[Location]:
    """Every sample, counted."""
    found = []
    for shard, count in enumerate(layout.counts.tolist()):
        block = position = unit = row = 0
        for _ in range(count):
            found.append(Location(len(found), shard, block, position, unit, row))
            position, row = position + 1, row + 1
            if position == 64:
                block, position = block + 1, 0
            if row == layout.unit_samples:
                unit, row = unit + 1, 0
    return found


@settings(max_examples=60, deadline=None)
@given(layouts)
def test_every_sample_is_where_counting_finds_it(layout: Layout) -> None:
    samples = counted(layout)
    assert [layout.locate(sample) for sample in range(layout.num_samples)] == samples
    assert layout.num_samples == len(samples)
    for place in samples:
        span = layout.block(place.shard, place.block)
        assert span[:3] == (place.shard, place.block, place.unit)
        assert span.rows[place.position] == place.row
        assert span.samples[place.position] == place.sample
        unit = layout.unit_of(place.shard, place.block, 0)
        assert unit == (place.shard, place.unit, 0)
        assert place.block == layout.blocks(unit)[span.number]
        assert layout.samples(unit)[place.row] == place.sample
        assert layout.rows(unit)[place.row] == place.block * 64 + place.position
        assert layout.group_units[layout.sample_units[place.sample]] == (place.shard, place.unit)
        number = layout.first_units[place.shard] + place.unit
        assert layout.group_units[number] == (place.shard, place.unit)
        assert layout.unit_starts[number] == layout.samples(unit).start


@settings(max_examples=60, deadline=None)
@given(layouts)
def test_units_cut_the_grid_into_parts(layout: Layout) -> None:
    units = layout.units()
    assert units == sorted(units, key=lambda unit: (unit.group, unit.shard, unit.unit))
    held = [
        (sample, view) for unit in units for sample in layout.samples(unit) for view in layout.group_views(unit.group)
    ]
    assert len(held) == len(set(held)) == layout.num_samples * layout.views
    assert sum(map(layout.num_views, units)) == len(held)
    assert len(units) == len(layout.group_units) * layout.num_groups
    assert all(layout.rows(unit) for unit in units)
    blocks = [(unit.shard, block) for unit in layout.units(range(1)) for block in layout.blocks(unit)]
    shards, numbers, first = enumerate_blocks(layout.counts)
    assert blocks == list(zip(shards.tolist(), numbers.tolist(), strict=True))
    assert first.tolist() == [layout.block(*block).samples.start for block in blocks]
    assert layout.block_starts[-1] == len(blocks) == num_blocks(layout.counts).sum()
    for name, grid in layout.array_grids().items():
        assert {unit[:2] for unit in units} <= {
            (shard, unit) for shard in range(grid.shape[0]) for unit in range(grid.shape[1] // grid.chunks[1])
        }, name
        assert all(axis % length == 0 for axis, length in zip(grid.shape, grid.chunks, strict=True))
        assert grid.shape[2] // grid.chunks[2] == layout.num_groups


def test_views_and_their_groups() -> None:
    assert [LAYOUT.locate_view(view) for view in range(6)] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    groups, columns = LAYOUT.locate_views(np.array([5, 2]))
    assert (groups.tolist(), columns.tolist()) == ([2, 1], [1, 0])
    assert LAYOUT.unit_of(0, 2, 3) == Unit(0, 1, 1)
    assert [LAYOUT.groups_holding(views) for views in (1, 2, 3, 6)] == [1, 1, 2, 3]
    assert LAYOUT.whole_groups(range(1, 3)) == range(4)
    assert LAYOUT.whole_groups(range(2, 4)) == range(2, 4)
    assert {unit.group for unit in LAYOUT.units(range(1, 3))} == {0, 1}
    assert {unit.group for unit in LAYOUT.units(range(5, 6))} == {2}
    assert LAYOUT.widened(7).views == 8
    assert LAYOUT.widened(8).num_groups == 4
    assert LAYOUT.widened(8).counts is LAYOUT.counts


def test_a_short_unit_and_a_short_block() -> None:
    assert LAYOUT.rows(Unit(0, 1, 0)) == range(128, 130)
    assert LAYOUT.samples(Unit(3, 1, 0)) == range(131 + 128, 331)
    assert LAYOUT.blocks(Unit(3, 1, 0)) == range(2, 4)
    assert LAYOUT.block(3, 3) == (3, 3, 1, 1, range(64, 72), range(131 + 192, 331))
    assert [LAYOUT.num_units(shard) for shard in range(4)] == [2, 1, 0, 2]


def test_samples_by_their_blocks() -> None:
    samples = np.array([0, 63, 64, 129, 130, 131, 330])
    runs = [(span.shard, span.block, samples[entries].tolist()) for span, entries in LAYOUT.block_runs(samples)]
    assert runs == [(0, 0, [0, 63]), (0, 1, [64]), (0, 2, [129]), (1, 0, [130]), (3, 0, [131]), (3, 3, [330])]
    assert not list(LAYOUT.block_runs(np.zeros(0, np.int64)))


def test_a_layout_is_planned_of_what_fits() -> None:
    counts = np.array(COUNTS)
    planned = plan_layout(counts, views=20, group=None, unit_samples=4096)
    assert (planned.views, planned.group, planned.unit_samples) == (32, 16, 256)
    assert plan_layout(counts, views=3, group=None, unit_samples=64).group == 3
    assert plan_layout(counts, views=5, group=2, unit_samples=128).views == 6
    assert (fitting_unit(counts, 128), fitting_unit(counts, 1024)) == (128, 256)
    for views, group, unit_samples, message in (
        (0, 2, 64, "views 0 and group 2 must both be at least 1"),
        (2, 0, 64, "views 2 and group 0 must both be at least 1"),
        (2, 2, 100, "unit_samples 100 is not a positive multiple of 64"),
        (2, 2, 0, "unit_samples 0 is not a positive multiple of 64"),
    ):
        with pytest.raises(StoreError, match=message):
            plan_layout(counts, views=views, group=group, unit_samples=unit_samples)
    with pytest.raises(ValueError, match="5 views are not whole groups of 2"):
        array_grids(shards=1, units=1, unit_samples=64, group=2, views=5)


def test_no_grid_is_larger_than_commands_can_hold() -> None:
    counts = np.full(4096, 3466)  # ImageNet-22k's, at some thousands of views
    largest = plan_layout(counts, views=8192, group=None, unit_samples=4096)
    assert 2 * len(largest.group_units) * largest.num_groups == MAX_UNITS
    assert largest.widened(16384).views == 16384
    for views, group, unit_samples, message in (
        (10**23, None, 4096, r"views, in groups of 16, are more than 1,048,576, the most .*: lower --views"),
        (2, 10**9, 4096, r"1,000,000,000 views, in groups of 1,000,000,000, are more than 1,048,576"),
        (2, 1 << 20, 4096, r"a unit of 3,520 samples at 1,048,576 views is more than 16,777,216 views"),
        (2, 1, 64, None),
        (77, 1, 64, r"4,096 shards of up to 55 units in 77 groups of views are more than 4,194,304 units"),
    ):
        if message is None:
            plan_layout(counts, views=views, group=group, unit_samples=unit_samples)
            continue
        with pytest.raises(StoreError, match=message):
            plan_layout(counts, views=views, group=group, unit_samples=unit_samples)
    with pytest.raises(StoreError, match="4,096 shards of up to 1 unit in 1,025 groups of views are more"):
        largest.widened(16385)


# -- nowhere else ----------------------------------------------------------------------------------------------------

GRID = {"BLOCK_SAMPLES", "unit_samples", "group"}  # what computing with the grid computes with
REASONS = {
    "teacher_cache/shards/index.py": "a shard's blocks, which are read by place, need no store",
    "teacher_cache/shards/class_order.py": "the sizes of an index's blocks, before there is a store",
    "teacher_cache/store/simulated.py": "a teacher that answers block by block, of no store",
    "student/loader.py": "how many views are rendered ahead, how many drifts are told",
    "student/pool.py": "how many views are rendered ahead",
    "student/validation.py": "a batch is closed before another block would not fit",
    "tools/simulate_store.py": "partners are simulated within 64 samples",
    "tools/benchmarks/rendering.py": "pictures are cut into blocks without a shard",
    "teacher_cache/store/proof.py": "the positions that a stranger's proof names are held to those of a block",
    "teacher_cache/rendering/choice.py": "how much room a block's views take on a device",
    "tools/benchmarks/renderer.py": "a block of pictures, without a shard",
    "tools/benchmarks/scaling.py": "how many views are rendered ahead",
    "tools/benchmarks/training.py": "how many views are rendered ahead",
}


def name_of(node: ast.expr) -> str | None:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def of_the_grid(node: ast.expr) -> bool:
    if isinstance(node, ast.Call) and name_of(node.func) == "int":
        return any(map(of_the_grid, node.args))
    if isinstance(node, ast.Subscript):  # the place where a shard starts
        return isinstance(node.value, ast.Attribute) and node.value.attr == "starts"
    return name_of(node) in GRID and not (isinstance(node, ast.Name) and node.id == "group")


def computed(source: str) -> Iterator[int]:
    """Lines that compute with the grid."""
    for node in ast.walk(ast.parse(source)):
        operands: list[ast.expr] = []
        if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.BitOr):
            operands = [node.left, node.right]
        elif isinstance(node, ast.Call) and name_of(node.func) in ("divmod", "range"):
            operands = node.args
        if any(map(of_the_grid, operands)):
            yield node.lineno


@pytest.mark.parametrize(
    "line",
    [
        "unit, row = divmod(within, store.unit_samples)",
        "first = block * BLOCK_SAMPLES",
        "blocks = unit_samples // BLOCK_SAMPLES",
        "column = view % store.group",
        "groups, columns = np.divmod(views, self.group)",
        "sample = int(store.index.starts[shard]) + row",
        "stop = start + BLOCK_SAMPLES",
    ],
)
def test_computing_with_the_grid_is_recognised(line: str) -> None:
    assert list(computed(line))


def test_the_grid_is_computed_in_the_layout_alone() -> None:
    """Where else it is, there is a reason; and where there is a reason, it still is."""
    found: dict[str, list[int]] = {}
    for room in ("teacher_cache", "student", "tools"):
        for path in sorted((ROOT / room).rglob("*.py")):
            lines = list(computed(path.read_text()))
            if lines:
                found[str(path.relative_to(ROOT))] = lines
    assert len(found.pop("teacher_cache/store/layout.py")) > 10
    assert {path: lines for path, lines in found.items() if path not in REASONS} == {}
    assert not REASONS.keys() - found.keys()
