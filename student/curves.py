"""A training's curves, from its epochs.csv: accuracy and loss by epoch, as text and as a picture."""

import csv
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.table import Table

from student.faults import Fault
from teacher_cache.errors import CheckpointError
from teacher_cache.files import replacing
from teacher_cache.messages.recognise import is_run, what_is
from teacher_cache.messages.shown import counted, shown
from teacher_cache.terminal import table

EPOCHS = "epochs.csv"
TERMINAL = "-"  # instead of a picture's path: the terminal alone
BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-~=+*#"
LABEL_WIDTH, NUMBERS_WIDTH = 30, 39  # characters of a line that are no chart
FEW = 30  # epochs up to which a picture marks each


@dataclass(frozen=True, eq=False)
class Curves:
    """One run's epochs. epochs (E,) int64: ascending from 1, each once. columns: name in epochs.csv -> (E,) float64,
    nan where an epoch has no such value."""

    epochs: np.ndarray
    columns: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Line:
    """One curve to be shown. values (E,), in per cent or as they are; colour: a number; dashed: of moving averages."""

    label: str
    epochs: np.ndarray
    values: np.ndarray
    colour: int
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines of one scale. best: whether that is the largest value or the smallest."""

    title: str
    lines: Sequence[Line]
    best: str


def read_curves(run: Path) -> Curves:
    """The epochs that a run has logged, finished or not; of one that went on from an earlier epoch the later rows.

    Raises CheckpointError where there are none, or the file is no such log.
    """
    path = run / EPOCHS
    if not run.is_dir() or not is_run(run):
        raise CheckpointError(f"{run} is no run, {what_is(run)}: name the --out of a training")
    if not path.is_file():
        raise CheckpointError(f"{run} has no {EPOCHS}: no epoch of its training has ended yet")
    whole = path.read_text(errors="replace").split("\n")[:-1]  # what a killed run wrote of a line does not count
    header, *rows = list(csv.reader(whole)) or [[]]
    if not {"epoch", "loss"} <= set(header):
        raise CheckpointError(f"{path} has no columns epoch and loss: it is no log of `student train`")
    kept: list[tuple[int, list[float]]] = []
    for number, row in enumerate(rows, start=2):
        epoch, values = _parse(path, number, header, row)
        while kept and kept[-1][0] >= epoch:  # it went on from there
            kept.pop()
        kept.append((epoch, values))
    if not kept:
        raise CheckpointError(f"{path} has no row: no epoch of its training has ended yet")
    columns = dict(zip(header, np.array([values for _, values in kept]).T, strict=True))
    if not np.isfinite(columns["loss"]).any():
        raise CheckpointError(
            f"{path} has no loss that is finite: its training had failed, start anew in another --out"
        )
    return Curves(np.array([epoch + 1 for epoch, _ in kept]), columns)


def _parse(path: Path, number: int, header: Sequence[str], row: Sequence[str]) -> tuple[int, list[float]]:
    """A line's epoch, from 0, and its values in the order of the header. CheckpointError."""
    if len(row) != len(header):
        raise CheckpointError(
            f"{path}, line {number}, has {counted(len(row), 'value')} for {counted(len(header), 'column')}: "
            "mend or drop it"
        )
    try:
        values = [float(cell) if cell else np.nan for cell in row]
        return int(row[header.index("epoch")]), values
    except ValueError as error:
        raise CheckpointError(f"{path}, line {number}: {shown(str(error))}: mend or drop the line") from None


def charts(runs: Mapping[str, Curves]) -> list[Chart]:
    """Top-1, where there is any, and loss. runs: name -> curves.

    Of one run every head, and the loss's parts; of several the fused answer, or the class head's, and the loss, so
    that each run's lines are few enough to be compared.
    """
    alone = len(runs) == 1
    top1, losses = [], []
    for number, (name, curves) in enumerate(runs.items()):
        heads: list[str] = []
        for column in _top1_columns(curves, alone):
            head = column.removesuffix("_top1").removeprefix("ema_")
            heads += [head] if head not in heads else []
            dashed = column.startswith("ema_")
            label = ("EMA, " if dashed else "") + head
            colour = heads.index(head) if alone else number
            label = label if alone else f"{name}, {label}"
            top1.append(Line(label, curves.epochs, 100 * curves.columns[column], colour, dashed))
        for part, column in enumerate(_loss_columns(curves, alone)):
            label = {"loss": "loss", "class_loss": "class", "distill_loss": "distillation"}[column]
            label, colour = (label, part) if alone else (name, number)
            losses.append(Line(label, curves.epochs, curves.columns[column], colour))
    found = [Chart("top-1 %", top1, "highest"), Chart("loss", losses, "lowest")]
    return [chart for chart in found if chart.lines]


def _top1_columns(curves: Curves, alone: bool) -> list[str]:
    there = [name for name, values in curves.columns.items() if name.endswith("_top1") and np.isfinite(values).any()]
    if alone:
        return there
    head = "fused" if "fused_top1" in there else "class"
    return [name for name in (f"{head}_top1", f"ema_{head}_top1") if name in there]


def _loss_columns(curves: Curves, alone: bool) -> list[str]:
    parts = ("class_loss", "distill_loss") if alone and np.any(curves.columns.get("distill_loss", 0)) else ()
    return ["loss", *parts]


# -- text ------------------------------------------------------------------------------------------------------------


def chart_table(chart: Chart, width: int, *, ascii_only: bool = False) -> Table:
    """A line of numbers and bars for each curve; all bars of a chart have one scale. width: of the terminal."""
    values = np.concatenate([line.values[np.isfinite(line.values)] for line in chart.lines])
    low, high = float(values.min()), float(values.max())
    label_width = min(LABEL_WIDTH, max(len(line.label) for line in chart.lines))
    num_bars = max(8, width - label_width - NUMBERS_WIDTH)
    first, last = min(line.epochs[0] for line in chart.lines), max(line.epochs[-1] for line in chart.lines)
    rows = []
    for line in chart.lines:
        bars = _bars(_binned(line, int(first), int(last), num_bars), low, high, ASCII_BARS if ascii_only else BARS)
        best = int((np.nanargmax if chart.best == "highest" else np.nanargmin)(line.values))
        finite = line.values[np.isfinite(line.values)]
        numbers = (finite[0], line.values[best], finite[-1])
        one, top, end = (f"{number:.2f}" if chart.best == "highest" else f"{number:.3f}" for number in numbers)
        rows.append((line.label, one, end, top, str(line.epochs[best]), bars))
    scale = f"{low:.2f} to {high:.2f}"
    columns = (chart.title, "first", "last", chart.best, "in epoch", scale)
    return table(columns, rows, right=columns[1:5], limits={chart.title: 200, scale: 1000}, box=None, pad_edge=False)


def _binned(line: Line, first: int, last: int, num_bars: int) -> np.ndarray:
    """Means of the values over equal ranges of the epochs first to last, one for each bar; nan where there are none."""
    num_bars = min(num_bars, last - first + 1)
    place = (line.epochs - first) * num_bars // (last - first + 1)
    bins = [line.values[(place == bar) & np.isfinite(line.values)] for bar in range(num_bars)]
    return np.array([held.mean() if len(held) else np.nan for held in bins])


def _bars(values: np.ndarray, low: float, high: float, levels: str) -> str:
    """A character for each value, between low and high; a blank for nan."""
    share = (values - low) / (high - low) if high > low else np.where(np.isfinite(values), 1.0, np.nan)
    return "".join(levels[round(float(each) * (len(levels) - 1))] if np.isfinite(each) else " " for each in share)


# -- picture ---------------------------------------------------------------------------------------------------------


def picture_faults(path: str) -> Iterator[Fault]:
    """A picture that cannot be drawn: without matplotlib, or under a name that is no PNG's."""
    if path == TERMINAL:
        return
    if not path.endswith(".png"):
        found = f"--plot {path}: a picture of curves is called *.png"
        yield Fault(CheckpointError, found, advice=f"--plot {TERMINAL} shows them in the terminal alone")
    if find_spec("matplotlib") is None:
        found = f"--plot {path} needs matplotlib, not installed here"
        yield Fault(
            CheckpointError, found, advice=f"pip install matplotlib, or --plot {TERMINAL} for the terminal alone"
        )


def draw(found: Sequence[Chart], path: Path) -> None:
    """Write the charts beside each other as a PNG; moving averages are dashed. DiskError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    longest = max(len(chart.lines) for chart in found)
    figure = Figure(figsize=(5.5 * len(found), 4 + 0.1 * longest), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, chart in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        drawn = [
            axes.plot(
                line.epochs,
                line.values,
                color=f"C{line.colour % 10}",
                linestyle="--" if line.dashed else "-",
                linewidth=1.2,
                marker="o" if len(line.epochs) <= FEW else None,
                markersize=3,
            )[0]
            for line in chart.lines
        ]
        axes.set_xlabel("epoch")
        axes.set_ylabel(chart.title)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        numbers = [str(number) for number in range(len(drawn))]
        legend = axes.legend(drawn, numbers, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
        for text, line in zip(legend.get_texts(), chart.lines, strict=True):
            text.set_parse_math(False)  # a run's name may hold dollars, or begin with an underscore
            text.set_text(shown(line.label))
    with replacing(path, "the curves were not drawn") as aside, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in a script that the font lacks has boxes
        figure.savefig(aside, format="png", dpi=150)
