"""Which classes the teacher agrees with, and which it takes for which."""

from typing import Any

import numpy as np

from teacher_cache.audit.votes import Confusions, LabelStatistics, OnProgress, read_statistics
from teacher_cache.errors import StoreError
from teacher_cache.messages.nearest import did_you_mean
from teacher_cache.store.store import Store

LISTED = 20
TAKEN_FOR = 5


def confusions(
    store: Store,
    *,
    limit: int = LISTED,
    of_class: str | None = None,
    statistics: LabelStatistics | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """The pairs of classes that differ most often, over all labels; every class with what it is taken for most.

        {"store": "runs/store", "mixed": false, "labels": 160000, "own": 0.71, "of_class": null,
         "confused": [{"class": "cat", "label": "dog", "count": 3121, "share": 0.19,
                       "back": 0.12, "samples": 170}, ...],
         "classes": [{"class": "cat", "samples": 1000, "labels": 16000, "own": 0.55, "given": 14211, "precision": 0.62,
                      "taken_for": [{"label": "dog", "count": 3121, "share": 0.19}, ...]}, ...]}

    share: of the class's labels; back: the share of the label's own samples that are called this class; samples: those
    whose commonest label it is. given: labels that are this class, whatever the sample; precision: the share of them
    that are right. taken_for: the five most frequent. With of_class, the name of a class, pairs that it takes part in.
    own, share, back and precision are None where there is nothing to divide by.

    In a store of mixed views a label may be the partner's class: a pair then counts partners too.
    """
    statistics = read_statistics(store, on_progress) if statistics is None else statistics
    number = None if of_class is None else class_number(store, of_class)
    sums = margins(statistics.confusions)
    labelled, own, _ = sums
    return {
        "store": str(store.path),
        "mixed": store.policy.mix is not None,
        "labels": int(labelled.sum()),
        "own": ratio(own.sum(), labelled.sum()),
        "of_class": of_class,
        "confused": _confused_pairs(store, statistics, labelled, number, limit),
        "classes": _class_rows(store, statistics.confusions, sums, number),
    }


def _confused_pairs(
    store: Store, statistics: LabelStatistics, labelled: np.ndarray, number: int | None, limit: int
) -> list[dict[str, Any]]:
    """The most frequent pairs of different classes; with number, of those that this class takes part in."""
    names = store.class_names
    truth, labels, counts = most_frequent(statistics.confusions, limit, number)
    back = statistics.confusions.counts_of(labels, truth)
    return [
        {
            "class": names[truth[i]],
            "label": names[labels[i]],
            "count": int(counts[i]),
            "share": ratio(counts[i], labelled[truth[i]]),
            "back": ratio(back[i], labelled[labels[i]]),
            "samples": int(((store.index.classes == truth[i]) & (statistics.votes.label == labels[i])).sum()),
        }
        for i in range(len(counts))
    ]


def most_frequent(counted: Confusions, limit: int, number: int | None = None) -> np.ndarray:
    """The pairs of different classes that occur most often, (3, limit or fewer) int64: ground truth, label, count.

    Of equal counts the smaller ground truth comes first, then the smaller label. number: only pairs with this class.
    """
    held, least = np.zeros((3, 0), np.int64), 1
    for truth, labels, counts in counted.rows():
        wanted = (labels != truth) & (counts >= least)
        if number is not None and truth != number:
            wanted &= labels == number
        if not wanted.any():
            continue
        held = np.concatenate([held, [np.full(wanted.sum(), truth), labels[wanted], counts[wanted]]], axis=1)
        if held.shape[1] > 2 * limit:  # not at each class: sorting takes its time
            held = _first(held, limit)
            least = int(held[2, -1]) + 1  # a later pair of an equal count comes behind
    return _first(held, limit)


def _first(pairs: np.ndarray, limit: int) -> np.ndarray:
    """Of pairs (3, n) those that occur most often, in that order."""
    return pairs[:, np.argsort(-pairs[2], kind="stable")[:limit]]


def _class_rows(
    store: Store, counted: Confusions, sums: tuple[np.ndarray, np.ndarray, np.ndarray], number: int | None
) -> list[dict[str, Any]]:
    """Every class, or the one of this number; sums as `margins` has them."""
    labelled, own, given = sums
    taken_for = _taken_for(counted, labelled, store.class_names, number)
    samples = np.bincount(store.index.classes, minlength=store.num_classes)
    return [
        {
            "class": store.class_names[c],
            "samples": int(samples[c]),
            "labels": int(labelled[c]),
            "own": ratio(own[c], labelled[c]),
            "given": int(given[c]),
            "precision": ratio(own[c], given[c]),
            "taken_for": taken_for.get(c, []),
        }
        for c in (range(store.num_classes) if number is None else [number])
    ]


def _taken_for(
    counted: Confusions, labelled: np.ndarray, names: tuple[str, ...], number: int | None
) -> dict[int, list[dict[str, Any]]]:
    """Class -> the other classes that its samples are called most often."""
    return {
        truth: [
            {"label": names[label], "count": count, "share": ratio(count, labelled[truth])}
            for label, count in _largest(labels[labels != truth], counts[labels != truth])
        ]
        for truth, labels, counts in counted.rows()
        if number in (None, truth)
    }


def _largest(labels: np.ndarray, counts: np.ndarray) -> list[tuple[int, int]]:
    """TAKEN_FOR labels of the largest counts, of equal ones the first."""
    if len(counts) > TAKEN_FOR:  # most are far from it: only the others are sorted
        near = counts >= np.partition(counts, -TAKEN_FOR)[-TAKEN_FOR]
        labels, counts = labels[near], counts[near]
    order = np.argsort(-counts, kind="stable")[:TAKEN_FOR]
    return list(zip(labels[order].tolist(), counts[order].tolist(), strict=True))


def margins(counted: Confusions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of samples of each class, how many of them are that class, and how often each class is given; int64."""
    labelled, own, given = (np.zeros(counted.num_classes, np.int64) for _ in range(3))
    for truth, labels, counts in counted.rows():
        labelled[truth], own[truth] = counts.sum(), counts[labels == truth].sum()
        given[labels] += counts
    return labelled, own, given


def class_number(store: Store, name: str) -> int:
    """The number of a class by its name, or by the number itself; StoreError where there is no such class."""
    if name in store.class_names:
        return store.class_names.index(name)
    if name.isdecimal() and int(name) < store.num_classes:
        return int(name)
    listing = f"give a name of classes.json, or a number from 0 to {store.num_classes - 1}"
    raise StoreError(
        f"{store.path} has no class {name!r} among its {store.num_classes}: "
        + did_you_mean(name, store.class_names, listing)
    )


def ratio(part: int, whole: int) -> float | None:
    return int(part) / int(whole) if whole else None
