"""What a process reads for its tasks: far blocks once, before their turn; local ones in it."""

from pathlib import Path

import pytest

from teacher_cache.errors import ImageError, ShardError
from teacher_cache.rendering.blocks import BlockReader
from teacher_cache.rendering.crew import PoolSettings, RenderTask
from teacher_cache.replay.policy import load_policy
from teacher_cache.shards.classes import ClassRule
from teacher_cache.shards.find import expand_shards
from teacher_cache.shards.index import Index
from teacher_cache.shards.indexing import index_shards
from tests.support.memory_storage import Bucket, bucket_in_memory
from tests.support.running import wait_until
from tests.support.shard_files import make_samples, write_shard

URL = "s3://set"


def tasks_of(index: Index, bucket: Bucket) -> list[RenderTask]:
    """A task of each block. What was asked for indexing does not count."""
    bucket.requests.clear()
    return [RenderTask(shard, index.place(shard, 0), (0,)) for shard in range(index.num_shards)]


def reader(*, skip_bad: bool = False) -> BlockReader:
    return BlockReader(PoolSettings(load_policy("none", ["size=8"]), 0, 0, skip_bad=skip_bad))


def keys(blocks: BlockReader, task: RenderTask) -> tuple[str, ...]:
    return blocks.decode(task).block.keys


def test_a_far_block_is_asked_for_once_before_its_turn_and_a_local_one_in_it(tmp_path: Path) -> None:
    for number in range(3):
        write_shard(tmp_path / f"{number}.tar", make_samples(2, first=2 * number))
    with bucket_in_memory() as bucket:
        bucket.upload(tmp_path, URL)
        far = index_shards(expand_shards([f"{URL}/*.tar"]), ClassRule())
        local = index_shards(expand_shards([f"{tmp_path}/*.tar"]), ClassRule())
        (first, second, third), blocks = tasks_of(far, bucket), reader()
        for task in (second, first, second):
            blocks.expect(task)
        wait_until(lambda: bucket.reads() == 2, 20)
        assert [keys(blocks, task) for task in (first, second, third)] == [
            local.place(number, 0).keys for number in range(3)
        ]
        assert bucket.reads() == 3  # the third had not been expected
        assert keys(blocks, first) == keys(reader(), first)
        assert bucket.reads() == 5  # nothing is kept of a task whose turn has been
        here = tasks_of(local, bucket)[0]
        blocks.expect(here)
        (tmp_path / "0.tar").unlink()
        with pytest.raises(ShardError, match=r"0\.tar cannot be read"):
            blocks.decode(here)


def test_what_fails_on_its_way_is_raised_in_its_turn(tmp_path: Path) -> None:
    samples = make_samples(2)
    samples[1]["png"] = samples[1]["png"][:40]
    write_shard(tmp_path / "0.tar", samples)
    with bucket_in_memory() as bucket:
        bucket.upload(tmp_path, URL)
        (task,) = tasks_of(index_shards([f"{URL}/0.tar"], ClassRule()), bucket)
        blocks, lenient = reader(), reader(skip_bad=True)
        for each in (blocks, lenient):
            each.expect(task)
        with pytest.raises(ImageError, match=r"shard 0\.tar, key sample-00001: the image cannot be decoded"):
            blocks.decode(task)
        assert lenient.decode(task).skipped == {1}
        bucket.fails.add(f"{URL}/0.tar")
        blocks.expect(task)
        with pytest.raises(ShardError, match=r"shard 0\.tar cannot be read at key 'sample-00000': .*gave no answer"):
            blocks.decode(task)
