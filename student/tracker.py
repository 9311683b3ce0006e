"""A run's curves in Weights & Biases or Trackio, which have one interface. A step is sent once, however often a run was
stopped."""

import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from student.arguments import TrackingLibrary, tracking_faults
from student.faults import refuse
from teacher_cache.errors import RecipeError
from teacher_cache.files import replacing
from teacher_cache.teacher.weights import first_line

PROJECT = "deit-teacher-cache"  # unless WANDB_PROJECT or TRACKIO_PROJECT says another
SENT = "sent.json"  # which steps and epochs of which curve were handed over
FINISH_S = 60.0  # how long the end of a run waits for what is still to be sent


class Tracker(AbstractContextManager["Tracker"]):
    """One run's curve in a tracking library. curve: its id, by which a resumed run goes on in it; config: what was
    chosen, plain data. Raises RecipeError where it cannot begin, and for a library that is not there.

    A library drops or doubles what is sent twice. So what a killed run had handed over beyond its checkpoint is not
    sent again: SENT, written before each time, says how far that was. What the library had not written by then (wandb
    writes every 15 s, trackio every half) is missing in the curve, and there alone. Once it runs, whatever fails there
    is said once, by `warn`, and training goes on without it.
    """

    def __init__(
        self, library: TrackingLibrary, out: Path, curve: str, config: Mapping[str, Any], warn: Callable[[str], None]
    ) -> None:
        refuse(tracking_faults(library))
        self._library, self._warn, self._sent_path = library, warn, out / SENT
        self._curve = f"{library} {curve}"
        self._sent = _read_sent(self._sent_path, self._curve)
        try:
            self._run = _begin(library, out, curve, config)
        except Exception as error:  # whatever a stranger's library raises: a server, a login, a setting
            raise RecipeError(
                f"--log {library} cannot begin ({_told(error)}): log in, set {_offline(library)}, or leave it out"
            ) from error

    def write_steps(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Send rows of steps.csv that were not sent yet, under "step/...". DiskError."""
        new = [row for row in rows if row["step"] >= self._sent["steps"]]
        if new:
            self._note("steps", new[-1]["step"] + 1)
        for row in new:
            self._log({f"step/{name}": row[name] for name in row.keys() - {"step", "epoch"}}, row["step"])

    def write_epoch(self, row: Mapping[str, Any], step: int) -> None:
        """Send a row of epochs.csv, if it was not sent yet, under "epoch/...". step: the number of steps trained by its
        end, where a run goes on that was killed while it was evaluated. DiskError."""
        if row["epoch"] >= self._sent["epochs"]:
            self._note("epochs", row["epoch"] + 1)
            self._log({f"epoch/{name}": row[name] for name in row.keys() - {"epoch"}}, step)

    def close(self) -> None:
        """End the run. What is still to be sent has FINISH_S for it."""
        self._try(lambda run: run.finish())
        self._run = None

    def __exit__(self, *details: object) -> None:
        self.close()

    def _note(self, what: str, number: int) -> None:
        self._sent[what] = number
        with replacing(self._sent_path, durable=False) as aside:
            aside.write_text(json.dumps({"curve": self._curve, **self._sent}) + "\n")

    def _log(self, values: Mapping[str, float | None], step: int) -> None:
        self._try(lambda run: run.log({name: value for name, value in values.items() if value is not None}, step=step))

    def _try(self, call: Callable[[Any], None]) -> None:
        """Call something of the library's run, if there still is one."""
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:  # a network, a full disk, a process of its own that died: a curve is not worth a run
            self._run = None
            self._warn(
                f"--log {self._library} fails ({first_line(error)}): no more is sent in this run; steps.csv and "
                "epochs.csv have everything"
            )


def new_curve() -> str:
    """An id for a run's curve, which no other has."""
    return secrets.token_hex(8)


def _begin(library: TrackingLibrary, out: Path, curve: str, config: Mapping[str, Any]) -> Any:
    """The library's run of this curve, begun or gone on with."""
    project = os.environ.get(f"{library.upper()}_PROJECT") or PROJECT
    name = f"{out.absolute().name}-{curve}"  # trackio knows a run again by its name
    if library == "trackio":
        import trackio

        return trackio.init(project=project, name=name, config=dict(config), resume="allow", embed=False)
    import wandb

    # neither what the terminal shows, nor code, nor git's remotes, whose addresses may hold a password
    settings = wandb.Settings(
        console="off", disable_git=True, disable_code=True, save_code=False, finish_timeout=FINISH_S
    )
    return wandb.init(
        project=project,
        id=curve,
        name=name,
        dir=out,
        config=dict(config),
        resume="allow",
        allow_val_change=True,
        settings=settings,
    )


def _told(error: Exception) -> str:
    """What it says in one line; of a setting that wandb cannot take, which one it is."""
    if not isinstance(error, ValidationError):
        return first_line(error)
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())


def _offline(library: TrackingLibrary) -> str:
    """The setting with which nothing leaves this machine."""
    return "WANDB_MODE=offline" if library == "wandb" else "no TRACKIO_SPACE_ID"


def _read_sent(path: Path, curve: str) -> dict[str, int]:
    """How many steps and epochs of this curve were sent; 0 where the file is of another curve, or is none."""
    nothing = {"steps": 0, "epochs": 0}
    try:
        found = json.loads(path.read_text())
        return {what: int(found[what]) for what in nothing} if found["curve"] == curve else nothing
    except (OSError, ValueError, KeyError, TypeError):
        return nothing
