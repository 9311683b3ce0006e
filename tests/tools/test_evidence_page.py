"""The page of the evidence is made of its rows, and says nothing that they do not hold."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tools.evidence.page import page, read_scale
from tools.evidence.plots import write_plots
from tools.evidence.steps import ROOT
from tools.evidence.table import Measure, Results, Row, add_lines

DOCS = ROOT / "docs" / "evidence"


def test_the_page_is_that_of_the_rows_beside_it() -> None:
    text = (DOCS / "index.md").read_text()
    assert text == page(DOCS), "run `python -m tools.evidence page`"
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (DOCS / link).is_file(), link


def test_rows_are_of_commands_that_are_still_planned() -> None:
    """read_scale refuses rows of others."""
    for name in ("small", "full"):
        scale = read_scale(DOCS, name)
        experiments = {(row.experiment, row.arm) for row in scale.plan.rows}
        assert {(row.experiment, row.arm) for row in scale.rows} <= experiments
        assert {each.experiment for each in scale.measures} <= set(scale.settings.experiments)


def made(folder: Path, arms: dict[str, list[float]], experiment: str = "table-3") -> str:
    """The page of rows with these class head accuracies, one a seed."""
    scale = read_scale(folder, "small")
    rows = []
    for arm, shares in arms.items():
        for seed, share in enumerate(shares):
            (plan,) = [row for row in scale.plan.rows if (row.experiment, row.arm, row.seed) == (experiment, arm, seed)]
            command = scale.plan.steps[plan.train].command
            views = (plan.epochs, share, None, None, 0.667, plan.views)
            rows.append(Row(experiment, arm, seed, *views, "a cpu", 0.25, command, "abc123", 10_000))
    add_lines(Row, Results(folder, "small").rows, rows)
    return page(folder)


def test_without_rows_everything_is_listed_as_not_run(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert "No row has been run yet, of 84 rows." in text
    listed = text.partition("## Scale: small")[2]
    assert "- 2. DeiT's table 3: none; soft; hard without token; hard with token; taught of soft;" in listed
    assert "- 7. Fine-tuning and transfer: all of it." in listed
    assert "±" not in text
    assert "difference, points" not in text


def test_three_seeds_are_compared_and_two_are_not(tmp_path: Path) -> None:
    text = made(
        tmp_path, {"none": [0.35, 0.36, 0.355], "hard without token": [0.40, 0.41, 0.405], "soft": [0.36, 0.37]}
    )
    assert "| none | 3 | 24 | 24 | 35.5 ± 1.1 |  |  | 66.7 | 0.25 |" in text
    assert re.search(r"\| hard without token - none \| \+5\.0 \(\+3\.\d to \+6\.\d\) \| better: as claimed \|", text)
    assert "| soft - none | | not compared: 2 of 3 seeds |" in text
    assert "| hard with token - none | | not compared: 0 of 3 seeds |" in text
    listed = text.rpartition("### Not run")[2]
    assert "2. DeiT's table 3: hard with token; soft (seed 2); taught of soft;" in listed


def test_what_speaks_against_a_claim_is_told_so(tmp_path: Path) -> None:
    text = made(tmp_path, {"none": [0.40, 0.41, 0.405], "hard without token": [0.35, 0.36, 0.355]})
    assert re.search(r"\| hard without token - none \| -5\.0 \(.*\) \| worse: \*\*against the claim\*\* \|", text)


def test_every_number_of_a_row_is_read_from_it(tmp_path: Path) -> None:
    before = made(tmp_path, {"none": [0.35, 0.36, 0.355]})
    path = Results(tmp_path, "small").rows
    text = path.read_text()
    for old, new in (("0.355", "0.5"), ("0.667", "0.7"), ("0.25", "0.5"), ("a cpu", "another"), ("abc123", "def456")):
        path.write_text(text.replace(old, new))
        assert page(tmp_path) != before, old
    path.write_text(text)
    assert page(tmp_path) == before


def test_the_bill_is_that_of_measured_times(tmp_path: Path) -> None:
    made(tmp_path, {"cached": [0.4, 0.4], "online": [0.4, 0.4]}, "cached-is-online")
    line = Measure("cached-is-online", "cached", 0, "", 0.0, "s", "c", "abc")
    found = [replace(line, arm="convnet", seed=None, measure="fill: wall time", value=600.0)]
    for seed, this, other in ((0, 300.0, 900.0), (1, 360.0, 840.0)):
        named = {"steps compared": 100, "steps that differ": seed, "wall time of this": this}
        named["wall time of the other"] = other
        found += [replace(line, seed=seed, measure=f"losses: {what}", value=value) for what, value in named.items()]
    add_lines(Measure, Results(tmp_path, "small").measures, found)
    text = page(tmp_path)
    assert "Losses of 2 pairs of trainings, compared step by step as they are logged, all digits: 1 of 200 " in text
    assert "| 1 | 15.0 | 15.0 | 1.00 |" in text
    assert "| 2 | 21.0 | 29.0 | 0.72 |" in text
    assert "minutes of wall time" in text
    assert "minutes of processor time" not in text


def test_curves_are_drawn_of_what_there_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert write_plots(tmp_path) == []
    text = made(tmp_path, {"1 of 24": [0.3, 0.31, 0.32], "24 of 24": [0.4, 0.4]}, "views")
    assert "![Top-1 against views of a sample](small-views.png)" in text
    assert write_plots(tmp_path) == [tmp_path / "small-views.png"]
    assert (tmp_path / "small-views.png").read_bytes().startswith(b"\x89PNG")
