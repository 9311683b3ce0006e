"""Rows as a table: for the terminal, and for docs/benchmarks.md."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table

from teacher_cache.terminal import table
from tools.benchmarks.row import BenchmarkError, Row

COLUMNS = ("what", "against", "ours", "peer", "unit", "ratio", "spread", "reach")


class PrintedRow(NamedTuple):
    """What a table says of a row's ratio; None where it has no figure there."""

    name: str
    ratio: float | None
    spread: tuple[float, float] | None
    reach: float


def rich_table(rows: Sequence[Row]) -> Table:
    return table(
        (*COLUMNS, "took"),
        [(*cells(row), f"{row.elapsed_s:.0f} s") for row in rows],
        right={*COLUMNS, "took"} - {"what", "against", "unit"},
        styles=["dim" if row.ratio is None else "green" if row.ratio >= row.reach else "yellow" for row in rows],
        title="Ratios: larger is better on every row",
        show_edge=False,
    )


def markdown_table(rows: Sequence[Row]) -> str:
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(cells(row) for row in rows)]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def read_markdown_table(text: str) -> list[PrintedRow]:
    """The rows of the first such table of a page. BenchmarkError where it has none.

    A ratio that is no number is none: whoever keeps a page may write there why.
    """
    _, _, rest = text.partition(markdown_table(()))
    if not rest:
        raise BenchmarkError(f"the page has no table of {', '.join(COLUMNS)}: `make bench` writes one to bench.md")
    rows = []
    for line in rest.splitlines():
        if not line.startswith("| "):
            break
        named = dict(zip(COLUMNS, line.strip("| ").split(" | "), strict=True))
        low, _, high = named["spread"].partition("-")
        spread = (float(low), float(high)) if low else None
        rows.append(PrintedRow(named["what"], _number(named["ratio"]), spread, float(named["reach"])))
    return rows


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def notes(rows: Sequence[Row]) -> list[str]:
    """What is in a row, or why it was not measured."""
    return [f"{row.name}: {row.note}" for row in rows if row.note]


def cells(row: Row) -> tuple[str, ...]:
    peer = "-" if row.peer is None else figure(row.peer)
    spread = "-" if row.spread is None or row.spread[0] == row.spread[1] else "{:.2f}-{:.2f}".format(*row.spread)
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    ours = "-" if row.ours is None else figure(row.ours)
    return row.name, row.against, ours, peer, row.unit, ratio, spread, f"{row.reach:.3g}"


def figure(value: float) -> str:
    """Three digits or more: 1,234 or 12.3 or 0.123."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
