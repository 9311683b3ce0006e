"""Logs hold each step once, and all columns that any row has."""

import csv
from pathlib import Path

import pytest

from student.log import EPOCHS, STEPS, RunLog
from teacher_cache.errors import CheckpointError


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_resumed_run_drops_what_a_killed_one_wrote_beyond_its_checkpoint(tmp_path: Path) -> None:
    log = RunLog(tmp_path, steps_done=0, epochs_done=0)
    log.write_steps([{"step": step, "epoch": 0, "loss": 0.5} for step in range(5)])
    log.close()
    with (tmp_path / STEPS).open("a") as file:
        file.write("5,0")  # half a line
    resumed = RunLog(tmp_path, steps_done=3, epochs_done=0)
    resumed.write_steps([{"step": step, "epoch": 0, "loss": 0.25} for step in (3, 4)])
    resumed.close()
    assert [(row["step"], row["loss"]) for row in rows(tmp_path / STEPS)] == [
        ("0", "0.5"),
        ("1", "0.5"),
        ("2", "0.5"),
        ("3", "0.25"),
        ("4", "0.25"),
    ]


def test_a_run_resumed_with_validation_gets_its_column_and_one_without_keeps_it(tmp_path: Path) -> None:
    for number, row in enumerate(({"loss": 3.0}, {"loss": 2.0, "class_top1": 0.5}, {"loss": 1.0})):
        log = RunLog(tmp_path, steps_done=10 * number, epochs_done=number)
        log.write_epoch({"epoch": number, **row}, 10 * (number + 1))
        log.close()
    found = rows(tmp_path / EPOCHS)
    assert [row["loss"] for row in found] == ["3.0", "2.0", "1.0"]
    assert [row["class_top1"] for row in found] == ["", "0.5", ""]


@pytest.mark.parametrize("text", ["", "step,epoch\n0,0\n\0\0\0\0\n", "step;epoch\n0;0\n", "epoch,step\n0\n", "\xff\n"])
def test_what_is_no_log_any_more_is_told(tmp_path: Path, text: str) -> None:
    """As a machine that lost its power leaves it, or a spreadsheet. Moved away, another one begins."""
    path = tmp_path / STEPS
    path.write_text(text, "latin-1")
    with pytest.raises(CheckpointError, match=r"steps\.csv is no log of `student train` any more \(.*\): mend it, or"):
        RunLog(tmp_path, steps_done=3, epochs_done=0)
    path.rename(tmp_path / "moved")
    RunLog(tmp_path, steps_done=3, epochs_done=0).close()


def test_rows_that_a_log_lacks_are_told(tmp_path: Path) -> None:
    """As in a folder of which the logs were not copied, or after a power cut: the checkpoint was on disk, they not."""
    with RunLog(tmp_path, steps_done=0, epochs_done=0) as log:
        log.write_steps([{"step": step, "epoch": 0, "loss": 0.5} for step in range(5)])
    heard: list[str] = []
    RunLog(tmp_path, steps_done=5, epochs_done=0, say=heard.append).close()
    assert heard == []
    RunLog(tmp_path, steps_done=1500, epochs_done=1, say=heard.append).close()
    assert heard == [
        f"warning: {tmp_path / name} has the rows of {rows} trained so far: the others are lost, the run is not"
        for name, rows in ((STEPS, "5 of 1,500 steps"), (EPOCHS, "0 of 1 epoch"))
    ]
