"""Ranked disagreements against evidence weighed one label at a time."""

from collections import Counter
from math import log2
from pathlib import Path

import numpy as np
import pytest

from teacher_cache.audit import disagreements as module
from teacher_cache.audit.disagreements import disagreements
from teacher_cache.errors import StoreError
from teacher_cache.replay.block import view_mix
from teacher_cache.replay.mix import LAMBDA_ONE
from teacher_cache.replay.policy import load_policy
from teacher_cache.store.store import Store
from teacher_cache.store.unit import Unit
from tests.support.bright_shards import bright_store, small_policy
from tests.support.drawn import all_labels, commit_labels, drawn_store
from tests.support.filled_store import COUNTS, make_store


def evidence(store: Store, labels: np.ndarray, sample: int) -> Counter[int]:
    """Weights of each label of a sample, from the definition."""
    index = store.index
    shard = index.shard_of(sample)
    block, position = divmod(sample - int(index.starts[shard]), 64)
    first, count = sample - position, len(index.place(shard, block).keys)
    found: Counter[int] = Counter()
    for view in range(store.views):
        label = int(labels[sample, view])
        if label < 0:
            continue
        skipped = frozenset(p for p in range(count) if labels[first + p, view] == -2)
        plan = view_mix(
            store.policy,
            store.seed,
            shard=store.shard_name(shard),
            block=block,
            num_samples=count,
            skipped=skipped,
            view=view,
        )
        own, other = index.classes[sample], index.classes[first + plan.partners[position]]
        if label == own or label != other:
            found[label] += int(plan.lambdas[position]) / LAMBDA_ONE
    return found


@pytest.mark.parametrize("mixed", [False, True])
def test_rows_are_the_definition(tmp_path: Path, mixed: bool) -> None:
    store = drawn_store(tmp_path, mixed=mixed, views=8, own=0.4)
    labels, names = all_labels(store), store.class_names
    found = disagreements(store, limit=1000)
    assert found["mixed"] is mixed
    assert found["samples"] == found["weighed"] == 259  # one of 260 is skipped
    errors, multi, unstable = set(), set(), set()
    rows = {row["sample"]: row for kind in ("label_errors", "multi_label", "unstable") for row in found[kind]["rows"]}
    for sample in range(260):
        weights = evidence(store, labels, sample)
        total = sum(weights.values())
        if total < 2:
            assert sample not in rows
            continue
        own = int(store.index.classes[sample])
        ranked = sorted(weights.items(), key=lambda item: (-item[1], item[0] != own, item[0]))
        shares = [weight / total for _, weight in ranked]
        second = shares[1] if len(shares) > 1 else 0.0
        errors |= {sample} if ranked[0][0] != own else set()
        multi |= {sample} if second >= 0.25 and shares[0] + second >= 0.9 else set()
        unstable |= {sample} if shares[0] < 0.5 else set()
        if (row := rows.get(sample)) is None:
            continue
        assert (row["class"], row["label"]) == (names[own], names[ranked[0][0]])
        assert row["share"] == pytest.approx(shares[0])
        assert row["second_share"] == pytest.approx(second)
        assert row["second"] == (names[ranked[1][0]] if len(ranked) > 1 else None)
        assert row["own_share"] == pytest.approx(weights[own] / total)
        assert row["evidence"] == pytest.approx(total)
        assert row["entropy_bits"] == pytest.approx(-sum(s * log2(s) for s in shares if s), abs=1e-6)
        other = max((weight for label, weight in weights.items() if label != own), default=0.0)
        assert row["margin"] == pytest.approx((other - weights[own]) / total)
        assert row["score"] == pytest.approx((1 - row["margin"]) / 2)
    for kind, expected in (("label_errors", errors), ("multi_label", multi), ("unstable", unstable)):
        assert {row["sample"] for row in found[kind]["rows"]} == expected
        assert found[kind]["samples"] == len(expected) > 0
    margins = [row["margin"] for row in found["label_errors"]["rows"]]
    assert margins == sorted(margins, reverse=True)
    seconds = [row["second_share"] for row in found["multi_label"]["rows"]]
    assert seconds == sorted(seconds, reverse=True)
    entropies = [row["entropy_bits"] for row in found["unstable"]["rows"]]
    assert entropies == sorted(entropies, reverse=True)


def test_a_partners_label_is_no_evidence_against(tmp_path: Path) -> None:
    """A teacher that names whichever of the pair is larger contradicts nobody, however often it names the partner."""
    store = bright_store(tmp_path, policy=small_policy(), views=8)
    for unit in store.units():
        start, samples = store.layout.samples(unit).start, len(store.layout.samples(unit))
        labels = np.zeros((samples, store.group), np.int64)
        classes = store.index.classes[start : start + samples]
        for column, view in enumerate(store.layout.group_views(unit.group)):
            name, block = store.shard_name(unit.shard), store.layout.blocks(unit)[0]
            plan = view_mix(
                store.policy, store.seed, shard=name, block=block, num_samples=samples, skipped=frozenset(), view=view
            )
            labels[:, column] = np.where(2 * plan.lambdas >= LAMBDA_ONE, classes, classes[plan.partners])
        commit_labels(store, unit, labels)
    assert (all_labels(store) != store.index.classes[:, None]).mean() > 0.2
    found = disagreements(store)
    assert (found["label_errors"]["samples"], found["unstable"]["samples"]) == (0, 0)


@pytest.mark.parametrize("mixed", [False, True])
def test_planted_errors_lead(tmp_path: Path, mixed: bool) -> None:
    store = bright_store(tmp_path, policy=small_policy(*(() if mixed else ("mix=none",))), views=16)
    rng, wrong = np.random.default_rng(3), {4, 100, 150, 201}
    for unit in store.units():
        start, samples = store.layout.samples(unit).start, len(store.layout.samples(unit))
        truth = store.index.classes[start : start + samples].astype(np.int64)
        truth = np.where(np.isin(np.arange(start, start + samples), list(wrong)), (truth + 3) % 10, truth)
        noise = rng.integers(0, 10, (samples, store.group))
        commit_labels(store, unit, np.where(rng.random(noise.shape) < 0.7, truth[:, None], noise))
    rows = disagreements(store)["label_errors"]["rows"]
    assert {row["sample"] for row in rows[:4]} == wrong
    assert {row["margin"] > 0.4 for row in rows[:4]} == {True}


def test_equal_margins_are_settled_by_how_rare_the_confusion_is(tmp_path: Path) -> None:
    store = bright_store(tmp_path, policy=small_policy("mix=none"), counts=(64,), views=4, group=4)
    labels = np.repeat(store.index.classes[:, None], 4, axis=1).astype(np.int64)
    often, rare = np.flatnonzero(store.index.classes == 0)[:3], np.flatnonzero(store.index.classes == 1)[:1]
    labels[often], labels[rare] = 5, 6
    commit_labels(store, Unit(0, 0, 0), labels)
    assert [row["sample"] for row in disagreements(store)["label_errors"]["rows"]] == [*rare, *often]


def test_filters(tmp_path: Path) -> None:
    store = drawn_store(tmp_path, views=8, own=0.3)
    everything = disagreements(store, limit=1000)["label_errors"]["rows"]
    name = store.class_names[3]
    assert disagreements(store, limit=1000, of_class=name)["label_errors"]["rows"] == [
        row for row in everything if row["class"] == name
    ]
    assert disagreements(store, limit=1000, shard="train-0003.tar")["label_errors"]["rows"] == [
        row for row in everything if row["shard"] == "train-0003.tar"
    ]
    found = disagreements(store, limit=1000, margin=0.25)["label_errors"]
    assert found["rows"] == [row for row in everything if row["margin"] >= 0.25]
    assert 0 < found["samples"] < len(everything)
    assert disagreements(store, limit=2)["label_errors"] == {"samples": len(everything), "rows": everything[:2]}
    with pytest.raises(StoreError, match="no shard 'x'"):
        disagreements(store, shard="x")
    with pytest.raises(StoreError, match="no class 'clas'"):
        disagreements(store, of_class="clas")


def test_few_plans_weigh_the_most_suspicious_on_some_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = drawn_store(tmp_path, mixed=True, views=8)
    drawn: list[int] = []
    monkeypatch.setattr(
        module, "view_mix", lambda *given, view, **named: drawn.append(view) or view_mix(*given, view=view, **named)
    )
    found = disagreements(store, limit=1, plans=16)
    assert 5 <= found["weighed"] <= 15
    assert 0 < len(drawn) <= 16
    assert found["views_weighed"] == len(set(drawn)) < 8
    assert f"{found['views_weighed']} of 8 views of the {found['weighed']} most suspicious" in found["evidence"]


def test_nothing_filled_and_too_few_labels(tmp_path: Path) -> None:
    store = bright_store(tmp_path, views=8)
    assert disagreements(store)["samples"] == 0
    commit_labels(store, Unit(0, 0, 0), np.zeros((64, 2), np.int64))
    found = disagreements(store)
    assert (found["samples"], found["min_labels"], found["label_errors"]) == (0, 4, {"samples": 0, "rows": []})


def test_units_of_several_blocks_are_weighed_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 10, (sum(COUNTS), 4))
    found = []
    for unit_samples in (64, 128):
        store = make_store(tmp_path / str(unit_samples), policy=load_policy("deit"), unit_samples=unit_samples)
        for unit in store.units():
            samples, views = store.layout.samples(unit), store.layout.group_views(unit.group)
            commit_labels(store, unit, labels[samples.start : samples.stop, views.start : views.stop])
        found.append(disagreements(store) | {"store": None})
    assert found[0] == found[1]
    assert found[0]["label_errors"]["samples"] > 10
