"""Two-sample tests, as the distributions must be timm's though the draws are not."""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats

ALPHA = 1e-3  # a p-value below is a difference; seeds are fixed, so it is one on every run
RARE = 10  # outcomes seen less often count as one: chi-square's approximation wants some of each


def same_values(a: Sequence[float], b: Sequence[float]) -> float:
    """Kolmogorov and Smirnov's p-value that two samples of reals are of one distribution."""
    assert min(len(a), len(b)) >= 100
    return float(stats.ks_2samp(a, b, method="asymp").pvalue)


def same_counts(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """Pearson's chi-square p-value that two samples of outcomes are of one distribution."""
    assert min(len(a), len(b)) >= 100
    counts_a, counts_b = Counter(a), Counter(b)
    outcomes = counts_a | counts_b
    often = [outcome for outcome in outcomes if counts_a[outcome] + counts_b[outcome] >= RARE]
    table = np.array([[counts[outcome] for outcome in often] for counts in (counts_a, counts_b)], dtype=np.int64)
    rest = np.array([[len(a)], [len(b)]]) - table.sum(axis=1, keepdims=True)
    table = np.hstack([table, rest]) if rest.sum() >= RARE else table
    return float(stats.chi2_contingency(table).pvalue) if table.shape[1] > 1 else 1.0
