"""Shards of a bucket: indexed, read and checked as local ones are, by size and ETag, and a request a block."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from teacher_cache.audit.conditions import image_sizes
from teacher_cache.errors import ImageError, ShardError
from teacher_cache.shards import walk as walk_module
from teacher_cache.shards.check import check_shards
from teacher_cache.shards.classes import ClassRule, class_rule, read_class_names
from teacher_cache.shards.find import expand_shards
from teacher_cache.shards.index import Index
from teacher_cache.shards.indexing import index_shards
from teacher_cache.shards.read import read_block
from teacher_cache.storage.cache import NodeCache
from teacher_cache.store.reindex import are_in_place
from tests.support.memory_storage import Bucket, bucket_in_memory
from tests.support.shard_files import make_samples, write_shard, write_shards

CLS = ClassRule()
URL = "s3://set/train"


def local_and_far(folder: Path, bucket: Bucket, counts: tuple[int, ...] = (130, 0, 70)) -> tuple[Index, Index]:
    """The index of some local shards, and that of the same ones in the bucket."""
    local = write_shards(folder, counts)
    bucket.upload(folder, URL)
    far = expand_shards([f"{URL}/*.tar"])
    return index_shards(local, class_rule(local)), index_shards(far, class_rule(far))


def test_an_index_of_urls_is_that_of_the_files_but_for_places(tmp_path: Path) -> None:
    with bucket_in_memory() as bucket:
        local, far = local_and_far(tmp_path, bucket)
    assert [entry.path for entry in far.shards] == [f"{URL}/{entry.name}" for entry in local.shards]
    assert all(entry.etag for entry in far.shards)
    assert not any(entry.etag for entry in local.shards)
    places = [replace(entry, path=other.path, etag=None) for entry, other in zip(far.shards, local.shards, strict=True)]
    assert (tuple(places), far.class_names) == (local.shards, local.class_names)
    for name in ("counts", "key_bytes", "key_ends", "classes", "offsets", "sizes", "fingerprints"):
        np.testing.assert_array_equal(getattr(far, name), getattr(local, name))


def test_a_block_is_a_request(tmp_path: Path) -> None:
    with bucket_in_memory() as bucket:
        local, far = local_and_far(tmp_path, bucket)
        for shard, block in ((0, 0), (0, 2), (2, 1)):
            bucket.requests.clear()
            assert read_block(far.place(shard, block)).images == read_block(local.place(shard, block)).images
            assert image_sizes(far.place(shard, block)).tolist() == image_sizes(local.place(shard, block)).tolist()
            assert [method for method, _, _ in bucket.requests] == ["get_ranges"] * 2


def refused(index: Index, part: str) -> None:
    for read in (read_block, image_sizes):
        with pytest.raises(ShardError, match=part) as caught:
            read(index.place(0, 0))
        assert not isinstance(caught.value, ImageError)
        assert str(caught.value).isprintable()


def test_an_object_that_is_another_is_refused(tmp_path: Path) -> None:
    with bucket_in_memory() as bucket:
        _, far = local_and_far(tmp_path, bucket)
        place = far.shards[0]
        content = bucket.objects[place.path]
        key = r"\(read for key 'sample-00000'\): it is another file than was indexed; put .*, or index again"
        bucket.objects[place.path] = content + bytes(512)
        refused(
            far,
            rf"shard train-0000.tar: s3://set/train/train-0000.tar has {len(content) + 512:,} bytes, the index says "
            rf"{len(content):,} {key}",
        )
        bucket.objects[place.path] = content[:-1] + b"\1"  # behind all images, so no fingerprint tells
        refused(far, rf"train-0000.tar has the ETag \w{{32}}, the index says {place.etag} {key}")
        refused(replace(far, sizes=far.sizes + 2**40), "images of block 0 .* beyond it: the index is damaged")
        bucket.fails.add(place.path)
        refused(far, r"shard train-0000.tar cannot be read at key 'sample-00000': s3://set/\S*: gave no answer")
        del bucket.objects[place.path]
        bucket.fails.clear()
        refused(far, r"shard train-0000.tar: s3://\S* cannot be read at key 'sample-00000' \(s3://\S* is not there\)")


def test_another_image_of_the_same_etag_is_told_by_its_fingerprint(tmp_path: Path) -> None:
    """As a server without ETags, whose times of change are coarse."""
    with bucket_in_memory() as bucket:
        _, far = local_and_far(tmp_path, bucket)
        entry = far.shards[0]
        content = bytearray(bucket.objects[entry.path])
        content[int(far.offsets[3] + far.sizes[3]) - 3] ^= 1
        bucket.objects[entry.path] = bytes(content)
        unknown = replace(far, shards=(replace(entry, etag=None), *far.shards[1:]))
        refused(unknown, "holds another image than was indexed at key 'sample-00003'")


def test_shards_are_checked_where_they_are_now(tmp_path: Path) -> None:
    with bucket_in_memory() as bucket:
        local, far = local_and_far(tmp_path, bucket)
        paths = [entry.path for entry in far.shards]
        moved = check_shards(local, paths, CLS)
        assert moved.shards == far.shards
        assert check_shards(far, [entry.path for entry in local.shards], CLS).shards == local.shards
        assert are_in_place(moved, paths, CLS)
        assert not are_in_place(local, paths, CLS)
        content = bucket.objects[paths[0]]
        bucket.objects[paths[0]] = content[:-1] + b"\1"
        assert not are_in_place(moved, paths, CLS)
        with pytest.raises(ShardError, match=r"shard train-0000.tar goes on after its end"):
            check_shards(local, paths, CLS)
        bucket.objects[paths[0]] = content + b"\1"
        with pytest.raises(ShardError, match=rf"s3://\S* has {len(content) + 1:,} bytes, the index says"):
            check_shards(local, paths, CLS)
        del bucket.objects[paths[0]]
        assert not are_in_place(moved, paths, CLS)
        with pytest.raises(ShardError, match=r"s3://\S* cannot be opened \(no such object\)"):
            check_shards(local, paths, CLS)


@pytest.mark.parametrize("kept", ["folder", "cache"])
def test_a_walk_of_objects_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str) -> None:
    with bucket_in_memory() as bucket:
        write_shards(tmp_path / "shards", (30, 40))
        bucket.upload(tmp_path / "shards", URL)
        paths, folder = expand_shards([f"{URL}/*.tar"]), tmp_path / "scratch"
        scratch = folder if kept == "folder" else NodeCache(folder, 10**6)
        walked: list[str] = []
        index_shard = walk_module.index_shard
        monkeypatch.setattr(
            walk_module, "index_shard", lambda path, *how: walked.append(path) or index_shard(path, *how)
        )
        first = index_shards(paths, CLS, scratch=scratch)
        assert (walked, index_shards(paths, CLS, scratch=scratch).shards) == (paths, first.shards)
        bucket.objects[paths[1]] = write_shard(tmp_path / "o.tar", make_samples(40, key="other")).read_bytes()
        assert index_shards(paths, CLS, scratch=scratch).shards != first.shards
        assert walked == [*paths, paths[1]]
        assert index_shards(paths, CLS, scratch=scratch).shards == index_shards(paths, CLS).shards


def test_classes_are_read_beside_the_shards(tmp_path: Path) -> None:
    with bucket_in_memory() as bucket:
        write_shards(tmp_path, (3,), num_classes=4)
        for url in ("https://host/train", URL):
            bucket.upload(tmp_path, url)
            names = tuple(f"class-{number}" for number in range(4))
            assert class_rule([f"{url}/train-0000.tar"]).names == names
            assert read_class_names(f"{url}/classes.json") == names
            with pytest.raises(ShardError, match=rf"the classes file {url}/other.json is not there"):
                class_rule([f"{url}/train-0000.tar"], classes_file=f"{url}/other.json")
        bucket.objects[f"{URL}/classes.json"] = b'{"a": 0, "a": 1}'
        with pytest.raises(
            ShardError, match=rf"{URL}/classes.json cannot be read \(of its 2 names 'a' stands more than"
        ):
            class_rule([f"{URL}/train-0000.tar"])
        bucket.objects[f"{URL}/classes.json"] = b'["a"]'
        with pytest.raises(
            ShardError, match=r"https://host/train/classes.json and s3://set/train/classes.json name diff"
        ):
            class_rule(["https://host/train/a.tar", f"{URL}/train-0000.tar"])
        del bucket.objects[f"{URL}/classes.json"]
        assert class_rule([f"{URL}/train-0000.tar"]).names is None
