"""How fast this is beside others, and how much of its most expensive part each stage keeps busy. One table of ratios.

    python tools/benchmark.py [--shards 'train-*.tar'] [--rows 'views/s*'] [--json F] [--plot F] [--markdown F]
    python tools/benchmark.py --gpu

Ours and peer are measured in turns; a row shows both medians, the ratio of the medians, and the range of the paired
ratios. A ratio is larger where ours is better, whatever the unit. Nothing fails because a figure is low.
"""

import fnmatch
import json
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from teacher_cache.messages.shown import counted

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # run as a script: the rows are in the package `tools`
    sys.path.insert(0, str(ROOT))

from teacher_cache.processes.threads import wait_asleep  # noqa: E402

wait_asleep()  # as the commands do, before torch is imported

import click  # noqa: E402
import torch  # noqa: E402

from teacher_cache.endings import one_line_errors  # noqa: E402
from teacher_cache.options import COUNT, Command  # noqa: E402
from teacher_cache.terminal import say, say_lines, terminal  # noqa: E402
from tools.benchmarks import gpu, native, pipeline, rendering, scaling, startup, storage  # noqa: E402
from tools.benchmarks.machine import describe_machine, describe_versions, now, write_aside  # noqa: E402
from tools.benchmarks.plot import check_plotting, draw  # noqa: E402
from tools.benchmarks.row import Bench, BenchmarkError, Row, RowPlan, measure_row  # noqa: E402
from tools.benchmarks.scale import FULL, TINY  # noqa: E402
from tools.benchmarks.table import markdown_table, notes, rich_table  # noqa: E402

GPU_ROW_S = 40.0  # after which a row on a GPU begins no further turn, so that it ends within a minute
RATIO = "median of ours over median of peer (or limit), inverted where smaller is better; spread: paired ratios"


def _file_option(name: str, what: str) -> Callable[[Command], Command]:
    return click.option(
        f"--{name}",
        f"{name}_file",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help=f"Write {what}.  [default: it is not written]",
    )


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option(
    "--shards",
    multiple=True,
    metavar="PATTERN",
    help="Take images of these shards. May be repeated.  [default: made pictures]",
)
@click.option(
    "--rows",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Only rows whose name matches: 'stage two*'. May be repeated, and gives the order.  [default: all]",
)
@click.option(
    "--repeats",
    default=5,
    type=click.IntRange(1),
    metavar=COUNT,
    help="Turns of either side; 5 or more to be reported.",
)
@click.option("--filled", metavar="STORE", help="A filled store, whose bytes a view are counted too.  [default: none]")
@click.option(
    "--scratch",
    default=Path("runs/bench"),
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where stores are made.",
)
@_file_option("json", "everything, as JSON")
@_file_option("plot", "a picture of the ratios, as PNG")
@_file_option("markdown", "the table, as Markdown")
@click.option(
    "--timm-train",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="timm's train.py, a peer of the GPU's rows.  [default: none]",
)
@click.option("--gpu", "on_gpu", is_flag=True, help="The rows that need a GPU, and only those.")
@click.option("--list", "only_list", is_flag=True, help="Name the rows, measure nothing.")
@click.option("--device", hidden=True, help="Run the GPU's rows there.")
@click.option("--tiny", is_flag=True, hidden=True, help="Run every line in seconds; the figures say nothing.")
def main(
    shards: tuple[str, ...],
    patterns: tuple[str, ...],
    repeats: int,
    filled: str | None,
    scratch: Path,
    json_file: Path | None,
    plot_file: Path | None,
    markdown_file: Path | None,
    timm_train: Path | None,
    on_gpu: bool,
    only_list: bool,
    device: str | None,
    tiny: bool,
) -> None:
    """Measure ratios on this machine."""
    with one_line_errors():
        plans = choose(patterns or ("*",), on_gpu)
        if only_list:
            say_lines("\n".join(plan.name for plan in plans))
            return
        if plot_file is not None:
            check_plotting()
        bench = Bench(
            scale=TINY if tiny else FULL,
            repeats=repeats,
            scratch=scratch.resolve(),
            shards=shards,
            filled=filled,
            device=choose_device(on_gpu, device),
            timm_train=timm_train,
            row_s=GPU_ROW_S if on_gpu else None,
        )
        found: dict[str, Any] = {
            "date": now(),
            "command": shlex.join(sys.argv),
            "machine": describe_machine(bench.device),
            "versions": describe_versions(),
            "images": list(shards) or "made",
            "ratio": RATIO,
        }

        def write(rows: Sequence[Row]) -> None:
            if json_file is not None:
                write_aside(json_file, json.dumps({**found, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")
            if markdown_file is not None:
                write_aside(markdown_file, markdown_table(rows))

        rows = measure(plans, bench, write)
    terminal(width=None if sys.stdout.isatty() else 200).print(rich_table(rows))
    for note in notes(rows):
        say(note)
    if plot_file is not None:
        machine = found["machine"]
        draw(
            rows,
            plot_file,
            f"{machine['device'] or machine['cpu']}, {counted(machine['cores'], 'core')}, {found['date'][:10]}",
        )


def choose(patterns: Sequence[str], on_gpu: bool) -> list[RowPlan]:
    """Rows of this kind whose name matches, once each and in the patterns' order. BenchmarkError where none does."""
    stories = (gpu,) if on_gpu else (rendering, native, pipeline, storage, scaling, startup)
    plans = [plan for story in stories for plan in story.plans()]
    chosen = dict[str, RowPlan]()
    for pattern in patterns:
        found = {plan.name: plan for plan in plans if fnmatch.fnmatchcase(plan.name, pattern)}
        if not found:
            raise BenchmarkError(f"no row is named {pattern}: --list names them")
        chosen |= {name: plan for name, plan in found.items() if name not in chosen}
    return list(chosen.values())


def choose_device(on_gpu: bool, device: str | None) -> torch.device:
    if not on_gpu:
        return torch.device("cpu")
    if device is None and not torch.cuda.is_available():
        raise BenchmarkError("no CUDA device is here: run it on a machine with a GPU, or leave --gpu out")
    return torch.device(device or f"cuda:{torch.cuda.current_device()}")


def measure(plans: Sequence[RowPlan], bench: Bench, write: Callable[[Sequence[Row]], None]) -> list[Row]:
    """Row after row; what is going on goes to stderr. write is given all rows that are there whenever one has ended."""
    rows: list[Row] = []
    for number, plan in enumerate(plans, start=1):
        say(f"[{number}/{len(plans)}] {plan.name} ...", err=True)
        rows.append(measure_row(plan, bench))
        write(rows)
        ratio = "not measured" if rows[-1].ratio is None else f"ratio {rows[-1].ratio:.2f}, reach {plan.reach:.3g}"
        say(f"    {ratio}; {rows[-1].elapsed_s:.0f} s", err=True)
    return rows


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="nvidia")
    main()
