"""Shares with intervals: of views, which are no independent draws, and of samples, which are."""

import math
from typing import Any

import numpy as np
from scipy.special import bdtr, ndtri, stdtrit

CONFIDENCE = 0.95
HOW = (
    "Wilson's interval of 95 % at the effective number of views: blocks are the clusters, so views of the same "
    "pictures and the two of a mixed pair do not count as independent; the variance between blocks has blocks - 1 "
    "degrees of freedom (Korn and Graubard 1998); with one block, or all views alike, a block counts as one view"
)


def measured(hits: np.ndarray, clusters: np.ndarray) -> dict[str, Any]:
    """The share of hits (n,) bool with its interval; clusters (n,) int: views of equal numbers depend on each other.

    {"views": 1200, "blocks": 87, "share": 0.61, "interval": [0.57, 0.65]}; share and interval are None of no views.
    """
    views = len(hits)
    if not views:
        return {"views": 0, "blocks": 0, "share": None, "interval": None}
    _, numbers = np.unique(clusters, return_inverse=True)
    sizes = np.bincount(numbers)
    effective = effective_views(np.bincount(numbers, hits), sizes)
    share = float(hits.mean())
    return {"views": views, "blocks": len(sizes), "share": share, "interval": list(wilson(share, effective))}


def effective_views(hits: np.ndarray, sizes: np.ndarray) -> float:
    """How many independent views tell as much. hits and sizes (clusters,): of each, its hits and its views.

    The ratio estimator's variance with clusters drawn whole, against that of as many independent views; never more than
    the views that there are.
    """
    clusters, views = len(sizes), float(sizes.sum())
    share = hits.sum() / views
    if clusters == 1 or share in (0, 1):
        return float(clusters)
    variance = clusters / (clusters - 1) * float(((hits - share * sizes) ** 2).sum()) / views**2
    independent = share * (1 - share) / views
    normal, student = ndtri((1 + CONFIDENCE) / 2), stdtrit(clusters - 1, (1 + CONFIDENCE) / 2)
    return views / max(1.0, variance / independent) * float(normal / student) ** 2


def wilson(share: float, views: float) -> tuple[float, float]:
    """Wilson's score interval of 95 % for a share seen in so many views, which need not be a whole number."""
    z = float(ndtri((1 + CONFIDENCE) / 2))
    centre = (share + z**2 / (2 * views)) / (1 + z**2 / views)
    half = z / (1 + z**2 / views) * math.sqrt(share * (1 - share) / views + z**2 / (4 * views**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def kappa(agreed: float, first: np.ndarray, second: np.ndarray) -> float | None:
    """Cohen's kappa (1960) of the share of equal labels, and how often each of two gave each class, both (classes,).

    (a - c) / (1 - c), c being what these frequencies give by chance; None where chance alone agrees always.
    """
    if not first.sum():
        return None
    chance = float((first / first.sum() * (second / second.sum())).sum())
    return None if chance >= 1 else (float(agreed) - chance) / (1 - chance)


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p-value that either is as likely to be the only one that is right (McNemar 1947)."""
    either = only_first + only_second
    return 1.0 if not either else min(1.0, 2 * float(bdtr(min(only_first, only_second), either, 0.5)))
