"""Shares, intervals and tables of known counts."""

import io

import torch
from rich.console import Console

from student.evaluate import ANSWERS, Tally
from student.report import Evaluation, report, tables
from student.validation import Preprocessing
from teacher_cache.audit.intervals import wilson

SEEN = Preprocessing((224, 224), 0.875, "bicubic", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def counts(*, without: tuple[str, ...] = (), real_samples: int = 0, samples: int = 50_000) -> Tally:
    there = torch.tensor([name not in without for name in ANSWERS]).long()
    tops = torch.arange(len(ANSWERS)) * 1000 + 30_000
    differing = torch.arange(36).view(6, 6) * 100
    return Tally(there * samples, there * tops, there * tops, there * tops, real_samples, differing, (0.06, 0.931))


def evaluation(name: str = "deit_tiny_distilled") -> Evaluation:
    return Evaluation(
        checkpoint="c.pt",
        name=name,
        ema=True,
        fusion="softmax_sum",
        preprocessing=SEEN,
        tta="flip",
        teacher="regnety_160.deit_in1k",
    )


def test_shares_of_counts() -> None:
    values = report(evaluation(), counts(real_samples=46_000))
    assert values["samples"] == 50_000
    assert list(values["accuracy"]) == [name for name in ANSWERS if name != "truth"]
    assert values["accuracy"]["class"]["top1"] == 32_000 / 50_000
    assert values["accuracy"]["class"]["top1_interval"] == list(wilson(0.64, 50_000))
    assert values["real"]["samples"] == 46_000
    assert values["real"]["class"] == {"top1": 32_000 / 46_000, "top1_interval": list(wilson(32_000 / 46_000, 46_000))}
    assert values["disagreement"]["teacher"]["class"] == 800 / 50_000
    assert values["token_cosine"] == [0.06, 0.931]


def test_what_a_model_does_not_have_is_left_out() -> None:
    values = report(evaluation(), counts(without=("teacher", "distillation", "fused_softmax_sum", "fused_logit_mean")))
    assert list(values["accuracy"]) == ["class"]
    assert list(values["disagreement"]) == list(values["disagreement"]["class"]) == ["truth", "class"]
    assert "real" not in values


def test_tables_fit_the_screen_and_say_all() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(tables(report(evaluation("[odd] name"), counts(real_samples=46_000))))
    lines = console.export_text().splitlines()
    assert lines[0] == "[odd] name, EMA: 50,000 samples, 224 x 224, crop 0.875 bicubic, flipped too"
    assert max(len(line.rstrip()) for line in lines) <= 100
    text = "\n".join(lines)
    for part in ("fused, sum of softmaxes *", "* the recipe's fusion", "64.00", "63.58 to 64.42", "ReaL %, 46,000"):
        assert part in text
    assert lines[-1].endswith("after each block: 0.06 0.93")
