"""Every row's ratio against its reach, as one picture.

python -m tools.benchmarks.plot docs/benchmarks.md docs/benchmarks/cpu.png 'MACHINE, DATE'    # of a page's table
"""

from collections.abc import Sequence
from pathlib import Path

import click

from teacher_cache.endings import one_line_errors
from teacher_cache.files import replacing
from tools.benchmarks.row import BenchmarkError, Row
from tools.benchmarks.table import PrintedRow, read_markdown_table

INSTALL = "matplotlib is not installed: `make bench` installs it, or pip install -e '.[bench]'"
WITHIN, OUTSIDE, GREY = "#2a7f62", "#c76b1e", "#888888"


def check_plotting() -> None:
    """BenchmarkError where there is nothing to draw with: to be told before an hour of measuring."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise BenchmarkError(INSTALL) from None


def draw(rows: Sequence[Row | PrintedRow], path: Path, title: str) -> None:
    """A line a row, logarithmic: a dot at the ratio, a bar over the spread, a mark at the reach. Writes a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.2 + 0.38 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        axes.plot([row.reach], [place], marker="|", markersize=16, markeredgewidth=2, color=GREY)
        if row.ratio is None:
            axes.annotate("not measured", (row.reach, place), xytext=(8, -3), textcoords="offset points", color=GREY)
            continue
        colour = WITHIN if row.ratio >= row.reach else OUTSIDE
        if row.spread is not None:
            axes.plot(row.spread, [place, place], color=colour, alpha=0.4, linewidth=4)
        axes.plot([row.ratio], [place], marker="o", color=colour)
        axes.annotate(f"{row.ratio:.2f}", (row.ratio, place), xytext=(0, 6), textcoords="offset points", ha="center")
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.03)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("ratio: times better than the peer, or than the limit (dot); what is aimed at (mark)")
    axes.set_title(title, fontsize=10)
    with replacing(path) as aside:
        figure.savefig(aside, dpi=120, format="png")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("page", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("picture", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("title")
def main(page: Path, picture: Path, title: str) -> None:
    """Draw the table of PAGE into PICTURE, so that both show the same figures."""
    with one_line_errors():
        check_plotting()
        draw(read_markdown_table(page.read_text()), picture, title)


if __name__ == "__main__":
    main()
