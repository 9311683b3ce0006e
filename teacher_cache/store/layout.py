"""The grid of a store: samples in shards, units and blocks, views in groups. Nothing else computes with it.

A shard's samples are cut into units of `unit_samples`, and these into blocks of 64; the last ones are shorter, and none
crosses from one shard to the next. Views are cut into groups of equal size. All count from 0: samples through the
store, units and blocks within their shard, positions within a block, rows within a unit.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np

from teacher_cache.errors import StoreError
from teacher_cache.messages.shown import counted
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.store.unit import Unit

# Of any store, so that a mistyped number makes none that nothing opens, and a stranger's takes no memory: commands hold
# lists of all units. ImageNet-22k in 4,096 shards has 262 thousand of them at 1,024 views.
MAX_VIEWS = 1 << 20
MAX_UNITS = 1 << 22  # shards x units of the largest shard x groups: what the records are an array of
MAX_UNIT_VIEWS = 1 << 24  # samples x views of a unit, which is held whole


class Location(NamedTuple):
    """Where a sample is: block in its shard, position in the block, unit in its shard, row in the unit."""

    sample: int
    shard: int
    block: int
    position: int
    unit: int
    row: int


class BlockSpan(NamedTuple):
    """Where a shard's block is: `number` is its place among its unit's blocks, `rows` are its rows in the unit."""

    shard: int
    block: int
    unit: int
    number: int
    rows: range
    samples: range


class ArrayGrid(NamedTuple):
    """Shape and chunks of an array, as far as the grid tells them: all axes but the last of topk and of records."""

    shape: tuple[int, int, int]
    chunks: tuple[int, int, int]


Count = TypeVar("Count", int, np.ndarray)


@dataclass(frozen=True, eq=False)
class Layout:
    """counts (S,) int64: samples of each shard. unit_samples is a multiple of 64, views one of the group."""

    counts: np.ndarray
    unit_samples: int
    group: int
    views: int

    # -- samples and blocks --------------------------------------------------------------------------------------

    @cached_property
    def starts(self) -> np.ndarray:
        """(S + 1,) int64: shard s holds samples starts[s] .. starts[s + 1] - 1."""
        return _starts(self.counts)

    @property
    def num_samples(self) -> int:
        return int(self.starts[-1])

    def locate(self, sample: int) -> Location:
        """Where a sample of the store is."""
        shard = int(np.searchsorted(self.starts, sample, side="right")) - 1
        within = sample - int(self.starts[shard])
        return Location(sample, shard, *divmod(within, BLOCK_SAMPLES), *divmod(within, self.unit_samples))

    def block(self, shard: int, block: int) -> BlockSpan:
        """Where a shard's block is."""
        first = block * BLOCK_SAMPLES
        length = min(BLOCK_SAMPLES, int(self.counts[shard]) - first)
        unit, row = divmod(first, self.unit_samples)
        start = int(self.starts[shard]) + first
        rows, samples = range(row, row + length), range(start, start + length)
        return BlockSpan(shard, block, unit, row // BLOCK_SAMPLES, rows, samples)

    def block_runs(self, samples: np.ndarray) -> Iterator[tuple[BlockSpan, slice]]:
        """The blocks that hold these samples (n,), in ascending order, and for each which entries are in it."""
        shards = np.searchsorted(self.starts, samples, side="right") - 1
        blocks = (samples - self.starts[shards]) // BLOCK_SAMPLES
        cuts = np.flatnonzero((np.diff(shards) != 0) | (np.diff(blocks) != 0)) + 1
        edges = [0, *cuts.tolist(), len(samples)] if len(samples) else [0]
        for first, stop in itertools.pairwise(edges):
            yield self.block(int(shards[first]), int(blocks[first])), slice(first, stop)

    # -- units ---------------------------------------------------------------------------------------------------

    def __contains__(self, unit: Unit) -> bool:
        """Whether there is such a unit."""
        shard, number, group = unit
        return 0 <= shard < len(self.counts) and 0 <= number < self.num_units(shard) and 0 <= group < self.num_groups

    def num_units(self, shard: int) -> int:
        """Units of a shard, of one group."""
        return num_units(int(self.counts[shard]), self.unit_samples)

    def rows(self, unit: Unit) -> range:
        """A unit's samples by their place in the shard; its row r is the r-th of them."""
        first = unit.unit * self.unit_samples
        return range(first, min(first + self.unit_samples, int(self.counts[unit.shard])))

    def samples(self, unit: Unit) -> range:
        """A unit's samples by their numbers in the store."""
        rows, start = self.rows(unit), int(self.starts[unit.shard])
        return range(start + rows.start, start + rows.stop)

    def blocks(self, unit: Unit) -> range:
        """Numbers of a unit's blocks, counted within the shard."""
        rows = self.rows(unit)
        return range(rows.start // BLOCK_SAMPLES, num_blocks(rows.stop))

    def num_views(self, unit: Unit) -> int:
        """(sample, view)s of a unit."""
        return len(self.rows(unit)) * self.group

    def unit_of(self, shard: int, block: int, view: int) -> Unit:
        """The unit that holds a shard's block at a view."""
        return Unit(shard, block * BLOCK_SAMPLES // self.unit_samples, view // self.group)

    def units(self, views: range | None = None) -> list[Unit]:
        """All units whose group holds one of `views` (default: all), group by group."""
        wanted = range(self.views) if views is None else views
        groups = range(wanted.start // self.group, (wanted.stop - 1) // self.group + 1)
        return [Unit(shard, unit, group) for group in groups for shard, unit in self.group_units]

    @cached_property
    def group_units(self) -> list[tuple[int, int]]:
        """(shard, unit) of all T units of one group, which are alike in every group."""
        return [(shard, unit) for shard in range(len(self.counts)) for unit in range(self.num_units(shard))]

    @cached_property
    def first_units(self) -> np.ndarray:
        """(S,) int64: the place of a shard's first unit in group_units."""
        shards = np.array([shard for shard, _ in self.group_units])
        return np.searchsorted(shards, np.arange(len(self.counts)))

    @cached_property
    def unit_starts(self) -> np.ndarray:
        """(T + 1,) int64: the first sample of each of group_units, and where the last ends."""
        return _starts(np.array([len(self.rows(Unit(*place, 0))) for place in self.group_units]))

    @cached_property
    def block_starts(self) -> np.ndarray:
        """The same of blocks, numbered through the store."""
        return _starts(np.array([len(self.blocks(Unit(*place, 0))) for place in self.group_units]))

    @cached_property
    def sample_units(self) -> np.ndarray:
        """(N,) int32: the place of every sample's unit in group_units."""
        return np.repeat(np.arange(len(self.group_units), dtype=np.int32), np.diff(self.unit_starts))

    # -- views ---------------------------------------------------------------------------------------------------

    @property
    def num_groups(self) -> int:
        return self.views // self.group

    def groups_holding(self, num_views: int) -> int:
        """How many groups hold views 0 to num_views - 1."""
        return -(-num_views // self.group)

    def group_views(self, group: int) -> range:
        return range(group * self.group, (group + 1) * self.group)

    def whole_groups(self, views: range) -> range:
        """These views, and all others of their groups."""
        return range(views.start // self.group * self.group, _round_up(views.stop, self.group))

    def locate_view(self, view: int) -> tuple[int, int]:
        """Its group, and its column in the group."""
        return divmod(view, self.group)

    def locate_views(self, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same of views (n,)."""
        return np.divmod(views, self.group)

    def array_grids(self) -> dict[str, ArrayGrid]:
        """Shape and chunks of the store's arrays."""
        return array_grids(
            shards=len(self.counts),
            units=self.most_units,
            unit_samples=self.unit_samples,
            group=self.group,
            views=self.views,
        )

    @property
    def most_units(self) -> int:
        """Units of the largest shard, of one group."""
        return num_units(int(self.counts.max()), self.unit_samples)

    def widened(self, views: int) -> "Layout":
        """The same with so many views, rounded up to whole groups. StoreError for more than a store may have."""
        return _bounded(replace(self, views=_round_up(views, self.group)))


def plan_layout(counts: np.ndarray, *, views: int, group: int | None, unit_samples: int) -> Layout:
    """The grid of a new store: views rounded up to whole groups, a unit no longer than the longest shard needs.

    StoreError for a setting that is impossible, or a grid larger than a store may have.
    """
    group = min(16, views) if group is None else group
    if views < 1 or group < 1:
        raise StoreError(f"views {views} and group {group} must both be at least 1")
    if unit_samples < 1 or unit_samples % BLOCK_SAMPLES:
        raise StoreError(f"unit_samples {unit_samples} is not a positive multiple of {BLOCK_SAMPLES}")
    return _bounded(Layout(counts, fitting_unit(counts, unit_samples), group, _round_up(views, group)))


def fitting_unit(counts: np.ndarray, unit_samples: int) -> int:
    """Samples of a unit where so many are asked for: the longest shard, rounded up to whole blocks, if that is less."""
    return min(unit_samples, _round_up(int(counts.max()), BLOCK_SAMPLES))


def array_grids(*, shards: int, units: int, unit_samples: int, group: int, views: int) -> dict[str, ArrayGrid]:
    """Shape and chunks of labels (topk's arrays have the same), digests and records; units: of the longest shard.

    ValueError where views are not whole groups.
    """
    if views % group:
        raise ValueError(f"{counted(views, 'view', 'is')} not whole groups of {group}")
    blocks = unit_samples // BLOCK_SAMPLES
    return {
        "labels": ArrayGrid((shards, units * unit_samples, views), (1, unit_samples, group)),
        "digests": ArrayGrid((shards, units * blocks, views), (1, blocks, group)),
        "records": ArrayGrid((shards, units, views // group), (1, 1, 1)),
    }


def grid_fault(*, shards: int, units: int, unit_samples: int, group: int, views: int) -> str | None:
    """In which way a grid is larger than a store's may be; None where it is not. units: of the largest shard."""
    if views > MAX_VIEWS:
        return f"{counted(views, 'view')}, in groups of {group:,}, are more than {MAX_VIEWS:,}"
    if unit_samples * group > MAX_UNIT_VIEWS:
        unit = f"a unit of {counted(unit_samples, 'sample')} at {counted(group, 'view')}"
        return f"{unit} is more than {MAX_UNIT_VIEWS:,} views"
    groups = views // group
    if shards * units * groups > MAX_UNITS:
        return (
            f"{counted(shards, 'shard')} of up to {counted(units, 'unit')} in {counted(groups, 'group')} of views are "
            f"more than {MAX_UNITS:,} units"
        )
    return None


def num_units(samples: int, unit_samples: int) -> int:
    """Units of so many samples, of one group."""
    return -(-samples // unit_samples)


def num_blocks(samples: Count) -> Count:
    """Blocks of a shard of so many samples, or of each of many."""
    return -(-samples // BLOCK_SAMPLES)


def enumerate_blocks(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every block of shards of counts (S,) samples, in order: its shard, its number there and its first sample through
    the store; (B,) int64 each."""
    lengths = num_blocks(counts)
    shards = np.repeat(np.arange(len(counts)), lengths)
    numbers = np.arange(len(shards)) - _starts(lengths)[shards]
    return shards, numbers, _starts(counts)[shards] + numbers * BLOCK_SAMPLES


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Where runs of these lengths (n,) start, and where the last ends; (n + 1,) int64."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _bounded(layout: Layout) -> Layout:
    """The layout. StoreError where it is larger than a store may be."""
    fault = grid_fault(
        shards=len(layout.counts),
        units=layout.most_units,
        unit_samples=layout.unit_samples,
        group=layout.group,
        views=layout.views,
    )
    if fault:
        raise StoreError(f"{fault}, the most that a store may have: lower --views, or --group and --unit-samples")
    return layout


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
