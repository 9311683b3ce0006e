"""Checkpoints: whole or not there, the right one to go on from, and refusals that name what differs."""

import errno
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from student.checkpoint import EPOCH_END, NEWEST, PARTS, check_resumable, find_checkpoint, write_checkpoint
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


def inodes(folder: Path) -> set[int]:
    return {(folder / name).stat().st_ino for name in (NEWEST, EPOCH_END)}


def test_the_newest_and_the_epochs_end_are_two_files(tmp_path: Path) -> None:
    """What damages one must leave the other."""
    for epoch, step in ((1, 0), (1, 5), (2, 0), (3, 0), (3, 4), (3, 8)):
        write_checkpoint(tmp_path, content(epoch, step, world_size=2))
        kept = torch.load(tmp_path / EPOCH_END)["position"] if (tmp_path / EPOCH_END).exists() else None
        assert kept == {(1, 0): None, (2, 0): {"epoch": 1, "step": 0}, (3, 0): {"epoch": 2, "step": 0}}.get(
            (epoch, step), {"epoch": epoch, "step": 0}
        )
        assert kept is None or len(inodes(tmp_path)) == 2


def test_an_epochs_end_is_kept_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*paths: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    for epoch, step in ((1, 0), (1, 5), (2, 0), (2, 3)):
        write_checkpoint(tmp_path, content(epoch, step, world_size=2))
        assert position(find_checkpoint(tmp_path, 2)) == (epoch, step)
        assert position(find_checkpoint(tmp_path, 1)) == (epoch, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([NEWEST, EPOCH_END])


@pytest.mark.parametrize("moment", range(4))
def test_killed_between_two_renames_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    write_checkpoint(tmp_path, content(1, 0))
    write_checkpoint(tmp_path, content(2, 0))

    class Killed(BaseException):
        pass

    calls: list[str] = []

    def dying(name: str, real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if len(calls) == moment:
                raise Killed
            calls.append(name)
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", dying("link", os.link))
        for name in ("replace", "unlink"):
            patch.setattr(Path, name, dying(name, getattr(Path, name)))
        with pytest.raises(Killed):
            write_checkpoint(tmp_path, content(2, 3, world_size=2))
    assert position(find_checkpoint(tmp_path, 1)) == (2, 0)
    write_checkpoint(tmp_path, content(2, 4, world_size=2))
    assert position(find_checkpoint(tmp_path, 2)) == (2, 4)
    assert position(find_checkpoint(tmp_path, 1)) == (2, 0)
    assert len(inodes(tmp_path)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([NEWEST, EPOCH_END])


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"world_size")] ^= 4
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_a_damaged_checkpoint_offers_the_epochs_end(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "my run"
    folder.mkdir()
    for epoch, step in ((4, 0), (4, 5)):
        write_checkpoint(folder, content(epoch, step))
    newest = folder / NEWEST
    damage(newest) if how == "flipped" else newest.write_bytes(newest.read_bytes()[:700])
    with pytest.raises(CheckpointError, match="the state after epoch 4: `mv ") as refused:
        find_checkpoint(folder, 1)
    assert "\n" not in str(refused.value)
    subprocess.run(str(refused.value).split("`")[1], shell=True, check=True)
    assert position(find_checkpoint(folder, 1)) == (4, 0)
    damage(newest)
    with pytest.raises(CheckpointError, match=r"there is no whole epoch\.pt to go on from: start anew"):
        find_checkpoint(folder, 1)


def test_a_damaged_epochs_end_does_not_take_a_whole_ones_place(tmp_path: Path) -> None:
    for epoch in (1, 2):
        write_checkpoint(tmp_path, content(epoch, 0))
    damage(tmp_path / NEWEST)
    write_checkpoint(tmp_path, content(2, 5, world_size=2))
    assert position(find_checkpoint(tmp_path, 1)) == (1, 0)


def test_an_epochs_end_in_ruins_is_not_gone_on_from(tmp_path: Path) -> None:
    """Of an earlier version, which did not compare."""
    for epoch, step in ((1, 0), (1, 5)):
        write_checkpoint(tmp_path, content(epoch, step, world_size=2))
    torch.save(
        {"format": 2, **content(1, 0), "model": {"weight": torch.tensor([1.0, torch.nan])}}, tmp_path / EPOCH_END
    )
    with pytest.raises(CheckpointError, match=r"epoch\.pt holds numbers that are not finite \(model\.weight first\)"):
        find_checkpoint(tmp_path, 1)
    assert position(find_checkpoint(tmp_path, 2)) == (1, 5)


def test_without_the_newest_a_run_does_not_begin_anew(tmp_path: Path) -> None:
    for epoch, step in ((1, 0), (1, 5)):
        write_checkpoint(tmp_path, content(epoch, step))
    (tmp_path / NEWEST).unlink()
    with pytest.raises(CheckpointError, match=r"has epoch\.pt but no checkpoint\.pt: .*after epoch 1: `mv "):
        find_checkpoint(tmp_path, 1)


@pytest.mark.parametrize(
    ("name", "text", "refused"),
    [
        ("results.json", "{}", True),
        ("epochs.csv", "epoch,loss\n0,1\n1,1\n", True),
        ("epochs.csv", "epoch,loss\n0,1\n", False),  # killed before it wrote its first checkpoint
        ("steps.csv", "step,loss\n0,1\n1,1\n", False),
    ],
)
def test_without_checkpoints_what_else_a_training_left_is_not_removed(
    tmp_path: Path, name: str, text: str, refused: bool
) -> None:
    """As in a copy of the run that left the large files out, or where they were removed for the room."""
    (tmp_path / name).write_text(text)
    if not refused:
        assert find_checkpoint(tmp_path, 1) is None
        return
    with pytest.raises(CheckpointError, match=rf"has {name} of an earlier training but no checkpoint\.pt: bring that"):
        find_checkpoint(tmp_path, 1)


@pytest.mark.parametrize("part", ["plan", "position"])
@pytest.mark.parametrize("value", [None, 3, {}, {"world_size": "x", "epoch": -1, "step": None}])
def test_a_checkpoint_that_says_no_position_is_refused(tmp_path: Path, part: str, value: Any) -> None:
    torch.save({"format": 2, **content(0, 1), part: value}, tmp_path / NEWEST)
    with pytest.raises(CheckpointError, match="does not say where its training was"):
        find_checkpoint(tmp_path, 1)


@pytest.mark.parametrize("part", PARTS)
def test_a_checkpoint_without_a_part_is_refused(tmp_path: Path, part: str) -> None:
    with pytest.raises(CheckpointError, match=f"says nothing of {part}"):
        check_resumable(tmp_path, {name: each for name, each in IDENTITY.items() if name != part}, IDENTITY)


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


@pytest.mark.parametrize(
    ("part", "field", "now"), [("recipe", "clip_grad", 1.0), ("recipe", "lr", 1e-3), ("plan", "order", "apart")]
)
def test_a_setting_that_the_checkpoint_does_not_know_is_named(tmp_path: Path, part: str, field: str, now: Any) -> None:
    stored = {**IDENTITY, part: {name: value for name, value in IDENTITY[part].items() if name != field}}
    ours = {**IDENTITY, part: {**IDENTITY[part], field: now}}
    message = (
        f"the checkpoint in {tmp_path} says nothing of {part} {field}, which the version that wrote it did not know, "
        f"now it is {now}: {'leave the setting out, ' if part == 'recipe' else ''}use the version that wrote it, or"
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}"):
        check_resumable(tmp_path, stored, ours)


@pytest.mark.parametrize(("field", "now"), [("clip_grad", None), ("repeats", 1), ("fusion", "softmax_sum")])
def test_a_setting_that_the_checkpoint_does_not_know_and_has_its_default_is_said(
    tmp_path: Path, field: str, now: Any
) -> None:
    stored = {**IDENTITY, "recipe": {name: value for name, value in IDENTITY["recipe"].items() if name != field}}
    ours = {**IDENTITY, "recipe": {**stored["recipe"], field: now}}
    (note,) = check_resumable(tmp_path, stored, ours)
    assert note == (
        f"the checkpoint in {tmp_path} says nothing of recipe {field}, which the version that wrote it did not know: "
        f"taken to be {now}, today's default"
    )
    assert check_resumable(tmp_path, ours, ours) == []


def test_a_setting_that_this_version_does_not_know_is_named(tmp_path: Path) -> None:
    stored = {**IDENTITY, "recipe": {**IDENTITY["recipe"], "new_setting": 2}}
    message = "was trained with recipe new_setting = 2, which this version does not know: use the version that wrote it"
    with pytest.raises(CheckpointError, match=message):
        check_resumable(tmp_path, stored, IDENTITY)


@pytest.mark.parametrize(("part", "field"), [("recipe", "micro_batch"), ("recipe", "compile"), ("plan", "world_size")])
def test_what_may_change(tmp_path: Path, part: str, field: str) -> None:
    check_resumable(tmp_path, IDENTITY, {**IDENTITY, part: {**IDENTITY[part], field: 2}})
