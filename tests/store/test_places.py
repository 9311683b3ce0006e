"""A store whose shards have moved: read from elsewhere, checked against the index, nothing written."""

import shutil
from pathlib import Path

import pytest

from teacher_cache.errors import PolicyError, ShardError
from teacher_cache.storage.cache import NodeCache
from teacher_cache.store.places import open_moved
from tests.support.bright_shards import bright_store, change_pixel
from tests.support.filled_store import files
from tests.support.memory_storage import bucket_in_memory


def test_shards_are_read_from_where_they_are_now(tmp_path: Path) -> None:
    store = bright_store(tmp_path / "before")
    (folder,) = {Path(entry.path).parent for entry in store.index.shards}
    moved = tmp_path / "after"
    shutil.move(folder, moved)
    before = files(store.path)
    assert {Path(entry.path).parent for entry in open_moved(str(store.path), []).index.shards} == {folder}
    found = open_moved(str(store.path), [str(moved / "*.tar")])
    assert {Path(entry.path).parent for entry in found.index.shards} == {moved}
    assert [entry.hash for entry in found.index.shards] == [entry.hash for entry in store.index.shards]
    assert (found.seed, found.writable) == (store.seed, False)
    assert open_moved(str(store.path), [], writable=True).writable
    assert files(store.path) == before


def test_shards_far_away_are_walked_once_a_machine(tmp_path: Path) -> None:
    """Each rank, and each later command, would read all of them again."""
    store, cache = bright_store(tmp_path), NodeCache(tmp_path / "cache", 10_000_000)
    cache.prepare()
    with bucket_in_memory() as bucket:
        bucket.upload(tmp_path / "shards", "s3://bucket/there")
        places = []
        for walks in (4, 0):
            bucket.requests.clear()
            found = open_moved(str(store.path), ["s3://bucket/there/*.tar"], cache=cache)
            places.append([entry.path for entry in found.index.shards])
            assert bucket.reads() == walks
        assert places[0] == places[1] == [f"s3://bucket/there/train-{number:04d}.tar" for number in range(4)]
        bucket.objects["s3://bucket/there/train-0001.tar"] = bucket.objects["s3://bucket/there/train-0003.tar"]
        with pytest.raises(ShardError, match=r"^shard train-0001\.tar: "):
            open_moved(str(store.path), ["s3://bucket/there/*.tar"], cache=cache)


def test_other_shards_are_refused(tmp_path: Path) -> None:
    store, other = bright_store(tmp_path / "one"), bright_store(tmp_path / "two", counts=(70,))
    patterns = [entry.path for entry in other.index.shards]
    with pytest.raises(ShardError):
        open_moved(str(store.path), patterns)
    change_pixel(store, 0)  # of the same size and names: found when the block is read, not here
    own = open_moved(str(store.path), [entry.path for entry in store.index.shards])
    assert own.index.num_samples == store.index.num_samples


def test_operations_of_another_policy_are_refused(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    with pytest.raises(PolicyError, match=str(store.path)):
        open_moved(str(store.path), [], ops=f"{Path(__file__).parents[1] / 'support' / 'own_operations.py'}:operations")
