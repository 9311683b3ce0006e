"""Shards walked from far away: the same bytes, in few large reads."""

import random
import time
from pathlib import Path

import pytest

from teacher_cache.errors import ShardError
from teacher_cache.shards import ahead as ahead_module
from teacher_cache.shards.ahead import AHEAD, WINDOW, AheadReader
from teacher_cache.shards.classes import ClassRule
from teacher_cache.shards.walk import index_shard
from tests.support.memory_storage import bucket_in_memory
from tests.support.shard_files import make_samples, write_shard

CLS = ClassRule()


@pytest.mark.parametrize("window", [64, 1000, 5000])
def test_a_reader_gives_the_shards_bytes_wherever_it_is(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_module, "WINDOW", window)
    content = random.Random(0).randbytes(10_240)
    reader = AheadReader(lambda start, length: content[start : start + length], len(content))
    for offset, size in ((0, 10), (500, 600), (300, 10), (9000, 2000), (10_235, 50), (20_000, 5), (0, 9999), (63, 2)):
        assert reader.read(offset, size) == content[offset : offset + size]


def test_windows_are_read_once_each_and_not_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those ahead are asked for while the first is walked, and no more of them than are said."""
    monkeypatch.setattr(ahead_module, "WINDOW", 100)
    asked: list[tuple[int, int]] = []

    def read(start: int, length: int) -> bytes:
        asked.append((start, length))
        return bytes(length)

    reader = AheadReader(read, 1950)
    reader.read(0, 10)
    deadline = time.monotonic() + 20
    while len(asked) < 1 + AHEAD and time.monotonic() < deadline:
        time.sleep(0.001)
    assert sorted(asked) == [(start, 100) for start in range(0, 100 * (1 + AHEAD), 100)]
    for offset in range(0, 1950, 37):
        reader.read(offset, 37)
    assert sorted(asked) == [(start, min(100, 1950 - start)) for start in range(0, 1950, 100)]


def test_a_large_shard_takes_a_read_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many members it has: none of its headers is a request."""
    samples = [
        {"__key__": f"{number:04d}", "jpg": random.Random(number).randbytes(70_000), "cls": b"1"}
        for number in range(600)
    ]
    path = write_shard(tmp_path / "a.tar", samples)
    num_bytes = path.stat().st_size
    assert num_bytes > 40_000_000
    with bucket_in_memory() as bucket:
        bucket.upload(tmp_path, "s3://set")
        far, near = index_shard("s3://set/a.tar", CLS), index_shard(str(path), CLS)
        assert bucket.reads() == -(-num_bytes // WINDOW)
        assert len(bucket.requests) <= -(-num_bytes // WINDOW) + 2
    assert far.entry.hash == near.entry.hash
    assert far.fingerprints.tolist() == near.fingerprints.tolist()


def test_what_goes_wrong_ahead_is_told_with_the_last_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_module, "WINDOW", 4096)
    write_shard(tmp_path / "a.tar", make_samples(20))
    with bucket_in_memory() as bucket:
        bucket.upload(tmp_path, "s3://set")
        content = bucket.objects["s3://set/a.tar"]
        bucket.objects["s3://set/cut.tar"] = content[: len(content) // 2]
        with pytest.raises(ShardError, match=r"shard cut.tar ends .*the last whole sample is 'sample-00011'"):
            index_shard("s3://set/cut.tar", CLS)
        with pytest.raises(ShardError, match=r"shard b.tar: s3://set/b.tar cannot be opened \(no such object\)"):
            index_shard("s3://set/b.tar", CLS)
        bucket.fails.add("s3://set/a.tar")
        with pytest.raises(
            ShardError, match=r"shard a.tar: s3://set/a.tar: gave no answer; no whole sample comes before"
        ):
            index_shard("s3://set/a.tar", CLS)


def test_an_object_that_changes_while_it_is_walked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_module, "WINDOW", 4096)
    write_shard(tmp_path / "a.tar", make_samples(200))
    with bucket_in_memory() as bucket:
        bucket.upload(tmp_path, "s3://set")
        content = bucket.objects["s3://set/a.tar"]

        def change(url: str) -> None:
            if bucket.reads() >= 10:  # several read at a time, and one of them may count past it
                bucket.objects[url] = content[:-1] + b"\1"

        bucket.on_read = change
        with pytest.raises(ShardError, match=r"shard a.tar: s3://set/a.tar was changed; .*whole sample"):
            index_shard("s3://set/a.tar", CLS)
