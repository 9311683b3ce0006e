import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from teacher_cache.cli import main
from teacher_cache.errors import StoreError
from teacher_cache.publish import publish
from teacher_cache.replay.policy import OPERATIONS, load_policy
from teacher_cache.storage.place import Url
from teacher_cache.store.create import IndexRequest
from teacher_cache.store.reindex import check_request, widen
from teacher_cache.store.store import Store
from tests.support.bright_shards import SMALL, bright_store, small_policy, write_bright_shards
from tests.support.filling import fill_store
from tests.support.web_server import WebServer


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return bright_store(tmp_path, counts=(64, 3), group=2, views=4)


AS_IS = IndexRequest(small_policy())
OTHERS = {
    "the policy's size [8, 8] (not [9, 8])": replace(AS_IS, policy=small_policy("size=[9,8]")),
    "the policy's flip 0.5 (not none)": replace(AS_IS, policy=small_policy("flip=none")),
    "the policy's erase.probability": replace(AS_IS, policy=small_policy("erase.probability=0.75")),
    "seed 3 (not 0)": replace(AS_IS, seed=0),
    "group 2 (not 4)": replace(AS_IS, group=4),
    "class-from cls (not json:a)": replace(AS_IS, class_from="json:a"),
    "image-from none (not left.jpg)": replace(AS_IS, image_from="left.jpg"),
    "devices one (not any)": replace(AS_IS, devices="any"),
    "max-pixels 178956970 (not 7)": replace(AS_IS, max_pixels=7),
    "fingerprints tail (not whole)": replace(AS_IS, whole=True),
}


@pytest.mark.parametrize("found", OTHERS)
def test_another_setting_is_named_and_changes_nothing(store: Store, found: str) -> None:
    before = tree(store.path)
    with pytest.raises(StoreError) as refused:
        check_request(store, replace(OTHERS[found], views=64))
    assert f"it has {found}" in str(refused.value)
    assert "choose another --store" in str(refused.value)
    assert tree(store.path) == before


def test_long_lists_are_told_where_they_part(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(3,), policy=load_policy("cifar", ["size=8"]))
    fewer = load_policy("cifar", ["size=8", f"rand_augment.operations={list(OPERATIONS[:-1])}"])
    with pytest.raises(StoreError) as refused:
        check_request(store, IndexRequest(fewer))
    said = "it has the policy's rand_augment.operations [..., TranslateXRel, TranslateYRel] (not [..., TranslateXRel]);"
    assert said in str(refused.value)


def test_many_differences_are_three_and_a_count(store: Store) -> None:
    with pytest.raises(StoreError) as refused:
        check_request(store, replace(AS_IS, policy=load_policy("deit"), seed=4))
    assert str(refused.value).count("(not ") == 3
    assert " more; leave that as it is" in str(refused.value)


def test_what_is_not_said_is_right(store: Store) -> None:
    before = tree(store.path)
    same = IndexRequest(small_policy(), 4, 3, 2, 4096, "cls", devices="one", max_pixels=178956970)
    for request in (AS_IS, same, replace(same, views=3)):
        check_request(store, request)
        assert widen(store, request) == "indexed already, as asked"
    assert widen(store, replace(same, views=1)) == "indexed already, as asked, and keeps its 4 views"
    assert tree(store.path) == before


def run(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == code, done.output
    return done.output


def index(shards: list[str], store: Path | str, *more: str, code: int = 0) -> str:
    settings = [word for setting in SMALL for word in ("--set", setting)]
    words = ("--store", str(store), "--policy", "cifar", *settings, "--workers", "1", *more)
    return run("index", *shards, *words, code=code)


def test_the_same_command_once_more_widens_and_loses_nothing(tmp_path: Path) -> None:
    shards, store = write_bright_shards(tmp_path / "shards", (64, 3)), tmp_path / "store"
    index(shards, store, "--views", "2")
    fill_store(Store.open(store, writable=True))
    before = tree(store)
    assert "indexed already, as asked" in index(shards, store, "--views", "2")
    assert tree(store) == before
    assert "2 -> 6 views" in index(shards, store, "--views", "5")
    widened = Store.open(store)
    assert widened.views == 6
    assert [unit.group for unit in widened.missing_units()] == [1, 1, 2, 2]
    values = {name: content for name, content in before.items() if not name.endswith("zarr.json")}
    assert values.items() <= tree(store).items()


def test_moved_shards_are_read_from_where_they_are_now(tmp_path: Path) -> None:
    shards, store = write_bright_shards(tmp_path / "shards", (64, 3)), tmp_path / "store"
    index(shards, store, "--views", "2")
    shutil.move(tmp_path / "shards", tmp_path / "moved")
    moved = [path.replace("/shards/", "/moved/") for path in shards]
    assert "its shards are those given" in index(moved, store, "--views", "2")
    assert [entry.path for entry in Store.open(store).index.shards] == moved
    fill_store(Store.open(store, writable=True))
    assert "are those given" not in index(moved, store, "--views", "2")


def test_a_place_that_takes_no_store_is_told_before_shards_are_walked(tmp_path: Path, bucket: Url) -> None:
    shards, store = write_bright_shards(tmp_path / "shards", (64, 3)), tmp_path / "store"
    index(shards, store, "--views", "2")
    fill_store(Store.open(store, writable=True))
    publish(Store.open(store), str(tmp_path / "published"))
    for path in shards:
        Path(path).write_bytes(b"none can be walked")
    packed = tmp_path / "published/store"
    assert f"{packed} is packed, as it was published, and only read" in index(shards, packed, "--views", "2", code=1)
    with WebServer(tmp_path) as web:
        told = f"{web.url}/new: a web server is only read: give a folder or a bucket to write to"
        assert told in index(shards, f"{web.url}/new", "--views", "2", code=1)
    whole = bucket.parent.parent
    assert f"{whole} is a whole bucket: name a folder" in index(shards, str(whole), "--views", "2", code=1)


def test_other_shards_are_refused(tmp_path: Path) -> None:
    shards, store = write_bright_shards(tmp_path / "shards", (64, 3)), tmp_path / "store"
    index(shards, store, "--views", "2")
    fewer = index(shards[:1], store, "--views", "2", code=1)
    assert "1 of 2 indexed shards is not among the 1 given, the first is train-0001.tar: give all" in fewer
    others = write_bright_shards(tmp_path / "others", (64, 4))
    before = tree(store)
    assert "train-0001.tar" in index(others, store, "--views", "8", code=1)
    assert tree(store) == before  # nothing is widened that is refused
    named = tmp_path / "names.json"
    named.write_text('["a", "b"]')
    assert "are not the 10 of the index" in index(shards, store, "--classes", str(named), code=1)


def test_without_a_policy_the_stores_own_counts(tmp_path: Path) -> None:
    shards, store = write_bright_shards(tmp_path / "shards", (64, 3)), tmp_path / "store"
    index(shards, store, "--views", "2")
    assert "indexed already, as asked" in run("index", *shards, "--store", str(store), "--workers", "1")
    other = run("index", *shards, "--store", str(store), "--set", "flip=none", "--workers", "1", code=1)
    assert "the policy's flip 0.5 (not none)" in other


def test_like_is_compared_too(tmp_path: Path) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    index(write_bright_shards(tmp_path / "a", (64, 3)), first, "--views", "2")
    assert "4 views" in run("index", "--like", str(first), "--store", str(other), "--views", "4", "--group", "2")
    assert "indexed already, as asked" in run("index", "--like", str(first), "--store", str(other), "--views", "4")
    index(write_bright_shards(tmp_path / "b", (64, 5)), tmp_path / "third", "--views", "2")
    refused = run("index", "--like", str(tmp_path / "third"), "--store", str(other), code=1)
    assert "is not like" in refused


def test_an_ordinary_folder_is_no_store_to_index_again(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    shards = write_bright_shards(tmp_path / "shards", (3,))
    assert "is not a store" in index(shards, tmp_path / "there", "--views", "2", code=1)
