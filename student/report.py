"""What `student evaluate` says of a model: plain values for --json, and tables to read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table

from student.evaluate import ANSWERS, Tally
from student.model import Fusion
from student.validation import Preprocessing
from teacher_cache.audit.intervals import wilson
from teacher_cache.messages.shown import counted, shown
from teacher_cache.terminal import line, table

LABELS = {
    "truth": "ground truth",
    "teacher": "teacher",
    "class": "class head",
    "distillation": "distillation head",
    "fused_softmax_sum": "fused, sum of softmaxes",
    "fused_logit_mean": "fused, mean of logits",
}
SHORT = {
    "truth": "truth",
    "teacher": "teacher",
    "class": "class",
    "distillation": "distil.",
    "fused_softmax_sum": "softmaxes",
    "fused_logit_mean": "logits",
}


@dataclass(frozen=True)
class Evaluation:
    """What was evaluated, and how."""

    checkpoint: str
    name: str
    ema: bool
    fusion: Fusion | None  # the recipe's; None: the model came without a recipe
    preprocessing: Preprocessing
    tta: str | None
    teacher: str | None


def report(evaluation: Evaluation, counts: Tally) -> dict[str, Any]:
    """Plain values.

    checkpoint, name, ema, size [H, W], crop_pct, interpolation, tta, teacher, samples; then shares in [0, 1]:
    accuracy: of "class", and where there are such answers "distillation", "fused_softmax_sum", "fused_logit_mean",
    "teacher": top1, top1_interval (Wilson's of 95 %: [lowest, highest]), top5.
    fusion: the recipe's, null without a recipe.
    real, only with --real: samples that have a true class, and of each answer top1, top1_interval.
    disagreement: of every two answers and "truth" the share of samples on which they differ.
    token_cosine: mean cosine of class and distillation token after each block; [] for models without both.
    """
    seen = evaluation.preprocessing
    samples = int(counts.given[0])
    values: dict[str, Any] = {
        "checkpoint": evaluation.checkpoint,
        "name": evaluation.name,
        "ema": evaluation.ema,
        "size": list(seen.size),
        "crop_pct": seen.crop_pct,
        "interpolation": seen.interpolation,
        "tta": evaluation.tta,
        "teacher": evaluation.teacher,
        "fusion": evaluation.fusion,
        "samples": samples,
    }
    numbers = {name: ANSWERS.index(name) for name in counts.answers}
    heads = {name: number for name, number in numbers.items() if name != "truth"}
    values["accuracy"] = {
        name: _top1(int(counts.top1[number]), samples) | {"top5": int(counts.top5[number]) / samples}
        for name, number in heads.items()
    }
    if counts.real_samples:
        values["real"] = {"samples": counts.real_samples} | {
            name: _top1(int(counts.real_top1[number]), counts.real_samples) for name, number in heads.items()
        }
    values["disagreement"] = {
        name: {other: int(counts.differing[number, column]) / samples for other, column in numbers.items()}
        for name, number in numbers.items()
    }
    values["token_cosine"] = list(counts.token_cosine)
    return values


def tables(values: Mapping[str, Any]) -> Group:
    """report()'s values, to read: accuracy, disagreement, cosine."""
    height, width = values["size"]
    name = shown(values["name"]) + (", EMA" if values["ema"] else "")
    title = (
        f"{name}: {counted(values['samples'], 'sample')}, {height} x {width}, crop {values['crop_pct']:g} "
        f"{values['interpolation']}{', flipped too' if values['tta'] else ''}"
    )
    parts: list[Any] = [line(title)]
    if values["teacher"]:
        parts.append(line(f"teacher: {values['teacher']}"))
    parts += [line(""), _accuracy_table(values), line(""), _disagreement_table(values["disagreement"])]
    if values["token_cosine"]:
        cosines = " ".join(f"{cosine:.2f}" for cosine in values["token_cosine"])
        parts += [line(""), line(f"cosine of class and distillation token after each block: {cosines}")]
    return Group(*parts)


def _top1(right: int, samples: int) -> dict[str, Any]:
    return {"top1": right / samples, "top1_interval": list(wilson(right / samples, samples))}


def _accuracy_table(values: Mapping[str, Any]) -> Table:
    real = values.get("real")
    columns = ["answer", "top-1 %", "95 % interval", "top-5 %"]
    if real is not None:
        columns += [f"ReaL %, {real['samples']:,}", "95 % interval"]
    rows = []
    for name, found in values["accuracy"].items():
        label = LABELS[name]
        if values["fusion"] is not None and name == f"fused_{values['fusion']}":
            label += " *"
        row = [label, _percent(found["top1"]), _span(found["top1_interval"]), _percent(found["top5"])]
        if real is not None:
            row += [_percent(real[name]["top1"]), _span(real[name]["top1_interval"])]
        rows.append(row)
    of_recipe = values["fusion"] is not None and f"fused_{values['fusion']}" in values["accuracy"]
    how: dict[str, Any] = {"caption": "* the recipe's fusion", "caption_justify": "left"} if of_recipe else {}
    return table(columns, rows, right=columns[1:], box=None, pad_edge=False, **how)


def _disagreement_table(disagreement: Mapping[str, Mapping[str, float]]) -> Table:
    columns = ["disagree, % of samples", *(SHORT[name] for name in disagreement)]
    rows = [
        [LABELS[name], *("-" if other == name else _percent(share) for other, share in row.items())]
        for name, row in disagreement.items()
    ]
    return table(columns, rows, right=columns[1:], box=None, pad_edge=False)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _span(interval: list[float]) -> str:
    return f"{100 * interval[0]:.2f} to {100 * interval[1]:.2f}"
