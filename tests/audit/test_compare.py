"""Two stores of the same shards, against loops over single labels, scikit-learn and SciPy."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from teacher_cache.audit.compare import compare
from teacher_cache.errors import StoreError
from teacher_cache.shards.classes import class_rule
from teacher_cache.shards.indexing import index_shards
from teacher_cache.store.store import Store
from teacher_cache.store.unit import Unit
from tests.support.bright_shards import bright_store, small_policy
from tests.support.drawn import all_labels, commit_labels, drawn_store


def commonest(labels: list[int], own: int) -> int:
    return min(Counter(labels).items(), key=lambda item: (-item[1], item[0] != own, item[0]))[0]


@pytest.mark.parametrize("units", [64, 128])
def test_counts_are_those_of_loops(tmp_path: Path, units: int) -> None:
    """The second store has more views, and units and groups of other sizes, of which some are not filled."""
    first = drawn_store(tmp_path)
    shards = sorted(str(path) for path in (tmp_path / "shards").glob("*.tar"))
    second = Store.create(
        *(tmp_path / "second", index_shards(shards, class_rule(shards)), small_policy("mix=none")),
        **{"views": 6, "seed": first.seed, "group": 3, "unit_samples": units},
    )
    rng = np.random.default_rng(5)
    for unit in second.units():
        if unit != Unit(0, 1, 0):
            start, samples = second.layout.samples(unit).start, len(second.layout.rows(unit))
            truth = second.index.classes[start : start + samples, None]
            noise = rng.integers(0, 10, (samples, 3))
            commit_labels(second, unit, np.where(rng.random(noise.shape) < 0.7, truth, noise))
    found = compare(first, second, limit=1000)
    one, two, classes = all_labels(first), all_labels(second)[:, :4], first.index.classes
    both = (one >= 0) & (two >= 0)
    assert 0 < both.sum() < 260 * 4
    views, a, b, truth = found["views"], one[both], two[both], np.repeat(classes[:, None], 4, axis=1)[both]
    assert (found["same_pixels"], found["why_not"]) == (True, None)
    assert views["compared"] == both.sum()
    assert views["agree"] == pytest.approx((a == b).mean())
    assert views["kappa"] == pytest.approx(cohen_kappa_score(a, b))
    assert views["hits"] == pytest.approx([(a == truth).mean(), (b == truth).mean()])
    assert views["only_first"] == ((a == truth) & (b != truth)).sum()
    assert views["only_second"] == ((a != truth) & (b == truth)).sum()
    pairs = Counter((x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True) if x != y)
    names = first.class_names
    assert {(row["first"], row["second"]): row["count"] for row in views["confused"]} == {
        (names[x], names[y]): n for (x, y), n in pairs.items()
    }
    seen = [sample for sample in range(260) if both[sample].any()]
    majority = [
        [commonest(labels[sample][both[sample]].tolist(), classes[sample]) for sample in seen] for labels in (one, two)
    ]
    samples, own = found["samples"], classes[seen].tolist()
    assert samples["compared"] == len(seen)
    assert samples["agree"] == pytest.approx(np.mean([x == y for x, y in zip(*majority, strict=True)]))
    assert samples["kappa"] == pytest.approx(cohen_kappa_score(*majority))
    only = [sum(x == c != y for x, y, c in zip(*order, own, strict=True)) for order in (majority, majority[::-1])]
    assert [samples["only_first"], samples["only_second"]] == only
    assert samples["mcnemar_p"] == pytest.approx(binomtest(only[0], sum(only), 0.5).pvalue)
    rows = found["differ_most"]["rows"]
    differing = {s for s, x, y in zip(seen, *majority, strict=True) if x != y}
    assert {row["sample"] for row in rows} == differing
    assert found["differ_most"]["samples"] == len(differing)
    for row in rows:
        here = both[row["sample"]]
        assert (row["views"], row["differ"]) == (here.sum(), (here & (one != two)[row["sample"]]).sum())
    surest = [min(row["first_share"], row["second_share"]) for row in rows]
    assert surest == sorted(surest, reverse=True)
    assert compare(first, second, limit=3)["differ_most"]["rows"] == rows[:3]


def test_a_store_agrees_with_itself(tmp_path: Path) -> None:
    store = drawn_store(tmp_path)
    found = compare(store, store)
    assert (found["views"]["agree"], found["views"]["kappa"], found["samples"]["mcnemar_p"]) == (1.0, 1.0, 1.0)
    assert found["differ_most"] == {"samples": 0, "rows": []}


def test_other_policies_and_seeds_are_compared_by_sample(tmp_path: Path) -> None:
    first = drawn_store(tmp_path)
    mixed = drawn_store(tmp_path, mixed=True, seed=1, name="mixed")
    found = compare(first, mixed)
    assert found["why_not"] == "the stores' policies differ in mix, so labels are of different pixels"
    assert found["views"] is None
    assert found["samples"]["compared"] == 259
    assert {row["differ"] for row in found["differ_most"]["rows"]} == {None}
    seeded = bright_store(tmp_path, policy=small_policy("mix=none"), seed=9, name="seeded")
    for unit in seeded.units():
        commit_labels(seeded, unit, np.zeros((len(seeded.layout.rows(unit)), seeded.group), np.int16))
    assert "seeds differ (3 and 9)" in compare(first, seeded)["why_not"]


def test_nothing_in_common_is_refused(tmp_path: Path) -> None:
    """One store has the first group of views, the other the second, of the same pixels or of others."""
    stores = [
        bright_store(tmp_path, policy=small_policy("mix=none"), seed=seed, name=name)
        for name, seed in (("first", 3), ("second", 3), ("empty", 9))
    ]
    for group, store in enumerate(stores[:2]):
        for unit in (unit for unit in store.units() if unit.group == group):
            commit_labels(store, unit, np.zeros((len(store.layout.rows(unit)), store.group), np.int16))
    with pytest.raises(StoreError, match=r"no view is labelled in both .*first .*second: `teacher-cache status"):
        compare(stores[0], stores[1])
    with pytest.raises(StoreError, match=r"no sample is labelled in both .*first and .*empty"):
        compare(stores[0], stores[2])


def test_stores_of_other_shards_are_refused(tmp_path: Path) -> None:
    store = bright_store(tmp_path / "a")
    with pytest.raises(StoreError, match="are over other shards"):
        compare(store, bright_store(tmp_path / "b", counts=(5,)))
    with pytest.raises(StoreError, match=r"other contents of shard train-0000\.tar"):
        compare(store, bright_store(tmp_path / "c", counts=(131, 64, 1, 64)))
