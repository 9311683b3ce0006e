"""Many shards walked to one index: by several processes, on again after an interruption, told apart by fingerprints."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from teacher_cache.errors import ShardError
from teacher_cache.shards import source as source_module
from teacher_cache.shards import walk as walk_module
from teacher_cache.shards.classes import ClassRule, class_rule
from teacher_cache.shards.fingerprint import image_fingerprint
from teacher_cache.shards.index import Index, ShardIndex
from teacher_cache.shards.indexing import count_unlike, index_shards
from teacher_cache.shards.read import read_block
from tests.support.bright_shards import stored_samples
from tests.support.running import workers
from tests.support.shard_files import make_samples, write_shard, write_shards

CLS = ClassRule()


def same_tails(num_samples: int, unlike: int, alike: int = 0) -> list[dict[str, str | bytes]]:
    """Samples of which so many differ only before their tails, and so many are the same image."""
    samples = stored_samples(num_samples)
    for number in range(unlike):
        samples[number]["png"] = b"%04d" % number + bytes(200)
    for number in range(unlike, unlike + alike):
        samples[number]["png"] = samples[unlike]["png"]
    return samples


@pytest.mark.parametrize(
    ("unlike", "alike", "whole"), [(0, 0, False), (2, 0, False), (3, 0, True), (200, 0, True), (0, 200, False)]
)
def test_images_are_hashed_whole_where_many_unlike_ones_end_alike(
    tmp_path: Path, unlike: int, alike: int, whole: bool
) -> None:
    samples = same_tails(200, unlike, alike)
    paths = [str(write_shard(tmp_path / f"{number}.tar", samples[number::2])) for number in range(2)]
    notes: list[str] = []
    index = index_shards(paths, CLS, workers=2, scratch=tmp_path / "scratch", note=notes.append)
    images = [sample["png"] for number in range(2) for sample in samples[number::2]]
    kind = "whole" if whole else "tail"
    assert index.fingerprint == kind
    assert index.fingerprints.tolist() == [image_fingerprint(image, kind) for image in images if type(image) is bytes]
    assert len(notes) == whole
    if whole:
        assert f"fingerprints are taken of whole images: at least {unlike} of 200 samples end as" in notes[0]
    else:
        assert count_unlike(index) == (unlike if unlike > 2 else 0)


def test_only_images_that_collide_are_hashed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_shards([str(write_shard(tmp_path / "a.tar", same_tails(200, 0, alike=10)))], CLS)
    read: list[int] = []
    read_range = source_module.read_range

    def count(fd: int, start: int, size: int) -> bytes:
        read.append(start)
        return read_range(fd, start, size)

    monkeypatch.setattr(source_module, "read_range", count)
    assert count_unlike(index) == 0
    assert read == index.offsets[:10].tolist()


def assert_equal(one: Index, other: Index) -> None:
    assert (one.shards, one.class_names) == (other.shards, other.class_names)
    assert one.fingerprint == other.fingerprint
    for name in ("counts", "key_bytes", "key_ends", "classes", "offsets", "sizes", "fingerprints"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_workers_and_refusals_from_them(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, [5, 3, 0, 2])
    rule = class_rule(paths)
    alone: list[tuple[int, int]] = []
    together: list[tuple[int, int]] = []
    scratch = tmp_path / "scratch"
    one = index_shards(paths, rule, progress=lambda done, total: alone.append((done, total)))
    two = index_shards(
        paths, rule, workers=2, scratch=scratch, progress=lambda done, total: together.append((done, total))
    )
    assert_equal(one, two)
    assert alone == together == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(list(scratch.iterdir())) == 4
    damaged = Path(paths[3])
    damaged.write_bytes(damaged.read_bytes()[:3000])
    with pytest.raises(ShardError, match=r"train-0003\.tar .*the last whole sample is 'sample-00008'") as own:
        index_shards(paths, rule)
    with pytest.raises(ShardError) as walkers:
        index_shards(paths, rule, workers=2, scratch=scratch)
    assert str(walkers.value) == str(own.value)
    assert not workers(os.getpid())


def test_an_interrupted_walk_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_shards(tmp_path, [5, 3, 2])
    rule = class_rule(paths)
    scratch = tmp_path / "scratch"
    walked: list[str] = []
    walk = walk_module.index_shard

    def count(path: str, *how: Any) -> ShardIndex:
        walked.append(os.path.basename(path))
        return walk(path, *how)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(walk_module, "index_shard", count)
    with pytest.raises(KeyboardInterrupt):
        index_shards(paths, rule, scratch=scratch, progress=stop)
    assert walked == ["train-0000.tar", "train-0001.tar"]
    assert_equal(index_shards(paths, rule, scratch=scratch), index_shards(paths, rule))
    assert walked[2:] == ["train-0002.tar", *(os.path.basename(path) for path in paths)]

    def walked_again() -> list[str]:
        walked.clear()
        index_shards(paths, rule, scratch=scratch)
        return list(walked)

    assert walked_again() == []
    os.utime(paths[1], ns=(0, 5))
    assert walked_again() == ["train-0001.tar"]
    write_shard(Path(paths[0]), make_samples(9))
    assert walked_again() == ["train-0000.tar"]
    rule = ClassRule("cls", (*(rule.names or ()), "one more"))
    assert len(walked_again()) == 3
    assert_equal(index_shards(paths, rule, scratch=scratch, whole=True), index_shards(paths, rule, whole=True))
    assert walked_again() == []
    for place in (18, 60, 200, -30):  # a version and a method of zip's that there are not, numbers, its end
        for file in scratch.iterdir():
            content = bytearray(file.read_bytes())
            content[place] ^= 1 << 6
            file.write_bytes(content)
        assert len(walked_again()) == 3
    assert walked_again() == []


def test_what_was_walked_for_another_image_does_not_count(tmp_path: Path) -> None:
    samples = [sample | {"left.png": sample["png"] + b"x"} for sample in make_samples(3)]
    path = str(write_shard(tmp_path / "a.tar", samples))
    for rule in (CLS, ClassRule(image_from="left.png"), CLS):
        index = index_shards([path], rule, scratch=tmp_path / "scratch")
        assert_equal(index, index_shards([path], rule))
        assert index.image_from == rule.image_from
        assert read_block(index.place(0, 0)).images[0].endswith(b"x") == (rule.image_from is not None)
