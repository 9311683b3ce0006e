"""Votes and confusions against loops over single labels."""

from collections import Counter
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teacher_cache.audit import votes as module
from teacher_cache.audit.votes import Confusions, count_labels, count_votes, no_votes


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    samples, views, classes = draw(st.integers(1, 6)), draw(st.integers(1, 9)), draw(st.integers(1, 5))
    label = st.integers(-2, classes - 1)
    rows = draw(st.lists(st.lists(label, min_size=views, max_size=views), min_size=samples, max_size=samples))
    truth = draw(st.lists(st.integers(0, classes - 1), min_size=samples, max_size=samples))
    return np.array(rows, np.int16), np.array(truth, np.int32)


@settings(max_examples=200, deadline=None)
@given(labelled())
def test_votes_are_those_of_a_loop(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    labels, truth = drawn
    found = count_votes(labels, truth)
    for row, own in enumerate(truth.tolist()):
        counts = Counter(label for label in labels[row].tolist() if label >= 0)
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0] != own, item[0]))
        total = sum(counts.values())
        assert found.num_labels[row] == total
        assert found.own[row] == counts[own]
        assert (found.label[row], found.votes[row]) == (ranked[0] if ranked else (-1, 0))
        assert (found.second[row], found.second_votes[row]) == (ranked[1] if len(ranked) > 1 else (-1, 0))
        entropy = -sum(n / total * log2(n / total) for n in counts.values())
        assert found.entropy[row] == pytest.approx(entropy, abs=1e-6)
        assert found.skipped[row] == (-2 in labels[row])


@pytest.mark.parametrize(("wide", "dense"), [(100, 100), (0, 100), (0, 0)], ids=["counts", "bytes", "pairs"])
def test_confusions_are_counted_one_by_one(monkeypatch: pytest.MonkeyPatch, wide: int, dense: int) -> None:
    monkeypatch.setattr(module, "WIDE_CLASSES", wide)
    monkeypatch.setattr(module, "DENSE_CLASSES", dense)
    monkeypatch.setattr(module, "PENDING", 20)
    rng = np.random.default_rng(0)
    counted, expected = Confusions(7), Counter[tuple[int, int]]()
    for number in range(1, 6):
        labels, truth = rng.integers(-2, 6, (11, 6)).astype(np.int16), rng.integers(0, 5, 11)
        labels = np.tile(labels, (1, 40 * number))  # more of a pair than a byte counts, at once and over again
        counted.add(count_labels(labels), truth)
        expected.update(
            (own, label)
            for own, row in zip(truth.tolist(), labels.tolist(), strict=True)
            for label in row
            if label >= 0
        )
    rows = [(truth, *pair) for truth, *row in counted.rows() for pair in zip(*map(np.ndarray.tolist, row), strict=True)]
    assert rows == [(*pair, count) for pair, count in sorted(expected.items())]
    assert max(expected.values()) > 1000
    truth, labels = (axis.reshape(-1) for axis in np.indices((7, 7)))
    asked = zip(truth.tolist(), labels.tolist(), strict=True)
    assert counted.counts_of(truth, labels).tolist() == [expected[pair] for pair in asked]


def test_largest_label_and_many_views() -> None:
    labels = np.full((1, 3000), 2_000_000_000, np.int32)
    labels[0, 0] = 1_999_999_999
    found = count_votes(labels, np.array([0]))
    assert (found.label[0], found.votes[0], found.second[0]) == (2_000_000_000, 2999, 1_999_999_999)


def test_parts_are_put_in_their_places() -> None:
    labels, truth = np.arange(12).reshape(6, 2), np.zeros(6, int)
    together = no_votes(6)
    for start in (2, 0):
        stop = 2 if start == 0 else 6
        together.put(start, count_votes(labels[start:stop], truth[start:stop]))
    assert together.label.tolist() == count_votes(labels, truth).label.tolist() == [0, 2, 4, 6, 8, 10]
