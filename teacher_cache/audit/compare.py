"""Two stores over the same index: two teachers, two dtypes, two checkpoints."""

from typing import Any

import numpy as np

from teacher_cache.audit.confusions import margins, most_frequent
from teacher_cache.audit.intervals import kappa, mcnemar
from teacher_cache.audit.names import place
from teacher_cache.audit.votes import Confusions, OnProgress, Votes, count_votes, no_votes
from teacher_cache.errors import StoreError
from teacher_cache.store.labels import unit_rows
from teacher_cache.store.store import Store
from teacher_cache.store.unit import NOT_LABELLED

LISTED = 20


def compare(
    store: Store, other: Store, *, limit: int = LISTED, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """How far two stores agree, view by view where both labelled the same pixels, and sample by sample.

        {"store": "runs/a", "other": "runs/b", "teachers": ["regnety_160", "resnet50"],
         "same_pixels": true, "why_not": null,     one line where the labels are of different pixels: then views is null
         "views": {"compared": 160000, "agree": 0.93, "kappa": 0.92, "hits": [0.71, 0.70],
                   "only_first": 4100, "only_second": 3600,
                   "confused": [{"first": "cat", "second": "dog", "count": 812}, ...]},
         "samples": {"compared": 10000, "agree": 0.95, "kappa": 0.94, "hits": [0.80, 0.79], "only_first": 150,
                     "only_second": 120, "mcnemar_p": 0.08},
         "differ_most": {"samples": 500, "rows": [{"shard": ..., "key": ..., "sample": 17, "class": "cat",
                     "first": "cat", "first_share": 1.0, "second": "dog", "second_share": 0.9,
                     "views": 16, "differ": 15}, ...]}}

    Views are those that both have labelled; samples are compared by their commonest label over these (over all labels
    of either where pixels differ), and samples without any are left out. hits: shares of labels that are the ground
    truth, in mixed views the sample's own class; only_first: how many times the first store's label is it and the
    second's is not. mcnemar_p is the exact two-sided p-value of that, of samples alone: views of a sample are no
    independent trials. differ_most has samples of different commonest labels, by the smaller of the two shares; differ
    counts views, null where pixels differ.

    StoreError where the two are not over the same samples and classes, or have labels of nothing in common.
    """
    _check_same_index(store, other)
    why_not = _why_other_pixels(store, other)
    first, second, tables = _read_both(store, other, why_not is None, on_progress)
    classes = store.index.classes
    both = (first.label >= 0) & (second.label >= 0)
    if not both.any():
        what = "view" if why_not is None else "sample"
        raise StoreError(
            f"no {what} is labelled in both {store.path} and {other.path}: `teacher-cache status` tells what each "
            "lacks, `teacher-cache fill` labels it"
        )
    against = np.flatnonzero(both & (first.label != second.label))
    surer = np.minimum(first.share[against], second.share[against])
    most = against[np.lexsort((against, -surer))[:limit]].tolist()
    differ = tables.differ if why_not is None else None
    return {
        "store": str(store.path),
        "other": str(other.path),
        "teachers": [each.teacher.name if each.teacher else None for each in (store, other)],
        "same_pixels": why_not is None,
        "why_not": why_not,
        "views": tables.report(classes, store.class_names, limit) if why_not is None else None,
        "samples": _compare_samples(classes, store.num_classes, first, second, both),
        "differ_most": {
            "samples": len(against),
            "rows": [_row(store, first, second, sample, differ) for sample in most],
        },
    }


def _compare_samples(
    classes: np.ndarray, num_classes: int, first: Votes, second: Votes, both: np.ndarray
) -> dict[str, Any]:
    """By their commonest labels; both (n,) bool: samples that have one in either store."""
    hits = [(votes.label == classes) & both for votes in (first, second)]
    only_first, only_second = int((hits[0] & ~hits[1]).sum()), int((hits[1] & ~hits[0]).sum())
    given = [np.bincount(votes.label[both], minlength=num_classes) for votes in (first, second)]
    compared = int(both.sum())
    agree = int((both & (first.label == second.label)).sum()) / compared
    return {
        "compared": compared,
        "agree": agree,
        "kappa": kappa(agree, *given),
        "hits": [int(hit.sum()) / compared for hit in hits],
        "only_first": only_first,
        "only_second": only_second,
        "mcnemar_p": mcnemar(only_first, only_second),
    }


def _row(store: Store, first: Votes, second: Votes, sample: int, differ: np.ndarray | None) -> dict[str, Any]:
    names = store.class_names
    return {
        **place(store, sample),
        "class": names[store.index.classes[sample]],
        "first": names[first.label[sample]],
        "first_share": float(first.share[sample]),
        "second": names[second.label[sample]],
        "second_share": float(second.share[sample]),
        "views": int(first.num_labels[sample]),
        "differ": int(differ[sample]) if differ is not None else None,
    }


def _check_same_index(store: Store, other: Store) -> None:
    ours, theirs = store.index, other.index
    what = ""
    if [entry.name for entry in ours.shards] != [entry.name for entry in theirs.shards]:
        what = f"are over other shards ({len(ours.shards)} and {len(theirs.shards)})"
    elif ours.class_names != theirs.class_names:
        what = f"have other classes ({len(ours.class_names)} and {len(theirs.class_names)})"
    else:
        for one, two in zip(ours.shards, theirs.shards, strict=True):
            if one.hash != two.hash:
                what = f"are over other contents of shard {one.name} (index hash {one.hash:016x} and {two.hash:016x})"
                break
    if what:
        raise StoreError(
            f"{store.path} and {other.path} {what}: compare stores of the same shards, as `index --like` makes them"
        )


def _why_other_pixels(store: Store, other: Store) -> str | None:
    """Why the labels of the two are of different pixels, in one line; None where they are of the same."""
    if store.seed != other.seed:
        return f"the stores' seeds differ ({store.seed} and {other.seed}), so labels are of different pixels"
    ours, theirs = store.policy.to_json(), other.policy.to_json()
    differing = [name for name in ours | theirs if name != "name" and ours.get(name) != theirs.get(name)]
    if differing:
        return f"the stores' policies differ in {', '.join(differing)}, so labels are of different pixels"
    return None


class _ViewTables:
    """What is counted of views that both stores labelled."""

    def __init__(self, store: Store) -> None:
        self.pairs = Confusions(store.num_classes)  # of the first store's label and the second's
        self.hits = np.zeros((2, 2), np.int64)  # [is the first's the ground truth, is the second's]
        self.differ = np.zeros(store.index.num_samples, np.int32)

    def add(self, start: int, classes: np.ndarray, first: np.ndarray, second: np.ndarray, both: np.ndarray) -> None:
        self.pairs.add_pairs(first[both].astype(np.int64), second[both].astype(np.int64))
        self.differ[start : start + len(classes)] = (both & (first != second)).sum(axis=1)
        right = [(labels == classes[:, None])[both].astype(np.int64) for labels in (first, second)]
        self.hits += np.bincount(2 * right[0] + right[1], minlength=4).reshape(2, 2)

    def report(self, classes: np.ndarray, names: tuple[str, ...], limit: int) -> dict[str, Any]:
        given, same, second_given = margins(self.pairs)
        compared, agree = int(given.sum()), int(same.sum())
        confused = most_frequent(self.pairs, limit).T.tolist()
        hits = (self.hits[1].sum(), self.hits[:, 1].sum())
        return {
            "compared": compared,
            "agree": agree / compared,
            "kappa": kappa(agree / compared, given, second_given),
            "hits": [int(hit) / compared for hit in hits],
            "only_first": int(self.hits[1, 0]),
            "only_second": int(self.hits[0, 1]),
            "confused": [
                {"first": names[first], "second": names[second], "count": count} for first, second, count in confused
            ],
        }


def _read_both(
    store: Store, other: Store, same_pixels: bool, on_progress: OnProgress | None
) -> tuple[Votes, Votes, _ViewTables]:
    """Votes of every sample in both stores: of the views that both labelled, or of all where pixels differ."""
    tables = _ViewTables(store)
    votes = no_votes(store.index.num_samples), no_votes(store.index.num_samples)
    reader, views = _Rows(other), min(store.views, other.views)
    for row in unit_rows(store, store.committed(), on_progress):
        classes = store.index.classes[row.start : row.start + len(row.labels)]
        first, second = row.labels, reader.labels(row.start, len(row.labels))
        if same_pixels:
            first, second = first[:, :views].copy(), second[:, :views].copy()
            both = (first >= 0) & (second >= 0)
            first[~both] = second[~both] = NOT_LABELLED
            tables.add(row.start, classes, first, second, both)
        for each, labels in zip(votes, (first, second), strict=True):
            each.put(row.start, count_votes(labels, classes))
    return *votes, tables


class _Rows:
    """Labels of the samples of a store in their order, whatever its units: the last unit row read is held."""

    def __init__(self, store: Store) -> None:
        self._rows = unit_rows(store, store.committed())
        self._held = next(self._rows)

    def labels(self, start: int, count: int) -> np.ndarray:
        """(count, views) of samples from `start` on, none of which lies before those that were asked for last."""
        parts, at = [], start
        while at < start + count:
            while at >= self._held.start + len(self._held.labels):
                self._held = next(self._rows)
            first = at - self._held.start
            parts.append(self._held.labels[first : first + start + count - at])
            at += len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
