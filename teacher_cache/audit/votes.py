"""Labels -> votes: what each sample was called in its views, and how often each class is called which."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from teacher_cache.store.labels import unit_rows
from teacher_cache.store.store import Store
from teacher_cache.store.unit import SKIPPED, Unit

WIDE_CLASSES = 2048  # up to here confusions are a matrix of whole counts: 32 MB
DENSE_CLASSES = 1 << 15  # up to here of bytes: 1 GB
PENDING = 1 << 22  # pairs that wait to be merged where they are kept as such
LAST_LABEL = (1 << 31) - 1

OnProgress = Callable[[int, int], None]


class LabelRuns(NamedTuple):
    """How often each sample got each label: one entry a (row, label) that occurs, by row and then label."""

    rows: np.ndarray
    labels: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Votes:
    """One entry a sample, all (n,). A sample without labels has zeros, and -1 for labels.

    Of equally common labels the own class comes first, else the smaller number. entropy is in bits.
    """

    num_labels: np.ndarray  # int32
    own: np.ndarray  # int32: labels that are the ground truth
    label: np.ndarray  # int32: the commonest label
    votes: np.ndarray  # int32: how many are it
    second: np.ndarray  # int32: the second commonest, -1 where there is one label only
    second_votes: np.ndarray  # int32
    entropy: np.ndarray  # float32
    skipped: np.ndarray  # bool: in any view

    def __len__(self) -> int:
        return len(self.num_labels)

    def put(self, start: int, part: "Votes") -> None:
        """Those of samples from `start` on, in the place of what is there."""
        for field in fields(Votes):
            getattr(self, field.name)[start : start + len(part)] = getattr(part, field.name)

    @property
    def share(self) -> np.ndarray:
        """The commonest label's share of the labels, NaN where there is none."""
        return _divide(self.votes, self.num_labels)

    @property
    def second_share(self) -> np.ndarray:
        return _divide(self.second_votes, self.num_labels)

    @property
    def own_share(self) -> np.ndarray:
        return _divide(self.own, self.num_labels)


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def count_labels(labels: np.ndarray) -> LabelRuns:
    """labels (n, views) -> how often each sample got each label; negative ones are left out."""
    ordered = np.sort(labels, axis=1)
    starts_run = np.ones(ordered.shape, bool)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=starts_run[:, 1:])
    starts = np.flatnonzero(starts_run)
    counts = np.diff(starts, append=ordered.size)
    values = ordered.reshape(-1)[starts].astype(np.int64)
    kept = values >= 0
    return LabelRuns((starts // max(1, labels.shape[1]))[kept], values[kept], counts[kept])


def count_votes(labels: np.ndarray, classes: np.ndarray, runs: LabelRuns | None = None) -> Votes:
    """labels (n, views), ground truth (n,) -> the votes of each row. runs: those of labels, where they are at hand."""
    runs = count_labels(labels) if runs is None else runs
    found = no_votes(len(classes))
    found.skipped[:] = (labels == SKIPPED).any(axis=1)
    if not len(runs.rows):
        return found
    firsts = _run_starts(runs.rows)
    rows, lengths = runs.rows[firsts], np.diff(firsts, append=len(runs.rows))
    is_own = runs.labels == classes[runs.rows]
    # one number a run, the larger the earlier it comes: more votes, then the own class, then the smaller label
    keys = (runs.counts << 33) | (is_own.astype(np.int64) << 32) | (LAST_LABEL - runs.labels)
    best = np.maximum.reduceat(keys, firsts)
    second = np.maximum.reduceat(np.where(keys == np.repeat(best, lengths), 0, keys), firsts)
    num_labels = np.add.reduceat(runs.counts, firsts)
    logs = np.arange(labels.shape[1] + 1) * np.log2(np.maximum(1, np.arange(labels.shape[1] + 1)))
    weighted = np.add.reduceat(logs[runs.counts], firsts)
    found.num_labels[rows] = num_labels
    found.own[rows] = np.add.reduceat(np.where(is_own, runs.counts, 0), firsts)
    for key, label, votes in ((best, found.label, found.votes), (second, found.second, found.second_votes)):
        label[rows] = np.where(key > 0, LAST_LABEL - (key & LAST_LABEL), -1)
        votes[rows] = key >> 33
    found.entropy[rows] = np.maximum(0.0, np.log2(num_labels) - weighted / num_labels)
    return found


def _run_starts(values: np.ndarray) -> np.ndarray:
    """Where runs of equal values (n,) start."""
    starts = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=starts[1:])
    return np.flatnonzero(starts)


def no_votes(samples: int) -> Votes:
    """Those of samples without labels."""
    zeros = [np.zeros(samples, np.int32) for _ in range(4)]
    absent = [np.full(samples, -1, np.int32) for _ in range(2)]
    return Votes(
        num_labels=zeros[0],
        own=zeros[1],
        label=absent[0],
        votes=zeros[2],
        second=absent[1],
        second_votes=zeros[3],
        entropy=np.zeros(samples, np.float32),
        skipped=np.zeros(samples, bool),
    )


class ClassRow(NamedTuple):
    """What samples of the class `truth` are called: labels (n,) in ascending order, and how often each; int64."""

    truth: int
    labels: np.ndarray
    counts: np.ndarray


class Confusions:
    """Counts of (ground truth, label), read a class at a time: all pairs of many classes may occur, 477 million of
    ImageNet-22k's.

    A matrix of counts. With more than WIDE_CLASSES its cells are bytes, and what goes beyond one is kept as pairs; with
    more than DENSE_CLASSES there are pairs alone, 16 bytes for each that occurs.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        cell = np.int64 if num_classes <= WIDE_CLASSES else np.uint8
        self._matrix = np.zeros(num_classes**2, cell) if num_classes <= DENSE_CLASSES else None
        self._codes, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0

    def add(self, runs: LabelRuns, classes: np.ndarray) -> None:
        """Count the labels of rows whose ground truth is classes (n,)."""
        self.add_pairs(classes[runs.rows].astype(np.int64), runs.labels, runs.counts)

    def add_pairs(self, truth: np.ndarray, labels: np.ndarray, counts: np.ndarray | int = 1) -> None:
        """Count pairs (n,) int64, so many times each."""
        codes = truth * self.num_classes + labels
        if self._matrix is not None and self._matrix.dtype == np.int64:
            np.add.at(self._matrix, codes, counts)
            return
        codes, sums = _summed(codes, np.broadcast_to(counts, codes.shape))
        if self._matrix is not None:
            sums += self._matrix[codes]
            self._matrix[codes] = sums & 255
            beyond = sums > 255
            codes, sums = codes[beyond], sums[beyond] & ~255
        self._pending.append((codes, sums))
        self._waiting += len(codes)
        if self._waiting > max(PENDING, len(self._codes)):  # else each merge sorts all that went before
            self._merge()

    def _merge(self) -> None:
        if not self._pending:
            return
        codes = np.concatenate([self._codes, *(codes for codes, _ in self._pending)])
        counts = np.concatenate([self._counts, *(counts for _, counts in self._pending)])
        self._codes, self._counts = _summed(codes, counts)
        self._pending, self._waiting = [], 0

    def rows(self) -> Iterator[ClassRow]:
        """Of every class whose samples have labels, in order."""
        self._merge()
        starts = np.arange(self.num_classes + 1) * self.num_classes
        edges = np.searchsorted(self._codes, starts).tolist()
        for truth, (start, stop) in enumerate(itertools.pairwise(starts.tolist())):
            pairs = slice(edges[truth], edges[truth + 1])
            labels, counts = self._codes[pairs] - start, self._counts[pairs]
            if self._matrix is not None:
                cells = self._matrix[start:stop].astype(np.int64)
                cells[labels] += counts
                labels = np.flatnonzero(cells != 0)  # three times as fast as of the counts themselves
                counts = cells[labels]
            if len(labels):
                yield ClassRow(truth, labels, counts)

    def counts_of(self, truth: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """How often samples of each class (n,) have the label (n,) beside it, (n,) int64."""
        self._merge()
        codes = truth.astype(np.int64) * self.num_classes + labels
        found = np.zeros(len(codes), np.int64) if self._matrix is None else self._matrix[codes].astype(np.int64)
        if len(self._codes):
            at = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
            found += np.where(self._codes[at] == codes, self._counts[at], 0)
        return found


def _summed(codes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those codes that occur, in ascending order, and the sum of each one's counts."""
    order = np.argsort(codes)
    codes, counts = codes[order], counts[order]
    firsts = _run_starts(codes)
    return codes[firsts], np.add.reduceat(counts, firsts) if len(firsts) else counts


@dataclass(frozen=True)
class LabelStatistics:
    """All labels of a store, read once: the votes of every sample, confusions, committed (sample, view)s a shard (S,),
    and the units (S, U, G) that were read."""

    votes: Votes
    confusions: Confusions
    views_done: np.ndarray
    committed: np.ndarray


def read_statistics(store: Store, on_progress: OnProgress | None = None) -> LabelStatistics:
    """Read all committed labels, a unit row at a time. Takes some 30 bytes a sample, and what Confusions does.
    on_progress counts unit rows."""
    classes, committed = store.index.classes, store.committed()
    votes, confusions = no_votes(len(classes)), Confusions(store.num_classes)
    views_done = np.zeros(len(store.counts), np.int64)
    for row in unit_rows(store, committed, on_progress):
        truth = classes[row.start : row.start + len(row.labels)]
        runs = count_labels(row.labels)
        confusions.add(runs, truth)
        votes.put(row.start, count_votes(row.labels, truth, runs))
        for group in np.flatnonzero(committed[row.shard, row.unit]).tolist():
            views_done[row.shard] += store.layout.num_views(Unit(row.shard, row.unit, group))
    return LabelStatistics(votes, confusions, views_done, committed)
