"""Shards whose classes lie together are told of, and no others."""

from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from teacher_cache.shards.class_order import block_sizes, class_order_warning, same_class_share
from teacher_cache.shards.classes import ClassRule
from teacher_cache.shards.index import Index, ShardEntry, ShardIndex


def classes_index(classes: Iterable[int], counts: Sequence[int] = ()) -> Index:
    """An index of these classes in shards of so many samples (default: one shard)."""
    flat = np.array(list(classes), np.int32)
    counts = counts or [len(flat)]
    ends = np.cumsum(counts)
    assert ends[-1] == len(flat)
    zeros = np.zeros(len(flat), np.int64)
    parts = [
        ShardIndex(ShardEntry(f"{end}.tar", f"{end}.tar", 0, 0), *keys, *arrays)
        for count, end in zip(counts, ends.tolist(), strict=True)
        for keys in [(np.frombuffer(b"k" * count, np.uint8), np.arange(1, count + 1))]
        for arrays in [[array[end - count : end] for array in (flat, zeros, zeros, zeros.astype(np.uint64))]]
    ]
    return Index.join(parts, ClassRule(names=tuple(str(number) for number in range(max(flat, default=0) + 1))))


def naive_share(index: Index) -> float:
    """How likely the partner of a sample, drawn from the others of its block, has its class."""
    shares = []
    for shard in range(index.num_shards):
        for block in range(index.num_blocks(shard)):
            classes = index.place(shard, block).classes.tolist()
            if len(classes) > 1:
                shares += [(classes.count(one) - 1) / (len(classes) - 1) for one in classes]
    return float(np.mean(shares))


def shuffled(num_samples: int, num_classes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.arange(num_samples) % num_classes)


def in_turn(num_classes: int, at_once: int, each: int) -> np.ndarray:
    """Classes 0, 1 ... at_once - 1 in turn, each so many times, then the next ones."""
    return np.concatenate(
        [np.tile(np.arange(first, first + at_once), each) for first in range(0, num_classes, at_once)]
    )


SORTED: list[tuple[np.ndarray, list[int]]] = [
    (np.sort(shuffled(1000, 10)), [250] * 4),
    (np.repeat(np.arange(10), 20), [20] * 10),  # a class a shard
    (np.concatenate([np.random.default_rng(n).integers(5 * n, 5 * n + 5, 1000) for n in range(200)]), [1000] * 200),
    (in_turn(1000, 2, 100), [1000] * 100),
    (in_turn(10, 2, 100), [200] * 5),
    (np.sort(shuffled(1000, 3)), [1000]),
    (np.sort(shuffled(1000, 2)), [500, 500]),
    (np.concatenate([shuffled(700, 100), np.zeros(300, int)]), [700, 300]),  # long-tailed, its head apart
    (np.repeat(np.arange(5), 3), [3] * 5),
]  # fmt: skip


WELL: list[tuple[np.ndarray, list[int]]] = [
    *((shuffled(20_000, classes, seed), [1000] * 20) for classes in (1, 2, 3, 10, 1000) for seed in range(5)),
    *((shuffled(200, classes, seed), [70, 70, 60]) for classes in (2, 10, 150) for seed in range(5)),
    *((np.sort(shuffled(count, 10)), [count]) for count in (1, 2, 3, 7, 8, 40, 64)),  # one block, in whatever order
    (np.zeros(100, int), [100]),
    (in_turn(2, 2, 500), [1000]),  # two classes of two: half of the pairs, as after a shuffle
    (np.random.default_rng(0).permutation(np.repeat(np.arange(100), 4000 // np.arange(1, 101))), None),
    (shuffled(5000, 10), [65] * 76 + [60]),  # a block of one at the end of each shard
    (np.zeros(0, int), [0]),
    (shuffled(800, 10), [8] * 100),
]  # fmt: skip


@pytest.mark.parametrize(("classes", "counts"), SORTED)
def test_sorted_shards_are_warned_of(classes: np.ndarray, counts: list[int]) -> None:
    index = classes_index(classes, counts)
    message = class_order_warning(index)
    assert message is not None
    assert "\n" not in message
    assert "shards look sorted by class: " in message
    assert "`python tools/make_shards.py reshuffle SHARDS OUT`" in message
    assert f"{naive_share(index):.0%} of the pairs" in message


@pytest.mark.parametrize(("classes", "counts"), WELL)
def test_shuffled_shards_are_not_warned_of(classes: np.ndarray, counts: list[int]) -> None:
    assert class_order_warning(classes_index(classes, counts)) is None


def test_small_shards_are_warned_of() -> None:
    for counts, median in (([3] * 1000, 3), ([1] * 50, 1), ([7] * 30 + [64], 7)):
        message = class_order_warning(classes_index(shuffled(sum(counts), 10), counts))
        assert message is not None
        assert f"shards are too small: half of the samples are in blocks of {median} or fewer" in message
        assert "reshuffle SHARDS OUT" in message
    assert class_order_warning(classes_index(shuffled(sum([3] * 5 + [64]), 10), [3] * 5 + [64])) is None


def test_chance_is_what_shuffles_show() -> None:
    """Mean and standard deviation of the same-class share over many shuffles, beside the formulas."""
    counts = [130, 70, 1, 64, 9]
    classes = np.repeat(np.arange(6), [150, 60, 40, 14, 9, 1])
    rng = np.random.default_rng(0)
    indexes = [classes_index(rng.permutation(classes), counts) for _ in range(400)]
    _, expected, deviation = same_class_share(indexes[0], block_sizes(indexes[0]))
    found = np.array([same_class_share(index, block_sizes(index))[0] for index in indexes])
    assert found[:5].tolist() == pytest.approx([naive_share(index) for index in indexes[:5]])
    assert found.mean() == pytest.approx(expected, abs=4 * found.std() / 20)
    assert found.std() == pytest.approx(deviation, rel=0.15)  # four times the error of a deviation of 400
