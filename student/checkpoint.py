"""Checkpoints of a training run: written whole or not at all, and resumed only by a run of the same settings."""

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from student.curves import EPOCHS
from student.recipe import Recipe
from student.results import RESULTS
from teacher_cache.errors import CheckpointError
from teacher_cache.files import replacing, sweep
from teacher_cache.messages.shown import as_word, counted, listed, shown
from teacher_cache.teacher.state_dict import first_not_finite
from teacher_cache.teacher.weights import check_whole, first_line, read_checkpoint

FORMAT = 2
NEWEST = "checkpoint.pt"
EPOCH_END = "epoch.pt"  # the last epoch's end: what another world size goes on from
PARTS = ("recipe", "plan", "store", "weights", "answers")  # what a run is, besides its position
WEIGHTS = ("model", "model_ema", "optimizer")  # what training has made of them
MAY_CHANGE = ("micro_batch", "compile")  # recipe fields that say how a step is computed, for the memory that there is


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
            with replacing(out / EPOCH_END, lost) as kept:
                _link_or_copy(newest, kept)


def _link_or_copy(path: Path, other: Path) -> None:
    """A second name for a file; a copy where the file system has no hard links, as FAT and some network mounts."""
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)  # whose error, on a full disk, is the one to tell


def settle_on(out: Path, checkpoint: Mapping[str, Any]) -> str | None:
    """Make what find_checkpoint gave the newest, if it is EPOCH_END; what is given up with that, for people. DiskError.

    Before logs are cut to it: a run that is killed before its first checkpoint would leave NEWEST with a position whose
    steps no log has.
    """
    position = _position(out / NEWEST)
    if position == checkpoint["position"]:
        return None
    with replacing(out / NEWEST) as kept:
        _link_or_copy(out / EPOCH_END, kept)
    return f"given up: {NEWEST} of another number of ranks, at epoch {position['epoch'] + 1}, step {position['step']}"


def find_checkpoint(out: Path, world_size: int) -> dict[str, Any] | None:
    """The checkpoint that a run of world_size ranks goes on from, or None for a fresh run.

    In the middle of an epoch only the same number of ranks can go on; another number goes on from the last epoch's
    end. Raises CheckpointError when there is no such thing, NEWEST is damaged or in ruins, or it is absent where
    other files tell of a training: it says what to do.
    """
    if not (out / NEWEST).exists():
        if (out / EPOCH_END).exists():
            raise CheckpointError(f"{out} has {EPOCH_END} but no {NEWEST}: {_offer(out)}")
        if left := _left_alone(out):
            raise CheckpointError(
                f"{out} has {listed(left)} of an earlier training but no {NEWEST}: bring that back, or start anew in "
                "another --out"
            )
        return None
    try:
        content = read_checkpoint(str(out / NEWEST))
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_offer(out)}") from error
    newest = _checked(content, out / NEWEST)
    try:
        _check_finite(newest, out / NEWEST)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_offer(out)}") from error
    if newest["plan"]["world_size"] == world_size or newest["position"]["step"] == 0:
        return newest
    if not (out / EPOCH_END).exists():
        raise CheckpointError(
            f"{out / NEWEST} was written in the middle of the first epoch by "
            f"{counted(newest['plan']['world_size'], 'rank')}: go on with as many (this run has {world_size}), or "
            "start anew in another --out"
        )
    return _read(out / EPOCH_END)


def _left_alone(out: Path) -> list[str]:
    """Files that tell of a training which had a checkpoint, as a copy without *.pt has them; a new one would remove
    them. One that was killed before its first checkpoint leaves the row of one epoch at most."""
    left = [RESULTS] if (out / RESULTS).exists() else []
    if (out / EPOCHS).is_file() and (out / EPOCHS).read_bytes().count(b"\n") > 2:
        left.append(EPOCHS)
    return left


def is_proven(checkpoint: Mapping[str, Any]) -> bool:
    """Whether it says the finite loss that its own weights gave. Those of earlier versions say none."""
    return type(loss := checkpoint.get("loss")) is float and math.isfinite(loss)


def check_resumable(out: Path, stored: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Refuse, with CheckpointError, to go on with another recipe, store, plan or list of skipped samples.

    Both mappings hold PARTS. The world size may differ (see find_checkpoint). A setting of the recipe that the
    checkpoint does not know may have its default: lines that say so.
    """
    if absent := [part for part in PARTS if not isinstance(stored.get(part), Mapping)]:
        raise CheckpointError(
            f"the checkpoint in {out} says nothing of {', '.join(absent)}: start anew in another --out"
        )
    fields = [(part, field) for part in PARTS for field in sorted(stored[part].keys() | ours[part].keys())]
    notes = [_compare(out, part, field, stored[part], ours[part]) for part, field in fields]
    return [note for note in notes if note is not None]


def _compare(out: Path, part: str, field: str, stored: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    """Refuse another value of a field; what is to be said of it where it is taken to be the same."""
    if (part == "recipe" and field in MAY_CHANGE) or (part == "plan" and field == "world_size"):
        return None
    what = f"{part} {field}"
    if field not in ours:
        raise CheckpointError(
            f"{out} was trained with {what} = {_short(stored[field])}, which this version does not know: use the "
            "version that wrote it, or start anew in another --out"
        )
    now = _short(ours[field])
    if field in stored:
        if stored[field] == ours[field]:
            return None
        raise CheckpointError(
            f"{out} was trained with {what} = {_short(stored[field])}, now it is {now}: resume with the same settings, "
            "or start anew in another --out"
        )
    unknown = f"the checkpoint in {out} says nothing of {what}, which the version that wrote it did not know"
    if part == "recipe" and _is_default(field, ours[field]):
        return f"{unknown}: taken to be {now}, today's default"
    other = "leave the setting out, " if part == "recipe" else ""
    raise CheckpointError(
        f"{unknown}, now it is {now}: {other}use the version that wrote it, or start anew in another --out"
    )


def _is_default(field: str, value: Any) -> bool:
    """Whether a recipe that leaves a setting out has this value, as JSON gives it."""
    known = Recipe.model_fields.get(field)
    return known is not None and not known.is_required() and known.get_default(call_default_factory=True) == value


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
    checkpoint = _checked(read_checkpoint(str(path)), path)
    _check_finite(checkpoint, path)
    return checkpoint


def _check_finite(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse, with CheckpointError, what an earlier version wrote of a training that had failed."""
    if is_proven(checkpoint):
        return
    if name := first_not_finite({part: checkpoint[part] for part in WEIGHTS if part in checkpoint}):
        raise CheckpointError(f"{path} holds numbers that are not finite ({name} first): its training had failed")


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


def _position(path: Path) -> dict[str, int]:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["position"]  # without reading all of it


def _is_epoch_end(path: Path) -> bool:
    """Whether this is a whole checkpoint of an epoch's end."""
    if not path.exists():
        return False
    try:
        if _position(path)["step"] != 0:
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
    command = f"mv {as_word(kept)} {as_word(out / NEWEST)}"
    return f"{EPOCH_END} beside it is whole, the state after epoch {epochs}: `{command}` and run again to go on there"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
