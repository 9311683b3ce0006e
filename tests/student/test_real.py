"""ImageNet-ReaL: a sample's true classes are found by the number in its key."""

import json
from pathlib import Path

import pytest
import torch

from student.real import read_real
from teacher_cache.errors import ShardError
from teacher_cache.shards.classes import class_rule
from teacher_cache.shards.index import Index
from teacher_cache.shards.indexing import index_shards
from tests.support.bright_shards import bright_image
from tests.support.shard_files import write_shard


def index_of(folder: Path, keys: list[str]) -> Index:
    path = str(
        write_shard(folder / "val-00.tar", [{"__key__": key, "png": bright_image(1), "cls": b"3"} for key in keys])
    )
    return index_shards([path], class_rule([path]))


def write_real(folder: Path, entries: object) -> str:
    (folder / "real.json").write_text(json.dumps(entries))
    return str(folder / "real.json")


def test_true_classes_by_number_whatever_the_order(tmp_path: Path) -> None:
    keys = ["ILSVRC2012_val_00000003", "n01440764/ILSVRC2012_val_00000001_n01440764", "ILSVRC2012_val_00000002"]
    real = write_real(tmp_path, [[0, 999], [], [7]])
    found = read_real(real, index_of(tmp_path, keys), 1000)
    assert found.shape == (3, 1000)
    assert [row.nonzero()[:, 0].tolist() for row in found] == [[7], [0, 999], []]
    assert found.dtype == torch.bool


@pytest.mark.parametrize(
    ("key", "entries", "num_classes", "message"),
    [
        ("v00001", [[1]], 1000, r"shard val-00\.tar, key 'v00001' has no ILSVRC2012_val_ number"),
        ("ILSVRC2012_val_00000002", [[1]], 1000, "key 'ILSVRC2012_val_00000002' has a number beyond the 1 of"),
        ("ILSVRC2012_val_00000000", [[1]], 1000, "has a number beyond the 1 of"),
        ("ILSVRC2012_val_00000001", [[1]], 10, "--real has ImageNet's 1000 classes, the model 10: leave it out"),
        ("ILSVRC2012_val_00000001", [[1000]], 1000, "is not a list of lists of classes 0 to 999: give real.json"),
        ("ILSVRC2012_val_00000001", {"1": [1]}, 1000, "is not a list of lists of classes"),
    ],
)
def test_refusals(tmp_path: Path, key: str, entries: object, num_classes: int, message: str) -> None:
    with pytest.raises(ShardError, match=message):
        read_real(write_real(tmp_path, entries), index_of(tmp_path, [key]), num_classes)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    index = index_of(tmp_path, ["ILSVRC2012_val_00000001"])
    with pytest.raises(ShardError, match=r"--real .*nothing\.json cannot be read"):
        read_real(str(tmp_path / "nothing.json"), index, 1000)
    (tmp_path / "torn.json").write_text("[[1], [")
    with pytest.raises(ShardError, match=r"--real .*torn\.json cannot be read"):
        read_real(str(tmp_path / "torn.json"), index, 1000)
