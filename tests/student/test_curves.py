"""Curves are those of epochs.csv, each epoch once; text fits the terminal, the picture shows every line."""

import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from student.cli import main
from student.curves import ASCII_BARS, BARS, Chart, Line, chart_table, charts, draw, read_curves
from student.log import EPOCHS, RunLog
from teacher_cache.errors import CheckpointError, DiskError

HEADS = ("class", "distillation", "fused")


def row(epoch: int, **values: float) -> dict[str, float | None]:
    """A row as a training logs it."""
    losses = {"loss": 3 - epoch / 10, "class_loss": 2.0, "distill_loss": 4 - epoch / 5}
    return {"epoch": epoch, "lr": 1e-3, **losses, "teacher_agreement": 0.5, **values}


def write_run(out: Path, num_epochs: int, *, heads: tuple[str, ...] = HEADS, ema: bool = False) -> Path:
    """A run's log, whose top-1 of head h is (10 h + epoch) %."""
    names = [f"{average}{head}_top1" for average in ("", "ema_")[: 1 + ema] for head in heads]
    with RunLog(out, steps_done=0, epochs_done=0) as log:
        for epoch in range(num_epochs):
            tops = {name: 0.1 * number + 0.01 * epoch for number, name in enumerate(names)}
            log.write_epoch(row(epoch, **tops), 10 * (epoch + 1))
    return out


def text_of(chart: Chart, width: int, *, ascii_only: bool = False) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(chart_table(chart, width, ascii_only=ascii_only))
    return [line.rstrip() for line in console.export_text().splitlines()]


# -- reading -------------------------------------------------------------------------------------------------------


def test_curves_are_what_was_logged(tmp_path: Path) -> None:
    curves = read_curves(write_run(tmp_path, 4))
    assert curves.epochs.tolist() == [1, 2, 3, 4]
    assert curves.columns["loss"].tolist() == [3.0, 2.9, 2.8, 2.7]
    assert curves.columns["fused_top1"] == pytest.approx([0.2, 0.21, 0.22, 0.23])


def test_a_resumed_run_shows_no_epoch_twice(tmp_path: Path) -> None:
    write_run(tmp_path, 5)
    with RunLog(tmp_path, steps_done=30, epochs_done=3) as log:
        log.write_epoch(row(3, class_top1=0.9), 40)
    curves = read_curves(tmp_path)
    assert curves.epochs.tolist() == [1, 2, 3, 4]
    assert curves.columns["class_top1"][-1] == 0.9
    assert np.isnan(curves.columns["fused_top1"][-1])


def test_rows_that_were_gone_on_from_are_dropped_where_a_file_still_has_them(tmp_path: Path) -> None:
    (tmp_path / EPOCHS).write_text("epoch,loss\n0,3\n1,2\n2,1\n1,2.5\n")
    curves = read_curves(tmp_path)
    assert curves.epochs.tolist() == [1, 2]
    assert curves.columns["loss"].tolist() == [3, 2.5]


def test_half_a_line_of_a_run_that_was_killed_does_not_count(tmp_path: Path) -> None:
    (tmp_path / EPOCHS).write_text("epoch,loss\r\n0,3.25\r\n1,2.1")
    curves = read_curves(tmp_path)
    assert (curves.epochs.tolist(), curves.columns["loss"].tolist()) == ([1], [3.25])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no epochs.csv: no epoch of its training has ended yet"),
        ("", "has no columns epoch and loss: it is no log of"),
        ("epoch,loss\n", "has no row: no epoch of its training has ended yet"),
        ("epoch,lr\n0,1\n", "has no columns epoch and loss"),
        ("epoch,loss\n0,1\n1\n", "line 3, has 1 value for 2 columns"),
        ("epoch,loss\n0,many\n", "line 2: could not convert string to float: 'many'"),
        ("epoch,loss\n,1\n", "line 2: invalid literal for int"),
        ("epoch,loss\n0,nan\n1,inf\n", "has no loss that is finite: its training had failed"),
    ],
)
def test_what_is_no_log_is_told_in_a_line(tmp_path: Path, text: str | None, message: str) -> None:
    (tmp_path / "steps.csv").touch()
    if text is not None:
        (tmp_path / EPOCHS).write_text(text)
    with pytest.raises(CheckpointError, match=message) as found:
        read_curves(tmp_path)
    assert "\n" not in str(found.value)


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing is no run, there is no such .*: name the --out of a training"):
        read_curves(tmp_path / "nothing")


# -- which lines ---------------------------------------------------------------------------------------------------


def labels(chart: Chart) -> list[str]:
    return [line.label for line in chart.lines]


def test_one_run_shows_every_head_and_the_losss_parts(tmp_path: Path) -> None:
    top1, loss = charts({"run": read_curves(write_run(tmp_path, 3, ema=True))})
    assert labels(top1) == ["class", "distillation", "fused", "EMA, class", "EMA, distillation", "EMA, fused"]
    assert [line.dashed for line in top1.lines] == [False] * 3 + [True] * 3
    assert [line.colour for line in top1.lines] == [0, 1, 2] * 2
    assert top1.lines[2].values == pytest.approx([20, 21, 22])
    assert labels(loss) == ["loss", "class", "distillation"]


def test_several_runs_show_a_line_each_that_can_be_compared(tmp_path: Path) -> None:
    runs = {
        "two": read_curves(write_run(tmp_path / "two", 3)),
        "one": read_curves(write_run(tmp_path / "one", 2, heads=("class",), ema=True)),
    }
    top1, loss = charts(runs)
    assert labels(top1) == ["two, fused", "one, class", "one, EMA, class"]
    assert [line.colour for line in top1.lines] == [0, 1, 1]
    assert labels(loss) == ["two", "one"]


def test_without_validation_there_is_the_loss_alone(tmp_path: Path) -> None:
    (tmp_path / EPOCHS).write_text("epoch,loss,class_loss,distill_loss,class_top1\n0,3,3,0.0,\n1,2,2,0.0,\n")
    (loss,) = charts({"run": read_curves(tmp_path)})
    assert (loss.title, labels(loss)) == ("loss", ["loss"])  # no teacher: its part is the whole


# -- text ----------------------------------------------------------------------------------------------------------


def test_bars_of_a_chart_have_one_scale_and_one_axis() -> None:
    lines = [
        Line("a", np.arange(1, 9), np.arange(0.0, 80, 10), 0),
        Line("b", np.arange(1, 5), np.array([70.0, np.nan, 0, 35]), 1),
    ]
    head, first, second = text_of(Chart("top-1 %", lines, "highest"), 80)
    assert head.split("  ")[-1] == "0.00 to 70.00"
    assert first.split() == ["a", "0.00", "70.00", "70.00", "8", BARS]
    assert second.endswith("70.00  35.00    70.00         1  █ ▁▅")
    plain = text_of(Chart("loss", lines, "lowest"), 80, ascii_only=True)
    assert plain[1].split() == ["a", "0.000", "70.000", "0.000", "1", ASCII_BARS]
    assert plain[2].split()[:5] == ["b", "70.000", "35.000", "0.000", "3"]


@pytest.mark.parametrize("num_epochs", [1, 7, 300, 5000])
@pytest.mark.parametrize("width", [80, 132])
def test_text_fits_the_terminal(num_epochs: int, width: int) -> None:
    epochs = np.arange(1, num_epochs + 1)
    lines = [Line(f"run {number}, EMA, distillation", epochs, 99.9 * epochs / num_epochs, 0) for number in range(3)]
    found = text_of(Chart("top-1 %", lines, "highest"), width)
    assert len(found) == 4
    assert max(map(len, found)) <= width
    assert all(line.endswith("█") for line in found[1:])


def test_bars_are_means_of_equal_numbers_of_epochs() -> None:
    values = np.where(np.arange(1, 401) <= 200, 0.0, 1.0)
    (_, found) = text_of(Chart("loss", [Line("a", np.arange(1, 401), values, 0)], "lowest"), 80)
    bars = found.split()[-1]
    assert abs(bars.count(BARS[0]) - bars.count(BARS[-1])) <= 1
    assert bars == "".join(sorted(bars))


def test_names_of_strangers_forge_no_line(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 2)
    told = CliRunner().invoke(main, ["results", f"[red]\x1b[2J\nmine={run}", f"b={run}", "--plot", "-"])
    assert told.exit_code == 0, told.output
    assert "\x1b" not in told.output
    assert r"[red]\x1b[2J\nmine, fused" in told.output


# -- picture -------------------------------------------------------------------------------------------------------


def test_the_picture_shows_the_lines_in_their_colours(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    runs = {name: read_curves(write_run(tmp_path / name, 9, ema=True)) for name in ("$a_b$", "_hidden", "目")}
    draw(charts(runs), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"
        assert picture.width >= 2 * picture.height
        pixels = np.asarray(picture.convert("RGB"))
    left, right = np.array_split(pixels, 2, axis=1)
    for colour in ((31, 119, 180), (255, 127, 14), (44, 160, 44)):  # of the first three lines
        for half in (left, right):
            assert (np.abs(half.astype(int) - colour).max(axis=2) < 4).sum() > 50


def test_a_run_of_one_epoch_is_a_dot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    draw(charts({"run": read_curves(write_run(tmp_path, 1, heads=()))}), tmp_path / "dot.png")
    with Image.open(tmp_path / "dot.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert (np.abs(pixels[: len(pixels) // 2] - (31, 119, 180)).max(axis=2) < 4).any()


def test_a_picture_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(DiskError, match=r"curves\.png.*: the curves were not drawn"):
        draw(charts({"run": read_curves(write_run(tmp_path, 2))}), tmp_path / EPOCHS / "curves.png")


# -- the command ---------------------------------------------------------------------------------------------------


def test_the_command_shows_table_curves_and_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done, begun = write_run(tmp_path / "done", 6), write_run(tmp_path / "begun", 3)
    (done / "results.json").write_text('{"accuracy": {"class": {"top1": 0.5, "top5": 0.75}}}')
    picture = tmp_path / "curves.png"
    told = CliRunner().invoke(main, ["results", str(done), str(begun), "--plot", str(picture)])
    assert told.exit_code == 0, told.output
    assert re.search(r"^ *done +50\.00 +75\.00", told.output, re.MULTILINE)
    assert "begun is not finished: 3 epochs so far\n" in told.output
    assert "done, fused" in told.output
    assert told.output.endswith(f"wrote {picture}\n")
    assert picture.read_bytes().startswith(b"\x89PNG")
    without = CliRunner().invoke(main, ["results", str(done), str(begun)])
    assert without.exit_code == 1, "the table alone is of finished runs"


def test_the_command_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", 3)
    monkeypatch.setattr("student.curves.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    told = CliRunner().invoke(main, ["results", str(run), "--plot", str(tmp_path / "curves.png")])
    assert told.exit_code == 1
    found = r"error: --plot \S+ needs matplotlib, not installed here: "
    assert re.fullmatch(found + r"pip install \S+, or --plot - for the terminal alone\n", told.output)
    told = CliRunner().invoke(main, ["results", str(run), "--plot", "-"])
    assert told.exit_code == 0, told.output
    assert "fused" in told.output


@pytest.mark.parametrize("name", ["curves.jpg", "curves", ""])
def test_a_picture_of_another_kind_is_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    told = CliRunner().invoke(main, ["results", str(tmp_path / "nothing"), "--plot", name])
    assert told.exit_code == 1
    assert told.output.startswith(f"error: --plot {name}: a picture of curves is called *.png: --plot - shows")


def test_two_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "one" / "out", 2), write_run(tmp_path / "other" / "out", 2)
    told = CliRunner().invoke(main, ["results", str(one), str(other)])
    assert told.exit_code == 2
    assert f"Error: {one} and {other} are both called out: name one NAME=RUN" in told.output
    assert CliRunner().invoke(main, ["results", str(one), f"b={other}", "--plot", "-"]).exit_code == 0


def test_a_runs_folder_may_have_an_equals_sign_in_its_name(tmp_path: Path) -> None:
    run, other = write_run(tmp_path / "lr=0.1", 2), write_run(tmp_path / "lr=0.1,wd=0", 3)
    told = CliRunner().invoke(main, ["results", str(run), f"named={other}", "--plot", "-"])
    assert told.exit_code == 0, told.output
    assert "lr=0.1 is not finished: 2 epochs so far\n" in told.output
    assert "named is not finished: 3 epochs so far\n" in told.output
    absent = CliRunner().invoke(main, ["results", f"a={tmp_path}/lr=0.2"])
    assert absent.exit_code == 1
    assert f"error: {tmp_path}/lr=0.2 is no run" in absent.output.replace("\n", "")
