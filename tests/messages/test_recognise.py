"""What a path is that was given for something else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from teacher_cache.errors import StoreError
from teacher_cache.messages.recognise import LOOKED_AT, is_part, is_run, is_store, meant, no_checkpoint, what_is
from teacher_cache.store.store import Store
from tests.support import filled_store


def make_store(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "zarr.json").write_text(json.dumps({"attributes": {"teacher_cache": {}}}))
    return path


def make_link(path: Path) -> None:
    path.symlink_to("nowhere")


def make_run(path: Path) -> None:
    path.mkdir()
    (path / "epochs.csv").touch()


def make_shards(path: Path) -> None:
    path.mkdir()
    (path / "train-0000.tar").touch()


def make_other_zarr(path: Path) -> None:
    path.mkdir()
    (path / "zarr.json").write_text("{}")


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("store", make_store, "it is a store of labels"),
        ("link", make_link, "it is a link to nothing"),
        ("a.tar", Path.touch, "it is a shard: `teacher-cache index` makes a store of shards"),
        ("a.txt", Path.touch, "it is a file"),
        ("run", make_run, "it is the folder of a run of `student train`"),
        ("zarr", make_other_zarr, "it is Zarr data of something else"),
        ("empty", Path.mkdir, "it is an empty folder"),
        ("other", lambda path: (path / "x").mkdir(parents=True), "it is a folder of other things"),
        ("nothing", lambda path: None, "there is no such file or folder"),
    ],
)
def test_a_path_alone(tmp_path: Path, name: str, make: Callable[[Path], object], expected: str) -> None:
    make(tmp_path / name)
    assert what_is(tmp_path / name) == expected


def test_a_folder_of_shards_says_the_command(tmp_path: Path) -> None:
    make_shards(tmp_path / "shards")
    assert what_is(tmp_path / "shards").endswith(
        f"`teacher-cache index '{tmp_path}/shards/*.tar'` makes a store of them"
    )


def test_stores_near_by_are_named(tmp_path: Path) -> None:
    """Those in the folder before those beside it."""
    store = make_store(tmp_path / "beside")
    make_run(tmp_path / "run")
    assert what_is(tmp_path / "run").endswith(f"; there is a store at {store}")
    inside = [make_store(tmp_path / "folder" / name) for name in ("a", "b", "c")]
    assert what_is(tmp_path / "folder").endswith(f"; there is a store at {inside[0]} and 2 more there")


def test_a_copy_of_a_store_that_broke_off_before_its_first_file(tmp_path: Path) -> None:
    path = filled_store.make_store(tmp_path / "store").path
    (path / "zarr.json").unlink()
    with pytest.raises(
        StoreError, match=r"is not a store, it has a store's parts, but its zarr\.json is absent, as in"
    ):
        Store.open(path)


def test_a_part_of_a_store_names_it(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    (store / "labels" / "c").mkdir(parents=True)
    assert is_part(store / "labels" / "c") == store
    assert is_part(store) is None
    assert is_part(store / "labels" / ".." / ".." / "other") is None
    (tmp_path / "link").symlink_to(store / "labels")
    assert is_part(tmp_path / "link" / "new") == store
    assert what_is(store / "labels") == f"it is a part of the store {store}: name that one"


@pytest.mark.parametrize("document", [b"{", b"[]", b'{"attributes": null}', b"\xff", b"[" * 100_000])
def test_a_document_that_says_nothing_of_the_kind_is_no_store(tmp_path: Path, document: bytes) -> None:
    (tmp_path / "zarr.json").write_bytes(document)
    assert not is_store(tmp_path)


def test_a_run_is_known_by_any_of_its_files(tmp_path: Path) -> None:
    assert not is_run(tmp_path)
    (tmp_path / "epoch.pt").touch()
    assert is_run(tmp_path)


def test_the_nearest_name_where_a_path_stops_to_be_there(tmp_path: Path) -> None:
    (tmp_path / "stores" / "photos").mkdir(parents=True)
    assert meant(tmp_path / "stores" / "phtos") == f" ({tmp_path}/stores has photos)"
    assert meant(tmp_path / "store" / "photos") == f" ({tmp_path} has stores)"
    assert meant(tmp_path / "unlike") == ""


def test_a_folder_of_very_many_names_is_looked_into_so_far_only(tmp_path: Path) -> None:
    for number in range(LOOKED_AT + 50):
        (tmp_path / f"{number:04d}.jpg").touch()
    assert what_is(tmp_path) == "it is a folder of other things"


def test_what_can_be_no_checkpoint_is_told_unread(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").touch()
    assert no_checkpoint(tmp_path / "weights.pt") is None
    assert no_checkpoint(tmp_path) == f"{tmp_path} is a folder: name a file in it, checkpoint.pt for instance"
    for name in ("model.safetensors", "checkpoint.pt"):
        (tmp_path / name).touch()
        assert no_checkpoint(tmp_path) == f"{tmp_path} is a folder: name {tmp_path / name}"
    absent = no_checkpoint(tmp_path / "wieghts.pt")
    assert absent == f"checkpoint {tmp_path}/wieghts.pt is absent ({tmp_path} has weights.pt): check the path"


@pytest.mark.parametrize("document", [{"attributes": 3}, {"attributes": True}, {"attributes": "teacher_cache"}, [], 3])
def test_attributes_that_are_none_make_no_store(tmp_path: Path, document: object) -> None:
    (tmp_path / "zarr.json").write_text(json.dumps(document))
    assert not is_store(tmp_path)
