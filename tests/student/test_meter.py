"""What steps gave: means over views, not over steps; sums that end with their epoch."""

import time

import pytest
import torch

from student.meter import SUMS, Meter, StepSums, epoch_means

CPU = torch.device("cpu")


def step(number: int, views: int, loss: float, agreed: int) -> StepSums:
    """A step whose losses are loss, 2 x and 3 x of it on average."""
    sums = torch.tensor([views, views * loss, 2 * views * loss, 3 * views * loss, agreed], dtype=torch.float64)
    return StepSums(number=number, epoch=4, step=number, lr=0.5, sums=sums)


def test_a_steps_row_is_its_means() -> None:
    losses = {"loss": 0.25, "class_loss": 0.5, "distill_loss": 0.75}
    assert step(7, 20, 0.25, 3).row() == {"step": 7, "epoch": 4, "lr": 0.5} | losses


def test_an_epochs_means_weigh_each_view_alike() -> None:
    meter = Meter(CPU)
    meter.add(step(0, 30, 1.0, 10), 30)
    meter.add(step(1, 10, 3.0, 0), 10)
    assert [added.number for added in meter.steps] == [0, 1]
    losses = {"loss": 1.5, "class_loss": 3.0, "distill_loss": 4.5}
    assert epoch_means(meter.sums, labelled=True) == losses | {"teacher_agreement": 0.25}
    assert epoch_means(meter.sums, labelled=False)["teacher_agreement"] is None


def test_sums_taken_are_the_epochs_and_the_next_begins_at_nothing() -> None:
    meter = Meter(CPU)
    meter.add(step(0, 30, 1.0, 10), 30)
    taken = meter.take_sums()
    meter.add(step(1, 10, 3.0, 5), 10)
    assert taken.tolist() == [30, 30, 60, 90, 10]
    assert meter.take_sums().tolist() == [10, 30, 60, 90, 5]
    assert meter.sums.tolist() == meter.no_sums().tolist() == [0.0] * len(SUMS)


def test_sums_are_taken_up() -> None:
    meter, other = Meter(CPU), Meter(CPU)
    meter.add(step(0, 30, 1 / 3, 10), 30)
    other.load_sums(meter.sums.tolist())
    for each in (meter, other):
        each.add(step(1, 10, 0.1, 5), 10)
    assert other.sums.tolist() == meter.sums.tolist()


def test_speed_counts_from_the_epochs_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    meter = Meter(CPU)
    meter.add(step(0, 30, 1.0, 10), 30)
    now = 110.0
    meter.begin_epoch(wait_s=2.0)
    meter.add(step(1, 20, 1.0, 10), 20)
    now = 114.0
    assert meter.speed(wait_s=3.0, world_size=2) == {"images_per_s": 10.0, "wait_share": 0.25}
