"""Other files in the shards' places: every command that reads a block says so in one line, --skip-bad or not."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import student.cli
import teacher_cache.cli
import tools.inspect_cache
from teacher_cache.errors import ImageError, ShardError
from teacher_cache.store.store import Store
from tests.support.bright_shards import bright_image, bright_store
from tests.support.filling import fill_words
from tests.support.small_runs import filled_store, train_small

COUNTS = (130, 130)
OTHER_IMAGE = "holds another image than was indexed at key 's"
Change = Callable[[Store], None]


def exchange(store: Store) -> None:
    first, second = (entry.path for entry in store.index.shards)
    os.rename(first, f"{first}.aside")
    os.rename(second, first)
    os.rename(f"{first}.aside", second)


def grow(store: Store) -> None:
    for entry in store.index.shards:
        with open(entry.path, "ab") as shard:
            shard.write(bytes(10_240))


def replace_images(store: Store) -> None:
    """Files of the same size, keys, classes and offsets, with other images, which can be decoded."""
    index = store.index
    for sample in range(index.num_samples):
        image = bright_image(5000 + sample)
        assert len(image) == index.sizes[sample]
        with open(index.shards[index.shard_of(sample)].path, "r+b") as shard:
            shard.seek(int(index.offsets[sample]))
            shard.write(image)


CHANGES = pytest.mark.parametrize(
    ("change", "part"),
    [(exchange, OTHER_IMAGE), (grow, "it is another file than was indexed"), (replace_images, OTHER_IMAGE)],
)


def said(main: object, *arguments: str, code: int = 1) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@CHANGES
def test_fill_stops_and_labels_nothing(tmp_path: Path, change: Change, part: str) -> None:
    store = bright_store(tmp_path, counts=COUNTS)
    change(store)
    for options in ([], ["--skip-bad"]):
        output = said(teacher_cache.cli.main, *fill_words(store.path, *options))
        assert "error: shard train-0000.tar: " in output
        assert part in output
        assert "put the indexed file back, give its place with --shards, or index again" in output
        assert not Store.open(store.path).committed().any()


@CHANGES
def test_every_reader_of_a_filled_store_stops(
    tmp_path: Path, change: Change, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = filled_store(tmp_path, counts=COUNTS)
    path, key = str(store.path), store.index.key(0)
    change(store)
    inspect = tools.inspect_cache.main
    assert part in said(teacher_cache.cli.main, "verify", path, "--fraction", "1", "--workers", "0")
    assert part in said(inspect, path, "sample", key, code=0)  # its labels are told all the same
    assert part in said(inspect, path, "view", key, "0")
    assert part in said(inspect, path, "summary", code=0)
    with pytest.raises(ShardError, match=part) as caught:
        train_small(store, tmp_path / "run")
    assert not isinstance(caught.value, ImageError)
    moved = tmp_path / "moved"
    (tmp_path / "shards").rename(moved)
    output = said(teacher_cache.cli.main, "verify", path, "--workers", "0", "--shards", f"{moved}/*.tar")
    assert "error: shard train-0000.tar: " in output
    assert "give the shards that were indexed" in output


def test_a_pattern_that_the_shell_expanded_is_three_names_and_a_count(tmp_path: Path) -> None:
    shards = [f"shards/train-{number:06d}.tar" for number in range(256)]
    for main, command in (
        (teacher_cache.cli.main, ("verify", "store", "--shards")),
        (student.cli.main, ("evaluate", "c.pt", "--val")),
    ):
        output = said(main, *command, *shards, code=2)
        assert (
            "Got unexpected extra arguments (shards/train-000001.tar, shards/train-000002.tar, shards/train-000003.tar "
            "and 252 more): a pattern of an option goes in quotes, --shards 'train-*.tar'"
        ) in output


def test_index_says_that_it_hashed_whole_images_and_freezes_it(tmp_path: Path) -> None:
    shards = bright_store(tmp_path, counts=(20,)).path.parent / "shards"
    command = ["index", str(shards / "*.tar"), "--policy", "none", "--views", "1", "--store"]
    assert "whole" not in said(teacher_cache.cli.main, *command, str(tmp_path / "tail"), code=0)
    said(teacher_cache.cli.main, *command, str(tmp_path / "whole"), "--whole", code=0)
    tail, whole = (Store.open(tmp_path / name).index for name in ("tail", "whole"))
    assert (tail.fingerprint, whole.fingerprint) == ("tail", "whole")
    assert not (tail.fingerprints == whole.fingerprints).any()
    like = ["index", "--like", str(tmp_path / "whole"), "--store", str(tmp_path / "like")]
    said(teacher_cache.cli.main, *like, "--whole", code=0)
    assert Store.open(tmp_path / "like").index.fingerprints.tolist() == whole.fingerprints.tolist()
    like = ["index", "--like", str(tmp_path / "tail"), "--store", str(tmp_path / "other")]
    assert "fingerprints of images' tails" in said(teacher_cache.cli.main, *like, "--whole")
    store = Store.open(tmp_path / "tail")
    for sample in range(20):  # the same end in all
        with open(store.index.shards[0].path, "r+b") as shard:
            shard.seek(int(store.index.offsets[sample] + store.index.sizes[sample]) - 80)
            shard.write(bytes(80))
    output = said(teacher_cache.cli.main, *command, str(tmp_path / "alike"), code=0)
    assert "fingerprints are taken of whole images: at least 20 of 20 samples end as another" in output
    assert Store.open(tmp_path / "alike").index.fingerprint == "whole"
