"""The evidence's commands, and `make evidence`."""

import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.making import make
from tools.evidence.__main__ import main
from tools.evidence.steps import ROOT


def test_a_plan_says_the_minutes_of_each_row_and_runs_nothing(tmp_path: Path) -> None:
    words = ["run", "small", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--results", str(tmp_path / "r")]
    done = CliRunner().invoke(main, [*words, "--plan", "--only", "table-3"])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].split() == ["experiment", "arm", "seed", "minutes", "state"]
    assert len(lines) == 1 + (4 + 3) * 3 + 1  # trainings, and what is measured of those with a teacher
    minutes = [float(found) for found in re.findall(r"(\d+\.\d)  (?:to run|shared)\s*$", done.output, re.MULTILINE)]
    assert len(minutes) == (4 + 3) * 3
    assert sum(each > 3 for each in minutes) == 12
    assert lines[-1] == f"{sum(minutes) / 60:.1f} hours in all, one step at a time"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("small", "--only", "tabel-3"), "error: settings small have no experiment tabel-3: there are teachers, "),
        (("smal",), "error: no settings of the evidence 'smal', neither a file nor a shipped one: "),
    ],
)
def test_what_is_mistyped_is_told_in_one_line(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["run", *words, "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert done.output.startswith(message)
    assert done.output.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def plotting(called: tuple[list[str], Path]) -> tuple[list[str], Path]:
    """The same environment, with what draws plots."""
    (Path(called[0][0].removeprefix("VENV=")) / ".bench").touch()
    return called


def test_make_evidence_runs_and_then_writes_the_page(plotting: tuple[list[str], Path]) -> None:
    programs, notes = plotting
    make("evidence", "DATA=some folder", "JOBS=2", "ONLY=views naive", "DEVICE=cpu", *programs)
    run, page = (line.split("\t")[1:-1] for line in notes.read_text().splitlines())
    assert run[:7] == ["-m", "tools.evidence", "run", "small", "--data", "some folder", "--out"]
    assert run[7:12] == ["runs/evidence/small", "--results", "docs/evidence", "--jobs", "2"]
    assert run[12:] == ["--only", "views", "--only", "naive", "--device", "cpu"]
    assert page == ["-m", "tools.evidence", "page", "--results", "docs/evidence"]
    notes.unlink()
    make("evidence", "DATA=x", "EVIDENCE=mine/own.toml", "PLAN=1", *programs)
    (planned,) = notes.read_text().splitlines()
    words = "-m tools.evidence run mine/own.toml --data x --out runs/evidence/own --results docs/evidence --plan"
    assert planned.split("\t")[1:-1] == words.split()


def test_make_evidence_without_data_says_so(plotting: tuple[list[str], Path]) -> None:
    programs, notes = plotting
    said = make("evidence", *programs, code=2)
    assert "error: DATA= is missing: the folder of the shards that tools/evidence/small.toml names" in said
    assert not notes.exists()


def test_a_run_that_was_stopped_leaves_the_page_of_its_rows(tmp_path: Path) -> None:
    """The exit code is the run's, and the page is written all the same."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$3" >>{tmp_path / "notes"}\ntest "$3" = page || exit 75\n')
    python.chmod(0o755)
    for name in (".installed", ".bench"):
        (tmp_path / "venv" / name).touch()
    done = subprocess.run(
        ["make", "--no-print-directory", "evidence", "DATA=x", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Error 75" in done.stderr
    assert (tmp_path / "notes").read_text().split() == ["run", "page"]
