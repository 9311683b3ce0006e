"""The final accuracy of finished runs, and the table of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from teacher_cache.errors import CheckpointError
from teacher_cache.messages.recognise import is_run, what_is
from teacher_cache.settings import read_json
from teacher_cache.terminal import table

RESULTS = "results.json"  # of a run that has trained through
HEADS = {"class": "class head", "distillation": "distillation head", "fused": "fused"}


def final_accuracy(path: Path) -> dict[str, dict[str, float]]:
    """Head -> {"top1", "top5"} of a results.json. Raises CheckpointError."""
    run = path.parent
    if run.is_dir() and is_run(run) and not path.is_file():
        raise CheckpointError(f"{run} has no {path.name}: its training is not finished; run its command again")
    if not path.is_file():
        raise CheckpointError(f"{run} is no run, {what_is(run)}: name the --out of a training")
    advice = "run the training's command again, it writes the file anew"
    results = read_json(path, str(path), CheckpointError, advice)
    found = results.get("accuracy") if isinstance(results, dict) else None
    if not isinstance(found, dict) or not all(
        head.removeprefix("ema_") in HEADS
        and isinstance(values, dict)
        and all(type(values.get(top)) in (int, float) and 0 <= values[top] <= 1 for top in ("top1", "top5"))
        for head, values in found.items()
    ):
        raise CheckpointError(f"{path} holds no accuracy by head, with top1 and top5 of 0 to 1: {advice}")
    return found


def accuracy_table(runs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """A row for every head of every run. runs: name -> head -> {"top1", "top5"}."""
    rows = []
    for name, heads in runs.items():
        for head, *values in accuracy_rows(heads):
            rows.append((name if len(heads) == 1 else f"{name}, {head}", *values))
    columns = ("validation", "top-1 %", "top-5 %")
    return table(columns, rows, right=columns[1:], limits={"validation": 200}, box=None)


def accuracy_rows(heads: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """(head, top-1, top-5), in percent, for people. heads: name -> {"top1", "top5"}."""
    return [
        (
            f"{'EMA, ' if head.startswith('ema_') else ''}{_head_name(head)}",
            f"{100 * heads[head]['top1']:.2f}",
            f"{100 * heads[head]['top5']:.2f}",
        )
        for head in sorted(heads, key=_head_order)
    ]


def _head_name(head: str) -> str:
    return HEADS[head.removeprefix("ema_")]


def _head_order(head: str) -> tuple[bool, int]:
    return head.startswith("ema_"), list(HEADS).index(head.removeprefix("ema_"))
