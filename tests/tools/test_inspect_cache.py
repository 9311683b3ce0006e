"""The audit's statistics against loops over single labels, and what the tool prints."""

import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from teacher_cache.audit.summary import summarise
from teacher_cache.replay.policy import load_policy
from teacher_cache.store.store import Store
from teacher_cache.store.unit import Unit, UnitValues
from tests.support.bright_shards import bright_store
from tests.support.drawn import drawn_store
from tests.support.filled_store import TOPK, commit, count, files, fill, make_index, make_store
from tests.support.filling import fill_store
from tools.inspect_cache import main


def commit_labels(store: Store, unit: Unit, labels: np.ndarray) -> None:
    values = UnitValues(labels, np.ones((len(store.layout.blocks(unit)), store.group), np.uint64))
    store.commit_unit(unit, values, count(store, unit, values), "cpu")


def partly_filled(path: Path, policy: str = "none") -> Store:
    """Labels mostly right, from unanimous to scattered; two units missing, two samples skipped, one of them in part."""
    rng = np.random.default_rng(1)
    store = make_store(path, index=make_index((130, 1, 0, 70), num_classes=5), policy=load_policy(policy), views=6)
    for unit in store.units():
        if unit in (Unit(0, 0, 1), Unit(1, 0, 0)):
            continue
        start, samples = store.layout.samples(unit).start, len(store.layout.samples(unit))
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
    majorities: Counter[tuple[int, int]] = Counter()
    by_group = [[0, 0] for _ in range(store.layout.num_groups)]
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
                by_group[view // store.group][0] += 1
                by_group[view // store.group][1] += label == truth
        place = {"shard": index.shards[shard].name, "key": index.key(sample), "sample": sample}
        if was_skipped:
            skipped.append(place)
        if not votes:
            continue
        commonest, most = min(Counter(votes).items(), key=lambda item: (-item[1], item[0] != truth, item[0]))
        share = most / len(votes)
        majorities[truth, commonest] += 1
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
    most_bits = math.log2(min(store.views, store.num_classes))
    bit_edges = [*(0.5 * step for step in range(math.ceil(most_bits / 0.5))), most_bits]
    return {
        "shards": [
            done / (int(n) * store.views) if n else None for done, n in zip(views_done, index.counts, strict=True)
        ],
        "by_class": [
            {"class": name, "labels": labels, "own": own / labels if labels else None}
            for name, (labels, own) in zip(names, by_class, strict=True)
        ],
        "confused": [
            {
                "class": names[truth],
                "label": names[label],
                "count": -n,
                "share": -n / by_class[truth][0],
                "back": confused[label, truth] / by_class[label][0],
                "samples": majorities[truth, label],
            }
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
        "by_group": by_group,
    }


def test_statistics_equal_a_loop_over_single_labels(tmp_path: Path) -> None:
    store = partly_filled(tmp_path / "s")
    rows_done: list[tuple[int, int]] = []
    found = json.loads(json.dumps(summarise(store, on_labels=lambda done, total: rows_done.append((done, total)))))
    expected = naive_audit(store)
    assert rows_done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [row["share"] for row in found["coverage"]["shards"]] == expected["shards"]
    assert found["agreement_by_class"] == expected["by_class"]
    assert [[row["labels"], row["own"]] for row in found["agreement_by_group"]] == [
        [labels, own / labels] for labels, own in expected["by_group"]
    ]
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
    found = summarise(store)
    assert found["contradictions"]["first"] == [
        {
            **{"shard": "shard-0.tar", "key": "0-0001", "sample": 1},
            **{"class": "class 2", "label": "class 1", "share": 0.5, "labels": 4},
        }
    ]
    assert found["stability"]["mean_entropy_bits"] == pytest.approx(2 / 3)


def test_labels_of_uncommitted_units_do_not_count(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    fill(store, range(2))
    expected = summarise(store)
    commit(store, Unit(0, 0, 1))
    Path(store.records.file(Unit(0, 0, 1))).unlink()
    found = summarise(store)
    for report in (found, expected):
        del report["bytes"]
    assert found == expected


def test_tool_prints_tables_and_json(tmp_path: Path) -> None:
    store = partly_filled(tmp_path / "s")
    text = CliRunner().invoke(main, [str(store.path)])
    assert text.exit_code == 0, text.output
    for title in (
        "201 samples in 4 shards x 6 views, 5 classes; 10 of 12 units filled",
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
    assert json.loads(as_json.output) == json.loads(json.dumps(summarise(store)))


def test_tool_says_that_views_are_mixed(tmp_path: Path) -> None:
    store = partly_filled(tmp_path / "s", policy="deit")
    assert "Views are mixed (Mixup or CutMix)" in CliRunner().invoke(main, [str(store.path)]).output
    assert summarise(store)["mixed"] is True


def test_tool_tells_of_soft_labels(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    store.publish_teacher(TOPK)
    fill(store, range(2))
    report = summarise(store)
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


def test_what_is_no_store_is_told_from_one(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text("{}")
    zarr.create_group(str(tmp_path / "foreign"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "notes.txt").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    near = f"; there is a store at {store.path}"
    for name, said in (
        ("run", f"run is not a store, it is the folder of a run of `student train`{near}"),
        ("foreign", f"foreign is not a store, it is Zarr data of something else{near}"),
        ("empty", f"empty is not a store, it is an empty folder{near}"),
        ("plain", f"plain is not a store, it is a folder of other things{near}"),
        (".", f"is not a store, it is a folder of other things{near}"),
        ("shards", "shards is not a store, it is a folder of shards: `teacher-cache index"),
        ("shards/train-0000.tar", "is not a store, it is a shard: `teacher-cache index` makes a store of shards"),
        ("plain/notes.txt", "notes.txt is not a store, it is a file"),
        ("store/labels", f"labels is not a store, it is a part of the store {store.path}: name that one"),
        ("store/index/counts", f"counts is not a store, it is a part of the store {store.path}: name that one"),
        ("sotre", f"there is no store at {tmp_path}/sotre ({tmp_path} has store): make one with"),
        ("link", "there is no store at"),
    ):
        told = CliRunner().invoke(main, [str(tmp_path / name)])
        assert (told.exit_code, told.output.count("\n")) == (1, 1)
        assert said in told.output


@pytest.mark.parametrize(
    "command",
    ["export --out x.csv", "export --rows samples --out x.csv", "report --out x.html", "disagreements", "confusions"],
)
def test_nothing_is_told_of_a_store_without_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    store = make_store(tmp_path / "s")
    told = CliRunner().invoke(main, [str(store.path), *command.split()])
    assert told.exit_code == 1
    assert told.output == (
        f"error: nothing is committed in {store.path}, 10 units wait for labels: run `teacher-cache fill "
        f"{store.path} --teacher NAME`\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


# The commands


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Mixed views over real shards, labels drawn."""
    return drawn_store(tmp_path, mixed=True, views=8, own=0.3)


def run(store: Store, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(store.path), *arguments])
    assert result.exit_code == code, result.output
    if code == 0:
        assert result.stderr == ""
    return result.output


def test_a_store_alone_is_its_summary(store: Store) -> None:
    assert run(store) == run(store, "summary")
    as_json = run(store, "--json")
    assert as_json == run(store, "summary", "--json") == CliRunner().invoke(main, ["--json", str(store.path)]).output
    unsampled = run(store, "summary", "--views-sampled", "0", "--json")
    assert unsampled == run(store, "--views-sampled", "0", "--json") != as_json
    command = CliRunner().invoke(main, ["--json", str(store.path), "confusions", "--limit", "3"]).output
    assert command == run(store, "confusions", "--limit", "3", "--json")
    assert re.search("No such option:? '?--class", run(store, "--class", "3", code=2))  # as this click says it
    assert json.loads(as_json) == json.loads(json.dumps(summarise(store)))


def test_help_names_every_command_and_shows_examples(store: Store) -> None:
    text = CliRunner().invoke(main, ["--help"]).output
    assert CliRunner().invoke(main, [str(store.path), "--help"]).output.splitlines()[1:] == text.splitlines()[1:]
    assert set(main.commands) >= {"summary", "disagreements", "confusions", "sample", "view", "compare", "export"}
    for name in main.commands:
        assert name in text
        assert f" {name} " in run(store, name, "--help").split("python tools/inspect_cache.py", 1)[1]


def test_summary_measures_crops_and_mixes(store: Store) -> None:
    text = run(store, "--views-sampled", "500")
    for part in (
        "share of the image that is shown",
        "share of the view that is erased",
        "own share",
        "Intervals: Wilson",
    ):
        assert part in text
    assert json.loads(run(store, "--json", "--views-sampled", "500"))["sampled"]["views"] < 700
    assert json.loads(run(store, "--json", "--views-sampled", "0"))["sampled"] is None


def test_summary_without_shards_says_so_in_one_line(store: Store, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    (tmp_path / "shards").rename(moved)
    lines = [line for line in run(store).splitlines() if "Nothing about crops" in line]
    assert len(lines) == 1
    assert "cannot be read at key" in lines[0]
    assert "Stability of" in run(store)
    given = json.loads(run(store, "--json", "--shards", f"{moved}/*.tar"))
    assert given["sampled"]["views"] == given["labelled"]


def test_disagreements(store: Store) -> None:
    found = json.loads(run(store, "disagreements", "--json", "--limit", "3", "--class", "3"))
    assert {row["class"] for row in found["label_errors"]["rows"]} == {"3"}
    text = run(store, "disagreements", "--margin", "0.1", "--shard", "train-0000.tar")
    assert "each counts by the sample's own share of the mix" in text
    assert f"train-0000.tar/{store.index.key(0)[:3]}" in text
    assert "Likely label errors" in text
    assert "no class 'x'" in run(store, "disagreements", "--class", "x", code=1)


def test_confusions(store: Store) -> None:
    found = json.loads(run(store, "confusions", "--class", "3", "--limit", "4", "--json"))
    assert len(found["confused"]) == 4
    assert all("3" in (row["class"], row["label"]) for row in found["confused"])
    assert [row["class"] for row in found["classes"]] == ["3"]
    labels = np.concatenate(
        [store.read_labels(unit)[: len(store.layout.rows(unit))].reshape(-1) for unit in store.units()]
    )
    whole = json.loads(run(store, "confusions", "--json"))["classes"]
    assert [row["given"] for row in whole] == [(labels == number).sum() for number in range(10)]
    assert whole[3]["precision"] == pytest.approx(whole[3]["own"] * whole[3]["labels"] / whole[3]["given"])
    assert whole[3]["taken_for"][0]["count"] == max(row["count"] for row in found["confused"] if row["class"] == "3")
    assert "a pair counts partners too" in run(store, "confusions")


def test_sample_and_view_write_pictures(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    key = store.index.key(70)
    found = json.loads(run(store, "sample", f"train-0000.tar/{key}", "--json", "--limit", "5"))
    assert (found["png"], len(found["views"])) == (f"train-0000_{key}.png", 5)
    assert Path(found["png"]).read_bytes()[:4] == b"\x89PNG"
    assert found["digests_differ"] == [0, 1, 2, 3, 4]  # those of drawn labels are none
    assert f"sheet: train-0000_{key}.png" in run(store, "sample", key, "--limit", "5")
    found = json.loads(run(store, "view", key, "1", "--json"))
    assert (found["view"], found["digest_equal"], found["png"]) == (1, False, f"train-0000_{key}_v1.png")
    text = run(store, "view", key, "1", "--unmixed", "--scale", "4", "--out", "v.png")
    for part in ("crop", "operations", "lambda", "partner's crop", "are not the pixels that were labelled", "v.png"):
        assert part in text
    assert ": from left to right the mixed view, the sample's own before mixing, the partner's" in text
    share = 1 - found["mix"]["lambda"]
    assert f"{found['mix']['kind']}, partner {share:.0%}; lambda {1 - share:.4f} is the sample's own share" in text
    assert f"{found['mix']['kind']}, partner {share:.0%}: " in run(
        store, "sample", key, "--limit", "2", "--out", "s.png"
    )
    assert "there is no view 8" in run(store, "view", key, "8", code=1)
    assert "no sample 'k'" in run(store, "sample", "k", code=1)


def test_an_unmixed_view_is_said_to_be_unmixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = drawn_store(tmp_path)
    for given in ((), ("--unmixed",)):
        text = run(store, "view", "17", "1", *given)
        assert "mix                  none: this view is not mixed" in text
        assert (": the view alone, as it is not mixed" in text) == bool(given)


def test_a_sample_goes_by_its_number(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    key = store.index.key(17)
    found = json.loads(run(store, "sample", "17", "--json", "--limit", "2"))
    assert (found["sample"], found["key"]) == (17, key)
    assert run(store, "view", "17", "3", "--unmixed") == run(store, "view", f"train-0000.tar/{key}", "3", "--unmixed")
    assert "0 to 259" in run(store, "sample", "260", code=1)
    for command in ("sample", "view"):
        assert "number" in run(store, command, "--help")


def test_compare_and_export(store: Store, tmp_path: Path) -> None:
    other = drawn_store(tmp_path, views=8, seed=3, name="other")
    assert "policies differ in mix" in run(store, "compare", str(other.path))
    assert json.loads(run(other, "compare", str(other.path), "--json"))["views"]["agree"] == 1.0
    assert "kappa 1.000" in run(other, "compare", str(other.path))
    out = tmp_path / "labels.csv"
    assert run(store, "export", "--out", str(out)).strip().endswith("labels.csv: 2,080 rows")
    assert (
        json.loads(run(store, "export", "--rows", "samples", "--out", str(tmp_path / "s.csv"), "--json"))["written"]
        == 260
    )
    assert "exists already" in run(store, "export", "--out", str(out), code=1)


def test_names_of_strangers_do_not_break_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and class names with escapes, markup, newlines, or very long."""
    monkeypatch.chdir(tmp_path)
    bad = "\x1b[2J[red]\u202ek\n" + "long" * 30
    index = bright_store(tmp_path, counts=(64,)).index
    keys = [(f"{number}-{bad}").encode() for number in range(64)]
    index = replace(
        index,
        key_bytes=np.frombuffer(b"".join(keys), np.uint8),
        key_ends=np.cumsum([len(key) for key in keys]).astype(np.int64),
        class_names=tuple(f"{number}{bad}" for number in range(10)),
    )
    store = make_store(tmp_path / "bad", index=index, policy=load_policy("cifar", ["size=8"]))
    rng = np.random.default_rng(0)
    for unit in store.units():
        commit_labels(store, unit, rng.integers(0, 10, (64, 2)))
    texts = [run(store), run(store, "disagreements"), run(store, "confusions"), run(store, "compare", str(store.path))]
    texts += [run(store, "sample", f"7-{bad}"), run(store, "view", f"7-{bad}", "1")]
    texts += [run(store, "disagreements", "--class", bad, code=1), run(store, "sample", bad, code=1)]
    for text in texts:
        assert not set(text) & set("\x1b\u202e")
        assert "\nlonglong" not in text
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert len(pictures) == 2
    assert all(len(name) < 120 and name.isprintable() and "/" not in name for name in pictures)
    json.loads(run(store, "--json"))


def test_progress_is_on_standard_error(store: Store) -> None:
    script = "import sys; sys.stderr.isatty = lambda: True; from tools.inspect_cache import main; main()"
    environment = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", script, store.path, "--json"], capture_output=True, text=True, env=environment
    )
    assert "reading labels" in done.stderr
    json.loads(done.stdout)


@pytest.mark.parametrize(
    "command",
    ["export --out s/labels.csv", "sample 0 --out s/labels/a.png", "view 0 0 --out s/a.png", "report --out s/a.html"],
)
def test_nothing_is_written_into_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Where Zarr would find what is no part of it."""
    monkeypatch.chdir(tmp_path)
    fill_store(bright_store(tmp_path, counts=(64,), name="s"))
    before = files(tmp_path)
    told = CliRunner().invoke(main, ["s", *command.split()])
    assert told.exit_code == 1, told.output
    assert f" lies in the store {tmp_path}/s, where nothing else may be: choose another place" in told.output
    assert files(tmp_path) == before
