"""`python -m tools.evidence run | page | rewrite | check`: see the package."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from teacher_cache.endings import OneLineErrors, stopping
from teacher_cache.messages.shown import counted
from teacher_cache.options import COUNT, device_option, teacher_options
from teacher_cache.processes.threads import wait_asleep
from teacher_cache.terminal import say, say_json, table, terminal
from tools.evidence.steps import ROOT

if TYPE_CHECKING:
    from tools.evidence.forecast import Forecast
    from tools.evidence.naive import Naive

STOPPED = 75  # as `student train`: run it again
RESULTS = ROOT / "docs" / "evidence"


@click.group(cls=OneLineErrors, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
def main() -> None:
    """Trainings on real pictures that show, or do not show, what is claimed; a run a row."""
    wait_asleep()


results_option = click.option(
    "--results",
    default=RESULTS,
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the rows and the page are.",
)


@main.command("run")
@click.argument("settings_name", metavar="SETTINGS")
@click.option(
    "--data",
    required=True,
    metavar="FOLDER",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Shards, named as the settings say.",
)
@click.option(
    "--out",
    required=True,
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Stores, teachers, students; the same folder goes on.",
)
@results_option
@click.option("--plan", "only_plan", is_flag=True, help="Say the minutes of each row, and run nothing.")
@click.option("--jobs", default=1, type=click.IntRange(1), metavar=COUNT, help="Steps that run side by side.")
@click.option("--only", multiple=True, metavar="NAME", help="Only these experiments. May be repeated.  [default: all]")
@device_option
def run_command(
    settings_name: str,
    data: Path,
    out: Path,
    results: Path,
    only_plan: bool,
    jobs: int,
    only: tuple[str, ...],
    device: str | None,
) -> None:
    """Run what SETTINGS (small, full or a TOML file) ask for and has no row yet.

    Stopped or killed at any moment, the same command goes on.
    """
    from tools.evidence.forecast import forecast
    from tools.evidence.plan import make_plan
    from tools.evidence.process import Places
    from tools.evidence.run import run
    from tools.evidence.settings import load_settings, only_experiments
    from tools.evidence.table import Results

    settings = only_experiments(load_settings(settings_name), only)
    plan = make_plan(settings, device)
    places, kept = Places(data.resolve(), out.resolve()), Results(results, settings.name)
    if only_plan:
        _print_forecast(list(forecast(plan, places, kept)))
        return
    with stopping(STOPPED):
        run(
            plan,
            places,
            kept,
            say,
            device=_describe_device(device, settings.threads),
            jobs=jobs,
        )


@main.command("page")
@results_option
def page_command(results: Path) -> None:
    """Write the page and its plots from the rows that are there."""
    from tools.evidence.page import write_page
    from tools.evidence.plots import write_plots

    write_page(results)
    for path in write_plots(results):
        say(f"wrote {path}")


@main.command("rewrite")
@click.argument("kind", type=click.Choice(["one_label", "larger_crop"]))
@click.argument("source")
@click.argument("labels")
@click.argument("target")
def rewrite_command(kind: "Naive", source: str, labels: str, target: str) -> None:
    """Give TARGET, an empty store like SOURCE, the labels of a naive cache, from those of the store LABELS."""
    from teacher_cache.store.store import Store
    from tools.evidence.naive import rewrite

    written = rewrite(kind, Store.open(source), Store.open(labels), Store.open(target, writable=True))
    say(f"{target}: {counted(written, 'unit')} written")


@main.command("check")
@click.argument("store")
@teacher_options("The store's teacher.", "The teacher's weights.")
@click.option("--fraction", required=True, type=click.FloatRange(0, 1, min_open=True), help="Of the blocks.")
@device_option
def check_command(store: str, teacher: str, checkpoint: str, fraction: float, device: str | None) -> None:
    """Let the teacher give a part of the store's labels once more; print how many, and how many differ, as JSON."""
    from teacher_cache.store.store import Store
    from teacher_cache.teacher.settings import TeacherSettings
    from teacher_cache.teacher.teacher import open_teacher
    from teacher_cache.verify import verify

    opened = Store.open(store)
    chosen = open_teacher(
        TeacherSettings(teacher, checkpoint, device=device),
        num_classes=opened.num_classes,
        view_size=opened.policy.size,
        stored=opened.teacher,
    )
    report = verify(opened, fraction, teacher=chosen)
    say_json({"labels": report.labels, "differences": len(report.differences)})


def _print_forecast(rows: list["Forecast"]) -> None:
    columns = ("experiment", "arm", "seed", "minutes", "state")
    cells = [
        (row.experiment, row.arm, "" if row.seed is None else str(row.seed), f"{row.minutes:.1f}", row.state)
        for row in rows
    ]
    limits = {"arm": 100}
    terminal().print(table(columns, cells, right=("seed", "minutes"), limits=limits, box=None, pad_edge=False))
    say(f"{sum(row.minutes for row in rows) / 60:.1f} hours in all, one step at a time")


def _describe_device(device: str | None, threads: int | None) -> str:
    import torch

    from teacher_cache.teacher.teacher import device_name

    name = device_name(torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    return f"{name}, {threads} thread{'s' if threads != 1 else ''}" if threads else name


if __name__ == "__main__":
    main()
