"""Reading labels and digests of single views while training: unit chunks held in memory up to a byte budget."""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from teacher_cache.errors import MissingLabelError
from teacher_cache.replay.block import BLOCK_SAMPLES
from teacher_cache.store import SKIPPED, Store, Unit
from teacher_cache.topk import SoftLabels, renormalise


class LabelReader:
    """Labels and digests of a store by (sample, view). Only committed units count; those committed later count too."""

    def __init__(self, store: Store, budget_bytes: int = 256_000_000) -> None:
        self._store = store
        self._budget_bytes = budget_bytes
        self._held: OrderedDict[tuple[str, Unit], np.ndarray] = OrderedDict()
        self._held_bytes = 0
        self._committed = store.committed()
        self._starts = np.concatenate([[0], np.cumsum(store.counts)]).astype(np.int64)

    def labels(self, samples: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Labels of global samples (B,) int64 at views (B,) int64 -> (B,) int64.

        MissingLabelError naming shard, key and view where one is not labelled, or the sample was skipped.
        """
        store = self._store
        shards = np.searchsorted(self._starts, samples, side="right") - 1
        units, rows = np.divmod(samples - self._starts[shards], store.unit_samples)
        groups, columns = np.divmod(views, store.group)
        _, num_units, num_groups = self._committed.shape
        inside = (samples >= 0) & (samples < self._starts[-1]) & (views >= 0) & (groups < num_groups)
        assert inside.all(), f"sample {samples[~inside][0]}, view {views[~inside][0]} is not in {store.path}"
        order = np.argsort((shards * num_units + units) * num_groups + groups, kind="stable")
        places = np.stack([shards, units, groups], axis=1)[order]
        cuts = np.flatnonzero((places[1:] != places[:-1]).any(axis=1)) + 1
        labels = np.empty(len(samples), np.int64)
        for members in np.split(order, cuts) if len(order) else ():
            first = members[0]
            unit = Unit(int(shards[first]), int(units[first]), int(groups[first]))
            if not self._is_committed(unit):
                raise self._missing(int(samples[first]), int(views[first]))
            labels[members] = self._chunk("labels", unit, store.read_labels)[rows[members], columns[members]]
        for position in np.flatnonzero(labels < 0)[:1]:
            raise self._missing(int(samples[position]), int(views[position]), int(labels[position]))
        return labels

    def soft(self, shard: int, block: int, view: int, positions: np.ndarray) -> SoftLabels[np.ndarray]:
        """The teacher's probabilities for positions (B,) of a shard's block at a view; the first class is the label.

        A unit's take megabytes (27 in full size at K = 100), so that views are best read a block at a time. StoreError
        where the store holds none, MissingLabelError as `labels` has it.
        """
        return renormalise(*self.topk(shard, block, view, positions))

    def topk(self, shard: int, block: int, view: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same as it is stored: classes (B, K), probabilities (B, K + 1) float16 with the tail's mass last."""
        store = self._store
        unit_number, number = divmod(block, store.unit_samples // BLOCK_SAMPLES)
        group, column = divmod(view, store.group)
        unit, rows = Unit(shard, unit_number, group), number * BLOCK_SAMPLES + positions
        start = int(self._starts[shard]) + block * BLOCK_SAMPLES
        if not self._is_committed(unit):
            raise self._missing(start + int(next(iter(positions), 0)), view)
        classes = self._chunk("topk_classes", unit, store.read_topk_classes)[rows, column]
        probabilities = self._chunk("topk_probabilities", unit, store.read_topk_probabilities)[rows, column]
        for row in np.flatnonzero((classes < 0).any(axis=1))[:1]:
            raise self._missing(start + int(positions[row]), view, int(classes[row].min()))
        return classes, probabilities

    def digest(self, shard: int, block: int, view: int) -> int | None:
        """Digest of a shard's block (counted within the shard) at a view; None where its unit is not committed."""
        unit_number, row = divmod(block, self._store.unit_samples // BLOCK_SAMPLES)
        group, column = divmod(view, self._store.group)
        unit = Unit(shard, unit_number, group)
        if not self._is_committed(unit):
            return None
        return int(self._chunk("digests", unit, self._store.read_digests)[row, column])

    def skipped(self, shard: int, block: int, view: int) -> frozenset[int]:
        """Positions in a shard's block that stage one skipped at a view; its unit must be committed."""
        unit_number, number = divmod(block, self._store.unit_samples // BLOCK_SAMPLES)
        group, column = divmod(view, self._store.group)
        labels = self._chunk("labels", Unit(shard, unit_number, group), self._store.read_labels)
        rows = slice(number * BLOCK_SAMPLES, (number + 1) * BLOCK_SAMPLES)
        return frozenset(np.flatnonzero(labels[rows, column] == SKIPPED).tolist())

    def _is_committed(self, unit: Unit) -> bool:
        if not self._committed[unit]:
            self._committed[unit] = self._store.read_record(unit)[0] == 1
        return bool(self._committed[unit])

    def _chunk(self, name: str, unit: Unit, read: Callable[[Unit], np.ndarray]) -> np.ndarray:
        chunk = self._held.get((name, unit))
        if chunk is not None:
            self._held.move_to_end((name, unit))
            return chunk
        chunk = self._held[name, unit] = read(unit)
        self._held_bytes += chunk.nbytes
        while self._held_bytes > self._budget_bytes and len(self._held) > 1:
            self._held_bytes -= self._held.popitem(last=False)[1].nbytes
        return chunk

    def _missing(self, sample: int, view: int, label: int | None = None) -> MissingLabelError:
        store = self._store
        shard = int(np.searchsorted(self._starts, sample, side="right")) - 1
        unit = Unit(shard, int(sample - self._starts[shard]) // store.unit_samples, view // store.group)
        where = f"{store.path}, shard {store.shard_name(shard)}, key {store.index.key(sample)}, view {view}"
        if label == SKIPPED:
            return MissingLabelError(
                f"{where}: the sample was skipped by `fill --skip-bad`: start training anew without it"
            )
        first = "" if label is None else f"delete the damaged unit's record {store.record_file(unit)} and "
        views = store.group_views(unit.group)
        command = f"`teacher-cache fill --store {store.path} --views {views.start}:{views.stop}`"
        return MissingLabelError(f"{where} is not labelled: {first}run {command}")
