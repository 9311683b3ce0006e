"""What the steps of a run gave: left on the device as it is, fetched together and added up when somebody asks."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

SUMS = ("views", "loss", "class_loss", "distill_loss", "agreed")
LOSSES = SUMS[1:4]


@dataclass(frozen=True, eq=False)
class Piece:
    """What some rows of a batch gave: means of LOSSES over them, and how many agreed, float32 (4,), on the device."""

    num_views: int
    values: Tensor


@dataclass(frozen=True, eq=False)
class Step:
    """A step of this rank."""

    number: int  # over the whole run
    epoch: int
    step: int  # of the epoch
    lr: float
    pieces: Sequence[Piece]


@dataclass(frozen=True, eq=False)
class StepSums:
    """One step's SUMS over a rank's views, (5,) float64."""

    number: int
    epoch: int
    step: int
    lr: float
    sums: np.ndarray

    def row(self) -> dict[str, Any]:
        """The step's row in steps.csv: mean losses over its views."""
        return {"step": self.number, "epoch": self.epoch, "lr": self.lr, **_mean_losses(self.sums)}


class Meter:
    """Sums over an epoch of one rank, its time, and the steps that no log has yet."""

    def __init__(self) -> None:
        self._waiting: list[Step] = []  # whose pieces are on the device
        self._fetched: list[StepSums] = []  # which no log has
        self._sums = np.zeros(len(SUMS))  # of the epoch so far, but for those that wait
        self.begin_epoch(0.0)

    def add(self, step: Step) -> None:
        """Note a step; the device is asked for nothing."""
        self._waiting.append(step)
        self._num_views += sum(piece.num_views for piece in step.pieces)

    @property
    def num_unlogged(self) -> int:
        return len(self._waiting) + len(self._fetched)

    @property
    def sums(self) -> np.ndarray:
        """SUMS of the epoch so far, (5,) float64. Waits for the device."""
        self._fetch()
        return self._sums

    def take_steps(self) -> list[StepSums]:
        """The steps since the last time. Waits for the device."""
        self._fetch()
        taken, self._fetched = self._fetched, []
        return taken

    def begin_epoch(self, wait_s: float) -> None:
        """Count time and views from here on. wait_s: how long the loader has waited so far."""
        self._started, self._waited_s, self._num_views = time.perf_counter(), wait_s, 0

    def speed(self, wait_s: float, world_size: int) -> dict[str, float]:
        """Images a second over all ranks since the epoch began, and the share of the time spent waiting for pixels."""
        wall_s = time.perf_counter() - self._started
        return {
            "images_per_s": self._num_views * world_size / wall_s,
            "wait_share": (wait_s - self._waited_s) / wall_s,
        }

    def take_sums(self) -> np.ndarray:
        """The epoch's sums; the next one's begin at 0."""
        taken, self._sums = self.sums, np.zeros(len(SUMS))
        return taken

    def load_sums(self, values: list[float]) -> None:
        """Take up the sums of an epoch that was left in its middle. ValueError where they are others than SUMS."""
        self._sums = np.array(values, np.float64).reshape(len(SUMS))

    def _fetch(self) -> None:
        """Bring what steps gave here, by one copy, and add it up in float64."""
        if not self._waiting:
            return
        fetched = iter(torch.stack([piece.values for step in self._waiting for piece in step.pieces]).cpu().numpy())
        for step in self._waiting:
            sums = np.zeros(len(SUMS))
            for piece in step.pieces:
                values = next(fetched)
                sums += (piece.num_views, *(values[:3] * np.float32(piece.num_views)), values[3])
            self._sums += sums
            self._fetched.append(StepSums(step.number, step.epoch, step.step, step.lr, sums))
        self._waiting.clear()


def describe_speed(speed: Mapping[str, Any]) -> str:
    """What Meter.speed gives, for the console."""
    return f"{speed['images_per_s']:.0f} images/s, {100 * speed['wait_share']:.0f} % waiting"


def epoch_means(sums: np.ndarray, *, labelled: bool) -> dict[str, float | None]:
    """Mean losses over the views of SUMS, and the share on which student and teacher agree; None without a teacher."""
    views, agreed = float(sums[SUMS.index("views")]), float(sums[SUMS.index("agreed")])
    return {**_mean_losses(sums), "teacher_agreement": agreed / views if labelled else None}


def _mean_losses(sums: np.ndarray) -> dict[str, float]:
    values = dict(zip(SUMS, sums.tolist(), strict=True))
    return {name: values[name] / values["views"] for name in LOSSES}
