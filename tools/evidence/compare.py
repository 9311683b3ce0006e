"""Accuracies with their intervals, over seeds and pictures, and what two arms say of each other: nothing, under three
seeds.

Two things are drawn at random. Seeds: a training's accuracy varies, and k of them were run. Pictures: the n of the
validation shards are a sample of all pictures, the same for every seed and arm, so that their part does not shrink with
more seeds. The variance of a mean accuracy p is s**2 / k + p (1 - p) / n. In a difference of two arms the pictures'
parts are added up as if either had pictures of its own, which is more than the same pictures give: the interval is
wider than it might be. Degrees of freedom are Welch and Satterthwaite's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtrit

from tools.evidence.errors import EvidenceError
from tools.evidence.settings import Head
from tools.evidence.table import Row

CONFIDENCE = 0.95
LEAST_SEEDS = 3  # below it two arms are not compared

Claim = Literal["better", "equal", "open"]


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference of shares, and half of its 95 % interval; seeds: of the arm that has fewest."""

    value: float
    half: float
    seeds: int

    @property
    def low(self) -> float:
        return self.value - self.half

    @property
    def high(self) -> float:
        return self.value + self.half


@dataclass(frozen=True)
class _Part:
    """A variance, and its degrees of freedom."""

    variance: float
    freedom: float


def mean_of(rows: Sequence[Row], head: Head) -> Estimate:
    """The mean accuracy of an arm's rows, one a seed. With one seed, the interval is over pictures alone."""
    shares = _shares(rows, head)
    return Estimate(_mean(shares), _half(_parts(shares, _pictures(rows))), len(shares))


def difference(first: Sequence[Row], second: Sequence[Row], heads: tuple[Head, Head]) -> Estimate:
    """How much more the first arm's mean accuracy is than the second's. EvidenceError under three seeds of either."""
    seeds = min(len(first), len(second))
    if seeds < LEAST_SEEDS:
        raise EvidenceError(f"{seeds} of the {LEAST_SEEDS} seeds without which two arms are not compared: run the rest")
    one, two = _shares(first, heads[0]), _shares(second, heads[1])
    parts = [*_parts(one, _pictures(first)), *_parts(two, _pictures(second))]
    return Estimate(_mean(one) - _mean(two), _half(parts), seeds)


def verdict(found: Estimate, claim: Claim) -> str:
    """What a difference shows, in words, beside what was claimed of it."""
    if found.low <= 0 <= found.high:
        shown = "no difference shows"
        answer = {"better": "the claim is not shown", "equal": "as claimed, within this interval", "open": ""}[claim]
    else:
        shown = "better" if found.value > 0 else "worse"
        answers = {
            "better": "as claimed" if found.value > 0 else "**against the claim**",
            "equal": "**against the claim**",
            "open": "",
        }
        answer = answers[claim]
    return f"{shown}: {answer}" if answer else shown


def _shares(rows: Sequence[Row], head: Head) -> list[float]:
    seeds = [row.seed for row in rows]
    if not rows or len(set(seeds)) != len(seeds):
        raise EvidenceError(f"rows of the seeds {seeds} are no arm: one row a seed is expected")
    return [row.top1(head) for row in rows]


def _pictures(rows: Sequence[Row]) -> int:
    counts = {row.pictures for row in rows}
    if len(counts) != 1:
        raise EvidenceError(
            f"rows of one arm were evaluated on other numbers of pictures, {sorted(counts)}: evaluate all alike"
        )
    return counts.pop()


def _parts(shares: Sequence[float], pictures: int) -> list[_Part]:
    mean, seeds = _mean(shares), len(shares)
    parts = [_Part(mean * (1 - mean) / pictures, pictures - 1)]
    if seeds > 1:
        variance = sum((share - mean) ** 2 for share in shares) / (seeds - 1)
        parts.append(_Part(variance / seeds, seeds - 1))
    return parts


def _half(parts: Sequence[_Part]) -> float:
    """Half the interval of a sum whose parts have these variances (Welch 1947; Satterthwaite 1946)."""
    total = sum(part.variance for part in parts)
    if not total:
        return 0.0
    freedom = total**2 / sum(part.variance**2 / part.freedom for part in parts)
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * math.sqrt(total)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
