"""Whether samples lie in an order that mixes well: partners are drawn within blocks, where classes must not gather."""

import math

import numpy as np

from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.shards.index import Index

SMALL_BLOCK = 8  # samples; see class_order_warning
_RESHUFFLE = "write them again with `python tools/make_shards.py reshuffle SHARDS OUT`"


def class_order_warning(index: Index) -> str | None:
    """One line when blocks make poor mixing: what was found, and how to shuffle; None when all is well.

    Partners are drawn within blocks, so what counts is how often the two of a pair share their class. After a shuffle
    of all samples that is sum(N_c (N_c - 1)) / (N (N - 1)). The warning comes at twice that, or half-way from there to
    'always' where that is less (few classes), and beyond three standard deviations of chance; and where most samples
    are in blocks of fewer than 8, though there are more: 8 are the fewest with which mixing was measured to be as good
    as over the whole set, and in small odd blocks many have no partner.
    """
    sizes = block_sizes(index)
    if index.num_samples < 4:
        return None
    found, expected, deviation = same_class_share(index, sizes)
    if found >= min(2 * expected, (1 + expected) / 2) and found - expected > 3 * deviation:
        return (
            f"shards look sorted by class: {_percent(found)} of the pairs in blocks of {BLOCK_SAMPLES} samples share "
            f"their class, after a shuffle {_percent(expected)} would, so Mixup and CutMix would mix like with like; "
            f"{_RESHUFFLE}"
        )
    median = int(np.median(np.repeat(sizes, sizes)))
    if median < SMALL_BLOCK <= index.num_samples:
        return (
            f"shards are too small: half of the samples are in blocks of {median} or fewer, where Mixup and CutMix "
            f"find few partners (blocks of {BLOCK_SAMPLES} are best, and do not cross shards); {_RESHUFFLE}"
        )
    return None


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.2g}%"


def block_sizes(index: Index) -> np.ndarray:
    """(B,) int64: the samples of every block, shard by shard."""
    blocks = -(-index.counts // BLOCK_SAMPLES)
    sizes = np.full(int(blocks.sum()), BLOCK_SAMPLES, np.int64)
    last = np.cumsum(blocks)[blocks > 0] - 1
    sizes[last] = (index.counts[blocks > 0] - 1) % BLOCK_SAMPLES + 1
    return sizes


def same_class_share(index: Index, sizes: np.ndarray) -> tuple[float, float, float]:
    """How likely a sample's partner is to have its class: in the blocks as they are, and expected after a shuffle, with
    the standard deviation of that. Of 4 samples or more; sizes (B,) int64 of their blocks.

    Both moments are exact, those of sum(A_ij B_p(i)p(j)) over all orders p (Mantel 1967, "The detection of disease
    clustering", Cancer Research 27): A_ij is 1 / (n - 1) where i and j are in one block of n, B_ij 1 where they are of
    one class. Blocks of one sample have no pairs; without any pair all are 0.
    """
    total = index.num_samples
    paired = sizes[sizes > 1].astype(float)
    if not len(paired):
        return 0.0, 0.0, 0.0
    members = np.bincount(index.classes).astype(float)
    cells, counts = np.unique(
        np.repeat(np.arange(len(sizes)), sizes) * len(members) + index.classes, return_counts=True
    )
    others = np.maximum(sizes[cells // len(members)] - 1, 1)
    found = float((counts * (counts - 1) / others).sum())
    # Sums over all i != j of A_ij and of A_ij squared, and over i of (sum over j of A_ij) squared; of B alike.
    a_sum = a_rows = paired.sum()
    a_squares = (paired / (paired - 1)).sum()
    b_sum = b_squares = (members * (members - 1)).sum()
    b_rows = (members * (members - 1) ** 2).sum()
    two, three, four = (float(math.perm(total, places)) for places in (2, 3, 4))
    expected = float(a_sum * b_sum / two)
    second_moment = (
        2 * a_squares * b_squares / two
        + 4 * (a_rows - a_squares) * (b_rows - b_squares) / three
        + (a_sum**2 + 2 * a_squares - 4 * a_rows) * (b_sum**2 + 2 * b_squares - 4 * b_rows) / four
    )
    deviation = max(0.0, float(second_moment) - expected**2) ** 0.5
    return found / a_sum, expected / a_sum, deviation / a_sum
