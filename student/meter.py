"""What the steps of a run gave: summed on the device, and fetched from there when a log wants it."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SUMS = ("views", "loss", "class_loss", "distill_loss", "agreed")
LOSSES = SUMS[1:4]


@dataclass(frozen=True, eq=False)
class StepSums:
    """One step's SUMS over a rank's views, float64 (5,), on the device."""

    number: int  # over the whole run
    epoch: int
    step: int  # of the epoch
    lr: float
    sums: Tensor

    def row(self) -> dict[str, Any]:
        """The step's row in steps.csv: mean losses over its views. Waits for the device."""
        return {"step": self.number, "epoch": self.epoch, "lr": self.lr, **_mean_losses(self.sums)}


class Meter:
    """Sums over an epoch of one rank, its time, and the steps that no log has yet."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(SUMS), dtype=torch.float64, device=device)  # of the epoch so far
        self.steps: list[StepSums] = []
        self.begin_epoch(0.0)

    def no_sums(self) -> Tensor:
        """SUMS of nothing, to add a step's to."""
        return torch.zeros_like(self.sums)

    def add(self, step: StepSums, num_views: int) -> None:
        self.sums += step.sums
        self._num_views += num_views
        self.steps.append(step)

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

    def take_sums(self) -> Tensor:
        """The epoch's sums; the next one's begin at 0."""
        taken = self.sums.clone()
        self.sums.zero_()
        return taken

    def load_sums(self, values: list[float]) -> None:
        """Take up the sums of an epoch that was left in its middle."""
        self.sums.copy_(torch.tensor(values, dtype=torch.float64))


def epoch_means(sums: Tensor, *, labelled: bool) -> dict[str, float | None]:
    """Mean losses over the views of SUMS, and the share on which student and teacher agree; None without a teacher."""
    views, agreed = float(sums[SUMS.index("views")]), float(sums[SUMS.index("agreed")])
    return {**_mean_losses(sums), "teacher_agreement": agreed / views if labelled else None}


def _mean_losses(sums: Tensor) -> dict[str, float]:
    values = dict(zip(SUMS, sums.tolist(), strict=True))
    return {name: values[name] / values["views"] for name in LOSSES}
