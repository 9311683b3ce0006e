"""Checkpoints of a training run: written whole or not at all, and resumed only by a run of the same settings."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from teacher_cache.errors import CheckpointError
from teacher_cache.files import replacing, sweep
from teacher_cache.teacher import read_checkpoint

FORMAT = 2
NEWEST = "checkpoint.pt"
EPOCH_END = "epoch.pt"  # the last epoch's end: what another world size goes on from
PARTS = ("recipe", "plan", "store", "weights", "answers")  # what a run is, besides its position
MAY_CHANGE = ("micro_batch", "compile")  # recipe fields that do not change what is trained


def write_checkpoint(out: Path, content: Mapping[str, Any], *, epoch_end: bool) -> None:
    """Publish a checkpoint under NEWEST and, at an epoch's end, under EPOCH_END: aside, to disk, renamed. DiskError."""
    newest = out / NEWEST
    lost = "the checkpoint before it is kept" if newest.exists() else "no checkpoint is written yet"
    sweep(newest)  # of a killed run: checkpoints are large
    sweep(out / EPOCH_END)
    with replacing(newest, lost) as aside:
        with aside.open("wb") as file:
            torch.save({"format": FORMAT, **content}, file)
        if epoch_end:
            with replacing(out / EPOCH_END, lost) as link:
                os.link(aside, link)


def find_checkpoint(out: Path, world_size: int) -> dict[str, Any] | None:
    """The checkpoint that a run of world_size ranks goes on from, or None for a fresh run.

    In the middle of an epoch only the same number of ranks can go on; another number goes on from the last epoch's
    end. Raises CheckpointError when there is no such thing.
    """
    if not (out / NEWEST).exists():
        return None
    newest = _read(out / NEWEST)
    if newest["plan"]["world_size"] == world_size or newest["position"]["step"] == 0:
        return newest
    if not (out / EPOCH_END).exists():
        raise CheckpointError(
            f"{out / NEWEST} was written in the middle of the first epoch by {newest['plan']['world_size']} ranks: "
            f"go on with as many (this run has {world_size}), or start anew in another --out"
        )
    return _read(out / EPOCH_END)


def check_resumable(out: Path, stored: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuse, with CheckpointError, to go on with another recipe, store, plan or list of skipped samples.

    Both mappings hold PARTS. The world size may differ (see find_checkpoint).
    """
    for part in PARTS:
        for field in sorted(stored[part].keys() | ours[part].keys()):
            then, now = stored[part].get(field), ours[part].get(field)
            if then == now or (part == "recipe" and field in MAY_CHANGE) or (part == "plan" and field == "world_size"):
                continue
            raise CheckpointError(
                f"{out} was trained with {part} {field} = {_short(then)}, now it is {_short(now)}: "
                "resume with the same settings, or start anew in another --out"
            )


def _read(path: Path) -> dict[str, Any]:
    checkpoint = read_checkpoint(str(path))
    if checkpoint.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {checkpoint.get('format')}, this program reads {FORMAT}: "
            "use the version that wrote it, or start anew in another --out"
        )
    return checkpoint


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
