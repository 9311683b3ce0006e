"""Rows of results: what is written is read again, and a file is whole or as it was."""

from dataclasses import replace
from pathlib import Path

import pytest

from teacher_cache.errors import DiskError
from tests.support.full_disk import bad_disk, small_files
from tools.evidence.errors import EvidenceError
from tools.evidence.table import Measure, Row, add_lines, read_lines

ROW = Row("views", "1 of 24", 2, 24, 0.3912, 0.4, 0.41, 0.667, 1, 'AMD "EPYC", 1 thread', 0.06, "student x", "ab+", 10)
MEASURE = Measure("bytes", "store", None, "bytes: of a view", 0.7, "B", "teacher-cache status", "ab")
COLUMNS = "experiment,arm,seed,epochs,top1_class,top1_distill,top1_fused,teacher_top1,views,device,hours,command,commit"


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "small.csv"
    one_head = replace(ROW, seed=3, top1_distill=None, top1_fused=None, teacher_top1=None)
    add_lines(Row, path, [ROW])
    add_lines(Row, path, [one_head])
    assert read_lines(Row, path) == [ROW, one_head]
    assert path.read_text().splitlines()[0] == f"{COLUMNS},pictures"
    add_lines(Measure, tmp_path / "m.csv", [MEASURE, replace(MEASURE, seed=0)])
    assert read_lines(Measure, tmp_path / "m.csv") == [MEASURE, replace(MEASURE, seed=0)]
    assert read_lines(Row, tmp_path / "none.csv") == []


def test_a_row_of_the_same_run_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "small.csv"
    add_lines(Row, path, [ROW, replace(ROW, arm="other")])
    add_lines(Row, path, [replace(ROW, hours=1.0)])
    assert read_lines(Row, path) == [replace(ROW, arm="other"), replace(ROW, hours=1.0)]


def test_a_disk_that_is_full_leaves_the_rows_that_were_there(tmp_path: Path) -> None:
    path = tmp_path / "small.csv"
    add_lines(Row, path, [ROW])
    before = path.read_bytes()
    more = [replace(ROW, seed=seed) for seed in range(3, 500)]
    with small_files(10_000), pytest.raises(DiskError, match=r"small\.csv"):
        add_lines(Row, path, more)
    with bad_disk(tmp_path), pytest.raises(DiskError, match=r"small\.csv"):
        add_lines(Row, path, more)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["small.csv"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.3912", "39.12", "line 2: top1_class is 39.12, a share of 0 to 1 is expected"),
        ("0.3912", "nan", "line 2: top1_class is nan, a share of 0 to 1 is expected"),
        ("0.3912", "", "line 2: top1_class is missing"),
        ("0.3912", "much", "line 2: could not convert string to float: 'much'"),
        (",10\n", "\n", "line 2: it has 13 values for 14 columns"),
        ("top1_class", "top1", "has the columns experiment,arm,seed,epochs,top1,"),
    ],
)
def test_what_is_no_row_is_refused_by_its_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "small.csv"
    add_lines(Row, path, [ROW])
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(EvidenceError) as caught:
        read_lines(Row, path)
    assert message in str(caught.value)


def test_a_run_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.csv"
    add_lines(Row, path, [ROW])
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(EvidenceError, match="more than once: remove one of the lines"):
        read_lines(Row, path)
