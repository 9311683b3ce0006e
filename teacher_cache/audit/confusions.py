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
    labelled, own, _ = margins(statistics.confusions)
    return {
        "store": str(store.path),
        "mixed": store.policy.mix is not None,
        "labels": int(labelled.sum()),
        "own": ratio(own.sum(), labelled.sum()),
        "of_class": of_class,
        "confused": _confused_pairs(store, statistics, number, limit),
        "classes": _class_rows(store, statistics.confusions, number),
    }


def _confused_pairs(store: Store, statistics: LabelStatistics, number: int | None, limit: int) -> list[dict[str, Any]]:
    """The most frequent pairs of different classes; with number, of those that this class takes part in."""
    truth, labels, counts = statistics.confusions.pairs()
    labelled, names = margins(statistics.confusions)[0], store.class_names
    wrong = truth != labels
    chosen = np.flatnonzero(wrong if number is None else wrong & ((truth == number) | (labels == number)))
    return [
        {
            "class": names[truth[i]],
            "label": names[labels[i]],
            "count": int(counts[i]),
            "share": ratio(counts[i], labelled[truth[i]]),
            "back": ratio(counts[(truth == labels[i]) & (labels == truth[i])].sum(), labelled[labels[i]]),
            "samples": int(((store.index.classes == truth[i]) & (statistics.votes.label == labels[i])).sum()),
        }
        for i in chosen[np.argsort(-counts[chosen], kind="stable")[:limit]].tolist()
    ]


def _class_rows(store: Store, counted: Confusions, number: int | None) -> list[dict[str, Any]]:
    """Every class, or the one of this number."""
    labelled, own, given = margins(counted)
    taken_for = _taken_for(counted, labelled, store.class_names)
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


def _taken_for(counted: Confusions, labelled: np.ndarray, names: tuple[str, ...]) -> dict[int, list[dict[str, Any]]]:
    """Class -> the other classes that its samples are called most often."""
    truth, labels, counts = counted.pairs()
    found: dict[int, list[dict[str, Any]]] = {}
    for i in np.lexsort((-counts, truth)).tolist():
        row = found.setdefault(int(truth[i]), [])
        if truth[i] != labels[i] and len(row) < TAKEN_FOR:
            row.append(
                {"label": names[labels[i]], "count": int(counts[i]), "share": ratio(counts[i], labelled[truth[i]])}
            )
    return found


def margins(counted: Confusions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of samples of each class, how many of them are that class, and how often each class is given; int64."""
    truth, labels, counts = counted.pairs()
    found = [np.zeros(counted.num_classes, np.int64) for _ in range(3)]
    np.add.at(found[0], truth, counts)
    np.add.at(found[1], truth[truth == labels], counts[truth == labels])
    np.add.at(found[2], labels, counts)
    return found[0], found[1], found[2]


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
