"""A sample of several pictures: the one that `index --image-from` names is what every later command reads."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import student.cli
import teacher_cache.cli
import tools.inspect_cache
from student.trained import read_trained
from student.validation import index_validation
from teacher_cache import open_store
from teacher_cache.errors import ShardError, StoreError
from teacher_cache.store.places import open_moved
from teacher_cache.store.store import Store
from tests.support.bright_shards import SMALL, bright_image
from tests.support.filled_store import files
from tests.support.filling import fill_store
from tests.support.shard_files import write_shard
from tests.support.small_runs import rows, train_small

NAMES = [str(number) for number in range(10)]
Members = Callable[[int], dict[str, bytes]]


def alone(number: int) -> dict[str, bytes]:
    return {"png": bright_image(number)}


def pair(number: int) -> dict[str, bytes]:
    return {"right.png": bright_image(number + 5), "Left.PNG": bright_image(number), "png": bright_image(number + 3)}


def said(main: object, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def write(folder: Path, members: Members, name: str, numbers: range) -> str:
    """A shard of a store's name in a folder of its own."""
    samples = [{"__key__": f"s{n:05d}", **members(n), "cls": str(n % 10).encode()} for n in numbers]
    return str(write_shard(folder / name, samples))


def index(folder: Path, members: Members, *options: str) -> Store:
    shard = write(folder, members, "train-0000.tar", range(130))
    settings = [part for setting in SMALL for part in ("--set", setting)]
    command = ["index", shard, "--store", str(folder / "store"), "--policy", "cifar", *settings, "--views", "4"]
    said(teacher_cache.cli.main, *command, "--group", "2", "--unit-samples", "64", *options)
    return Store.open(folder / "store", writable=True)


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Store, Store]:
    """Of the same pictures, which are their samples' only ones, and the left of three; filled."""
    plain = index(tmp_path / "plain", alone)
    chosen = index(tmp_path / "chosen", pair, "--image-from", "left.png")
    for store in (plain, chosen):
        fill_store(store)
    return plain, chosen


def test_without_a_choice_nothing_of_it_is_in_a_store(stores: tuple[Store, Store]) -> None:
    plain, chosen = (json.loads((store.path / "zarr.json").read_text()) for store in stores)
    settings = [document["attributes"]["teacher_cache"] for document in (plain, chosen)]
    assert ["image_from" in each for each in settings] == [False, True]
    assert ["image_from" in each["parts_sha256"] for each in settings] == [False, True]
    assert [store.index.image_from for store in stores] == [None, "left.png"]


def test_labels_and_digests_are_those_of_the_chosen_picture(stores: tuple[Store, Store]) -> None:
    for name in ("labels", "digests", "records"):
        assert files(stores[0].path / name) == files(stores[1].path / name)


@pytest.mark.parametrize("change", ["right.png", None])
def test_another_choice_in_a_stores_file_is_found(stores: tuple[Store, Store], change: str | None) -> None:
    for store in stores:
        file = store.path / "zarr.json"
        document = json.loads(file.read_text())
        settings = document["attributes"]["teacher_cache"]
        if settings.pop("image_from", None) == change:
            continue
        file.write_text(json.dumps(document))
        if change is not None:
            settings["image_from"] = change
            file.write_text(json.dumps(document))
        with pytest.raises(StoreError, match="image_from is not what the store was made with"):
            Store.open(store.path)


def test_verify_and_extend_read_the_chosen_picture(stores: tuple[Store, Store]) -> None:
    store = stores[1]
    said(teacher_cache.cli.main, "extend", str(store.path), "--views", "6")
    fill_store(Store.open(store.path, writable=True))
    assert "0 differences" in said(
        teacher_cache.cli.main, "verify", str(store.path), "--fraction", "1", "--workers", "0"
    )


def test_moved_shards_are_read_as_they_were(stores: tuple[Store, Store], tmp_path: Path) -> None:
    store = stores[1]
    moved = tmp_path / "moved" / "train-0000.tar"
    moved.parent.mkdir()
    Path(store.index.shards[0].path).rename(moved)
    verify = ["verify", str(store.path), "--workers", "0", "--fraction", "1", "--shards", str(moved)]
    assert "0 differences" in said(teacher_cache.cli.main, *verify)
    opened = open_moved(str(store.path), [str(moved)])
    assert opened.index.image_from == "left.png"
    assert (opened.index.offsets == store.index.offsets).all()
    write(moved.parent, lambda n: pair(n) | {"Left.PNG": bright_image(n + 1)}, moved.name, range(130))
    assert "holds other images than were indexed" in said(teacher_cache.cli.main, *verify, code=1)


def test_like_takes_the_choice_and_refuses_another(stores: tuple[Store, Store], tmp_path: Path) -> None:
    plain, chosen = (str(store.path) for store in stores)
    like = ["index", "--store", str(tmp_path / "like"), "--like"]
    for other, option, value in [
        (chosen, "--image-from", "right.png"),
        (plain, "--image-from", "left.png"),
        (plain, "--class-from", "json:label"),
    ]:
        output = said(teacher_cache.cli.main, *like, other, option, value, code=1)
        assert output == f"error: {other} was indexed with another {option}: leave it out, or index shards"
    (tmp_path / "names.json").write_text(json.dumps(NAMES[::-1]))
    output = said(teacher_cache.cli.main, *like, plain, "--classes", str(tmp_path / "names.json"), code=1)
    assert "was indexed with another --classes" in output
    said(teacher_cache.cli.main, *like, chosen, "--image-from", "left.png", "--class-from", "cls")
    assert Store.open(tmp_path / "like").index.image_from == "left.png"


def test_inspecting_shows_the_chosen_picture(
    stores: tuple[Store, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[object] = []
    for store in stores:
        folder = tmp_path / f"shown-{store.path.parent.name}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        said(tools.inspect_cache.main, str(store.path), "view", "s00007", "1", "--out", "view.png")
        shown.append((folder / "view.png").read_bytes())
        opened = open_store(str(store.path))
        shown.append(opened.sample("s00007")["image_size"])
        shown.append(opened.image("s00007").tobytes() + opened.render("s00007", 1).tobytes())
    assert shown[:3] == shown[3:]


def test_training_and_evaluating_read_the_chosen_picture(stores: tuple[Store, Store], tmp_path: Path) -> None:
    validation = [
        write(tmp_path / name, members, "val.tar", range(10_000, 10_060))
        for name, members in (("val plain", alone), ("val chosen", pair))
    ]
    outs = [tmp_path / "run plain", tmp_path / "run chosen"]
    for store, out, shard in zip(stores, outs, validation, strict=True):
        train_small(store, out, "model=student.convnet:small_convnet", "distill=none", val=(shard,))
    plain, chosen = (rows(out / "epochs.csv", without=("images_per_s", "wait_share")) for out in outs)
    assert plain == chosen
    contents = [torch.load(out / "checkpoint.pt") for out in outs]
    assert [content["image_from"] for content in contents] == [None, "left.png"]

    checkpoint, export = str(outs[1] / "checkpoint.pt"), str(tmp_path / "out.safetensors")
    said(student.cli.main, "export", checkpoint, "--format", "safetensors", "--out", export)
    evaluated = []
    plain_checkpoint = str(outs[0] / "checkpoint.pt")
    for trained, shard, *options in (
        (plain_checkpoint, validation[0]),
        (checkpoint, validation[1]),
        (export, validation[1]),
        (plain_checkpoint, validation[1], "--image-from", "left.png"),
    ):
        command = ["evaluate", trained, "--val", shard, "--workers", "0", "--device", "cpu", "--json"]
        evaluated.append(json.loads(said(student.cli.main, *command, *options))["accuracy"])
    assert all(each == evaluated[0] for each in evaluated)
    assert read_trained(checkpoint).image_from == read_trained(export).image_from == "left.png"
    with pytest.raises(ShardError, match=r"has no image \(\.left\.png\) but \.cls, \.png; --image-from names"):
        index_validation([validation[0]], None, image_from="left.png", num_classes=10)


def test_indexing_again_compares_the_choice(stores: tuple[Store, Store], tmp_path: Path) -> None:
    commands = [["index", store.index.shards[0].path, "--store", str(store.path)] for store in stores]
    assert "indexed already, as asked" in said(teacher_cache.cli.main, *commands[1])
    assert "indexed already, as asked" in said(teacher_cache.cli.main, *commands[1], "--image-from", "left.png")
    output = said(teacher_cache.cli.main, *commands[1], "--image-from", "right.png", code=1)
    assert "it has image-from left.png (not right.png)" in output
    output = said(teacher_cache.cli.main, *commands[0], "--image-from", "left.png", code=1)
    assert "it has image-from none (not left.png)" in output
    right = index(tmp_path / "right", pair, "--image-from", "right.png")
    like = ["index", "--like", str(right.path), "--store", str(stores[1].path)]
    assert "other images of them" in said(teacher_cache.cli.main, *like, code=1)
