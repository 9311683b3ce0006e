"""The audit's statistics against loops over single labels, and what the tool prints."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from teacher_cache.audit.summary import summarise as audit
from teacher_cache.replay.policy import load_policy
from teacher_cache.store import Store, Unit, UnitValues
from tests.filled_store import commit, count, fill, make_index, make_store
from tools.inspect_cache import main


def commit_labels(store: Store, unit: Unit, labels: np.ndarray) -> None:
    values = UnitValues(labels, np.ones((len(store.unit_blocks(unit)), store.group), np.uint64))
    store.commit_unit(unit, values, count(store, unit, values), "cpu")


def partly_filled(path: Path, policy: str = "none") -> Store:
    """Labels mostly right, from unanimous to scattered; two units missing, two samples skipped, one of them in part."""
    rng = np.random.default_rng(1)
    store = make_store(path, index=make_index((130, 1, 0, 70), num_classes=5), policy=load_policy(policy), views=6)
    for unit in store.units():
        if unit in (Unit(0, 0, 1), Unit(1, 0, 0)):
            continue
        first, samples = store.unit_rows(unit)
        start = store.index.starts[unit.shard] + first
        truth = store.index.classes[start : start + samples, None]
        shift = rng.integers(0, 5, (samples, 2)) * (rng.random((samples, 2)) < np.linspace(0, 1.2, samples)[:, None])
        labels = (truth + shift) % 5
        if unit.shard == 3:
            labels[7] = -2
            labels[9] = -2 if unit.group == 0 else labels[9]
        commit_labels(store, unit, labels)
    return store


def naive_audit(store: Store) -> dict[str, Any]:
    """The same from the definitions, one label at a time."""
    committed, index, names = store.committed(), store.index, store.class_names
    confused: Counter[tuple[int, int]] = Counter()
    shares, entropies, contradictions, skipped = [], [], [], []
    views_done = [0] * index.num_shards
    for sample in range(index.num_samples):
        shard = index.shard_of(sample)
        position = sample - int(index.starts[shard])
        truth = int(index.classes[sample])
        votes: list[int] = []
        was_skipped = False
        for view in range(store.views):
            unit = Unit(shard, position // store.unit_samples, view // store.group)
            if not committed[unit]:
                continue
            views_done[shard] += 1
            label = int(store.read_labels(unit)[position % store.unit_samples, view % store.group])
            if label == -2:
                was_skipped = True
            else:
                votes.append(label)
                confused[truth, label] += 1
        place = {"shard": index.shards[shard].name, "key": index.key(sample)}
        if was_skipped:
            skipped.append(place)
        if not votes:
            continue
        commonest, most = min(Counter(votes).items(), key=lambda item: (-item[1], item[0] != truth, item[0]))
        share = most / len(votes)
        if len(votes) >= 2:
            shares.append(share)
            entropies.append(-sum(n / len(votes) * math.log2(n / len(votes)) for n in Counter(votes).values()))
        if commonest != truth:
            row = place | {"class": names[truth], "label": names[commonest], "share": share, "labels": len(votes)}
            contradictions.append((-share, -len(votes), sample, row))
    contradictions.sort(key=lambda entry: entry[:3])
    by_class = [
        (sum(n for (truth, _), n in confused.items() if truth == number), confused[number, number])
        for number in range(store.num_classes)
    ]
    wrong = sorted(((-n, pair) for pair, n in confused.items() if pair[0] != pair[1]))
    bit_edges = [0.5 * step for step in range(math.ceil(math.log2(store.views) / 0.5) + 1)]
    return {
        "shards": [
            done / (int(n) * store.views) if n else None for done, n in zip(views_done, index.counts, strict=True)
        ],
        "by_class": [
            {"class": name, "labels": labels, "own": own / labels if labels else None}
            for name, (labels, own) in zip(names, by_class, strict=True)
        ],
        "confused": [
            {"class": names[truth], "label": names[label], "count": -n, "share": -n / by_class[truth][0]}
            for n, (truth, label) in wrong[:20]
        ],
        "shares": shares,
        "entropies": entropies,
        "share_bins": [sum(min(int(share * 10 + 1e-9), 9) == number for share in shares) for number in range(10)],
        "bit_edges": bit_edges,
        "contradicting": len(contradictions),
        "contradictions": [entry[3] for entry in contradictions[:20]],
        "skipped": skipped,
        "own": sum(own for _, own in by_class) / sum(labels for labels, _ in by_class),
    }


def test_statistics_equal_a_loop_over_single_labels(tmp_path: Path) -> None:
    store = partly_filled(tmp_path / "s")
    rows_done: list[tuple[int, int]] = []
    found = json.loads(json.dumps(audit(store, lambda done, total: rows_done.append((done, total)))))
    expected = naive_audit(store)
    assert rows_done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [row["share"] for row in found["coverage"]["shards"]] == expected["shards"]
    assert found["agreement_by_class"] == expected["by_class"]
    assert found["agreement"]["own"] == pytest.approx(expected["own"])
    assert found["confused"] == expected["confused"]
    assert len(found["confused"]) == 20
    stability = found["stability"]
    assert stability["samples"] == len(expected["shares"])
    assert stability["unanimous"] == sum(share == 1 for share in expected["shares"]) > 0
    assert stability["mean_share"] == pytest.approx(np.mean(expected["shares"]))
    assert stability["mean_entropy_bits"] == pytest.approx(np.mean(expected["entropies"]))
    assert stability["share_bins"]["samples"] == expected["share_bins"]
    assert stability["entropy_bins"]["edges"] == expected["bit_edges"]
    assert sum(stability["entropy_bins"]["samples"]) == len(expected["entropies"])
    assert found["contradictions"] == {"samples": expected["contradicting"], "first": expected["contradictions"]}
    assert len(expected["contradictions"]) == 20 < expected["contradicting"]
    assert found["skipped"]["all"] == expected["skipped"]
    assert len(expected["skipped"]) == 2


def test_a_tie_is_settled_for_the_own_class(tmp_path: Path) -> None:
    index = make_index((3,), num_classes=4, classes=np.array([2, 2, 0]))
    store = make_store(tmp_path / "s", index=index, unit_samples=64)
    commit_labels(store, Unit(0, 0, 0), np.array([[1, 2], [3, 1], [0, 0]]))
    commit_labels(store, Unit(0, 0, 1), np.array([[2, 1], [1, 3], [0, 0]]))
    found = audit(store)
    assert found["contradictions"]["first"] == [
        {"shard": "shard-0.tar", "key": "0-0001", "class": "class 2", "label": "class 1", "share": 0.5, "labels": 4}
    ]
    assert found["stability"]["mean_entropy_bits"] == pytest.approx(2 / 3)


def test_labels_of_uncommitted_units_do_not_count(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    fill(store, range(2))
    expected = audit(store)
    commit(store, Unit(0, 0, 1))
    Path(store.record_file(Unit(0, 0, 1))).unlink()
    found = audit(store)
    for report in (found, expected):
        del report["bytes"]
    assert found == expected


def test_tool_prints_tables_and_json(tmp_path: Path) -> None:
    store = partly_filled(tmp_path / "s")
    text = CliRunner().invoke(main, [str(store.path)])
    assert text.exit_code == 0, text.output
    for title in (
        "201 samples in 4 shards x 6 views, 5 classes; 10 of 12 units are filled",
        "Coverage by shard",
        "the sample's own class",
        "Agreement by class",
        "Most confused pairs",
        "Stability of 200 samples",
        "Samples whose commonest label is not their class",
        "Skipped samples: 2",
    ):
        assert title in text.output
    assert "mixed" not in text.output
    as_json = CliRunner().invoke(main, [str(store.path), "--json"])
    assert json.loads(as_json.output) == json.loads(json.dumps(audit(store)))


def test_tool_says_that_views_are_mixed(tmp_path: Path) -> None:
    store = partly_filled(tmp_path / "s", policy="deit")
    assert "Views are mixed (Mixup or CutMix)" in CliRunner().invoke(main, [str(store.path)]).output
    assert audit(store)["mixed"] is True


def test_tool_tells_of_soft_labels(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    store.publish_teacher({"name": "soft", "topk": 3, "tau": 2.0})
    fill(store, range(2))
    report = audit(store)
    size = (report["bytes"]["topk_classes"] + report["bytes"]["topk_probabilities"]) / 1e6
    text = CliRunner().invoke(main, [str(store.path)])
    assert f"Soft labels: the 3 largest probabilities of each view at tau 2, {size:.2f} MB" in text.output


def test_tool_says_that_nothing_is_filled(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s").path
    result = CliRunner().invoke(main, [str(path)])
    assert result.exit_code == 0
    assert "Nothing is filled yet: run `teacher-cache fill" in result.output
    report = json.loads(CliRunner().invoke(main, [str(path), "--json"]).output)
    assert (report["stability"], report["confused"], report["contradictions"]["samples"]) == (None, [], 0)


def test_tool_ends_with_the_store_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "there is no store at" in result.output
