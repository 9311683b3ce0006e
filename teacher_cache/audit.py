"""Statistics over a store's labels: agreement by class, confusions, how stable each sample's label is, contradictions.

The store is read one unit row at a time (all committed groups of one unit), so 1.28 million samples x 300 views need
a few megabytes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import coo_array, csr_array

from teacher_cache.status import status
from teacher_cache.store import SKIPPED, Store, Unit

CONFUSIONS_LISTED = 20
CONFUSIONS_WAITING = 1 << 21  # summed at once
CONTRADICTIONS_LISTED = 20
SHARE_BINS = 10
BITS_PER_BIN = 0.5


class Runs(NamedTuple):
    """How often each sample got each label: one entry a (row, label) that occurs, by row and then label."""

    rows: np.ndarray
    labels: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Votes:
    """One entry a sample with labels: its row, how many, the commonest label and its count, entropy in bits."""

    rows: np.ndarray
    num_labels: np.ndarray
    commonest: np.ndarray
    votes: np.ndarray
    entropy: np.ndarray

    @property
    def share(self) -> np.ndarray:
        return self.votes / self.num_labels


def count_labels(labels: np.ndarray) -> Runs:
    """labels (n, views) -> how often each sample got each label; negative ones are left out."""
    ordered = np.sort(labels.astype(np.int32), axis=1)  # NumPy sorts 32 bits six times as fast as 16
    starts_run = np.ones(ordered.shape, bool)
    starts_run[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    starts = np.flatnonzero(starts_run)
    counts = np.diff(starts, append=ordered.size)
    values = ordered.reshape(-1)[starts].astype(np.int64)
    kept = values >= 0
    return Runs((starts // max(1, labels.shape[1]))[kept], values[kept], counts[kept])


def count_votes(runs: Runs, classes: np.ndarray) -> Votes:
    """Each sample's commonest label; of equally common ones its own class, else the smallest. classes (n,)."""
    starts = np.flatnonzero(np.diff(runs.rows, prepend=-1))  # runs come by row
    rows = runs.rows[starts]
    scores = 2 * runs.counts + (runs.labels == classes[runs.rows])
    best = np.maximum.reduceat(scores, starts) if len(starts) else scores
    largest = np.repeat(best, np.diff(starts, append=len(scores)))
    winners = np.flatnonzero(scores == largest)  # of a row's the first has the smallest label
    winners = winners[np.diff(runs.rows[winners], prepend=-1) > 0]
    num_labels = np.bincount(runs.rows, runs.counts, len(classes))[rows].astype(np.int64)
    weighted = np.bincount(runs.rows, runs.counts * np.log2(runs.counts), len(classes))[rows]
    entropy = np.maximum(0.0, np.log2(num_labels) - weighted / num_labels)
    return Votes(rows, num_labels, runs.labels[winners], runs.counts[winners], entropy)


class Confusions:
    """Counts of (ground truth, label), kept for the pairs that occur only: 21,000 classes squared would not fit."""

    def __init__(self, num_classes: int) -> None:
        self._sum = csr_array((num_classes, num_classes), dtype=np.int64)
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # truth, labels, counts

    def add(self, runs: Runs, classes: np.ndarray) -> None:
        self._waiting.append((classes[runs.rows], runs.labels, runs.counts))
        if sum(len(counts) for _, _, counts in self._waiting) > CONFUSIONS_WAITING:
            self._counts()

    def _counts(self) -> csr_array:
        """All so far, (num_classes, num_classes) int64 by ground truth and label."""
        if self._waiting:
            truth, labels, counts = map(np.concatenate, zip(*self._waiting, strict=True))
            self._sum = self._sum + coo_array((counts, (truth, labels)), shape=self._sum.shape).tocsr()
            self._waiting.clear()
        return self._sum

    def by_class(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels of samples of each class, and how many of them are that class, both (num_classes,) int64."""
        return self._counts().sum(axis=1), self._counts().diagonal()

    def most_confused(self, limit: int) -> list[tuple[int, int, int]]:
        """(ground truth, label, count) of the most frequent pairs that differ; of equals the smaller numbers first."""
        pairs = self._counts().tocoo()
        truth, labels = pairs.coords
        order = np.lexsort((labels, truth, np.where(truth == labels, 0, -pairs.data)))[:limit]
        return [(int(truth[i]), int(labels[i]), int(pairs.data[i])) for i in order if truth[i] != labels[i]]


class Stability:
    """Over samples with two labels or more: share of the commonest label, entropy of the labels."""

    def __init__(self, views: int) -> None:
        self._share_samples = np.zeros(SHARE_BINS, np.int64)
        self._bit_edges = np.arange(0, max(1.0, np.log2(views)) + BITS_PER_BIN, BITS_PER_BIN)
        self._bit_samples = np.zeros(len(self._bit_edges) - 1, np.int64)
        self._samples, self._unanimous, self._share_sum, self._entropy_sum = 0, 0, 0.0, 0.0

    def add(self, votes: Votes) -> None:
        several = votes.num_labels >= 2
        shares, entropy = votes.share[several], votes.entropy[several]
        self._samples += len(shares)
        self._unanimous += int((shares == 1).sum())
        self._share_sum += float(shares.sum())
        self._entropy_sum += float(entropy.sum())
        # In whole numbers: 3 votes of 10 belong to the bin that starts at 0.3. The last bin holds 1.0 too.
        bins = votes.votes[several] * SHARE_BINS // votes.num_labels[several]
        self._share_samples += np.bincount(np.minimum(bins, SHARE_BINS - 1), minlength=SHARE_BINS)
        self._bit_samples += np.histogram(entropy, self._bit_edges)[0]

    def report(self) -> dict[str, Any] | None:
        if not self._samples:
            return None
        share_edges = [number / SHARE_BINS for number in range(SHARE_BINS + 1)]
        return {
            "samples": self._samples,
            "unanimous": self._unanimous,
            "mean_share": self._share_sum / self._samples,
            "mean_entropy_bits": self._entropy_sum / self._samples,
            "share_bins": {"edges": share_edges, "samples": self._share_samples.tolist()},
            "entropy_bins": {"edges": self._bit_edges.tolist(), "samples": self._bit_samples.tolist()},
        }


class Contradictions:
    """Samples whose commonest label is not their class: how many, and those with the largest share of their labels."""

    def __init__(self) -> None:
        self.samples = 0
        self.first: list[tuple[float, int, int, int]] = []  # -share, -labels, sample, commonest label; sorted

    def add(self, votes: Votes, classes: np.ndarray, start: int) -> None:
        """`start` is the global number of the sample in row 0."""
        against = np.flatnonzero(votes.commonest != classes[votes.rows])
        self.samples += len(against)
        leading = against[np.lexsort((-votes.num_labels[against], -votes.share[against]))[:CONTRADICTIONS_LISTED]]
        found = [
            (-float(votes.share[i]), -int(votes.num_labels[i]), start + int(votes.rows[i]), int(votes.commonest[i]))
            for i in leading
        ]
        self.first = sorted(self.first + found)[:CONTRADICTIONS_LISTED]


def audit(store: Store, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """All statistics of a store's committed units as plain JSON: `status` with the entries below added.

    coverage.shards; mixed; agreement_by_class; confused: most confused pairs; stability: None where no sample has two
    labels; contradictions; skipped.all: every skipped sample. progress(done, total) counts unit rows.
    """
    result = status(store)
    index, names, committed = store.index, store.class_names, store.committed()
    confusions, stability, contradictions = Confusions(store.num_classes), Stability(store.views), Contradictions()
    views_done = np.zeros(len(store.counts), np.int64)
    skipped: list[int] = []

    unit_rows = store.units(store.group_views(0))
    for done, (shard, unit, _) in enumerate(unit_rows):
        units = [Unit(shard, unit, group) for group in np.flatnonzero(committed[shard, unit]).tolist()]
        if units:
            first, num_samples = store.unit_rows(units[0])
            start = int(index.starts[shard]) + first
            classes = index.classes[start : start + num_samples]
            labels = np.concatenate([store.read_labels(unit)[:num_samples] for unit in units], axis=1)
            runs = count_labels(labels)
            votes = count_votes(runs, classes)
            confusions.add(runs, classes)
            stability.add(votes)
            contradictions.add(votes, classes, start)
            views_done[shard] += labels.size
            skipped += (start + np.flatnonzero((labels == SKIPPED).any(axis=1))).tolist()
        if progress is not None:
            progress(done + 1, len(unit_rows))

    labelled, own = confusions.by_class()
    result["coverage"]["shards"] = [
        {"shard": store.shard_name(shard), "samples": count, "share": done / (count * store.views) if count else None}
        for shard, (count, done) in enumerate(zip(store.counts.tolist(), views_done.tolist(), strict=True))
    ]
    result["mixed"] = store.policy.mix is not None
    result["agreement_by_class"] = [
        {"class": name, "labels": all_labels, "own": equal / all_labels if all_labels else None}
        for name, all_labels, equal in zip(names, labelled.tolist(), own.tolist(), strict=True)
    ]
    result["confused"] = [
        {"class": names[truth], "label": names[label], "count": count, "share": count / int(labelled[truth])}
        for truth, label, count in confusions.most_confused(CONFUSIONS_LISTED)
    ]
    result["stability"] = stability.report()
    result["contradictions"] = {
        "samples": contradictions.samples,
        "first": [
            {
                **_place(store, sample),
                "class": names[index.classes[sample]],
                "label": names[label],
                "share": -minus_share,
                "labels": -minus_labels,
            }
            for minus_share, minus_labels, sample, label in contradictions.first
        ],
    }
    result["skipped"]["all"] = [_place(store, sample) for sample in skipped]
    return result


def _place(store: Store, sample: int) -> dict[str, str]:
    return {"shard": store.shard_name(store.index.shard_of(sample)), "key": store.index.key(sample)}
