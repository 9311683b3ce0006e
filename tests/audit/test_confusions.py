"""Which class is taken for which: counts against loops over single labels."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from teacher_cache.audit.confusions import confusions, margins, most_frequent
from teacher_cache.audit.votes import Confusions, read_statistics
from teacher_cache.errors import StoreError
from teacher_cache.store.store import Store
from tests.support.bright_shards import bright_store
from tests.support.drawn import all_labels, drawn_store


def counted(store: Store) -> Counter[tuple[int, int]]:
    """How often a sample of a class got a label."""
    truth = np.broadcast_to(store.index.classes[:, None], (store.index.num_samples, store.views))
    labels = all_labels(store)
    return Counter((int(t), int(label)) for t, label in zip(truth.flat, labels.flat, strict=True) if label >= 0)


def test_pairs_and_classes_are_counted(tmp_path: Path) -> None:
    store = drawn_store(tmp_path)
    pairs, found = counted(store), confusions(store, limit=7)
    of_class = [sum(n for (t, _), n in pairs.items() if t == c) for c in range(10)]
    wrong = sorted((n for (t, label), n in pairs.items() if t != label), reverse=True)
    assert [row["count"] for row in found["confused"]] == wrong[:7]
    votes = read_statistics(store).votes
    for row in found["confused"]:
        t, label = int(row["class"]), int(row["label"])
        assert row["count"] == pairs[t, label]
        assert row["share"] == pairs[t, label] / of_class[t]
        assert row["back"] == pairs[label, t] / of_class[label]
        assert row["samples"] == ((store.index.classes == t) & (votes.label == label)).sum()
    for c, row in enumerate(found["classes"]):
        given = sum(n for (_, label), n in pairs.items() if label == c)
        assert (row["labels"], row["own"], row["given"]) == (of_class[c], pairs[c, c] / of_class[c], given)
        assert row["precision"] == pairs[c, c] / given
        others = sorted((n for (t, label), n in pairs.items() if t == c != label), reverse=True)
        assert [each["count"] for each in row["taken_for"]] == others[:5]


def test_a_class_by_its_name_narrows_the_pairs(tmp_path: Path) -> None:
    store = drawn_store(tmp_path)
    pairs, found = counted(store), confusions(store, of_class="3", limit=100)
    assert sum(row["count"] for row in found["confused"]) == sum(n for p, n in pairs.items() if 3 in p and p != (3, 3))
    assert [row["class"] for row in found["classes"]] == ["3"]
    with pytest.raises(StoreError, match=r"has no class 'cat' among its 10: give a name of classes\.json, or a number"):
        confusions(store, of_class="cat")


def test_nothing_labelled_has_no_shares(tmp_path: Path) -> None:
    found = confusions(bright_store(tmp_path))
    assert (found["labels"], found["own"], found["confused"]) == (0, None, [])
    assert {(row["labels"], row["own"], row["precision"]) for row in found["classes"]} == {(0, None, None)}


def test_margins_of_few_pairs() -> None:
    few = Confusions(3)
    few.add_pairs(np.array([0, 0, 2]), np.array([0, 1, 1]), np.array([5, 2, 4]))
    assert [part.tolist() for part in margins(few)] == [[7, 0, 4], [5, 0, 0], [5, 6, 0]]


@pytest.mark.parametrize("number", [None, 4])
def test_most_frequent_pairs_are_those_of_a_sort(number: int | None) -> None:
    rng, pairs = np.random.default_rng(1), Counter[tuple[int, int]]()
    counts = Confusions(30)
    truth, labels, times = rng.integers(0, 30, 500), rng.integers(0, 30, 500), rng.integers(1, 4, 500)  # many ties
    counts.add_pairs(truth, labels, times)
    for t, label, n in zip(truth.tolist(), labels.tolist(), times.tolist(), strict=True):
        if t != label and number in (None, t, label):
            pairs[t, label] += n
    ranked = sorted(([*pair, n] for pair, n in pairs.items()), key=lambda pair: (-pair[2], pair[:2]))
    for limit in (1, 5, 40, 1000):
        assert most_frequent(counts, limit, number).T.tolist() == ranked[:limit]
