"""A run's logs: steps.csv, epochs.csv and TensorBoard. A resumed run holds each step once."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

STEPS, EPOCHS = "steps.csv", "epochs.csv"


class RunLog:
    """Open logs of one run. steps_done and epochs_done say how much of older logs counts; what is beyond is dropped."""

    def __init__(self, out: Path, *, steps_done: int, epochs_done: int) -> None:
        self._out = out
        _drop_beyond(out / STEPS, "step", steps_done)
        _drop_beyond(out / EPOCHS, "epoch", epochs_done)
        purge = steps_done if steps_done else None  # TensorBoard drops what a killed run wrote beyond it
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=purge)

    def write_steps(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows; "step" counts from 0 over the whole run, the other columns are losses and the learning rate."""
        _append(self._out / STEPS, rows)
        for row in rows:
            for name in row.keys() - {"step", "epoch"}:
                if row[name] is not None:
                    self._board.add_scalar(f"step/{name}", row[name], row["step"])

    def write_epoch(self, row: Mapping[str, Any], step: int) -> None:
        """Append one epoch's row; step is the number of steps trained by its end."""
        _append(self._out / EPOCHS, [row])
        for name in row.keys() - {"epoch"}:
            if row[name] is not None:
                self._board.add_scalar(f"epoch/{name}", row[name], step - 1)
        self._board.flush()

    def close(self) -> None:
        self._board.close()


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
        aside = path.with_suffix(".csv.partial")
        with aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(old)
        aside.replace(path)
    with path.open("a", newline="") as file:
        csv.DictWriter(file, columns).writerows(rows)


def _drop_beyond(path: Path, counter: str, done: int) -> None:
    """Keep the rows whose counter is below `done`; a line that a killed run left half written goes too."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        lines = file.read().split("\n")
    if not done:
        path.unlink()
        return
    column = lines[0].rstrip("\r").split(",").index(counter)
    kept = [line for line in lines[1:-1] if int(line.split(",")[column]) < done]
    aside = path.with_suffix(".csv.partial")
    aside.write_text("\n".join([lines[0], *kept, ""]), newline="")
    aside.replace(path)
