"""Which blocks `verify` replays."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.unit import Unit
from teacher_cache.verify import draw_in_layers


def atoms_of(shards: int, units: int, groups: int, blocks: int) -> list[tuple[Unit, int]]:
    return [
        (Unit(shard, unit, group), unit * blocks + block)
        for group in range(groups)
        for shard in range(shards)
        for unit in range(units)
        for block in range(blocks)
    ]


@given(st.integers(1, 9), st.integers(1, 2), st.integers(1, 6), st.integers(1, 3), st.floats(0, 1), st.integers(0, 99))
def test_no_shard_or_group_is_drawn_twice_before_all_are_drawn_once(
    shards: int, units: int, groups: int, blocks: int, fraction: float, seed: int
) -> None:
    atoms = atoms_of(shards, units, groups, blocks)
    chosen = draw_in_layers(atoms, fraction, seed)
    assert len(chosen) == len(set(chosen)) == max(1, round(fraction * len(atoms)))
    of_shards = Counter(unit.shard for unit, _ in chosen)
    of_groups = Counter(unit.group for unit, _ in chosen)
    assert max(of_shards.values()) - min(of_shards[shard] for shard in range(shards)) <= 1
    if len(chosen) <= min(shards, groups):
        assert max(of_groups.values()) == 1
    if len(chosen) >= max(shards, groups) and shards >= groups:
        assert len(of_groups) == groups


@pytest.mark.parametrize("seed", range(20))
def test_a_tenth_of_a_store_covers_all_of_its_shards_and_groups(seed: int) -> None:
    chosen = draw_in_layers(atoms_of(8, 1, 5, 4), 0.1, seed)
    assert {unit.shard for unit, _ in chosen} == set(range(8))
    assert {unit.group for unit, _ in chosen} == set(range(5))


def test_all_means_all_and_nothing_nothing() -> None:
    atoms = atoms_of(3, 2, 2, 2)
    assert sorted(draw_in_layers(atoms, 1.0, 0)) == sorted(atoms)
    assert draw_in_layers([], 1.0, 0) == []
    assert draw_in_layers(atoms, 0.3, 1) != draw_in_layers(atoms, 0.3, 2)
