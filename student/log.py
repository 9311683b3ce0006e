"""A run's logs: steps.csv, epochs.csv, TensorBoard and, where one is asked for, a tracking library's curve. A resumed
run holds each step once."""

import csv
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import scalar

from student.curves import EPOCHS
from student.tracker import Tracker
from teacher_cache.errors import CheckpointError
from teacher_cache.files import replacing, writing
from teacher_cache.messages.shown import counted, shown

LOST = "the steps since the last checkpoint are lost"
STEPS = "steps.csv"


class RunLog(AbstractContextManager["RunLog"]):
    """Open logs of one run. steps_done and epochs_done say how much of older logs counts; what is beyond is dropped,
    and say is told of what they lack. tracker gets the same rows, and is closed with them."""

    def __init__(
        self,
        out: Path,
        *,
        steps_done: int,
        epochs_done: int,
        tracker: Tracker | None = None,
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._out, self._tracker = out, tracker
        for name, counter, done in ((STEPS, "step", steps_done), (EPOCHS, "epoch", epochs_done)):
            kept = _drop_beyond(out / name, counter, done)
            if kept < done:
                rows = counted(kept, counter, of=done)
                say(f"warning: {out / name} has the rows of {rows} trained so far: the others are lost, the run is not")
        self._board = _Board(out / "tensorboard", steps_done)

    def write_steps(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows; "step" counts from 0 over the whole run, the other columns are losses and the learning rate.
        DiskError."""
        _append(self._out / STEPS, rows)
        for row in rows:
            self._board.add({f"step/{name}": row[name] for name in row.keys() - {"step", "epoch"}}, row["step"])
        self._board.flush()
        if self._tracker is not None:
            self._tracker.write_steps(rows)

    def write_epoch(self, row: Mapping[str, Any], step: int) -> None:
        """Append one epoch's row; step is the number of steps trained by its end. DiskError."""
        _append(self._out / EPOCHS, [row])
        self._board.add({f"epoch/{name}": row[name] for name in row.keys() - {"epoch"}}, step - 1)
        self._board.flush()
        if self._tracker is not None:
            self._tracker.write_epoch(row, step)

    def close(self) -> None:
        self._board.close()
        if self._tracker is not None:
            self._tracker.close()

    def __exit__(self, *details: object) -> None:
        self.close()


class _Board:
    """A TensorBoard event file, written here and now: torch's writer does it in a thread, where a full disk is a
    traceback, and training goes on."""

    def __init__(self, folder: Path, steps_done: int) -> None:
        self._folder = folder
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        with writing(folder, LOST):
            folder.mkdir(parents=True, exist_ok=True)
            self._records = RecordWriter((folder / name).open("xb"))
        self._write(Event(file_version="brain.Event:2"))
        if steps_done:  # TensorBoard drops what a killed run wrote beyond them
            self._write(Event(step=steps_done, session_log=SessionLog(status=SessionLog.START)))
        self.flush()

    def add(self, values: Mapping[str, float | None], step: int) -> None:
        for name, value in values.items():
            if value is not None:
                self._write(Event(step=step, summary=scalar(name, value)))

    def flush(self) -> None:
        with writing(self._folder, LOST):
            self._records.flush()

    def close(self) -> None:
        with writing(self._folder, LOST):
            self._records.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with writing(self._folder, LOST):
            self._records.write(event.SerializeToString())


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows; where they have columns that the file does not know (a resumed run with --val), it gets them."""
    if not rows:
        return
    old: list[dict[str, str]] = []
    columns, new = list(rows[0]), list(rows[0])
    if path.exists():
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            known = list(reader.fieldnames or [])
            new = [name for name in columns if name not in known]
            columns = known + new
            old = list(reader) if new else []
    if new:
        with replacing(path, LOST) as aside, aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(old)
    with writing(path, LOST), path.open("a", newline="") as file:
        csv.DictWriter(file, columns).writerows(rows)


def _drop_beyond(path: Path, counter: str, done: int) -> int:
    """Keep the rows whose counter is below `done`; a line that a killed run left half written goes too. How many of
    these there are. CheckpointError for a file that a run does not leave, though a machine that lost its power may, or
    a spreadsheet."""
    if not path.exists():
        return 0
    if not done:
        with writing(path):
            path.unlink()
        return 0
    try:
        lines = path.read_bytes().decode().split("\n")
        column = lines[0].rstrip("\r").split(",").index(counter)
        numbered = [(int(line.split(",")[column]), line) for line in lines[1:-1]]
    except (ValueError, IndexError) as error:
        raise CheckpointError(
            f"{path} is no log of `student train` any more ({shown(str(error))}): mend it, or move it away"
        ) from error
    kept = [(number, line) for number, line in numbered if number < done]
    with replacing(path) as aside:
        aside.write_text("\n".join([lines[0], *(line for _, line in kept), ""]), newline="")
    return len({number for number, _ in kept})
