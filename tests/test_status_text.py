"""What `status` and `fill` print of a store."""

from pathlib import Path

import pytest

from teacher_cache.status_text import print_filled, print_status
from teacher_cache.store.status import status
from tests.support.bright_shards import bright_store, small_policy, spoil_image
from tests.support.filling import fill_store


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_an_empty_store_says_what_it_has_and_that_nothing_is_labelled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = bright_store(tmp_path, counts=(64, 3), views=4, group=2)
    print_status(status(store))
    text = printed(capsys)
    assert text.startswith(str(store.path))
    for row in (
        "samples 67 in 2 shards, 10 classes",
        "views 4 in groups of 2, seed 3",
        "coverage 0.0 % (0 of 4 units)",
        "agreement no labels yet",
        "size no bytes yet",
        "soft labels none",
        "teacher none yet",
        "filled with nothing yet",
    ):
        assert row in text
    assert "skipped" not in text
    assert "0-1 0/2 0.0% 2-3 0/2 0.0%" in text


def test_one_of_anything_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = bright_store(tmp_path, counts=(65,), views=1, group=1, policy=small_policy("mix=none"))
    spoil_image(store, 2)
    filled = fill_store(store, skip_bad=True, topk=1, tau=2.0)
    print_filled(status(store), filled)
    out, err = capsys.readouterr()
    assert f"{store.path}: 2 units filled now; 64 of 65 views labelled, " in out
    assert err == f"warning: 1 sample skipped: {store.shard_name(0)} {store.index.key(2)}\n"
    print_status(status(store))
    text = printed(capsys)
    assert "the 1 largest probability of a view at tau 2, 0.00 MB" in text
    assert f"skipped 1 sample: {store.shard_name(0)} {store.index.key(2)}" in text
    assert "65 in 1 shard, 10 classes" in text


def test_each_build_that_filled_has_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = status(bright_store(tmp_path))
    found["builds"] = [
        {"torch": "2.14.1", "device": "cpu: avx512", "threads": count, "logits": "equal"} for count in (1, 2)
    ]
    print_status(found)
    said = capsys.readouterr().out
    assert "\\n" not in said
    lines = [line.strip() for line in said.split("\n")]
    assert "filled with  torch 2.14.1, cpu: avx512, 1 CPU threads: logits: equal" in lines
    assert "torch 2.14.1, cpu: avx512, 2 CPU threads: logits: equal" in lines
