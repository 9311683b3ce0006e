"""A unit: what it is called, and what it holds."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xxhash

NOT_LABELLED = -1
SKIPPED = -2
TOPK_ARRAYS = ("topk_classes", "topk_probabilities")
CLASS_ARRAYS = ("labels", "topk_classes")  # that hold classes, -1 or -2


class Unit(NamedTuple):
    """Up to unit_samples consecutive samples of one shard x one group of views. All three count from 0."""

    shard: int
    unit: int
    group: int


def by_group(units: np.ndarray) -> list[Unit]:
    """The units that are True of (S, U, G) bool, group by group: where a group's chunks are one file far away, what is
    read in this order fetches each file once."""
    found = np.argwhere(units.transpose(2, 0, 1)).tolist()
    return [Unit(shard, unit, group) for group, shard, unit in found]


@dataclass(frozen=True)
class UnitValues:
    """What a unit holds: labels (rows, group) int, digests (blocks, group) uint64; in a store of topk also
    topk_classes (rows, group, K) int and topk_probabilities (rows, group, K + 1) float16, as topk.top_classes gives
    them, -2 and 0 where a sample was skipped.

    Rows and blocks are either the unit's own, or padded with -1 and 0 to unit_samples and unit_samples // 64.
    """

    labels: np.ndarray
    digests: np.ndarray
    topk_classes: np.ndarray | None = None
    topk_probabilities: np.ndarray | None = None


@dataclass(frozen=True)
class UnitCounts:
    """Counts of (sample, view)s in a unit; own, larger and either count labels that equal the sample's own class,
    the class with the larger lambda (own on a tie), either class of the pair; damaged those of images that a decoder
    warned of."""

    labelled: int
    own: int
    larger: int
    either: int
    skipped: int
    damaged: int = 0


def hash_values(values: UnitValues) -> int:
    """What a record keeps of a padded unit: xxh3_64 of its labels, digests and topk, little-endian."""
    hasher = xxhash.xxh3_64(np.ascontiguousarray(values.labels, values.labels.dtype.newbyteorder("<")).tobytes())
    hasher.update(np.ascontiguousarray(values.digests, "<u8").tobytes())
    for topk in (values.topk_classes, values.topk_probabilities):
        if topk is not None:
            hasher.update(np.ascontiguousarray(topk, topk.dtype.newbyteorder("<")).tobytes())
    return hasher.intdigest()


def are_classes(values: np.ndarray, num_classes: int) -> bool:
    """Whether all values are classes, NOT_LABELLED or SKIPPED."""
    return bool(((values >= SKIPPED) & (values < num_classes)).all())


def topk_fault(values: UnitValues) -> str | None:
    """What is wrong with a padded unit's topk; None where nothing is."""
    assert values.topk_classes is not None
    assert values.topk_probabilities is not None
    labelled = values.labels >= 0
    classes, parts = values.topk_classes[labelled], values.topk_probabilities[labelled].astype(np.float32)
    largest = parts[:, :-1]
    if not (classes[:, 0] == values.labels[labelled]).all() or (classes < 0).any():
        return "the first class is not the label everywhere, or a labelled view lacks classes"
    if not ((parts >= 0) & (parts <= 1)).all() or (largest[:, 1:] > largest[:, :-1]).any():
        return "probabilities are not all in [0, 1] and descending"
    # Each part may be off by 2**-11 of itself, and those below 6e-5 by 2**-25.
    if (abs(parts.sum(axis=1, dtype=np.float64) - 1) > 2**-10 + parts.shape[1] * 2**-25).any():
        return "the probabilities of a view do not sum to 1"
    skipped = values.labels == SKIPPED
    if (values.topk_classes[skipped] != SKIPPED).any() or values.topk_probabilities[skipped].any():
        return f"a skipped sample has other than classes {SKIPPED} and probabilities 0"
    return None
