"""Checkpoints of a training run: written whole or not at all, and resumed only by a run of the same settings."""

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from teacher_cache.errors import CheckpointError
from teacher_cache.files import replacing, sweep
from teacher_cache.shown import shown
from teacher_cache.weights import check_whole, first_line, read_checkpoint

FORMAT = 2
NEWEST = "checkpoint.pt"
EPOCH_END = "epoch.pt"  # the last epoch's end: what another world size goes on from
PARTS = ("recipe", "plan", "store", "weights", "answers")  # what a run is, besides its position
MAY_CHANGE = ("micro_batch", "compile")  # recipe fields that do not change what is trained


def write_checkpoint(out: Path, content: Mapping[str, Any]) -> None:
    """Publish a checkpoint under NEWEST: aside, to disk, renamed. DiskError.

    The one that it replaces, if it was an epoch's end, is kept under EPOCH_END: two files with nothing in common, so
    that what damages one leaves the other. At no moment is there no whole NEWEST.
    """
    newest = out / NEWEST
    lost = "the checkpoint before it is kept" if newest.exists() else "no checkpoint is written yet"
    sweep(newest)  # of a killed run: checkpoints are large
    sweep(out / EPOCH_END)
    with replacing(newest, lost) as aside:
        with aside.open("wb") as file:
            torch.save({"format": FORMAT, **content}, file)
        if _is_epoch_end(newest):
            with replacing(out / EPOCH_END, lost) as link:
                os.link(newest, link)


def find_checkpoint(out: Path, world_size: int) -> dict[str, Any] | None:
    """The checkpoint that a run of world_size ranks goes on from, or None for a fresh run.

    In the middle of an epoch only the same number of ranks can go on; another number goes on from the last epoch's
    end. Raises CheckpointError when there is no such thing, or NEWEST is damaged: it says what to do.
    """
    if not (out / NEWEST).exists():
        if (out / EPOCH_END).exists():
            raise CheckpointError(f"{out} has {EPOCH_END} but no {NEWEST}: {_offer(out)}")
        return None
    try:
        content = read_checkpoint(str(out / NEWEST))
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_offer(out)}") from error
    newest = _checked(content, out / NEWEST)
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
    if absent := [part for part in PARTS if not isinstance(stored.get(part), Mapping)]:
        raise CheckpointError(
            f"the checkpoint in {out} says nothing of {', '.join(absent)}: start anew in another --out"
        )
    for part in PARTS:
        for field in sorted(stored[part].keys() | ours[part].keys()):
            then, now = stored[part].get(field), ours[part].get(field)
            if then == now or (part == "recipe" and field in MAY_CHANGE) or (part == "plan" and field == "world_size"):
                continue
            raise CheckpointError(
                f"{out} was trained with {part} {field} = {_short(then)}, now it is {_short(now)}: "
                "resume with the same settings, or start anew in another --out"
            )


@contextmanager
def taking_up(out: Path) -> Iterator[None]:
    """Say in one line, as CheckpointError, that what the checkpoint in `out` holds does not fit the run."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{out} holds a checkpoint that this run cannot take up ({type(error).__name__}: {first_line(error)}): "
            "start anew in another --out"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    return _checked(read_checkpoint(str(path)), path)


def _checked(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """The checkpoint, if it is one of a run in this format. Raises CheckpointError."""
    if checkpoint.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {shown(repr(checkpoint.get('format')))}, this program reads {FORMAT}: "
            "use the version that wrote it, or start anew in another --out"
        )
    plan, position = checkpoint.get("plan"), checkpoint.get("position")
    numbers = [plan.get("world_size")] if isinstance(plan, dict) else [None]
    numbers += [position.get(name) for name in ("epoch", "step")] if isinstance(position, dict) else [None]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise CheckpointError(
            f"{path} does not say where its training was (plan, position): it is no checkpoint of `student train`, "
            "start anew in another --out"
        )
    return checkpoint


def _is_epoch_end(path: Path) -> bool:
    """Whether this is a whole checkpoint of an epoch's end."""
    if not path.exists():
        return False
    try:
        position = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["position"]
        if position["step"] != 0:
            return False  # without reading all of it, as most are
        check_whole(str(path))
        return True
    except Exception:  # whatever it is, the epoch's end that is kept must not make room for it
        return False


def _offer(out: Path) -> str:
    """What to do without a whole NEWEST."""
    kept = out / EPOCH_END
    try:
        epochs = _read(kept)["position"]["epoch"]
    except CheckpointError:
        return f"there is no whole {EPOCH_END} to go on from: start anew in another --out"
    command = f"mv {shlex.quote(str(kept))} {shlex.quote(str(out / NEWEST))}"
    return f"{EPOCH_END} beside it is whole, the state after epoch {epochs}: `{command}` and run again to go on there"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
