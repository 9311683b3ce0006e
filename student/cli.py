"""`student train | evaluate | results`."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console
from rich.table import Table

from teacher_cache.cli import OneLineErrors
from teacher_cache.errors import CheckpointError

HEADS = {"class": "class head", "distillation": "distillation head", "fused": "fused"}


@click.group(cls=OneLineErrors, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train students from a store of teacher labels, and evaluate them."""


@main.command()
@click.option("--store", "store_path", required=True, help="The store that `teacher-cache` made.")
@click.option("--recipe", "recipe_name", required=True, help="Shipped recipe, or a TOML file.")
@click.option("--val", multiple=True, help="Validation shards; may be repeated.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run; the same one resumes.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe setting: epochs=100.")
@click.option("--views-used", type=click.IntRange(1), help="Use views 0 to N-1.  [default: all of the store's]")
@click.option("--workers", default=2, type=click.IntRange(0), help="Rendering processes for each rank.")
@click.option("--device", help="cuda, cpu ...  [default: a GPU if there is one]")
@click.option("--shards", multiple=True, help="Where the indexed shards are now, if they moved.")
@click.option(
    "--on-drift", type=click.Choice(["stop", "warn"]), default="stop", help="When pixels are not the store's."
)
@click.option("--allow-policy", is_flag=True, help="Train on a store of another policy than the recipe expects.")
@click.option("--checkpoint-every", "checkpoint_every_s", default=600.0, help="Seconds between checkpoints.")
def train(
    store_path: str,
    recipe_name: str,
    val: tuple[str, ...],
    out: Path,
    overrides: tuple[str, ...],
    views_used: int | None,
    workers: int,
    device: str | None,
    shards: tuple[str, ...],
    on_drift: Literal["stop", "warn"],
    allow_policy: bool,
    checkpoint_every_s: float,
) -> None:
    """Train a student. After SIGTERM, SIGUSR1 or Ctrl-C it writes a checkpoint and exits with 75: run it again."""
    from student.recipe import load_recipe
    from student.train import STOPPED, Stopped, TrainOptions, check_policy
    from student.train import train as train_student
    from teacher_cache.places import open_moved

    recipe = load_recipe(recipe_name, overrides)
    store = open_moved(store_path, shards)
    check_policy(store, recipe, allow_policy)
    options = TrainOptions(out, val, views_used, workers, device, on_drift, checkpoint_every_s)
    try:
        accuracy = train_student(store, recipe, options, click.echo)
    except Stopped as stopped:
        click.echo(str(stopped), err=True)
        sys.exit(STOPPED)
    if accuracy:
        Console().print(accuracy_table({recipe.name: accuracy}))


@main.command()
@click.option("--checkpoint", required=True, help="A checkpoint of `student train`.")
@click.option("--val", multiple=True, required=True, help="Validation shards; may be repeated.")
@click.option("--ema", is_flag=True, help="The moving average of the weights.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--batch-size", default=256, type=click.IntRange(1))
@click.option("--workers", default=2, type=click.IntRange(0))
@click.option("--device", help="[default: a GPU if there is one]")
def evaluate(
    checkpoint: str, val: tuple[str, ...], ema: bool, as_json: bool, batch_size: int, workers: int, device: str | None
) -> None:
    """Top-1 and top-5 of a checkpoint by class head, distillation head and fused."""
    from student.evaluate import ValidationSet, index_validation, open_checkpoint, preprocessing_of
    from student.evaluate import evaluate as evaluate_model
    from student.train import joined_ranks
    from teacher_cache.workers import leave_cores

    with joined_ranks(device) as ranks:
        leave_cores(workers)
        model, content = open_checkpoint(checkpoint, ema=ema)
        index = index_validation(val, content["class_names"], content["class_from"])
        with ValidationSet(
            index, preprocessing_of(content), workers=workers, rank=ranks.rank, world_size=ranks.world_size
        ) as validation:
            accuracy = evaluate_model(model.to(ranks.device), validation, ranks.device, batch_size=batch_size)
    if not ranks.first:
        return
    if as_json:
        click.echo(json.dumps({"checkpoint": checkpoint, "samples": index.num_samples, "accuracy": accuracy}, indent=2))
    else:
        Console().print(accuracy_table({content["recipe"]["name"]: accuracy}))


@main.command()
@click.argument("runs", nargs=-1, required=True, metavar="[NAME=]RUN...")
def results(runs: tuple[str, ...]) -> None:
    """One table of the final accuracy of finished runs."""
    found = {}
    for run in runs:
        name, _, folder = run.rpartition("=")
        path = Path(folder, "results.json")
        if not path.is_file():
            raise CheckpointError(f"{folder} has no results.json: its training is not finished")
        found[name or Path(folder).name] = json.loads(path.read_text())["accuracy"]
    Console().print(accuracy_table(found))


def accuracy_table(runs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """A row for every head of every run. runs: name -> head -> {"top1", "top5"}."""
    table = Table(box=None)
    table.add_column("validation")
    table.add_column("top-1 %", justify="right")
    table.add_column("top-5 %", justify="right")
    for name, heads in runs.items():
        for head in sorted(heads, key=_head_order):
            single = len(heads) == 1
            label = name if single else f"{name}, {'EMA, ' if head.startswith('ema_') else ''}{_head_name(head)}"
            table.add_row(label, f"{100 * heads[head]['top1']:.2f}", f"{100 * heads[head]['top5']:.2f}")
    return table


def _head_name(head: str) -> str:
    return HEADS[head.removeprefix("ema_")]


def _head_order(head: str) -> tuple[bool, int]:
    return head.startswith("ema_"), list(HEADS).index(head.removeprefix("ema_"))


if __name__ == "__main__":
    main()
