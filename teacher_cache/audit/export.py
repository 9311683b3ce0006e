"""Labels as a table, for pandas and DuckDB: a row a (sample, view), or a row a sample. Parquet or CSV."""

import csv
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np

from teacher_cache.audit.votes import OnProgress, count_votes
from teacher_cache.errors import StoreError
from teacher_cache.files import check_local, replacing
from teacher_cache.store.labels import UnitRow, unit_rows
from teacher_cache.store.presence import check_outside
from teacher_cache.store.store import Store
from teacher_cache.store.unit import SKIPPED

Rows = Literal["views", "samples"]
ROWS_AT_ONCE = 1 << 18  # of a table that are in memory

# name, Arrow type; "names" are words from a short list, kept once
COLUMNS: dict[Rows, tuple[tuple[str, str], ...]] = {
    "views": (
        ("sample", "int64"),
        ("shard", "names"),
        ("key", "string"),
        ("class", "int32"),
        ("class_name", "names"),
        ("view", "int32"),
        ("label", "int32"),
        ("label_name", "names"),
        ("skipped", "bool"),
    ),
    "samples": (
        ("sample", "int64"),
        ("shard", "names"),
        ("key", "string"),
        ("class", "int32"),
        ("class_name", "names"),
        ("labels", "int32"),
        ("label", "int32"),
        ("label_name", "names"),
        ("share", "float64"),
        ("second", "int32"),
        ("second_name", "names"),
        ("second_share", "float64"),
        ("own_share", "float64"),
        ("entropy_bits", "float64"),
        ("skipped", "bool"),
    ),
}


def export(
    store: Store, out: str | os.PathLike[str], rows: Rows = "views", *, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """Write the labels of all committed units as a table, by the suffix of `out` Parquet (.parquet) or CSV (.csv).

        {"out": "labels.parquet", "rows": "views", "written": 160000, "columns": ["sample", "shard", ...]}

    Columns: see COLUMNS. Views that are not labelled yet are left out, a skipped one has no label but true in
    `skipped`; samples all have a row. class, label and second are numbers of classes, their names beside them;
    own_share, share and second_share are of the labels. Absent values are null, in CSV empty. A unit row is held in
    memory at a time; the file is written aside and renamed. StoreError where it exists, or Parquet is asked for without
    pyarrow; DiskError.

    Values are the store's own, for programs: a key or a class name may begin with '=', which a spreadsheet takes for a
    formula, or hold what a terminal obeys. Open such a file with pandas or DuckDB.
    """
    check_local(out)
    out = Path(out)
    if out.suffix not in (".parquet", ".csv"):
        raise StoreError(f"{out} is neither .parquet nor .csv: the suffix says what is written")
    if os.path.lexists(out):
        raise StoreError(f"{out} exists already: remove it, or choose another place")
    if not out.parent.is_dir():
        raise StoreError(f"there is no folder {out.parent} to write {out.name} into: make it")
    check_outside(out)
    names = [name for name, _ in COLUMNS[rows]]
    written, parquet = 0, out.suffix == ".parquet"
    with replacing(out) as aside, _Parquet(aside, store, rows) if parquet else _Csv(aside, store, names) as table:
        for columns in _tables(store, rows, on_progress):
            written += len(columns["sample"])
            table.write(columns)
    return {"out": str(out), "rows": rows, "written": written, "columns": names}


def _tables(store: Store, rows: Rows, on_progress: OnProgress | None) -> Iterator[dict[str, Any]]:
    """Columns of arrays; words as numbers: of the shard, of a class; -1 is absent."""
    samples_at_once = max(1, ROWS_AT_ONCE // (store.views if rows == "views" else 1))
    for row in unit_rows(store, store.committed(), on_progress):
        for first in range(0, len(row.labels), samples_at_once):
            part = row._replace(start=row.start + first, labels=row.labels[first : first + samples_at_once])
            yield _view_columns(store, part) if rows == "views" else _sample_columns(store, part)


def _sample_places(store: Store, row: UnitRow, within: np.ndarray) -> dict[str, Any]:
    """The first columns of rows about samples `within` (n,) the unit row's."""
    keys = [_encodable(store.index.key(row.start + number)) for number in range(len(row.labels))]
    classes = store.index.classes[row.start : row.start + len(row.labels)][within]
    return {
        "sample": row.start + within,
        "shard": np.full(len(within), row.shard, np.int32),
        "key": [keys[number] for number in within.tolist()],
        "class": classes,
        "class_name": classes,
    }


def _view_columns(store: Store, row: UnitRow) -> dict[str, Any]:
    within, views = np.nonzero((row.labels >= 0) | (row.labels == SKIPPED))
    labels = row.labels[within, views].astype(np.int32)
    given = np.maximum(labels, -1)
    return {
        **_sample_places(store, row, within),
        "view": views.astype(np.int32),
        "label": given,
        "label_name": given,
        "skipped": labels == SKIPPED,
    }


def _sample_columns(store: Store, row: UnitRow) -> dict[str, Any]:
    votes = count_votes(row.labels, store.index.classes[row.start : row.start + len(row.labels)])
    labelled = votes.num_labels > 0
    return {
        **_sample_places(store, row, np.arange(len(row.labels))),
        "labels": votes.num_labels,
        "label": votes.label,
        "label_name": votes.label,
        "share": votes.share,
        "second": votes.second,
        "second_name": votes.second,
        "second_share": votes.second_share,
        "own_share": votes.own_share,
        "entropy_bits": np.where(labelled, votes.entropy.astype(np.float64), np.nan),
        "skipped": votes.skipped,
    }


def _encodable(text: str) -> str:
    """Half characters, which JSON class files may hold, as escapes: tables are UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _words(store: Store) -> dict[str, list[str]]:
    """What the numbers in columns of names stand for."""
    classes = [_encodable(name) for name in store.class_names]
    shards = [_encodable(store.shard_name(shard)) for shard in range(len(store.counts))]
    return {"shard": shards, "class_name": classes, "label_name": classes, "second_name": classes}


class _Csv(AbstractContextManager["_Csv"]):
    def __init__(self, path: Path, store: Store, names: list[str]) -> None:
        self._file: TextIO = path.open("x", encoding="utf-8", newline="")
        self._writer, self._names, self._words = csv.writer(self._file, lineterminator="\n"), names, _words(store)
        self._writer.writerow(names)

    def write(self, columns: dict[str, Any]) -> None:
        self._writer.writerows(zip(*(self._cells(name, columns[name]) for name in self._names), strict=True))

    def _cells(self, name: str, values: Any) -> list[Any]:
        if isinstance(values, list):
            return values
        if name in self._words:
            words = [*self._words[name], ""]  # -1 is the last
            return [words[number] for number in values.tolist()]
        if values.dtype == bool:
            return ["true" if value else "false" for value in values.tolist()]
        absent = np.isnan(values) if values.dtype.kind == "f" else values < 0
        return ["" if gone else value for gone, value in zip(absent.tolist(), values.tolist(), strict=True)]

    def __exit__(self, *error: object) -> None:
        self._file.close()


class _Parquet(AbstractContextManager["_Parquet"]):
    def __init__(self, path: Path, store: Store, rows: Rows) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise StoreError(
                "Parquet needs pyarrow, which is not installed: pip install pyarrow, or write a .csv"
            ) from None
        self._pyarrow, self._words = pyarrow, {name: pyarrow.array(words) for name, words in _words(store).items()}
        types = {"names": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), "bool": pyarrow.bool_()}
        self._schema = pyarrow.schema(
            [(name, types[kind] if kind in types else getattr(pyarrow, kind)()) for name, kind in COLUMNS[rows]]
        )
        self._writer = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, columns: dict[str, Any]) -> None:
        arrays = [self._array(name, columns[name], self._schema.field(name).type) for name in self._schema.names]
        self._writer.write_table(self._pyarrow.Table.from_arrays(arrays, schema=self._schema))

    def _array(self, name: str, values: Any, kind: Any) -> Any:
        if isinstance(values, list):
            return self._pyarrow.array(values, kind)
        absent = np.isnan(values) if values.dtype.kind == "f" else values < 0 if values.dtype.kind == "i" else None
        if name in self._words:
            numbers = self._pyarrow.array(values, self._pyarrow.int32(), mask=absent)
            return self._pyarrow.DictionaryArray.from_arrays(numbers, self._words[name])
        return self._pyarrow.array(values, kind, mask=absent)

    def __exit__(self, *error: object) -> None:
        self._writer.close()
