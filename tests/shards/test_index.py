"""An index: samples by number and by key, the blocks of its shards, and what its classes are called."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from teacher_cache.errors import ShardError
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.shards.classes import ClassRule, class_rule
from teacher_cache.shards.find import expand_shards
from teacher_cache.shards.indexing import index_shards
from teacher_cache.shards.read import read_block
from tests.support.shard_files import make_samples, read_webdataset, write_shard, write_shards

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
        ((os.fsdecode(b"sample-\xff"),), r"no sample 'sample-\S+' in any of 3 shards"),
        (("sample-00000", "b.tar"), "no sample 'sample-00000' in shard b.tar"),
        (("sample-00000", "c.tar"), "no sample 'sample-00000' in shard c.tar"),
        (("sample-00000", "d.tar"), "shard d.tar is not in the index"),
    ]:
        with pytest.raises(ShardError, match=part):
            index.find(*arguments)


def test_class_names_without_a_file(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", make_samples(4, num_classes=3))
    assert index_shards([str(path)], CLS).class_names == ("0", "1", "2")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stray_class_is_named_with_its_sample(tmp_path: Path, workers: int) -> None:
    samples = make_samples(6, num_classes=3)
    samples[4]["cls"] = b"999999"
    paths = [str(write_shard(tmp_path / f"{n}.tar", samples[3 * n : 3 * n + 3])) for n in range(2)]
    with pytest.raises(ShardError) as caught:
        index_shards(paths, CLS, workers=workers)
    assert str(caught.value) == (
        "shard 1.tar: sample 'sample-00004' has class 999,999, but only 4 different classes occur: correct it, or name "
        "all classes with --classes FILE, or in a classes.json beside the shards"
    )
    if workers == 1:
        names = tuple(f"n{number}" for number in range(1_000_000))
        assert index_shards(paths, ClassRule("cls", names)).classes.max() == 999_999
    assert len(index_shards(paths, CLS, num_classes=1_000_000).class_names) == 1_000_000
    with pytest.raises(ShardError, match="sample-00004"):
        index_shards(paths, CLS, num_classes=10)


def test_classes_without_names_that_are_plausible(tmp_path: Path) -> None:
    for largest, others in ((999, 1), (1000, 101), (9999, 1000)):
        samples = make_samples(others, num_classes=others)
        samples[0]["cls"] = b"%d" % largest
        path = write_shard(tmp_path / f"{largest}.tar", samples)
        assert len(index_shards([str(path)], CLS).class_names) == largest + 1
    samples = make_samples(100, num_classes=100)
    samples[0]["cls"] = b"1000"
    with pytest.raises(ShardError, match=r"has class 1,000, but only 100 different classes occur"):
        index_shards([str(write_shard(tmp_path / "stray.tar", samples))], CLS)
    alone = [sample | {"cls": b"5000"} for sample in make_samples(2, num_classes=1)]
    with pytest.raises(ShardError, match=r"has class 5,000, but only 1 different class occurs: correct it"):
        index_shards([str(write_shard(tmp_path / "alone.tar", alone))], CLS)
