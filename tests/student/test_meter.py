"""What steps gave: means over views, not over steps; sums that end with their epoch."""

import time

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from student.meter import SUMS, Meter, Piece, Step, epoch_means


class Counted(TorchDispatchMode):
    """Which operations torch was asked for meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def piece(views: int, loss: float, agreed: int) -> Piece:
    """Its losses are loss, 2 x and 3 x of it on average."""
    return Piece(views, torch.tensor([loss, 2 * loss, 3 * loss, agreed], dtype=torch.float32))


def step(number: int, *pieces: Piece) -> Step:
    return Step(number=number, epoch=4, step=number, lr=0.5, pieces=pieces)


def test_a_steps_row_is_its_means() -> None:
    meter = Meter()
    meter.add(step(7, piece(20, 0.25, 3)))
    (sums,) = meter.take_steps()
    losses = {"loss": 0.25, "class_loss": 0.5, "distill_loss": 0.75}
    assert sums.row() == {"step": 7, "epoch": 4, "lr": 0.5} | losses


def test_a_steps_means_weigh_the_views_of_its_pieces_alike() -> None:
    meter = Meter()
    meter.add(step(0, piece(30, 1.0, 10), piece(10, 3.0, 4)))
    (sums,) = meter.take_steps()
    assert sums.sums.tolist() == [40, 60, 120, 180, 14]
    assert sums.row()["loss"] == 1.5


def test_an_epochs_means_weigh_each_view_alike() -> None:
    meter = Meter()
    meter.add(step(0, piece(30, 1.0, 10)))
    meter.add(step(1, piece(10, 3.0, 0)))
    losses = {"loss": 1.5, "class_loss": 3.0, "distill_loss": 4.5}
    assert epoch_means(meter.sums, labelled=True) == losses | {"teacher_agreement": 0.25}
    assert epoch_means(meter.sums, labelled=False)["teacher_agreement"] is None


def test_steps_are_taken_once_whatever_was_asked_for_before() -> None:
    meter = Meter()
    meter.add(step(0, piece(30, 1.0, 10)))
    assert meter.num_unlogged == 1
    assert meter.sums[0] == 30  # fetched, and not logged by that
    meter.add(step(1, piece(10, 3.0, 0)))
    assert meter.num_unlogged == 2
    assert [taken.number for taken in meter.take_steps()] == [0, 1]
    assert (meter.num_unlogged, meter.take_steps(), meter.sums[0]) == (0, [], 40)


def test_sums_taken_are_the_epochs_and_the_next_begins_at_nothing() -> None:
    meter = Meter()
    meter.add(step(0, piece(30, 1.0, 10)))
    taken = meter.take_sums()
    meter.add(step(1, piece(10, 3.0, 5)))
    assert taken.tolist() == [30, 30, 60, 90, 10]
    assert meter.take_sums().tolist() == [10, 30, 60, 90, 5]
    assert meter.sums.tolist() == [0.0] * len(SUMS)


def test_sums_are_taken_up() -> None:
    meter, other = Meter(), Meter()
    meter.add(step(0, piece(30, 1 / 3, 10)))
    other.load_sums(meter.sums.tolist())
    for each in (meter, other):
        each.add(step(1, piece(10, 0.1, 5)))
    assert other.sums.tolist() == meter.sums.tolist()


def test_losses_are_weighed_in_float32_and_added_up_in_float64() -> None:
    pieces = [piece(97, loss, 1) for loss in (1 / 3, 1e-7, 2 / 3, 1e4)]
    meter, expected = Meter(), np.zeros(3)
    for number, each in enumerate(pieces):
        meter.add(step(number, each))
        expected += (each.values[:3] * 97).double().numpy()
    assert meter.sums[1:4].tolist() == expected.tolist()


def test_a_step_asks_the_device_for_nothing_and_many_are_fetched_by_one_copy() -> None:
    meter, steps = Meter(), [step(number, piece(10, 0.1, 5), piece(7, 0.2, 1)) for number in range(20)]
    with Counted() as counted:
        for each in steps:
            meter.add(each)
        assert counted.names == []
        meter.take_steps()
        assert set(counted.names) <= {"unsqueeze", "cat", "stack", "detach"}
        assert counted.names.count("cat") + counted.names.count("stack") == 1


def test_speed_counts_from_the_epochs_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    meter = Meter()
    meter.add(step(0, piece(30, 1.0, 10)))
    now = 110.0
    meter.begin_epoch(wait_s=2.0)
    meter.add(step(1, piece(20, 1.0, 10)))
    now = 114.0
    assert meter.speed(wait_s=3.0, world_size=2) == {"images_per_s": 10.0, "wait_share": 0.25}
