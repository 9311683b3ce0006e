"""Look into a store: where, on which crops and why the teacher disagrees, and the very pixels that it saw.

python tools/inspect_cache.py STORE [COMMAND] [--json]

Commands: summary, disagreements, confusions, sample, view, compare, export, report.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from rich.console import Console

from teacher_cache.audit import VIEWS_SAMPLED
from teacher_cache.audit.tables import (
    ROWS_SHOWN,
    say,
    show_comparison,
    show_confusions,
    show_disagreements,
    show_report,
    show_sample,
    show_summary,
    show_view,
)
from teacher_cache.endings import OneLineErrors
from teacher_cache.messages.shown import counted
from teacher_cache.options import (
    COUNT,
    NUMBER,
    Command,
    FiniteRange,
    Folder,
    endpoint_option,
    json_option,
    ops_option,
    replay_option,
    shards_option,
    worker_timeout_option,
)
from teacher_cache.progress import step_bars
from teacher_cache.terminal import say_aside, say_json, terminal

if TYPE_CHECKING:
    from teacher_cache.rendering.choice import Render
    from teacher_cache.store.store import Store

VIEWS_ON_A_SHEET = 48


class _Commands(OneLineErrors):
    """STORE first, then a command; options that follow without one are those of the summary."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0].startswith("-") and args[0] not in ctx.help_option_names:
            return summary.name, summary, args
        return super().resolve_command(ctx, args)


def _common_options(command: Command) -> Command:
    """--json and --endpoint, wherever they stand."""
    return endpoint_option(json_option(command))


def _sampling_options(command: Command) -> Command:
    command = click.option(
        "--seed", default=0, type=click.IntRange(0), metavar=NUMBER, help="Which views are looked at."
    )(command)
    return click.option(
        "--views-sampled",
        default=VIEWS_SAMPLED,
        type=click.IntRange(0),
        metavar=COUNT,
        help="How many views' parameters are looked at, at random; 0: none.",
    )(command)


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    subcommand_metavar="[COMMAND [ARGS]...]",
    context_settings={"show_default": True, "help_option_names": ["-h", "--help"]},
)
@click.argument("store", type=Folder(readable=False))
@_common_options
@click.pass_context
def main(ctx: click.Context, store: str, as_json: bool) -> None:
    """Look into STORE. Without a command: its summary.

    \b
    python tools/inspect_cache.py runs/digits/store
    python tools/inspect_cache.py runs/digits/store --json
    python tools/inspect_cache.py runs/digits/store disagreements --class 3
    """
    ctx.obj = store
    if ctx.invoked_subcommand is None:
        ctx.invoke(summary, as_json=as_json)
    elif as_json:
        ctx.default_map = {name: {"as_json": True} for name in main.commands}


@main.command()
@_sampling_options
@shards_option
@ops_option
@_common_options
@click.pass_obj
def summary(store: str, views_sampled: int, seed: int, shards: tuple[str, ...], ops: str | None, as_json: bool) -> None:
    """Coverage, agreement with the ground truth, confusions, stability, and what crops, mixes and operations do.

    Reads all labels. What needs view parameters is measured on whole blocks of a random sample of views, whose
    images' headers are read; where the shards are not where the store says, that part is left out.

    \b
    python tools/inspect_cache.py runs/digits/store summary --views-sampled 20000
    """
    from teacher_cache.audit.summary import summarise

    opened = _open(store, shards, ops)
    with step_bars("reading labels", "drawing view parameters") as (on_labels, on_params):
        report = summarise(opened, views_sampled=views_sampled, seed=seed, on_labels=on_labels, on_params=on_params)
    _print(report, as_json, show_summary)


@main.command()
@click.option("--class", "of_class", metavar="NAME", help="Only samples of this class.  [default: of all]")
@click.option("--shard", metavar="NAME", help="Only samples of this shard.  [default: of all]")
@click.option(
    "--margin",
    type=FiniteRange(-1, 1),
    metavar="SHARE",
    help="Only where another label leads the own class by this share of the views.  [default: all]",
)
@click.option("--limit", default=ROWS_SHOWN, type=click.IntRange(1), metavar=COUNT, help="Rows of each list.")
@_common_options
@click.pass_obj
def disagreements(
    store: str, of_class: str | None, shard: str | None, margin: float | None, limit: int, as_json: bool
) -> None:
    """Likely label errors, pictures of two classes, and samples without a stable label, each ranked.

    Shares of the labels over a sample's views serve as probabilities. A mixed view counts by the sample's own share of
    the mix, and not at all where the label is its partner's class.

    \b
    python tools/inspect_cache.py runs/digits/store disagreements --margin 0.5
    python tools/inspect_cache.py runs/digits/store disagreements --class 8 --limit 5 --json
    """
    from teacher_cache.audit.disagreements import disagreements as find

    opened = _filled(_open(store))
    with step_bars("reading labels", "drawing mixes") as (on_labels, on_plans):
        report = find(
            opened,
            limit=limit,
            of_class=of_class,
            shard=shard,
            margin=margin,
            on_labels=on_labels,
            on_plans=on_plans,
        )
    _print(report, as_json, show_disagreements)


@main.command()
@click.option("--class", "of_class", metavar="NAME", help="Only pairs that this class takes part in.  [default: all]")
@click.option("--limit", default=ROWS_SHOWN, type=click.IntRange(1), metavar=COUNT, help="Pairs and classes shown.")
@_common_options
@click.pass_obj
def confusions(store: str, of_class: str | None, limit: int, as_json: bool) -> None:
    """Which class is taken for which, and every class with what it is taken for.

    \b
    python tools/inspect_cache.py runs/digits/store confusions --class 9
    """
    from teacher_cache.audit.confusions import confusions as find

    opened = _filled(_open(store))
    with step_bars("reading labels") as (on_labels,):
        report = find(opened, limit=limit, of_class=of_class, on_progress=on_labels)
    _print(report, as_json, lambda found, console: show_confusions(found, console, limit))


@main.command()
@click.argument("sample", metavar="SAMPLE")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, readable=False),
    help="The sheet's file.  [default: SHARD_KEY.png here]",
)
@click.option(
    "--limit",
    default=VIEWS_ON_A_SHEET,
    type=click.IntRange(1),
    metavar=COUNT,
    help="Views on the sheet, from 0 on.",
)
@replay_option
@shards_option
@ops_option
@_common_options
@click.pass_obj
def sample(
    store: str,
    sample: str,
    out: Path | None,
    limit: int,
    render: "Render",
    shards: tuple[str, ...],
    ops: str | None,
    as_json: bool,
) -> None:
    """A sample, and a sheet (PNG) of its image with the crops and all its views with their labels.

    SAMPLE is SHARD/KEY, or a KEY that one shard only has; or a number from 0 on, in the store's index or as
    SHARD/NUMBER in that shard. A key that looks like a number comes before the number.

    \b
    python tools/inspect_cache.py runs/digits/store sample train-0000.tar/00017
    python tools/inspect_cache.py runs/digits/store sample 17 --limit 16 --out 17.png
    """
    from teacher_cache.audit.names import chosen_sample
    from teacher_cache.audit.pictures import contact_sheet, save_png
    from teacher_cache.audit.sample import describe_sample, render_views

    opened = _open(store, shards, ops)
    number = chosen_sample(opened, sample)
    found = describe_sample(opened, number, limit=limit)
    found |= {"png": None, "digests_differ": []}
    if found["views_missing"] is None:
        out = out or _default_file(found["shard"], found["key"])
        numbers = [view["view"] for view in found["views"]]
        image, views = render_views(opened, number, numbers, render=render, say=say_aside)
        pictures = list(views)
        save_png(contact_sheet(found, image, pictures), out)
        found |= {"png": str(out), "digests_differ": [each.view for each in pictures if each.digest_equal is False]}
    _print(found, as_json, show_sample)


@main.command()
@click.argument("sample", metavar="SAMPLE")
@click.argument("number", metavar="VIEW", type=click.IntRange(0))
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, readable=False),
    help="The picture's file.  [default: SHARD_KEY_vVIEW.png here]",
)
@click.option("--unmixed", is_flag=True, help="Beside it, the sample's own view before mixing and its partner's.")
@click.option(
    "--scale",
    default=1,
    type=click.IntRange(1, 32),
    metavar="TIMES",
    help="Enlarge every pixel to a square of so many.",
)
@replay_option
@shards_option
@ops_option
@_common_options
@click.pass_obj
def view(
    store: str,
    sample: str,
    number: int,
    out: Path | None,
    unmixed: bool,
    scale: int,
    render: "Render",
    shards: tuple[str, ...],
    ops: str | None,
    as_json: bool,
) -> None:
    """One view: what was drawn for it, what the teacher said, and the pixels (PNG) that it saw.

    SAMPLE as for `sample`: SHARD/KEY, KEY, or the sample's number.

    \b
    python tools/inspect_cache.py runs/digits/store view train-0000.tar/00017 3
    python tools/inspect_cache.py runs/digits/store view 17 3 --unmixed --scale 8 --out view.png
    """
    from teacher_cache.audit.names import chosen_sample
    from teacher_cache.audit.pictures import save_png, side_by_side
    from teacher_cache.audit.sample import describe_view, render_views

    opened = _open(store, shards, ops)
    chosen = chosen_sample(opened, sample)
    found = describe_view(opened, chosen, number)
    (pictures,) = render_views(opened, chosen, (number,), render=render, say=say_aside)[1]
    panes = [pictures.mixed]
    if unmixed and pictures.partner is not None:
        panes += [pictures.unmixed, pictures.partner]
    out = out or _default_file(found["shard"], found["key"], f"v{number}")
    save_png(side_by_side(panes, scale), out)
    found |= {"digest_equal": pictures.digest_equal, "png": str(out), "unmixed": unmixed}
    _print(found, as_json, show_view)


@main.command()
@click.argument("other", metavar="OTHER_STORE", type=Folder(readable=False))
@click.option("--limit", default=ROWS_SHOWN, type=click.IntRange(1), metavar=COUNT, help="Rows of each list.")
@_common_options
@click.pass_obj
def compare(store: str, other: str, limit: int, as_json: bool) -> None:
    """Two stores of the same shards: two teachers, two dtypes, two checkpoints.

    Agreement, Cohen's kappa, McNemar's test on who is right about the ground truth, and the samples where the two
    differ most.

    \b
    python tools/inspect_cache.py stores/regnety160 compare stores/convnext
    """
    from teacher_cache.audit.compare import compare as compare_stores

    with step_bars("reading labels") as (on_labels,):
        report = compare_stores(_filled(_open(store)), _filled(_open(other)), limit=limit, on_progress=on_labels)
    _print(report, as_json, show_comparison)


@main.command()
@click.option(
    "--out", required=True, type=click.Path(readable=False), metavar="FILE", help="The table, a .parquet or a .csv."
)
@click.option(
    "--rows",
    default="views",
    type=click.Choice(["views", "samples"]),
    help="A row a (sample, view), or a row a sample.",
)
@_common_options
@click.pass_obj
def export(store: str, out: str, rows: Literal["views", "samples"], as_json: bool) -> None:
    """Write labels as a table for pandas or DuckDB: a row a (sample, view), or a row a sample.

    Parquet wants the extra `audit` (pyarrow).

    \b
    python tools/inspect_cache.py runs/digits/store export --out labels.parquet
    python tools/inspect_cache.py runs/digits/store export --rows samples --out samples.csv
    """
    from teacher_cache.audit.export import export as write

    with step_bars("writing") as (on_rows,):
        report = write(_filled(_open(store)), out, rows, on_progress=on_rows)
    _print(report, as_json, lambda found, console: say(console, f"{found['out']}: {counted(found['written'], 'row')}"))


@main.command()
@click.option(
    "--out", required=True, metavar="FILE", type=click.Path(path_type=Path, readable=False), help="The page's file."
)
@click.option(
    "--max-megabytes",
    default=10.0,
    type=FiniteRange(0, min_open=True),
    metavar="MB",
    help="The page is smaller than so many million bytes: pictures are left out, and it says how many.",
)
@click.option("--limit", default=30, type=click.IntRange(1), metavar=COUNT, help="Samples of each kind.")
@click.option(
    "--views", default=16, type=click.IntRange(1), metavar=COUNT, help="How many views of each sample, from 0 on."
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    metavar=COUNT,
    help="Processes that replay views.  [default: as there are cores and work]",
)
@worker_timeout_option
@_sampling_options
@shards_option
@ops_option
@_common_options
@click.pass_obj
def report(
    store: str,
    out: Path,
    max_megabytes: float,
    limit: int,
    views: int,
    workers: int | None,
    worker_timeout_s: float,
    views_sampled: int,
    seed: int,
    shards: tuple[str, ...],
    ops: str | None,
    as_json: bool,
) -> None:
    """One HTML page of everything, with the pictures: charts, confusions, classes, and the samples worth a look.

    It loads nothing and opens from disk. Wants the extra `audit` (plotly).

    \b
    python tools/inspect_cache.py runs/digits/store report --out report.html
    """
    from teacher_cache.audit.report import write_report

    opened = _filled(_open(store, shards, ops))
    steps = ("reading labels", "drawing mixes", "drawing view parameters", "rendering views")
    with step_bars(*steps) as (on_labels, on_plans, on_params, on_pictures):
        found = write_report(
            opened,
            out,
            max_megabytes=max_megabytes,
            samples=limit,
            views=views,
            views_sampled=views_sampled,
            seed=seed,
            workers=workers,
            worker_timeout_s=worker_timeout_s,
            on_labels=on_labels,
            on_plans=on_plans,
            on_params=on_params,
            on_pictures=on_pictures,
        )
    _print(found, as_json, show_report)


# Running


def _open(store: str, shards: tuple[str, ...] = (), ops: str | None = None) -> "Store":
    """What needs own operations asks for --ops itself: drawing does not."""
    from teacher_cache.store.places import open_moved
    from teacher_cache.store.store import Store

    return open_moved(store, shards, ops=ops) if shards or ops is not None else Store.open(store)


def _filled(store: "Store") -> "Store":
    """The store, where it holds labels to tell of."""
    from teacher_cache.store.status import check_committed

    check_committed(store)
    return store


def _print(found: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any], Console], None]) -> None:
    if as_json:
        say_json(found)
    else:
        show(found, terminal(width=None if sys.stdout.isatty() else 120))


def _default_file(*names: str) -> Path:
    from teacher_cache.audit.names import file_stem

    shard, key, *rest = names
    return Path(file_stem(shard.removesuffix(".tar"), key, *rest) + ".png")


if __name__ == "__main__":
    main()
