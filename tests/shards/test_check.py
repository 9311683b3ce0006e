"""Shards at other places: an index's own, or refused by what differs."""

import errno
import os
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from teacher_cache.errors import ShardError
from teacher_cache.shards.check import check_are_there, check_shards
from teacher_cache.shards.classes import ClassRule, class_rule
from teacher_cache.shards.indexing import index_shards
from tests.support.shard_files import make_samples, write_shard, write_shards

CLS = ClassRule()
ORIGINAL = os.stat


def shut(path: str) -> NoReturn:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def change_tail(image: str | bytes) -> bytes:
    assert isinstance(image, bytes)
    return image[:-3] + bytes([image[-3] ^ 1]) + image[-2:]


def test_shards_of_whole_fingerprints_are_checked_whole(tmp_path: Path) -> None:
    paths = [str(write_shard(tmp_path / "old" / "a.tar", make_samples(5)))]
    index = index_shards(paths, CLS, whole=True)
    samples = make_samples(5)
    moved = str(write_shard(tmp_path / "new" / "a.tar", samples))
    assert check_shards(index, [moved], CLS).shards[0].path == moved
    samples[2]["png"] = b"x" + bytes(samples[2]["png"])[1:]
    write_shard(Path(moved), samples)
    assert check_shards(index_shards(paths, CLS), [moved], CLS).shards[0].path == moved
    with pytest.raises(ShardError, match="first at key 'sample-00002'"):
        check_shards(index, [moved], CLS)


def test_shards_that_are_not_there_and_one_that_may_not_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_shards(tmp_path / "old", [5, 3])
    index = index_shards(paths, class_rule(paths))
    check_are_there(index, [0, 1])

    def check(said: str) -> None:
        with pytest.raises(ShardError) as told:
            check_are_there(index, [0, 1])
        assert str(told.value) == said

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda path: shut(path) if path == paths[1] else ORIGINAL(path))
        check(
            f"1 of 2 shards is not where the store says; the first is {paths[1]} (Permission denied): let this user in "
            "(see `ls -ld`), or give another place"
        )
    for path in paths:
        Path(path).unlink()
    check(
        f"2 of 2 shards are not where the store says; the first is {paths[0]} (No such file or directory): put the "
        "indexed file back, give its place with --shards, or index again"
    )
    check_are_there(index, [])


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

    check("1 of 2 indexed shards is not among the 1 given, the first is train-0001.tar", places[:1])
    check(r"shard other.tar is not in the index \(1 such\)", [*places, str(tmp_path / "other.tar")])
    check(r"the classes beside .* \(2\) are not the 10 of the index", places, ClassRule("cls", ("a", "b")))
    file = Path(places[1])
    write_shard(file, make_samples(30))
    check(r"shard train-0001.tar: .* has [\d,]+ bytes, the index says [\d,]+", places)
    samples = make_samples(3, first=5)
    write_shard(file, [*samples[:2], {**samples[2], "cls": b"9"}])
    check(r"shard train-0001.tar: .* has other names, sizes or classes: hash \w+, the index says \w+; give", places)
    write_shard(file, [*samples[:2], {**samples[2], "png": change_tail(samples[2]["png"])}])
    check(
        r"shard train-0001.tar: .* holds other images than were indexed, the first at key 'sample-00007' \(1 of 3 "
        r"fingerprints differs\); give the shards that were indexed",
        places,
    )
    write_shard(file, samples[:2])
    with open(file, "ab") as stream:
        stream.write(bytes(Path(paths[1]).stat().st_size - file.stat().st_size))
    check("holds 2 samples, the index says 3", places)
    file.unlink()
    check("shard train-0001.tar: .* cannot be opened", places)
