"""Final accuracy, as runs keep it and as a table."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from student.results import accuracy_table, final_accuracy
from teacher_cache.errors import CheckpointError


def test_a_table_has_a_row_for_each_head_with_averaged_weights_last() -> None:
    runs = {
        "first": {"class": {"top1": 0.5, "top5": 0.8}},
        "second": {
            "ema_fused": {"top1": 0.53, "top5": 0.83},
            "fused": {"top1": 0.525, "top5": 0.82},
            "class": {"top1": 0.51, "top5": 0.81},
        },
    }
    screen = io.StringIO()
    Console(file=screen, width=120).print(accuracy_table(runs))
    assert [re.split(r"  +", line.strip()) for line in screen.getvalue().splitlines()] == [
        ["validation", "top-1 %", "top-5 %"],
        ["first", "50.00", "80.00"],
        ["second, class head", "51.00", "81.00"],
        ["second, fused", "52.50", "82.00"],
        ["second, EMA, fused", "53.00", "83.00"],
    ]


def test_accuracy_is_read_from_a_run(tmp_path: Path) -> None:
    accuracy = {"class": {"top1": 0.5, "top5": 1}, "ema_fused": {"top1": 0.0, "top5": 0.25}}
    (tmp_path / "results.json").write_text(json.dumps({"accuracy": accuracy, "more": 1}))
    assert final_accuracy(tmp_path / "results.json") == accuracy


@pytest.mark.parametrize(
    "results",
    [
        [],
        {},
        {"accuracy": {"other": {"top1": 0.5, "top5": 0.5}}},
        {"accuracy": {"class": {"top1": 0.5}}},
        {"accuracy": {"class": {"top1": 0.5, "top5": 1.5}}},
        {"accuracy": {"class": {"top1": True, "top5": 0.5}}},
    ],
)
def test_what_is_no_accuracy_by_head_is_refused(tmp_path: Path, results: object) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(CheckpointError, match=r"results\.json holds no accuracy by head, with top1 and top5 of 0 to 1"):
        final_accuracy(tmp_path / "results.json")


def test_an_unfinished_run_and_another_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is no run, .*: name the --out of a training"):
        final_accuracy(tmp_path / "results.json")
    (tmp_path / "epochs.csv").touch()
    (tmp_path / "checkpoint.pt").touch()
    with pytest.raises(CheckpointError, match=r"has no results\.json: its training is not finished; run its command"):
        final_accuracy(tmp_path / "results.json")
