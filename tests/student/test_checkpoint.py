"""Checkpoints: whole or not there, the right one to go on from, and refusals that name what differs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from student.checkpoint import EPOCH_END, NEWEST, check_resumable, find_checkpoint, write_checkpoint
from teacher_cache.errors import CheckpointError


def content(epoch: int, step: int, *, world_size: int = 1) -> dict[str, Any]:
    weight = torch.full((3,), epoch + step / 100)
    return {
        "plan": {"world_size": world_size},
        "position": {"epoch": epoch, "step": step},
        "model": {"weight": weight},
    }


def position(checkpoint: dict[str, Any] | None) -> tuple[int, int]:
    assert checkpoint is not None
    return checkpoint["position"]["epoch"], checkpoint["position"]["step"]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path, 1) is None
    write_checkpoint(tmp_path, content(0, 5))
    found = find_checkpoint(tmp_path, 1)
    assert position(found) == (0, 5)
    assert found is not None
    assert torch.equal(found["model"]["weight"], torch.full((3,), 0.05))
    assert [path.name for path in tmp_path.iterdir()] == [NEWEST]


def test_an_epochs_end_is_kept_beside_the_newest(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, content(1, 0, world_size=2))
    assert position(find_checkpoint(tmp_path, 1)) == position(find_checkpoint(tmp_path, 2)) == (1, 0)
    write_checkpoint(tmp_path, content(1, 7, world_size=2))
    assert position(find_checkpoint(tmp_path, 2)) == (1, 7)
    assert position(find_checkpoint(tmp_path, 1)) == (1, 0), "another world size goes on from the epoch's end"
    write_checkpoint(tmp_path, content(2, 0, world_size=2))
    assert position(find_checkpoint(tmp_path, 1)) == (2, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([NEWEST, EPOCH_END])


def test_another_world_size_in_the_middle_of_the_first_epoch_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, content(0, 7, world_size=2))
    message = r"middle of the first epoch by 2 ranks: go on with as many \(this run has 4\)"
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(tmp_path, 4)


def test_a_write_that_fails_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, content(1, 0))
    with pytest.raises(Exception, match="pickle"):
        write_checkpoint(tmp_path, {**content(2, 0), "model": lambda: None})
    (tmp_path / f"{NEWEST}.partial").write_bytes(b"half a checkpoint")
    (tmp_path / f"{EPOCH_END}.partial").write_bytes(b"half a checkpoint")
    assert position(find_checkpoint(tmp_path, 1)) == (1, 0)
    write_checkpoint(tmp_path, content(3, 0))
    assert position(find_checkpoint(tmp_path, 1)) == (3, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([NEWEST, EPOCH_END])


def test_another_format_and_damage_are_refused(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / NEWEST)
    with pytest.raises(CheckpointError, match="has format 99, this program reads 2"):
        find_checkpoint(tmp_path, 1)
    (tmp_path / NEWEST).write_bytes(b"half a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        find_checkpoint(tmp_path, 1)


IDENTITY: dict[str, dict[str, Any]] = {
    "recipe": {"batch_size": 32, "micro_batch": None, "compile": False, "clip_grad": None},
    "plan": {"world_size": 1, "skipped": "abc"},
    "store": {"seed": 3, "policy": "p" * 100},
    "weights": {"teacher": "abc", "initial": None},
    "answers": {"topk": None},
}


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("recipe", "batch_size", 64, "recipe batch_size = 32, now it is 64"),
        ("recipe", "clip_grad", 1.0, "recipe clip_grad = None, now it is 1.0"),
        ("recipe", "new_setting", 2, "recipe new_setting = None, now it is 2"),
        ("plan", "skipped", "def", "plan skipped = abc, now it is def"),
        ("store", "seed", 4, "store seed = 3, now it is 4"),
        ("weights", "teacher", "def", "weights teacher = abc, now it is def"),
        ("answers", "topk", 10, "answers topk = None, now it is 10"),
        ("store", "policy", "q", rf"store policy = {'p' * 57}\.\.\., now it is q"),
    ],
)
def test_what_may_not_change_is_named(tmp_path: Path, part: str, field: str, value: Any, message: str) -> None:
    ours = {**IDENTITY, part: {**IDENTITY[part], field: value}}
    with pytest.raises(CheckpointError, match=f"{message}: resume with the same settings, or start anew"):
        check_resumable(tmp_path, IDENTITY, ours)


@pytest.mark.parametrize(("part", "field"), [("recipe", "micro_batch"), ("recipe", "compile"), ("plan", "world_size")])
def test_what_may_change(tmp_path: Path, part: str, field: str) -> None:
    check_resumable(tmp_path, IDENTITY, {**IDENTITY, part: {**IDENTITY[part], field: 2}})
