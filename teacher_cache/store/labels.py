"""Reading labels: those of a committed unit, of all views of its samples, and, as training wants them, of single views.

Whoever reads labels reads them here, where a label that is missing is an error.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from teacher_cache.errors import MissingLabelError, StoreError
from teacher_cache.store.layout import BlockSpan
from teacher_cache.store.schema import GROUPS
from teacher_cache.store.store import Store
from teacher_cache.store.topk import SoftLabels, renormalise
from teacher_cache.store.unit import NOT_LABELLED, SKIPPED, Unit, by_group

ROWS_BYTES = 256 << 20  # of labels, of unit rows that are read together


def read_committed(store: Store, unit: Unit) -> np.ndarray:
    """Labels of a committed unit, (its samples, group) int16 or int32, -2 where a sample was skipped.

    MissingLabelError, naming shard, key and view, where one is missing all the same.
    """
    samples = store.layout.samples(unit)
    labels = store.read_labels(unit)[: len(samples)]
    missing = labels == NOT_LABELLED
    if missing.any():
        row, column = np.argwhere(missing)[0].tolist()
        raise missing_label(store, samples[row], store.layout.group_views(unit.group)[column], NOT_LABELLED)
    return labels


def missing_label(store: Store, sample: int, view: int, label: int | None = None) -> MissingLabelError:
    """What is said of a label that is wanted and not there; label: what its committed unit has instead."""
    place = store.layout.locate(sample)
    unit = store.layout.unit_of(place.shard, place.block, view)
    where = f"{store.path}, shard {store.shard_name(place.shard)}, key {store.index.key(sample)}, view {view}"
    if label == SKIPPED:
        return MissingLabelError(
            f"{where}: the sample was skipped by `fill --skip-bad`: start training anew without it"
        )
    views = store.layout.group_views(unit.group)
    mend = store.records.fill(views) if label is None else store.records.redo(unit)
    return MissingLabelError(f"{where} is not labelled: {mend}")


def skipped_samples(store: Store) -> np.ndarray:
    """Global sample numbers skipped in any committed unit, sorted, int64. Reads no labels where nothing is."""
    found = [np.zeros(0, np.int64)]
    for unit in store.records.units_with_skips():
        rows = np.flatnonzero((read_committed(store, unit) == SKIPPED).any(axis=1))
        found.append(store.layout.samples(unit).start + rows)
    return np.unique(np.concatenate(found)).astype(np.int64)


# -- all views of a unit's samples -----------------------------------------------------------------------------------


class UnitRow(NamedTuple):
    """All views of one unit's samples. labels (n, views), -1 where a unit is not committed, -2 where skipped."""

    shard: int
    unit: int
    start: int  # the first sample
    labels: np.ndarray


def read_unit_row(store: Store, shard: int, unit: int, committed: np.ndarray) -> UnitRow:
    """Read the committed groups of a unit's samples; committed (G,) bool says which they are."""
    return _read_rows(store, [(shard, unit)], committed[None])[0]


def unit_rows(
    store: Store,
    committed: np.ndarray,
    on_progress: Callable[[int, int], None] | None = None,
    places: Sequence[tuple[int, int]] | None = None,
) -> Iterator[UnitRow]:
    """Every unit row in the store's order, or those of places, (shard, unit) each, in theirs; those without a committed
    unit too.

    committed (S, U, G) is what `store.committed` gives; on_progress(done, total). Of a packed store far away, whose
    groups are files that are fetched whole, as many rows are read together as ROWS_BYTES hold.
    """
    layout = store.layout
    places = layout.group_units if places is None else places
    row_bytes = layout.num_groups * store.empty_rows("labels", layout.unit_samples).nbytes
    at_once = max(1, ROWS_BYTES // row_bytes) if store.packing == GROUPS and not store.storage.is_local else 1
    for first in range(0, len(places), at_once):
        together = places[first : first + at_once]
        rows = _read_rows(store, together, np.array([committed[place] for place in together]))
        for done, row in enumerate(rows, first + 1):
            yield row
            if on_progress is not None:
                on_progress(done, len(places))


def _read_rows(store: Store, places: Sequence[tuple[int, int]], committed: np.ndarray) -> list[UnitRow]:
    """The unit rows of places (n,), read group by group; committed (n, G) bool."""
    layout, rows = store.layout, []
    for shard, unit in places:
        samples = layout.samples(Unit(shard, unit, 0))
        labels = np.full((len(samples), layout.views), NOT_LABELLED, store.empty_rows("labels", 0).dtype)
        rows.append(UnitRow(shard, unit, samples.start, labels))
    for group, number in np.argwhere(committed.T).tolist():
        views = layout.group_views(group)
        part = read_committed(store, Unit(*places[number], group))
        rows[number].labels[:, views.start : views.stop] = part
    return rows


def read_views(store: Store, views: Iterable[int] | int | None = None) -> np.ndarray:
    """Labels of these views, all of them by default, of every sample: (N, views), or (N,) of a single view.

    int16 or int32; -1 where not labelled yet, -2 where the sample was skipped. StoreError for a view that the store has
    not.
    """
    if isinstance(views, int | np.integer):
        return read_views(store, [int(views)])[:, 0]
    layout = store.layout
    asked = range(layout.views) if views is None else [*views]
    known = set(range(layout.views))
    for view in asked:
        if view not in known:
            raise no_view(store, view)
    groups, columns = layout.locate_views(np.array(asked, np.int64))
    committed = store.committed()
    committed[:, :, np.setdiff1d(np.arange(layout.num_groups), groups)] = False
    dtype = store.empty_rows("labels", 0).dtype
    labels = np.full((layout.num_samples, len(asked)), NOT_LABELLED, dtype)
    for unit in by_group(committed):
        samples, of_group = layout.samples(unit), np.flatnonzero(groups == unit.group)
        labels[samples.start : samples.stop, of_group] = read_committed(store, unit)[:, columns[of_group]]
    return labels


def no_view(store: Store, view: object) -> StoreError:
    """What is said of a view that a store has not."""
    return StoreError(f"{store.path} has views 0 to {store.views - 1}, there is no view {view}")


# -- single views ----------------------------------------------------------------------------------------------------

_VIEWS_OF_EPOCH = 3  # of a sample, where augmentation is repeated as in DeiT


@dataclass(frozen=True, eq=False)
class _Page:
    """Rows (samples or blocks) of one group from row `start` of the store on, those of a unit once it is `loaded`.

    values (rows, group, ...), or (rows,) of one view; loaded (units of the page,) bool.
    """

    start: int
    values: np.ndarray
    loaded: np.ndarray


class LabelReader:
    """Labels and digests of a store by (sample, view). Only committed units count; those committed later count too.

    The labels of a group lie in memory as one page, filled unit by unit as they are asked for, so that a batch is
    looked up at once; its digests as another. Pages used least recently are dropped beyond the budget. Where the pages
    of two groups, which an epoch may need, are larger than that, a page holds the labels of one view, and a unit is
    read once for all views that are asked for together; where that does not fit either, a page holds one unit. Those
    of topk always do.
    """

    def __init__(self, store: Store, budget_bytes: int = 256_000_000) -> None:
        self._store = store
        self._budget_bytes = budget_bytes
        self._pages: OrderedDict[tuple[str, int, int, int | None], _Page] = OrderedDict()
        self._held_bytes = 0
        layout = self._layout = store.layout
        self._committed = np.zeros((len(layout.group_units), layout.num_groups), bool)  # as far as it was looked at
        labels, digests = (
            int(self._row_starts(name)[-1]) * store.empty_rows(name, 1).nbytes for name in ("labels", "digests")
        )
        of_epoch = min(_VIEWS_OF_EPOCH, layout.group) * layout.num_samples * store.empty_rows("labels", 0).itemsize
        self._whole_groups = 2 * (of_epoch + digests) <= budget_bytes
        self._by_view = self._whole_groups and 2 * (labels + digests) > budget_bytes

    @property
    def held(self) -> list[tuple[str, int, int]]:
        """What of the store is in memory, the least recently used first: (array, group, bytes)."""
        return [(name, group, page.values.nbytes) for (name, group, *_), page in self._pages.items()]

    def labels(self, samples: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Labels of global samples (B,) int64 at views (B,) int64 -> (B,) int64.

        MissingLabelError naming shard, key and view where one is not labelled, or the sample was skipped.
        """
        store, layout = self._store, self._layout
        inside = (samples >= 0) & (samples < layout.num_samples) & (views >= 0)
        inside &= views < layout.views
        assert inside.all(), f"sample {samples[~inside][0]}, view {views[~inside][0]} is not in {store.path}"
        units = layout.sample_units[samples]
        groups, columns = layout.locate_views(views)
        labels = np.empty(len(samples), np.int64)
        for members in _alike(groups if self._whole_groups else groups * len(layout.group_units) + units):
            group, wanted = int(groups[members[0]]), units[members]
            for unit in self._uncommitted(group, wanted)[:1]:
                first = members[wanted == unit][0]
                raise missing_label(self._store, int(samples[first]), int(views[first]))
            if self._by_view:
                pages = self._view_pages(group, wanted, columns[members])
                for column, page in pages.items():
                    of_view = members[columns[members] == column]
                    labels[of_view] = page.values[samples[of_view]]
            else:
                page = self._page("labels", group, wanted)
                labels[members] = page.values[samples[members] - page.start, columns[members]]
        for position in np.flatnonzero(labels < 0)[:1]:
            raise missing_label(self._store, int(samples[position]), int(views[position]), int(labels[position]))
        return labels

    def soft(self, shard: int, block: int, view: int, positions: np.ndarray) -> SoftLabels[np.ndarray]:
        """The teacher's probabilities for positions (B,) of a shard's block at a view; the first class is the label.

        A unit's take megabytes (27 in full size at K = 100), so that views are best read a block at a time. StoreError
        where the store holds none, MissingLabelError as `labels` has it.
        """
        return renormalise(*self.topk(shard, block, view, positions))

    def topk(self, shard: int, block: int, view: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same as it is stored: classes (B, K), probabilities (B, K + 1) float16 with the tail's mass last."""
        span, (group, column) = self._layout.block(shard, block), self._layout.locate_view(view)
        unit, start = self._unit(span), span.samples.start
        if len(self._uncommitted(group, unit)):
            raise missing_label(self._store, start + int(next(iter(positions), 0)), view)
        pages = (self._page(name, group, unit) for name in ("topk_classes", "topk_probabilities"))
        classes, probabilities = (page.values[start + positions - page.start, column] for page in pages)
        for row in np.flatnonzero((classes < 0).any(axis=1))[:1]:
            raise missing_label(self._store, start + int(positions[row]), view, int(classes[row].min()))
        return classes, probabilities

    def digest(self, shard: int, block: int, view: int) -> int | None:
        """Digest of a shard's block (counted within the shard) at a view; None where its unit is not committed."""
        span, (group, column) = self._layout.block(shard, block), self._layout.locate_view(view)
        unit = self._unit(span)
        if len(self._uncommitted(group, unit)):
            return None
        page = self._page("digests", group, unit)
        row = int(self._layout.block_starts[unit[0]]) + span.number
        return int(page.values[row - page.start, column])

    def skipped(self, shard: int, block: int, view: int) -> frozenset[int]:
        """Positions in a shard's block that stage one skipped at a view; its unit must be committed."""
        span, (group, column) = self._layout.block(shard, block), self._layout.locate_view(view)
        if self._by_view:
            of_views = self._view_pages(group, self._unit(span), np.array([column]))[column].values[:, None]
            start, column = 0, 0
        else:
            page = self._page("labels", group, self._unit(span))
            of_views, start = page.values, page.start
        labels = of_views[span.samples.start - start : span.samples.stop - start, column]
        return frozenset(np.flatnonzero(labels == SKIPPED).tolist())

    # -- places --------------------------------------------------------------------------------------------------

    def _unit(self, span: BlockSpan) -> np.ndarray:
        """The number of a block's unit among those of a group, as an array of one."""
        return self._layout.first_units[span.shard : span.shard + 1] + span.unit

    def _place(self, unit: int, group: int) -> Unit:
        return Unit(*self._layout.group_units[unit], group)

    def _row_starts(self, name: str) -> np.ndarray:
        return self._layout.block_starts if name == "digests" else self._layout.unit_starts

    def _uncommitted(self, group: int, units: np.ndarray) -> np.ndarray:
        """Those of units (n,) that are not committed in a group, ascending; what was not is looked at anew."""
        lacking = np.unique(units[~self._committed[units, group]])
        for unit in lacking.tolist():
            place = self._place(unit, group)
            self._committed[unit, group] = self._store.records.is_committed(place)
        return lacking[~self._committed[lacking, group]]

    # -- pages ---------------------------------------------------------------------------------------------------

    def _page(self, name: str, group: int, units: np.ndarray) -> _Page:
        """The page of an array that holds units (n,) of a group, all loaded; of one unit where pages are that."""
        starts = self._row_starts(name)
        whole = self._whole_groups and name in ("labels", "digests")
        first, stop = (0, len(self._layout.group_units)) if whole else (int(units[0]), int(units[0]) + 1)
        page = self._pages.get((name, group, first, None))
        if page is None:
            # The system gives memory as it is written to: a page that is filled in part takes less than it counts.
            values = self._store.empty_rows(name, int(starts[stop] - starts[first]))
            page = _Page(int(starts[first]), values, np.zeros(stop - first, bool))
            self._hold((name, group, first, None), page)
        self._pages.move_to_end((name, group, first, None))
        for unit in np.unique(units[~page.loaded[units - first]]).tolist():
            place, rows = self._place(unit, group), slice(*(starts[unit : unit + 2] - page.start).tolist())
            if name == "labels":
                page.values[rows] = read_committed(self._store, place)
            else:
                page.values[rows] = self._store.read_array(name, place)[: rows.stop - rows.start]
            page.loaded[unit - first] = True
        return page

    def _view_pages(self, group: int, units: np.ndarray, columns: np.ndarray) -> dict[int, _Page]:
        """The pages of the labels of views (columns of a group) by column, in which units (n,) are loaded; what is read
        of one goes into all pages of the group that lack it."""
        starts = self._layout.unit_starts
        held = {key[3]: page for key, page in self._pages.items() if key[:2] == ("labels", group)}
        pages = {column: held.get(column) or self._view_page() for column in np.unique(columns).tolist()}
        for unit in np.unique(units).tolist():
            if all(page.loaded[unit] for page in pages.values()):
                continue
            rows = slice(*starts[unit : unit + 2].tolist())
            labels = read_committed(self._store, self._place(unit, group))
            for column, page in (held | pages).items():
                if not page.loaded[unit]:
                    page.values[rows], page.loaded[unit] = labels[:, column], True
        for column in pages.keys() & held.keys():
            self._pages.move_to_end(("labels", group, 0, column))
        for column, page in pages.items():  # only now, as others lose their place to them
            if column not in held:
                self._hold(("labels", group, 0, column), page)
        return pages

    def _view_page(self) -> _Page:
        dtype = self._store.empty_rows("labels", 0).dtype
        return _Page(0, np.empty(self._layout.num_samples, dtype), np.zeros(len(self._layout.group_units), bool))

    def _hold(self, key: tuple[str, int, int, int | None], page: _Page) -> None:
        self._pages[key] = page
        self._held_bytes += page.values.nbytes
        while self._held_bytes > self._budget_bytes and len(self._pages) > 1:
            self._held_bytes -= self._pages.popitem(last=False)[1].values.nbytes


def _alike(keys: np.ndarray) -> list[np.ndarray]:
    """Positions of equal keys, an array for each key that there is."""
    order = np.argsort(keys, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(keys[order])) + 1) if len(keys) else []
