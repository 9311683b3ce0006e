from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from teacher_cache.replay.seeds import GRID, Stream, Streams, all_on_grid, derive, derive_all, on_grid
from tests.support.statistics import ALPHA


def test_identities_do_not_collide() -> None:
    identities: list[tuple[Any, ...]] = [
        (0, "view", "ab", "c", 1),
        (0, "view", "a", "bc", 1),
        (0, "view", "ab", "c", "1"),
        (0, "view", "ab", "c1"),
        (1, "view", "ab", "c", 0),
        (0, "noise", "ab", "c", 1),
        (-1, "view", "ab", "c", 1),
        (1 << 70, "view", "ab", "c", 1),
        (0, "view", "\udcff", "c", 1),  # a member's name that is not UTF-8
    ]
    derived = {derive(*identity) for identity in identities}
    assert len(derived) == len(identities)
    assert {len(seed) for seed in derived} == {32}


def test_many_seeds_are_derived_as_one_by_one() -> None:
    ids = [(shard, key, view) for shard in ("a", "ä\udc80") for key in ("", "b", "12") for view in (0, 12, 2**40)]
    for number, purpose in ((0, "view"), (2**63, "noise")):
        assert derive_all(number, purpose, ids) == [derive(number, purpose, *each) for each in ids]
    assert derive_all(0, "view", []) == []


def test_words_do_not_depend_on_how_they_are_asked_for() -> None:
    seed = derive(3, "view", "shard", "key", 0)
    at_once = Stream(seed).raw(200)
    stream = Stream(seed)
    pieces = [stream.raw(1), np.array([stream.integer(1 << 64)], dtype=np.uint64), stream.raw(70), stream.raw(0)]
    pieces.append(np.array([stream.integer(1 << 64) for _ in range(40)], dtype=np.uint64))
    pieces.append(stream.raw(88))
    assert np.array_equal(np.concatenate(pieces), at_once)


def test_the_words_are_philox_keyed_by_the_hash() -> None:
    seed = derive(3, "view", "shard", "key", 0)
    words = np.frombuffer(seed, dtype="<u8")
    source = np.random.Philox(key=words[:2], counter=np.array([0, 0, words[2], words[3]], dtype=np.uint64))
    assert np.array_equal(Stream(seed).raw(8), source.random_raw(8))


def test_ranges_and_grids() -> None:
    stream = Stream(derive(0, "plan"))
    assert all(2 <= stream.uniform(2, 5) < 5 for _ in range(1000))
    assert {stream.integer(3) for _ in range(200)} == {0, 1, 2}
    assert all((stream.normal() * GRID).is_integer() for _ in range(200))
    assert all(0 <= stream.beta(0.01, 0.01) <= 1 for _ in range(500))  # whose gammas underflow
    order = stream.permutation(50)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(50))
    assert stream.permutation(0).tolist() == []


@pytest.mark.parametrize(
    ("draw", "distribution"),
    [
        (lambda stream: stream.uniform(), stats.uniform()),
        (lambda stream: stream.uniform(-3, 5), stats.uniform(-3, 8)),
        (lambda stream: stream.normal(), stats.norm()),
        *((lambda stream, shape=shape: stream.beta(shape, shape), stats.beta(shape, shape)) for shape in (0.8, 1, 3.5)),
        (lambda stream: stream.beta(0.8, 2), stats.beta(0.8, 2)),
    ],
    ids=["uniform", "uniform -3 to 5", "normal", "beta 0.8", "beta 1", "beta 3.5", "beta 0.8 and 2"],
)
def test_distributions(draw: Callable[[Stream], float], distribution: Any) -> None:
    stream = Stream(derive(1, "plan"))
    assert stats.kstest([draw(stream) for _ in range(10_000)], distribution.cdf).pvalue > ALPHA


def test_integers_and_permutations_are_uniform() -> None:
    stream = Stream(derive(1, "plan"))
    assert stats.chisquare(np.bincount([stream.integer(7) for _ in range(7000)])).pvalue > ALPHA
    orders = Counter(tuple(stream.permutation(4).tolist()) for _ in range(6000))
    assert len(orders) == 24
    assert stats.chisquare(list(orders.values())).pvalue > ALPHA


def test_streams_side_by_side_give_what_each_gives_alone() -> None:
    seeds = [derive(2, "view", number) for number in range(70)]
    together, alone = Streams(seeds), [Stream(seed) for seed in seeds]
    asked = np.random.default_rng(0)
    for turn in range(200):
        of = np.flatnonzero(asked.random(len(seeds)) < (0.1 if turn % 3 else 0.9))
        most = [(1 << 32) - 1 if number % 5 == 0 else 1 + number for number in of.tolist()]
        found, expected = {
            0: lambda of=of: (together.uniform(of, -1.5, 3), [alone[number].uniform(-1.5, 3) for number in of]),
            1: lambda of=of, most=most: (
                together.integer(of, np.array(most)),
                [alone[number].integer(n) for number, n in zip(of, most, strict=True)],
            ),
            2: lambda of=of: (together.normal(of), [alone[number].normal() for number in of]),
            3: lambda of=of: (together.permutation(of, 4), [alone[number].permutation(4).tolist() for number in of]),
        }[turn % 4]()
        assert found.tolist() == expected


def test_the_grid_is_one_for_arrays_and_numbers() -> None:
    values = [0.0, -0.0, -1e-9, 0.5 / GRID, 1.5 / GRID, -0.5 / GRID, 1 / 3, -7.1, 123.456]
    assert [repr(value) for value in all_on_grid(np.array(values)).tolist()] == [repr(on_grid(v)) for v in values]
