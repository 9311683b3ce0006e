"""tools/make_shards.py: shards that are shuffled, whole, and the same bytes for the same input."""

import io
import json
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from teacher_cache.errors import DiskError, ShardError
from teacher_cache.processes.lock import alone
from teacher_cache.shards.class_order import class_order_warning
from teacher_cache.shards.classes import class_rule
from teacher_cache.shards.find import expand_shards
from teacher_cache.shards.index import Index
from teacher_cache.shards.indexing import index_shards
from teacher_cache.shards.read import read_block
from teacher_cache.store.store import Store
from tests.support.filled_store import make_store
from tests.support.memory_storage import bucket_in_memory
from tests.support.shard_files import make_image, read_webdataset, write_shard
from tools import make_shards


def run(*arguments: object, fails: bool = False) -> str:
    result = CliRunner().invoke(make_shards.main, [str(argument) for argument in arguments])
    assert result.exit_code == (1 if fails else 0), (result.output, result.exception)
    return result.output


def open_index(out: Path, prefix: str = "train") -> Index:
    paths = expand_shards([str(out / f"{prefix}-*.tar")])
    return index_shards(paths, class_rule(paths))


def read_samples(index: Index) -> dict[str, tuple[str, bytes]]:
    """Key -> (class name, image)."""
    found = {}
    for shard in range(index.num_shards):
        for number in range(index.num_blocks(shard)):
            block = read_block(index.place(shard, number))
            for key, class_number, image in zip(block.keys, block.classes, block.images, strict=True):
                found[key] = (index.class_names[class_number], image)
    assert len(found) == index.num_samples
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def make_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


TREE = {f"{name}/{number}.png": make_image(number) for name in ("dog", "cat", "ant") for number in range(20)}


def test_digits(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    output = run("digits", tmp_path / "one", "--samples-per-shard", 512)
    assert "1,437 samples of 10 classes" in output
    assert "360 samples of 10 classes" in output
    run("digits", tmp_path / "two", "--samples-per-shard", 512)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sorted(contents(tmp_path / "one")) == [
        "classes.json",
        "train-0000.tar",
        "train-0001.tar",
        "train-0002.tar",
        "val-0000.tar",
    ]
    train, val = open_index(tmp_path / "one"), open_index(tmp_path / "one", "val")
    assert (train.counts.tolist(), val.counts.tolist()) == ([512, 512, 413], [360])
    assert class_order_warning(train) is None
    everything = np.bincount(train.classes) + np.bincount(val.classes)
    assert np.abs(np.bincount(val.classes) - everything * 360 / 1797).max() <= 1
    digits = load_digits()
    images = read_samples(train) | read_samples(val)
    assert len(images) == 1797
    for position in (0, 1000, 1796):
        name, image = images[f"digit-{position:04d}"]
        assert name == str(digits.target[position])
        path = tmp_path / "digit.png"
        path.write_bytes(image)
        with Image.open(path) as opened:
            pixels = np.asarray(opened)
        assert pixels.shape == (8, 8)
        np.testing.assert_array_equal(pixels, np.round(digits.images[position] * 255 / 16 + 1e-9))
    # another seed: other order, same split
    run("digits", tmp_path / "seed", "--seed", 1)
    other = open_index(tmp_path / "seed")
    assert read_samples(other) == read_samples(train)
    assert [other.key(sample) for sample in range(9)] != [train.key(sample) for sample in range(9)]
    message = run("digits", tmp_path / "one", fails=True)
    assert message.endswith("already holds train-0000.tar (3 such): remove them, or give another folder\n")


def test_the_shuffle_is_frozen() -> None:
    samples = [make_shards.Sample(str(number), 0, lambda: ("png", b"")) for number in range(10)]
    order = [sample.key for sample in make_shards.shuffle(samples, 0, "train")]
    assert order == ["6", "9", "5", "2", "0", "4", "7", "8", "1", "3"]
    assert [sample.key for sample in make_shards.shuffle(samples, 1, "train")] != order
    assert [sample.key for sample in make_shards.shuffle(samples, 0, "val")] != order


def test_folder_copies_images(tmp_path: Path) -> None:
    source = make_tree(tmp_path / "src", TREE)
    run("folder", source, tmp_path / "out", "--samples-per-shard", 25, "--prefix", "part")
    index = open_index(tmp_path / "out", "part")
    assert index.class_names == ("ant", "cat", "dog")
    assert index.counts.tolist() == [25, 25, 10]
    assert class_order_warning(index) is None
    assert read_samples(index) == {name[:-4]: (name[:3], image) for name, image in TREE.items()}
    run("folder", source, tmp_path / "again", "--samples-per-shard", 25, "--prefix", "part")
    assert contents(tmp_path / "out") == contents(tmp_path / "again")


def test_folder_makes_keys_of_any_name(tmp_path: Path) -> None:
    image = make_image(0, kind="jpeg")
    files = {
        "a.b/x.y.z.JPG": image,
        "a.b/x_y.z.jpeg": image + b"2",
        "a.b/x_y_z.webp": image + b"3",
        "a.b/x_y_z-2.jpg": image + b"4",
        "a.b/deep/er/ä ö.jpg": image + b"5",
        "a.b/" + "long" * 50 + ".jpg": image + b"6",
        "a.b/.hidden.jpg": b"",
        "a.b/.git/x.jpg": b"",
        ".git/x.jpg": b"",
        "a.b/list.txt": b"",
        "README": b"",
    }
    output = run("folder", make_tree(tmp_path / "src", files), tmp_path / "out")
    assert "left out: 2 files" in output
    found = read_samples(open_index(tmp_path / "out"))
    assert {key: content for key, (_, content) in found.items()} == {
        "a.b/deep/er/ä ö": image + b"5",
        "a.b/" + "long" * 50: image + b"6",
        "a.b/x_y_z": image,  # "x.y.z.JPG", then in sorted order
        "a.b/x_y_z-2": image + b"2",
        "a.b/x_y_z-2-2": image + b"4",
        "a.b/x_y_z-3": image + b"3",
    }
    assert {name for name, _ in found.values()} == {"a.b"}


def test_folder_with_classes(tmp_path: Path) -> None:
    source = make_tree(tmp_path / "src", TREE)
    classes = tmp_path / "names.json"
    classes.write_text(json.dumps(["dog", "cow", "cat", "ant"]))
    run("folder", source, tmp_path / "out", "--classes", classes)
    index = open_index(tmp_path / "out")
    assert index.class_names == ("dog", "cow", "cat", "ant")
    assert np.bincount(index.classes).tolist() == [20, 0, 20, 20]
    for names, part in [
        (["dog", "cat"], f"{source / 'ant'} is none of 2 classes (such folders: 1)"),
        (["dog", "cat", "ant", "cat"], "the class name 'cat' stands for more than one class"),
    ]:
        classes.write_text(json.dumps(names))
        assert part in run("folder", source, tmp_path / "other", "--classes", classes, fails=True)
    assert not (tmp_path / "other").exists()


def test_folder_refuses(tmp_path: Path) -> None:
    assert "is no folder" in run("folder", tmp_path / "absent", tmp_path / "out", fails=True)
    (tmp_path / "src").mkdir()
    assert "holds no folders" in run("folder", tmp_path / "src", tmp_path / "out", fails=True)
    source = make_tree(tmp_path / "src", {"a/list.txt": b""})
    message = run("folder", source, tmp_path / "out", fails=True)
    assert f"{source} holds no images: jpg, jpeg, png, webp are expected in its folders of classes" in message
    source = make_tree(tmp_path / "meta", {"__a__/x.png": make_image(0)})
    assert "rename the folder" in run("folder", source, tmp_path / "out", fails=True)


def test_folder_follows_links(tmp_path: Path) -> None:
    image = make_image(0)
    source = make_tree(tmp_path / "src", {"a/1.png": image, "b/2.png": image})
    elsewhere = make_tree(tmp_path / "elsewhere", {"3.png": image, "deep/4.png": image})
    (source / "c").symlink_to(elsewhere)
    (source / "a" / "more").symlink_to(elsewhere)
    (source / "b" / "5.png").symlink_to(elsewhere / "3.png")
    run("folder", source, tmp_path / "out")
    found = read_samples(open_index(tmp_path / "out"))
    assert sorted(found) == ["a/1", "a/more/3", "a/more/deep/4", "b/2", "b/5", "c/3", "c/deep/4"]
    (elsewhere / "back").symlink_to(source / "a")
    told = f"{source / 'a' / 'more' / 'back'} is a link to a folder that it lies in: remove it"
    assert told in run("folder", source, tmp_path / "other", fails=True)
    (elsewhere / "back").unlink()
    (source / "c").unlink()
    (source / "c").symlink_to(tmp_path / "unmounted")
    told = f"{source / 'c'} is a link to nothing: put what it names back, or remove it"
    assert told in run("folder", source, tmp_path / "other", fails=True)


@pytest.mark.parametrize("name", [b"a\xff/1.png", b"b/\xe9/1.png", b"b/1\xe9.png"])
def test_a_name_that_is_not_utf8_is_told_before_anything_is_written(tmp_path: Path, name: bytes) -> None:
    make_tree(tmp_path / "src", {"b/2.png": make_image(0), os.fsdecode(name): make_image(1)})
    assert "has a name that is not UTF-8; rename it" in run("folder", tmp_path / "src", tmp_path / "out", fails=True)
    assert not (tmp_path / "out").exists()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    source = make_tree(tmp_path / "src", {"a/1.png": make_image(0)})
    os.mkfifo(source / "a" / "2.png")
    told = f"{source / 'a' / '2.png'} is no plain file: leave it out"
    assert told in run("folder", source, tmp_path / "out", fails=True)


def test_out_that_holds_something(tmp_path: Path) -> None:
    source, out = make_tree(tmp_path / "src", TREE), tmp_path / "out"
    leftover = out / ".train.partial"
    leftover.mkdir(parents=True)
    (leftover / "train-0007.tar").touch()  # of a run that was killed
    run("folder", source, out)
    before = contents(out)
    assert sorted(before) == ["classes.json", "train-0000.tar"]
    message = run("folder", source, out, fails=True)
    assert "already holds train-0000.tar (1 such): remove them, or give another folder or --prefix" in message
    other = make_tree(tmp_path / "other", {"a/0.png": make_image(0)})
    assert "classes.json names other classes" in run("folder", other, out, "--prefix", "val", fails=True)
    assert "makes no plain file name" in run("folder", source, out, "--prefix", "../val", fails=True)
    assert contents(out) == before
    run("folder", source, out, "--prefix", "val")
    assert sorted(contents(out)) == ["classes.json", "train-0000.tar", "val-0000.tar"]


def test_shards_of_one_name_are_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    source, out = make_tree(tmp_path / "src", TREE), tmp_path / "out"
    out.mkdir()
    aside = out / ".train.partial"
    with alone(out / ".train.lock", "", "", print):
        aside.mkdir()
        message = run("folder", source, out, fails=True)
        assert f"another process writes train-*.tar to {out} (pid {os.getpid()} on " in message
        assert message.endswith("): wait for it, or give another folder or --prefix\n")
        assert aside.is_dir()
        run("folder", source, out, "--prefix", "val")
    aside.rmdir()
    run("folder", source, out)
    assert sorted(contents(out)) == ["classes.json", "train-0000.tar", "val-0000.tar"]


def test_other_classes_that_came_meanwhile_are_not_replaced(tmp_path: Path) -> None:
    """By a run of another prefix into the same folder."""
    out = tmp_path / "out"

    def read() -> tuple[str, bytes]:
        (out / "classes.json").write_text('["y"]')
        return "png", make_image(0)

    with pytest.raises(ShardError, match=r"classes\.json names other classes: give another folder"):
        make_shards.write_shards(out, "train", [make_shards.Sample("a", 0, read)], ["x"], 1)
    assert {path.name: path.read_text() for path in out.iterdir()} == {"classes.json": '["y"]'}


def test_a_failed_run_leaves_no_shards(tmp_path: Path) -> None:
    def fail() -> tuple[str, bytes]:
        raise OSError("disk on fire")

    samples = [make_shards.Sample("a", 0, lambda: ("png", make_image(0))), make_shards.Sample("b", 0, fail)]
    with pytest.raises(
        DiskError, match=r"out cannot be written \(disk on fire\): nothing that was there before is lost"
    ):
        make_shards.write_shards(tmp_path / "out", "train", samples, ["x"], 1)
    assert [file.name for file in (tmp_path / "out").iterdir()] == []
    make_shards.write_shards(tmp_path / "out", "train", samples[:1], ["x"], 1)
    assert sorted(contents(tmp_path / "out")) == ["classes.json", "train-0000.tar"]


class InMemory:
    """Like torchvision's CIFAR10: pixels in memory, train=, download=."""

    def __init__(self, root: Path, train: bool = True, download: bool = False) -> None:
        if not (root / "data").exists():
            if not download:
                raise RuntimeError("Dataset not found or corrupted. You can use download=True to download it")
            (root / "data").touch()
        self.targets = [number % 3 for number in range(12 if train else 6)]
        self.classes = ["red", "green", "blue"]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, position: int) -> tuple[Image.Image, int]:
        pixels = np.full((4, 4, 3), position, np.uint8)
        return Image.fromarray(pixels), self.targets[position]


class InFiles:
    """Like torchvision's Flowers102: files, split=, labels under a private name and no class names."""

    def __init__(self, root: Path, split: str = "train") -> None:
        if split not in ("train", "test"):
            raise ValueError(f"Unknown value '{split}' for argument split.")
        self.files = sorted((root / split).iterdir())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> tuple[Image.Image, int]:
        return Image.open(self.files[position]).convert("RGB"), position % 2


class Downloaded(InFiles):
    """Like torchvision's Flowers102 in this, too: split= and download=."""

    def __init__(self, root: Path, split: str = "train", download: bool = False) -> None:
        super().__init__(root, split)


class Boxes(InMemory):
    """Like torchvision's CocoDetection: it wants a file of annotations."""

    def __init__(self, root: Path, annotations: str) -> None:
        raise AssertionError


class Abstract:
    """Like torchvision's VisionDataset: others are made from it."""

    def __init__(self, root: Path) -> None:
        pass

    def __len__(self) -> int:
        raise NotImplementedError


@pytest.fixture
def data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    for kind in (InMemory, InFiles, Downloaded, Boxes, Abstract):
        monkeypatch.setattr(datasets, kind.__name__, kind, raising=False)


@pytest.mark.usefixtures("data_sets")
def test_torchvision_in_memory(tmp_path: Path) -> None:
    run("torchvision", "InMemory", tmp_path / "root", tmp_path / "out", "--split", "train")
    index = open_index(tmp_path / "out")
    assert index.class_names == ("red", "green", "blue")
    found = read_samples(index)
    assert len(found) == 12
    for position in range(12):
        name, image = found[f"{position:08d}"]
        assert name == index.class_names[position % 3]
        (tmp_path / "image.png").write_bytes(image)
        with Image.open(tmp_path / "image.png") as opened:
            assert (np.asarray(opened) == position).all()
    classes = tmp_path / "classes.json"
    classes.write_text('["blue", "green", "red"]')
    run(
        "torchvision",
        "InMemory",
        tmp_path / "root",
        tmp_path / "val",
        "--split",
        "test",
        "--prefix",
        "val",
        "--classes",
        classes,
    )
    renumbered = open_index(tmp_path / "val", "val")
    assert renumbered.class_names == ("blue", "green", "red")
    assert {key: name for key, (name, _) in read_samples(renumbered).items()} == {
        key: found[key][0] for key in sorted(found)[:6]
    }
    classes.write_text('["blue", "green"]')
    message = run(
        "torchvision",
        "InMemory",
        tmp_path / "root",
        tmp_path / "x",
        "--split",
        "test",
        "--classes",
        classes,
        fails=True,
    )
    assert "the class 'red' of the data set is not once among the 2 of --classes" in message


@pytest.mark.usefixtures("data_sets")
def test_torchvision_in_files(tmp_path: Path) -> None:
    files = {
        "0.jpg": make_image(0, kind="jpeg"),
        "1.PNG": make_image(1),
        "2.bmp": make_image(2, kind="bmp"),
        "3.jpeg": make_image(3, kind="jpeg"),
    }
    make_tree(tmp_path / "root" / "train", files)
    run("torchvision", "InFiles", tmp_path / "root", tmp_path / "out", "--split", "train")
    index = open_index(tmp_path / "out")
    found = read_samples(index)
    assert index.class_names == ("0", "1")
    for position, name in enumerate(files):
        if name != "2.bmp":
            assert found[f"{position:08d}"] == (str(position % 2), files[name])
    (tmp_path / "image.png").write_bytes(found["00000002"][1])
    with Image.open(tmp_path / "image.png") as encoded, Image.open(tmp_path / "root" / "train" / "2.bmp") as original:
        assert encoded.format == "PNG"
        np.testing.assert_array_equal(np.asarray(encoded), np.asarray(original))


@pytest.mark.usefixtures("data_sets")
def test_torchvision_refuses(tmp_path: Path) -> None:
    def refusal(*arguments: str) -> str:
        return run("torchvision", arguments[0], tmp_path, tmp_path / "out", *arguments[1:], fails=True)

    assert "torchvision has no data set 'Imaginary'" in refusal("Imaginary")
    assert "torchvision has no data set 'folder'" in refusal("folder")
    assert "has splits: give --split" in refusal("InMemory")
    assert "has no split 'extra'" in refusal("InMemory", "--split", "extra")
    assert "cannot be opened" in refusal("InFiles", "--split", "extra")
    assert "cannot be opened" in refusal("Downloaded", "--split", "extra")
    said = "Boxes cannot be opened without annotations, which this command does not give: name one of classification"
    assert said in refusal("Boxes")
    assert "not one of classification" in refusal("Abstract")


def test_torchvision_refuses_what_is_no_classification() -> None:
    class Pairs(InMemory):
        def __getitem__(self, position: int) -> Any:
            return Image.new("RGB", (2, 2)), {"boxes": []}

    pairs = Pairs.__new__(Pairs)
    pairs.targets = []
    pairs.__class__.__len__ = lambda self: 2
    with pytest.raises(make_shards.ShardError, match="not one of classification"):
        make_shards.torchvision_samples(pairs, None)


# -- reshuffle -----------------------------------------------------------------------------------------------------


def write_members(path: Path, samples: dict[str, dict[str, bytes]]) -> None:
    write_shard(path, [{"__key__": key, **members} for key, members in samples.items()])


def test_reshuffle_keeps_keys_and_bytes_and_the_warning_goes(tmp_path: Path) -> None:
    every = {
        f"folder/k{number:03d}": {
            "png": make_image(number),
            "cls": b"%d" % (number // 50),
            "JSON": b"{}",
            "seg.png": b"mask %d" % number,
        }
        for number in range(200)
    }
    source = tmp_path / "sorted"
    for shard in range(4):
        part = list(every.items())[50 * shard : 50 * shard + 50]
        write_members(source / f"s-{shard}.tar", dict(part))
    (source / "classes.json").write_text(json.dumps(list("abcd")))
    assert "shards look sorted by class" in str(class_order_warning(open_index(source, "s")))
    output = run("reshuffle", source / "s-*.tar", tmp_path / "one", "--samples-per-shard", 128)
    assert output == f"{tmp_path}/one/train-0000.tar, {tmp_path}/one/train-0001.tar: 200 samples of 4 classes\n"
    run("reshuffle", source / "s-{0..3}.tar", tmp_path / "two", "--samples-per-shard", 128)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    index = open_index(tmp_path / "one")
    assert (index.counts.tolist(), index.class_names) == ([128, 72], tuple("abcd"))
    assert class_order_warning(index) is None
    found = {}
    for entry in index.shards:
        for sample in read_webdataset(entry.path):
            found[str(sample["__key__"])] = {k: v for k, v in sample.items() if not k.startswith("__")}
    assert found == {key: {k.lower(): v for k, v in members.items()} for key, members in every.items()}


def test_reshuffle_reads_shards_far_away(tmp_path: Path) -> None:
    for shard in range(2):
        every = {f"k{shard}{number}": {"png": make_image(number), "cls": b"1"} for number in range(20)}
        write_members(tmp_path / "near" / f"s-{shard}.tar", every)
    (tmp_path / "near" / "classes.json").write_text(json.dumps(list("ab")))
    run("reshuffle", tmp_path / "near" / "*.tar", tmp_path / "one")
    with bucket_in_memory() as bucket:
        bucket.upload(tmp_path / "near", "s3://bucket/far")
        run("reshuffle", "s3://bucket/far/*.tar", tmp_path / "two")
        assert bucket.reads() == 2 + 40
        run("reshuffle", tmp_path / "near" / "s-0.tar", "s3://bucket/far/s-1.tar", tmp_path / "three")
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "three")


def test_reshuffle_without_names_leaves_members_of_no_sample_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in [("README", b"x"), ("1.png", make_image(1)), ("1.cls", b"3"), ("1._note", b"kept")]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    output = run("reshuffle", tmp_path / "a.tar", tmp_path / "out", "--prefix", "new")
    assert output.splitlines()[1] == "left out: 1 member of no sample"
    assert sorted(contents(tmp_path / "out")) == ["new-0000.tar"]
    with tarfile.open(tmp_path / "out" / "new-0000.tar") as archive:
        assert archive.getnames() == ["1._note", "1.cls", "1.png"]


def test_reshuffle_refuses(tmp_path: Path) -> None:
    write_members(tmp_path / "a.tar", {"k": {"png": b"1", "cls": b"1"}})
    write_members(tmp_path / "b.tar", {"j": {"png": b"1", "cls": b"1"}, "k": {"png": b"2", "cls": b"1"}})
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        for name in ("1.png", "2.png", "1.cls", "2.cls"):
            archive.addfile(tarfile.TarInfo(name))
    apart = run("reshuffle", tmp_path / "c.tar", tmp_path / "out", fails=True)
    assert "c.tar: sample '1' comes back after other samples, so its members are apart, or two have one key" in apart
    patterns = tmp_path / "{a,b}.tar"
    assert f"two samples have the key 'k', in {tmp_path}/a.tar and {tmp_path}/b.tar" in run(
        "reshuffle", patterns, tmp_path / "out", fails=True
    )
    assert not (tmp_path / "out").exists()
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        for name in ("k.png", "k.png"):
            archive.addfile(tarfile.TarInfo(name))
    assert "sample 'k' has two members .png" in run("reshuffle", tmp_path / "c.tar", tmp_path / "out", fails=True)
    for name in ("k.", "k.__key__"):
        with tarfile.open(tmp_path / "d.tar", "w") as archive:
            archive.addfile(tarfile.TarInfo(name))
        output = run("reshuffle", tmp_path / "d.tar", tmp_path / "out", fails=True)
        assert f"the member '{name}' has no extension that WebDataset could write" in output
    (tmp_path / "e.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:700])
    assert "e.tar ends" in run("reshuffle", tmp_path / "e.tar", tmp_path / "out", fails=True)
    write_members(tmp_path / "out" / "train-0000.tar", {})
    assert "already holds train-0000.tar" in run("reshuffle", tmp_path / "a.tar", tmp_path / "out", fails=True)


# -- a folder again ------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of images, and its shards of 25 samples."""
    source, out = make_tree(tmp_path / "src", TREE), tmp_path / "out"
    run("folder", source, out, "--again", "--samples-per-shard", 25)
    return source, out


def again(tree: tuple[Path, Path], *options: object, fails: bool = False) -> str:
    return run("folder", *tree, "--again", *(options or ("--samples-per-shard", 25)), fails=fails)


def written(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file's place on the disk and when it was last written: reading changes neither."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_a_folder_that_is_the_same_is_left_as_it_is(tree: tuple[Path, Path]) -> None:
    before = written(tree[1])
    assert sorted(contents(tree[1])) == ["classes.json", "train-0000.tar", "train-0001.tar", "train-0002.tar"]
    said = again(tree)
    assert said == f"{tree[1]}/train-0000.tar, ..., {tree[1]}/train-0002.tar: 60 samples of 3 classes, there already\n"
    assert written(tree[1]) == before
    os.utime(tree[0] / "ant" / "0.png")  # touched, the bytes are the same
    assert "there already" in again(tree)
    (tree[0] / "list.txt").write_text("of no class")
    assert "there already\nleft out: 1 file;" in again(tree)


def test_shards_of_another_prefix_are_others(tree: tuple[Path, Path]) -> None:
    classes = ("--classes", tree[1] / "classes.json")
    val = run("folder", *tree, "--again", "--prefix", "train-val", *classes)
    assert "train-val-0000.tar: 60 samples of 3 classes\n" in val
    assert "there already" in again(tree)
    assert "there already" in again(tree, "--prefix", "train-val", *classes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda source: (source / "dog" / "new.jpg").write_bytes(make_image(1)), "1 new (first dog/new)"),
        (lambda source: (source / "cat" / "7.png").unlink(), "1 gone (first cat/7)"),
        (lambda source: (source / "cat" / "7.png").write_bytes(make_image(70) + b"longer"), "1 changed (first cat/7)"),
        (lambda source: (source / "cat" / "7.png").rename(source / "cat" / "7.jpg"), "1 changed (first cat/7)"),
        (
            lambda source: (source / "cat" / "7.png").rename(source / "dog" / "77.png"),
            "1 new (first dog/77), 1 gone (first cat/7)",
        ),
        (lambda source: make_tree(source, {"cow/0.png": make_image(0)}), "1 new (first cow/0), other classes"),
        (lambda source: (source / "eel").mkdir(), "other classes"),
    ],
)
def test_a_folder_that_has_changed_is_told(
    tree: tuple[Path, Path], change: Callable[[Path], object], told: str
) -> None:
    before = contents(tree[1])
    change(tree[0])
    said = again(tree, fails=True)
    assert said == (
        f"error: {tree[1]}/train-*.tar were made of other images than {tree[0]} holds now: {told}; remove them to have "
        "them made anew, and index them into a new store, or choose another folder for the new ones\n"
    )
    assert contents(tree[1]) == before


def test_other_bytes_of_the_same_size_are_found(tree: tuple[Path, Path]) -> None:
    """Even where the file's own time is put back."""
    file = tree[0] / "ant" / "3.png"
    content, times = bytearray(file.read_bytes()), file.stat()
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "holds now: 1 changed (first ant/3); remove" in again(tree, fails=True)


@pytest.mark.parametrize("options", [("--seed", 1, "--samples-per-shard", 25), ("--samples-per-shard", 30)])
def test_another_order_is_told(tree: tuple[Path, Path], options: tuple[object, ...]) -> None:
    assert "holds now: another --seed or --samples-per-shard; remove" in again(tree, *options, fails=True)


def test_a_shard_that_is_missing_or_cut_is_told(tree: tuple[Path, Path]) -> None:
    shard = tree[1] / "train-0001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1300])
    assert f"error: shard {shard} ends" in again(tree, fails=True)
    shard.unlink()
    assert "holds now: 25 new (first " in again(tree, fails=True)
    shard.write_bytes(whole)
    assert "there already" in again(tree)
    (tree[1] / "classes.json").unlink()
    assert "holds now: other classes; remove" in again(tree, fails=True)


@pytest.mark.parametrize(("inside", "told"), [("", "is a store"), ("labels/more", r"lies in the store \S+")])
def test_no_shards_are_made_in_a_store(tmp_path: Path, inside: str, told: str) -> None:
    store = make_store(tmp_path / "store")
    before = sorted(tmp_path.rglob("*"))
    said = run("digits", tmp_path / "store" / inside, fails=True)
    assert re.fullmatch(rf"error: \S+ {told}, where nothing else may be: choose another \w+\n", said)
    assert sorted(tmp_path.rglob("*")) == before
    assert Store.open(store.path).views == store.views
