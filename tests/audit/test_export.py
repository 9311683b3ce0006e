"""Tables of labels, read back."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from teacher_cache.audit import export as module
from teacher_cache.audit.export import COLUMNS, Rows, export
from teacher_cache.audit.votes import read_statistics
from teacher_cache.errors import DiskError, StoreError
from teacher_cache.store.store import Store
from teacher_cache.store.unit import Unit
from tests.support.bright_shards import bright_store, small_policy
from tests.support.drawn import all_labels, commit_labels, drawn_store


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    kinds = dict(pair for columns in COLUMNS.values() for pair in columns)

    def cell(name: str, text: str) -> Any:
        if text == "":
            return None
        kind = kinds[name]
        return (
            text == "true"
            if kind == "bool"
            else int(text)
            if "int" in kind
            else float(text)
            if "float" in kind
            else text
        )

    with open(path, newline="", encoding="utf-8") as file:
        return [{name: cell(name, text) for name, text in row.items()} for row in csv.DictReader(file)]


def written(store: Store, tmp_path: Path, suffix: str, rows: Rows) -> list[dict[str, Any]]:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / f"table.{suffix}"
    found = export(store, out, rows)
    table = read(out)
    assert found == {"out": str(out), "rows": rows, "written": len(table), "columns": list(table[0])}
    assert [path.name for path in tmp_path.glob("*table*")] == [out.name]
    return table


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two groups, one unit of the second not filled, one sample skipped."""
    drawn = drawn_store(tmp_path)
    Path(drawn.records.file(Unit(0, 1, 1))).unlink()
    return Store.open(drawn.path)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_row_a_view(store: Store, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 50)
    labels, index, names = all_labels(store), store.index, store.class_names
    assert written(store, tmp_path, suffix, "views") == [
        {
            "sample": sample,
            "shard": store.shard_name(index.shard_of(sample)),
            "key": index.key(sample),
            "class": int(index.classes[sample]),
            "class_name": names[index.classes[sample]],
            "view": view,
            "label": int(labels[sample, view]) if labels[sample, view] >= 0 else None,
            "label_name": names[labels[sample, view]] if labels[sample, view] >= 0 else None,
            "skipped": labels[sample, view] == -2,
        }
        for sample in range(260)
        for view in range(4)
        if labels[sample, view] != -1
    ]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_row_a_sample(store: Store, tmp_path: Path, suffix: str) -> None:
    table, votes, names = written(store, tmp_path, suffix, "samples"), read_statistics(store).votes, store.class_names
    assert [row["sample"] for row in table] == list(range(260))
    for sample, row in enumerate(table):
        assert (row["key"], row["class"]) == (store.index.key(sample), store.index.classes[sample])
        assert (row["labels"], row["skipped"]) == (votes.num_labels[sample], votes.skipped[sample])
        if not row["labels"]:
            assert {row[name] for name in ("label", "label_name", "share", "second", "own_share", "entropy_bits")} == {
                None
            }
            continue
        assert (row["label"], row["label_name"]) == (votes.label[sample], names[votes.label[sample]])
        assert row["second_name"] == (names[votes.second[sample]] if votes.second[sample] >= 0 else None)
        for name, values in (("share", votes.share), ("own_share", votes.own_share), ("entropy_bits", votes.entropy)):
            assert row[name] == pytest.approx(float(values[sample]))
    assert sum(row["labels"] == 0 for row in table) == 1


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_names_of_strangers(tmp_path: Path, suffix: str) -> None:
    shards = bright_store(tmp_path, counts=(8,))
    names = ('a,"b"\n;', "\x1b[2J", "é日", "half \ud800", "=1+1", "\t", "", "x" * 3000, "8", "9")
    store = Store.create(
        *(tmp_path / "named", replace(shards.index, class_names=names), small_policy("mix=none")), views=2, seed=0
    )
    commit_labels(store, Unit(0, 0, 0), np.tile(np.arange(8)[:, None], 2))
    rows = written(store, tmp_path, suffix, "views")
    expected = [name.replace("\ud800", "\\ud800") for name in names[:8]]
    assert [row["label_name"] or "" for row in rows[::2]] == expected


def test_what_is_refused(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there.csv").write_text("mine")
    for name, message in (
        ("labels.xlsx", "neither .parquet nor .csv"),
        ("there.csv", "exists already"),
        ("none/a.csv", "no folder"),
    ):
        with pytest.raises(StoreError, match=message):
            export(store, tmp_path / name)
    with pytest.raises(DiskError, match=r"^s3://bucket/a\.csv is a URL: only local folders are known here"):
        export(store, "s3://bucket/a.csv")
    assert (tmp_path / "there.csv").read_text() == "mine"
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(StoreError, match=r"Parquet needs pyarrow, .*: pip install pyarrow, or write a \.csv"):
        export(store, tmp_path / "a.parquet")


def test_a_failed_export_leaves_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise StoreError("damaged")

    monkeypatch.setattr(module, "unit_rows", fail)
    with pytest.raises(StoreError, match="damaged"):
        export(store, tmp_path / "a.csv")
    assert not list(tmp_path.glob("*a.csv*"))
