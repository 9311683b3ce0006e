"""Two-sample tests, as the distributions must be timm's though the draws are not."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np


def ks_p_value(a: Sequence[float], b: Sequence[float]) -> float:
    """Kolmogorov and Smirnov's two-sample test: the asymptotic chance of a distance this large between equals."""
    values = np.sort(np.concatenate([a, b]))
    below_a = np.searchsorted(np.sort(a), values, side="right") / len(a)
    below_b = np.searchsorted(np.sort(b), values, side="right") / len(b)
    reach = float(np.abs(below_a - below_b).max()) * math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    if reach < 0.2:
        return 1.0
    return min(1.0, 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * reach) ** 2) for k in range(1, 101)))


def counts_fit(a: Sequence[Hashable], b: Sequence[Hashable], *, sigmas: float = 4.5) -> bool:
    """Whether every outcome's share is equal in both, but for chance."""
    counts_a, counts_b = Counter(a), Counter(b)
    for outcome in counts_a | counts_b:
        share_a, share_b = counts_a[outcome] / len(a), counts_b[outcome] / len(b)
        share = (counts_a[outcome] + counts_b[outcome]) / (len(a) + len(b))
        if abs(share_a - share_b) > sigmas * math.sqrt(share * (1 - share) * (1 / len(a) + 1 / len(b))) + 1e-12:
            return False
    return True
