"""Blocks read back from their shards: what was indexed, or an error that names shard and key."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from teacher_cache.audit.conditions import image_sizes
from teacher_cache.errors import ImageError, ShardError
from teacher_cache.shards.classes import ClassRule
from teacher_cache.shards.index import BlockPlace
from teacher_cache.shards.indexing import index_shards
from teacher_cache.shards.read import far_bytes, read_block
from teacher_cache.storage.cache import NodeCache
from teacher_cache.storage.storage import NEAR
from tests.support.bright_shards import stored_samples
from tests.support.memory_storage import bucket_in_memory
from tests.support.shard_files import make_samples, write_shard

CLS = ClassRule()


def test_blocks_of_a_shard_that_changed(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", make_samples(5))
    place = index_shards([str(path)], CLS).place(0, 0)
    content = path.read_bytes()
    for changed in (content[:-1], b"", content + bytes(512), content + b"x"):  # cut, emptied, grown by zeros
        path.write_bytes(changed)
        refused(
            place,
            rf"shard a.tar: .* has {len(changed):,} bytes, the index says {len(content):,} \(read for key "
            r"'sample-00000'\): it is another file than was indexed; put .* back, .*--shards, or index again",
        )
    path.unlink()
    refused(place, r"shard a.tar: .* at key 'sample-00000' \(No such file.*--shards")
    path.mkdir()
    refused(place, "shard a.tar: .*a.tar (has|cannot be read)")


def refused(place: BlockPlace, part: str) -> None:
    """By every reader of a block, and as no fault of an image, which --skip-bad would pass over."""
    for read in (read_block, image_sizes):
        with pytest.raises(ShardError, match=part) as caught:
            read(place)
        assert not isinstance(caught.value, ImageError)
        assert str(caught.value).isprintable()


OTHER = (
    r"shard b.tar: .*b.tar holds another image than was indexed at key 'sample-00003' \(its fingerprint differs\); put"
)


@pytest.mark.parametrize("whole", [False, True])
def test_a_shard_of_the_same_size_keys_and_offsets_is_another(tmp_path: Path, whole: bool) -> None:
    """One image replaced by another of its size, also where the sample is skipped."""
    samples = stored_samples(5)
    path = write_shard(tmp_path / "b.tar", samples)
    index = index_shards([str(path)], CLS, whole=whole)
    assert index.fingerprint == ("whole" if whole else "tail")
    samples[3]["png"] = stored_samples(5, seed=1)[3]["png"]
    write_shard(path, samples)
    changed = index_shards([str(path)], CLS, whole=whole)
    assert changed.shards == index.shards
    for skipped in (frozenset[int](), frozenset({3})):
        refused(index.place(0, 0, skipped), OTHER)
    assert read_block(changed.place(0, 0)).images[3] == samples[3]["png"]


def test_two_shards_exchanged_are_found(tmp_path: Path) -> None:
    paths = [write_shard(tmp_path / name, stored_samples(5, seed=seed)) for seed, name in enumerate(("a.tar", "b.tar"))]
    index = index_shards([str(path) for path in paths], CLS)
    assert paths[0].stat().st_size == paths[1].stat().st_size
    assert index.shards[0].hash == index.shards[1].hash
    os.rename(paths[0], tmp_path / "c.tar")
    os.rename(paths[1], paths[0])
    os.rename(tmp_path / "c.tar", paths[1])
    for shard, name in enumerate("ab"):
        refused(index.place(shard, 0), rf"shard {name}.tar: .*{name}.tar holds another image .* key 'sample-00000'")


def test_only_whole_fingerprints_tell_of_a_change_before_the_tail(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "b.tar", make_samples(5))
    tail, whole = (index_shards([str(path)], CLS, whole=which).place(0, 0) for which in (False, True))
    content = bytearray(path.read_bytes())
    content[int(tail.offsets[3])] ^= 1
    path.write_bytes(content)
    assert read_block(tail).images[3] == content[tail.offsets[3] : tail.offsets[3] + tail.sizes[3]]
    refused(whole, OTHER)
    content[int(tail.offsets[3] + tail.sizes[3]) - 3] ^= 1
    path.write_bytes(content)
    refused(tail, OTHER)


def test_an_undecodable_sample_that_did_not_change_passes(tmp_path: Path) -> None:
    samples = make_samples(3)
    samples[1]["png"] = b"no image"
    path = write_shard(tmp_path / "a.tar", samples)
    place = index_shards([str(path)], CLS).place(0, 0, frozenset({1}))
    assert read_block(place).images[1] == b"no image"
    assert image_sizes(place).tolist() == [[8, 8], [0, 0], [8, 8]]


def test_a_damaged_index_reads_nothing_beyond_the_shard(tmp_path: Path) -> None:
    place = index_shards([str(write_shard(tmp_path / "a.tar", make_samples(3)))], CLS).place(0, 0)
    for wrong in (
        replace(place, sizes=place.sizes + np.array([0, 0, 2**60])),
        replace(place, offsets=place.offsets - 2**60),
    ):
        refused(
            wrong,
            "shard a.tar: .* images of block 0 .*key 'sample-00000'.* beyond it: the index is damaged; index again",
        )


def test_a_read_that_returns_early_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = index_shards([str(write_shard(tmp_path / "a.tar", make_samples(3)))], CLS).place(0, 0)
    whole = read_block(place)
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: pread(fd, min(size, 1000), offset))
    assert read_block(place).images == whole.images


def spread_samples(num_bytes: int) -> list[dict[str, bytes]]:
    """Small images, with so many other bytes beside each."""
    return [{**sample, "npy": bytes(num_bytes)} for sample in make_samples(6)]


def test_images_are_read_and_not_what_lies_between_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: (asked.append(size), pread(fd, size, offset))[1])
    for num_bytes, reads in ((0, 1), (60_000, 1), (70_000, 6)):
        path = write_shard(tmp_path / f"{num_bytes}.tar", spread_samples(num_bytes))
        place = index_shards([str(path)], CLS).place(0, 0)
        asked.clear()
        images = read_block(place).images
        assert images == tuple(sample["png"] for sample in make_samples(6))
        assert len(asked) == reads
        assert sum(asked) <= sum(map(len, images)) + (reads == 1) * 6 * (num_bytes + 4096)


def test_of_an_object_the_images_come_and_not_what_lies_between_them(tmp_path: Path) -> None:
    with bucket_in_memory() as bucket:
        for num_bytes, together in ((0, True), (NEAR + 1, False)):
            folder, url = tmp_path / str(num_bytes), f"s3://set/{num_bytes}"
            write_shard(folder / "a.tar", spread_samples(num_bytes))
            bucket.upload(folder, url)
            far = index_shards([f"{url}/a.tar"], CLS).place(0, 0)
            cache = NodeCache(tmp_path / "cache", 10**8)
            images = tuple(sample["png"] for sample in make_samples(6))
            for kept in (None, cache, cache):
                bucket.requests.clear()
                assert read_block(far, kept).images == images
            assert bucket.requests == []  # from the copy
            assert image_sizes(far).tolist() == [[8, 8]] * 6
            ((method, _, taken),) = bucket.requests
            assert method == "get_ranges"
            assert taken == far_bytes(far)
            assert taken == sum(map(len, images)) if not together else taken > sum(map(len, images))
