"""What `teacher-cache` prints around its commands: counts in words, defaults, errors of one line."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from teacher_cache.cli import main
from teacher_cache.shards import indexing
from teacher_cache.shards.index import ShardIndex
from teacher_cache.store.store import Store
from tests.support.bright_shards import SMALL, bright_store, write_bright_shards
from tests.support.filled_store import files
from tests.support.filling import TEACHERS, fill_words


def run(*words: object, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == exit_code, result.output
    return result


def index_words(folder: Path, *options: object) -> tuple[object, ...]:
    """`index` of a shard of one sample into folder/store."""
    shards = write_bright_shards(folder / "shards", (1,))
    settings = [word for override in SMALL for word in ("--set", override)]
    return ("index", *shards, "--store", folder / "store", "--policy", "cifar", *settings, "--workers", 1, *options)


def test_one_of_anything_is_no_plural_in_stage_one(tmp_path: Path) -> None:
    made = run(*index_words(tmp_path, "--views", 1)).output
    assert "1 sample in 1 shard, 1 class, 1 view under policy cifar" in made
    path = tmp_path / "store"
    assert "1 unit waits for labels" in run("verify", path, exit_code=1).output
    filled = run(*fill_words(path)).output
    assert "1 unit filled now; 1 of 1 view labelled" in filled
    told = run("status", path).output
    assert "1 in 1 shard, 1 class" in told
    assert "(1 of 1 unit)" in told
    checked = run("verify", path, "--fraction", 1, "--workers", 0).output
    assert "1 record, 1 (block, view) of 1 shard and 1 group checked: 0 differences" in checked
    assert f"{path} has 1 view already: nothing is added" in run("extend", path, "--views", 1).output
    assert f"{path}: 1 -> 2 views" in run("extend", path, "--views", 2).output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "give either SHARDS or --like OTHER_STORE"),
        (("shard.tar", "--like", "other"), "give either SHARDS or --like OTHER_STORE"),
        (("shard.tar",), "name a --policy: deit"),
        (("shard.tar", "--policy", "deit"), "say how many --views a sample shall have"),
    ],
)
def test_index_says_what_it_lacks_and_makes_nothing(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    if "--like" in options:
        bright_store(tmp_path, name="other")
    refused = run("index", "--store", tmp_path / "store", *options, exit_code=2)
    assert words in refused.output
    assert not (tmp_path / "store").exists()


def test_a_mistyped_number_of_views_costs_neither_a_walk_nor_a_store(tmp_path: Path) -> None:
    new = ("index", tmp_path / "shard.tar", "--store", tmp_path / "new", "--policy", "none")
    for options, words in (
        (("--views", 30_000_000), "30,000,000 views, in groups of 16, are more than 1,048,576"),
        (("--views", 2, "--group", 10**9), "1,000,000,000 views, in groups of 1,000,000,000, are more than"),
        (("--views", 2, "--unit-samples", 100), "unit_samples 100 is not a positive multiple of 64"),
    ):
        assert words in run(*new, *options, exit_code=1).output  # there is no shard.tar
    path = bright_store(tmp_path).path
    before = files(path)
    refused = run("extend", path, "--views", 30_000_000, exit_code=1)
    assert (
        "error: 30,000,000 views, in groups of 2, are more than 1,048,576, the most that a store may" in refused.output
    )
    assert files(path) == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("fill S --estimate --views 0:2", "--estimate times one unit, in this process alone: leave --views out"),
        ("fill S --estimate --claim", "--estimate times one unit, in this process alone: leave --claim out"),
        ("fill S --estimate --engine ray", "--estimate times one unit, in this process alone: leave --engine ray out"),
        ("fill S --estimate --lease 60", "--lease is of workers that share units: add --claim, or leave it out"),
        ("fill S --lease 60", "--lease is of workers that share units: add --claim, or leave it out"),
        ("fill S --actors 2", "--actors is of Ray's actors: add --engine ray, or leave it out"),
        ("fill S --gpus-per-actor 0", "--gpus-per-actor is of Ray's actors: add --engine ray, or leave it out"),
        ("verify S --dtype fp16", "--dtype is the teacher's, and none is asked: add --teacher NAME, or leave it out"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(tmp_path: Path, words: str, told: str) -> None:
    path = bright_store(tmp_path).path
    refused = run(*(path if word == "S" else word for word in words.split()), exit_code=2)
    assert f"Error: {told}" in " ".join(refused.output.split())


@pytest.mark.parametrize(
    ("words", "ranks"),
    [("--lease 60 --claim", 1), ("--lease 60", 2), ("--engine ray --actors 1 --lease 60", 1), ("", 1)],
)
def test_an_option_that_does_something_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, ranks: int
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    refused = run("fill", tmp_path / "absent", *words.split(), exit_code=1)
    assert "there is no store at" in refused.output  # which is looked at after them


def test_a_store_takes_what_is_left_out_from_that_which_it_is_like(tmp_path: Path) -> None:
    other = bright_store(tmp_path, name="other")
    run("index", "--like", other.path, "--store", tmp_path / "store", "--views", 6)
    store = Store.open(tmp_path / "store")
    assert (store.seed, store.group, store.policy, store.views) == (other.seed, other.group, other.policy, 6)
    assert store.index.shards == other.index.shards
    rounded = run("index", "--like", other.path, "--store", tmp_path / "other_groups", "--group", 3)
    assert "warning: 4 views rounded up to 6, a multiple of the group of 3" in rounded.output
    refused = run("index", "--like", other.path, "--store", tmp_path / "third", "--seed", 4, exit_code=1)
    assert f"{other.path} has seed 3, --seed says 4: leave --seed out" in refused.output
    assert refused.output.count("\n") == 1


@pytest.mark.parametrize("views", [2, 4])
def test_of_two_that_index_at_the_same_time_the_later_finds_a_store_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: int
) -> None:
    """As jobs do that are started together; or widens it. Nothing is left beside it."""
    words = index_words(tmp_path)
    walk = indexing.index_shard_resumed

    def walk_late(*how: Any) -> ShardIndex:
        monkeypatch.setattr(indexing, "index_shard_resumed", walk)
        assert "2 views under policy cifar" in run(*words, "--views", 2).output
        return walk(*how)

    monkeypatch.setattr(indexing, "index_shard_resumed", walk_late)
    said = run(*words, "--views", views).output
    assert ("indexed already, as asked" if views == 2 else "2 -> 4 views") in said
    assert Store.open(tmp_path / "store").views == views
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards", "store"]


def test_policies_are_listed_with_their_sizes() -> None:
    listed = dict(line.split(maxsplit=1) for line in run("policies").output.splitlines())
    assert listed["deit"] == "224 x 224"
    assert listed["cifar"] == "32 x 32"
    assert "size = [8, 8]" in run("policies", "cifar", "--set", "size=8").output


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (("--teacher", f"{TEACHERS}:constant"), "agree with the ground truth no better than chance"),
        (("--teacher", f"{TEACHERS}:sociable"), "a label must depend on its view alone"),
        (("--render", "gpu"), "--render gpu"),
        (("--teacher", f"{TEACHERS}:nothing"), "has no function nothing"),
    ],
    ids=lambda words: words[-1].rpartition(":")[2] if isinstance(words, tuple) else "",
)
def test_a_fill_that_ends_before_it_binds_its_teacher_says_one_line_in_a_file(
    tmp_path: Path, wrong: tuple[str, ...], found: str
) -> None:
    store = bright_store(tmp_path, counts=(70,))
    refused = run(*fill_words(store.path, *wrong), exit_code=1).output
    assert refused.startswith("error: ")
    assert found in refused
    assert refused.count("\n") == 1


def test_what_commands_print_in_a_file_has_no_bars(tmp_path: Path) -> None:
    made = run(*index_words(tmp_path, "--views", 1)).output
    filled = run(*fill_words(tmp_path / "store")).output
    checked = run("verify", tmp_path / "store", "--fraction", 1, "--workers", 0).output
    assert [text.count("\n") for text in (made, filled, checked)] == [1, 1, 1]


@pytest.mark.parametrize("command", ["fill", "verify"])
def test_weights_that_are_given_for_the_teacher_are_told_apart(tmp_path: Path, command: str) -> None:
    weights = tmp_path / "my weights.pt"
    weights.touch()
    said = run(command, bright_store(tmp_path).path, "--teacher", weights, exit_code=1).output
    assert said == (
        f"error: --teacher {weights} names a file of weights, and no model: give the model's name, and the file as "
        f"--checkpoint '{weights}'\n"
    )
