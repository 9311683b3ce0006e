"""Names that strangers chose."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.audit.confusions import class_number
from teacher_cache.audit.names import FILE_NAME, chosen_sample, file_stem, find_sample, place
from teacher_cache.errors import MissingSampleError, ShardError, StoreError
from teacher_cache.shards.classes import class_rule
from teacher_cache.shards.indexing import index_shards
from tests.support.bright_shards import bright_image
from tests.support.filled_store import make_index, make_store
from tests.support.shard_files import write_shard


@given(st.text(st.characters(exclude_categories=[])), st.text(st.characters(exclude_categories=[])))
def test_file_stems_are_plain_and_differ(first: str, second: str) -> None:
    stem = file_stem("shard", first)
    assert len(stem) <= FILE_NAME + 9
    assert not set(stem) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert stem[:1] not in {".", "-"}
    if first != second:
        assert stem != file_stem("shard", second)


def test_file_stem_of_plain_names_is_readable() -> None:
    assert file_stem("train-0000", "n01440764_10026") == "train-0000_n01440764_10026"


def test_a_sample_is_found_by_its_name(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    assert find_sample(store, "3-0007") == find_sample(store, "shard-3.tar/3-0007") == 138
    assert json.loads(json.dumps(place(store, 138))) == {"shard": "shard-3.tar", "key": "3-0007", "sample": 138}
    for name in ("4-0000", "shard-0.tar/3-0007", "shard-9.tar/3-0007", "", "\ud800"):
        with pytest.raises(ShardError, match="no sample"):
            find_sample(store, name)


def test_keys_with_slashes_and_the_same_key_twice(tmp_path: Path) -> None:

    def member(key: str) -> dict[str, str | bytes]:
        return {"__key__": key, "png": bright_image(0), "cls": b"0"}

    paths = [
        str(write_shard(tmp_path / "a.tar", [member("x/1"), member("b.tar/x/1"), member("twice")])),
        str(write_shard(tmp_path / "b.tar", [member("twice"), member("y")])),
    ]
    keys = [["x/1", "b.tar/x/1", "twice"], ["twice", "y"]]
    store = make_store(tmp_path / "s", index=index_shards(paths, class_rule(paths)))
    assert [store.index.key(sample) for sample in range(5)] == [*keys[0], *keys[1]]
    assert find_sample(store, "x/1") == find_sample(store, "a.tar/x/1") == 0
    assert find_sample(store, "b.tar/y") == 4
    assert find_sample(store, "b.tar/x/1") == 1  # no such sample in b.tar, but one whose key is all of it
    assert find_sample(store, "b.tar/twice") == 3
    with pytest.raises(ShardError, match="name the shard too"):
        find_sample(store, "twice")
    with pytest.raises(ShardError, match="name the shard too"):
        chosen_sample(store, "twice")


def test_the_nearest_keys_are_named(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    for asked, offered in (
        ("3_0007", r"no sample '3_0007' in any of 4 shards: did you mean '3-0007'"),
        ("3-0007.", r"did you mean '3-0007'"),
        ("shard-3.tar/3_0007", r"in shard shard-3\.tar: did you mean 'shard-3\.tar/3-0007'"),
        ("shard-9.tar/3-0007", "did you mean 'shard-3\\.tar/3-0007'"),
        ("zebra", r"4 shards: name a sample as SHARD/KEY, KEY, or by its number, 0 to 330$"),
    ):
        with pytest.raises(MissingSampleError, match=offered) as refused:
            find_sample(store, asked)
        assert str(refused.value).count("'3-") + str(refused.value).count("/3-") <= 4


def test_a_number_names_a_sample_unless_a_key_looks_like_it(tmp_path: Path) -> None:
    plain = make_store(tmp_path / "s")
    assert [chosen_sample(plain, text) for text in ("0", "17", "330", "3-0007")] == [0, 17, 330, 138]
    for text in ("331", "-1", "1" * 30, "\u0661", "1.0", "shard-1.tar/17", "shard-9.tar/0"):
        with pytest.raises(MissingSampleError, match=r"number, 0 to 330|did you mean"):
            chosen_sample(plain, text)
    assert [chosen_sample(plain, f"shard-{shard}.tar/{number}") for shard, number in ((0, 129), (1, 0), (3, 7))] == [
        *(129, 130, 138),
    ]
    with pytest.raises(MissingSampleError):
        find_sample(plain, "17")
    numbered = [f"{number}".encode() for number in reversed(range(4))]
    keys = {"key_bytes": np.frombuffer(b"".join(numbered), np.uint8), "key_ends": np.arange(1, 5)}
    store = make_store(tmp_path / "numbered", index=replace(make_index((4,)), **keys))
    assert [chosen_sample(store, text) for text in ("0", "3", "shard-0.tar/1")] == [3, 0, 2]


def test_a_class_goes_by_its_name_then_by_its_number(tmp_path: Path) -> None:
    index = replace(make_index(num_classes=4), class_names=("tabby", "ostrich", "tiger cat", "2"))
    store = make_store(tmp_path / "s", index=index)
    assert [class_number(store, name) for name in ("tabby", "2", "1")] == [0, 3, 1]
    with pytest.raises(StoreError, match="no class 'tigercat' among its 4: did you mean 'tiger cat'\\? give"):
        class_number(store, "tigercat")
    for far in ("zebu", "4"):
        with pytest.raises(StoreError, match=rf"no class '{far}' among its 4: give a name of classes\.json"):
            class_number(store, far)
