"""Many shards: found, walked, joined to an index, and their blocks read back."""

import multiprocessing
import os
import pickle
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from teacher_cache import walk as walk_module
from teacher_cache.classes import ClassRule, class_rule
from teacher_cache.errors import ShardError
from teacher_cache.index import Index, ShardIndex
from teacher_cache.replay.block import BLOCK_SAMPLES
from teacher_cache.shards import check_shards, class_order_warning, expand_shards, index_shards, read_block
from tests.shard_files import make_samples, read_webdataset, write_shard, write_shards

CLS = ClassRule()


def test_index_and_blocks(tmp_path: Path) -> None:
    counts = [130, 1, 64, 65]
    paths = write_shards(tmp_path, counts)
    index = index_shards(paths, class_rule(paths))
    expected = [sample for path in paths for sample in read_webdataset(path)]
    assert (index.num_samples, index.num_shards, index.counts.tolist()) == (260, 4, counts)
    assert index.starts.tolist() == [0, 130, 131, 195, 260]
    assert index.class_names == tuple(f"class-{number}" for number in range(10))
    assert [index.num_blocks(shard) for shard in range(4)] == [3, 1, 1, 2]
    assert [index.shard_of(sample) for sample in (0, 129, 130, 131, 194, 195, 259)] == [0, 0, 1, 2, 2, 3, 3]
    assert [index.key(sample) for sample in range(260)] == [sample["__key__"] for sample in expected]
    assert (index.classes.dtype, index.offsets.dtype, index.sizes.dtype) == (np.int32, np.int64, np.int64)
    position = 0
    for shard in range(4):
        for number in range(index.num_blocks(shard)):
            place = pickle.loads(pickle.dumps(index.place(shard, number, frozenset({0}))))
            block = read_block(place)
            samples = expected[position : position + len(block.keys)]
            assert (block.shard, block.number, block.skipped) == (f"train-{shard:04d}.tar", number, frozenset({0}))
            assert len(block.keys) == min(BLOCK_SAMPLES, counts[shard] - number * BLOCK_SAMPLES)
            assert list(block.keys) == [sample["__key__"] for sample in samples]
            assert list(block.images) == [sample["png"] for sample in samples]
            assert block.classes.tolist() == [int(sample["cls"]) for sample in samples]
            position += len(block.keys)
    assert position == 260


def test_find(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", make_samples(3))
    write_shard(tmp_path / "b.tar", make_samples(2, first=2))
    write_shard(tmp_path / "c.tar", [])
    index = index_shards(expand_shards([str(tmp_path / "*.tar")]), CLS)
    assert index.find("sample-00000") == 0
    assert index.find("sample-00003") == 4
    assert index.find("sample-00002", "a.tar") == 2
    assert index.find("sample-00002", "b.tar") == 3
    for arguments, part in [
        (("sample-00002",), r"2 samples have the key 'sample-00002' \(in a.tar, b.tar\)"),
        (("sample-0000",), "no sample 'sample-0000' in any of 3 shards"),
        (("sample-00000", "b.tar"), "no sample 'sample-00000' in shard b.tar"),
        (("sample-00000", "c.tar"), "no sample 'sample-00000' in shard c.tar"),
        (("sample-00000", "d.tar"), "shard d.tar is not in the index"),
    ]:
        with pytest.raises(ShardError, match=part):
            index.find(*arguments)


def test_class_names_without_a_file(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", make_samples(4, num_classes=3))
    assert index_shards([str(path)], CLS).class_names == ("0", "1", "2")


def test_blocks_of_a_shard_that_changed(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", make_samples(5))
    place = index_shards([str(path)], CLS).place(0, 0)
    content = path.read_bytes()
    cut = int(place.offsets[3] + place.sizes[3]) - 1
    path.write_bytes(content[:cut])
    with pytest.raises(ShardError, match=r"shard a.tar: .* bytes early, in or before key 'sample-00003'; .*--shards"):
        read_block(place)
    path.write_bytes(b"")
    with pytest.raises(ShardError, match="in or before key 'sample-00000'"):
        read_block(place)
    path.unlink()
    with pytest.raises(ShardError, match=r"shard a.tar: .* at key 'sample-00000' \(No such file.*--shards"):
        read_block(place)


def test_a_read_that_returns_early_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = index_shards([str(write_shard(tmp_path / "a.tar", make_samples(3)))], CLS).place(0, 0)
    whole = read_block(place)
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: pread(fd, min(size, 1000), offset))
    assert read_block(place).images == whole.images


def test_class_order_warning(tmp_path: Path) -> None:
    def index_of(classes: Iterable[int], shards: int = 1) -> Index:
        flat = np.array(list(classes), np.int32)
        parts = [
            ShardIndex(None, ("k",) * len(part), part, np.zeros(len(part), np.int64), np.zeros(len(part), np.int64))  # type: ignore[arg-type]
            for part in np.array_split(flat, shards)
        ]
        return Index.join(parts, None)

    shuffled = np.random.default_rng(0).permutation(np.arange(1000) % 10)
    assert class_order_warning(index_of(shuffled)) is None
    assert class_order_warning(index_of(np.zeros(100, int))) is None
    assert class_order_warning(index_of([])) is None
    assert class_order_warning(index_of([1])) is None
    assert class_order_warning(index_of([1, 1])) is None
    message = class_order_warning(index_of(np.sort(shuffled), 4))
    assert message is not None
    assert "\n" not in message
    assert "99% of neighbouring samples share their class, 10.0% would after a shuffle" in message
    assert class_order_warning(index_of(np.sort(shuffled % 2)[480:520])) is not None
    # each shard of one class: neighbours in different shards are no neighbours
    assert "100% of" in str(class_order_warning(index_of(np.repeat(np.arange(10), 20), 10)))


def test_expand_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/t-0.tar", "a/t-1.tar", "a/t-10.tar", "b/s-0.tar", "b/[x].tar"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    assert expand_shards(["a/t-{0..1}.tar"]) == ["a/t-0.tar", "a/t-1.tar"]
    assert expand_shards(["a/*.tar", "b/s-0.tar"]) == [
        "b/s-0.tar",
        "a/t-0.tar",
        "a/t-1.tar",
        "a/t-10.tar",
    ]
    assert expand_shards(["{a,b}/*-0.tar"]) == ["b/s-0.tar", "a/t-0.tar"]
    assert expand_shards(["**/t-1?.tar"]) == ["a/t-10.tar"]
    assert expand_shards(["b/[x].tar"]) == ["b/[x].tar"]
    Path("link.tar").symlink_to("a/t-0.tar")  # a name of its own
    assert expand_shards(["link.tar", "a/t-0.tar"]) == ["link.tar", "a/t-0.tar"]
    (tmp_path / "b" / "t-0.tar").touch()
    for patterns, part in [
        ([], "no shards given"),
        (["a/t-{0..2}.tar"], r"no shard a/t-2.tar there \(of the pattern a/t-\{0..2\}.tar\)"),
        (["a/x-*.tar"], r"no shard a/x-\*.tar there"),
        (["a/x.tar"], "no shard a/x.tar there"),
        (["a/{0.tar"], "no shard|unbalanced"),
        (["a/t-0.tar", "b/t-0.tar"], "two shards have the file name t-0.tar: a/t-0.tar and b/t-0.tar"),
        (["a/t-0.tar", "a/t-*.tar"], "shard t-0.tar is given twice"),
        (["file:a/t-0.tar"], "is a URL or a pipe"),
        (["pipe:cat a/t-0.tar"], "is a URL or a pipe"),
        (["https://host/{0..3}.tar"], "is a URL or a pipe"),
        (["a"], r"a is a folder: give its shards as a/\*.tar"),
    ]:
        with pytest.raises(ShardError, match=part):
            expand_shards(patterns)


def assert_equal(one: Index, other: Index) -> None:
    assert (one.shards, one.class_names) == (other.shards, other.class_names)
    for name in ("counts", "key_bytes", "key_ends", "classes", "offsets", "sizes"):
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
    assert not multiprocessing.active_children()


def test_an_interrupted_walk_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_shards(tmp_path, [5, 3, 2])
    rule = class_rule(paths)
    scratch = tmp_path / "scratch"
    walked: list[str] = []
    walk = walk_module.index_shard

    def count(path: str, rule: ClassRule) -> ShardIndex:
        walked.append(os.path.basename(path))
        return walk(path, rule)

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
    for file in scratch.iterdir():
        file.write_bytes(file.read_bytes()[:-30])
    assert len(walked_again()) == 3
    assert walked_again() == []


def test_check_shards(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "old", [5, 3])
    rule = class_rule(paths)
    index = index_shards(paths, rule)
    places = write_shards(tmp_path / "new", [5, 3])
    moved = check_shards(index, list(reversed(places)), rule)
    assert [entry.path for entry in moved.shards] == places
    np.testing.assert_array_equal(moved.key_bytes, index.key_bytes)
    assert check_shards(index, places, ClassRule()).shards == moved.shards

    def check(part: str, given: list[str], rule: ClassRule = rule) -> None:
        with pytest.raises(ShardError, match=part):
            check_shards(index, given, rule)

    check("1 of 2 shards of the index are not among the 1 given, the first is train-0001.tar", places[:1])
    check(r"shard other.tar is not in the index \(1 such\)", [*places, str(tmp_path / "other.tar")])
    check(r"the classes beside .* \(2\) are not the 10 of the index", places, ClassRule("cls", ("a", "b")))
    file = Path(places[1])
    write_shard(file, make_samples(30))
    check(r"shard train-0001.tar: .* has [\d,]+ bytes, the index says [\d,]+", places)
    samples = make_samples(3, first=5)
    write_shard(file, [*samples[:2], {**samples[2], "cls": b"9"}])
    check(r"shard train-0001.tar: .* has other names, sizes or classes: hash \w+, the index says \w+; give", places)
    write_shard(file, samples[:2])
    with open(file, "ab") as stream:
        stream.write(bytes(Path(paths[1]).stat().st_size - file.stat().st_size))
    check("holds 2 samples, the index says 3", places)
    file.unlink()
    check("shard train-0001.tar: .* cannot be opened", places)
