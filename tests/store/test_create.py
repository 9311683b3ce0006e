"""What a new store takes from its request, from another store, and by default."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from teacher_cache.errors import StoreError
from teacher_cache.store.create import IndexRequest, choose_policy, create_alike, create_store
from teacher_cache.store.store import Store
from tests.support.bright_shards import bright_store, small_policy


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return bright_store(tmp_path, name="other", counts=(64, 3), group=2, views=4)


def settings(store: Store) -> tuple[object, ...]:
    return store.views, store.seed, store.group, store.unit_samples, store.any_device, store.max_pixels


def test_what_is_not_said_is_the_default(tmp_path: Path, other: Store) -> None:
    made = create_store(str(tmp_path / "made"), other.index, IndexRequest(small_policy(), views=3))
    assert settings(made) == (3, 0, 3, 64, False, 178956970)  # a group of all views, a unit of the longest shard


def test_what_is_said_is_the_stores(tmp_path: Path, other: Store) -> None:
    request = IndexRequest(
        small_policy("size=9"), views=6, seed=5, group=3, unit_samples=64, devices="any", max_pixels=99
    )
    made = create_store(str(tmp_path / "made"), other.index, request)
    alike = create_alike(str(tmp_path / "alike"), other, replace(request, seed=None), classes_file=None)
    for store, seed in ((made, 5), (alike, other.seed)):
        assert settings(store) == (6, seed, 3, 64, True, 99)
        assert store.policy.size == (9, 9)
        assert store.index.shards == other.index.shards


def test_what_is_not_said_is_the_other_stores(tmp_path: Path, other: Store) -> None:
    made = create_alike(str(tmp_path / "made"), other, IndexRequest(other.policy, seed=other.seed), classes_file=None)
    assert settings(made) == settings(other)
    assert made.policy == other.policy


@pytest.mark.parametrize(
    ("request_of", "message"),
    [
        ({"seed": 4}, "has seed 3, --seed says 4: leave --seed out"),
        ({"class_from": "json:a"}, "was indexed with another --class-from"),
        ({"image_from": "left.jpg"}, "was indexed with another --image-from"),
        ({"whole": True}, "has fingerprints of images' tails: leave --whole out"),
    ],
)
def test_samples_are_not_read_otherwise(tmp_path: Path, other: Store, request_of: dict, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        create_alike(str(tmp_path / "made"), other, IndexRequest(other.policy, **request_of), classes_file=None)
    assert not (tmp_path / "made").exists()


def test_other_class_names_are_refused(tmp_path: Path, other: Store) -> None:
    names = tmp_path / "names.json"
    names.write_text(json.dumps(list(other.class_names)))
    create_alike(str(tmp_path / "same"), other, IndexRequest(other.policy), classes_file=str(names))
    names.write_text('["a"]')
    with pytest.raises(StoreError, match="was indexed with another --classes"):
        create_alike(str(tmp_path / "made"), other, IndexRequest(other.policy), classes_file=str(names))


def test_a_policy_is_the_named_one_or_that_of_the_store(other: Store) -> None:
    assert choose_policy("deit", (), None, other).name == "deit"
    assert choose_policy(None, (), None, other) == other.policy
    assert choose_policy(None, ("size=5",), None, other).size == (5, 5)
