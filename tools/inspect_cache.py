"""Audit a store: coverage, agreement of teacher and ground truth, confusions, stability, contradictions, skips.

python tools/inspect_cache.py STORE [--json]
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from teacher_cache.audit.summary import summarise as audit
from teacher_cache.errors import TeacherCacheError
from teacher_cache.store import Store

ROWS_SHOWN = 20
BAR_CHARACTERS = 40


@click.command()
@click.argument("store", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, all shards and classes included.")
def main(store: str, as_json: bool) -> None:
    """Audit STORE. Reads labels only: no shard, no teacher."""
    try:
        opened = Store.open(store)
        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task("reading labels", total=None)
            report = audit(opened, on_labels=lambda done, total: progress.update(task, completed=done, total=total))
    except TeacherCacheError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        show(report, Console(width=None if sys.stdout.isatty() else 120))


def show(report: dict[str, Any], console: Console) -> None:
    coverage = report["coverage"]
    _say(
        console,
        f"{report['store']}: {report['samples']:,} samples in {report['shards']} shards x {report['views']} views, "
        f"{report['classes']} classes; {report['units_committed']} of {report['units']} units are filled "
        f"({_percent(coverage['share'])})",
    )
    if not report["units_committed"]:
        _say(console, f"Nothing is filled yet: run `teacher-cache fill --store {report['store']} --teacher T`.")
        return
    if report["topk"]:
        size = sum(report["bytes"][name] for name in ("topk_classes", "topk_probabilities"))
        _say(
            console,
            f"Soft labels: the {report['topk']} largest probabilities of each view at tau {report['tau']:g}, "
            f"{size / 1e6:.2f} MB",
        )
    if report["mixed"]:
        _say(
            console,
            "Views are mixed (Mixup or CutMix): the teacher labels the mixed image, so agreement with a sample's own "
            "class is expected to be lower, and its labels to vary more from view to view.",
        )
    shards = sorted(coverage["shards"], key=lambda row: (row["share"] is None, row["share"]))
    _table(
        console,
        f"Coverage by shard, the least filled first ({min(ROWS_SHOWN, len(shards))} of {len(shards)})",
        ("shard", "samples", "filled"),
        ((row["shard"], f"{row['samples']:,}", _percent(row["share"])) for row in shards[:ROWS_SHOWN]),
    )
    if report["agreement"] is not None:
        _show_agreement(report, console)
    if report["stability"] is not None:
        _show_stability(report["stability"], console)
    contradictions = report["contradictions"]
    _table(
        console,
        f"Samples whose commonest label is not their class: {contradictions['samples']:,}, by share of their labels",
        ("shard", "key", "class", "commonest label", "share", "labels"),
        (
            (row["shard"], row["key"], row["class"], row["label"], _percent(row["share"]), str(row["labels"]))
            for row in contradictions["first"]
        ),
    )
    skipped = report["skipped"]["all"]
    _table(
        console,
        f"Skipped samples: {len(skipped):,}",
        ("shard", "key"),
        ((row["shard"], row["key"]) for row in skipped[:ROWS_SHOWN]),
    )


def _show_agreement(report: dict[str, Any], console: Console) -> None:
    agreement = report["agreement"]
    _table(
        console,
        f"Agreement of {report['labelled']:,} labels with the ground truth",
        ("label is", "share"),
        (
            ("the sample's own class", _percent(agreement["own"])),
            ("the class with the larger lambda", _percent(agreement["larger"])),
            ("either class of the pair", _percent(agreement["either"])),
        ),
    )
    classes = sorted((row for row in report["agreement_by_class"] if row["labels"]), key=lambda row: row["own"])
    _table(
        console,
        f"Agreement by class, the lowest first ({min(ROWS_SHOWN, len(classes))} of {len(classes)})",
        ("class", "labels", "own class"),
        ((row["class"], f"{row['labels']:,}", _percent(row["own"])) for row in classes[:ROWS_SHOWN]),
    )
    _table(
        console,
        "Most confused pairs",
        ("class", "label", "count", "share of the class"),
        ((row["class"], row["label"], f"{row['count']:,}", _percent(row["share"])) for row in report["confused"]),
    )


def _show_stability(stability: dict[str, Any], console: Console) -> None:
    _say(
        console,
        f"\nStability of {stability['samples']:,} samples with two labels or more: their commonest label has "
        f"{_percent(stability['mean_share'])} of the labels on average, entropy {stability['mean_entropy_bits']:.2f} "
        f"bits; {_percent(stability['unanimous'] / stability['samples'])} have one label in all views",
    )
    for title, bins in (
        ("share of the commonest label", stability["share_bins"]),
        ("entropy in bits", stability["entropy_bins"]),
    ):
        edges, counts = bins["edges"], bins["samples"]
        most = max(counts)
        _table(
            console,
            None,
            (title, "samples", ""),
            (
                (f"{low:.1f} to {high:.1f}", f"{count:,}", "█" * round(BAR_CHARACTERS * count / most))
                for low, high, count in zip(edges, edges[1:], counts, strict=False)
            ),
        )


def _say(console: Console, text: str, style: str | None = None) -> None:
    """Print prose as it is: paths and commands stay in one piece."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _table(console: Console, title: str | None, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a title and, where there are rows, a table. Names from shards are no markup."""
    table = Table(show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in {"samples", "labels", "count"} else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print()
    if title is not None:
        _say(console, title, style="bold")
    if table.row_count:
        console.print(table)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


if __name__ == "__main__":
    main()
