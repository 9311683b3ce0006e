"""Stage two, from store to student: resumable to the bit, whatever stops it, and refusing what would train wrongly."""

import itertools
import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from student.checkpoint import EPOCH_END, NEWEST
from student.cli import main
from student.evaluate import evaluate
from student.faults import refuse
from student.loader import Batch
from student.log import RunLog
from student.model import build_model
from student.preflight import policy_faults
from student.run import Run
from student.train import LOCK, STOPPED, open_log
from student.trained import build_trained
from student.validation import ValidationSet, index_validation
from teacher_cache.errors import CheckpointError, MissingLabelError, ModelError, PlanError, RecipeError, TrainingError
from teacher_cache.processes.signals import Stopped
from teacher_cache.store.store import Store
from tests.student.freeze_losses import GOLDEN, SETTINGS, golden_losses
from tests.support.bright_shards import bright_store, change_pixel, spoil_image
from tests.support.filling import fill_store
from tests.support.forked import Forks
from tests.support.small_runs import (
    SMALL,
    SPEED,
    STUDENTS,
    column,
    filled_store,
    read_own,
    rows,
    small_recipe,
    student,
    train_small,
    validation_shard,
)

HALF = ("batch_size=16",)
LONGER = (*HALF, "epochs=6")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """260 samples, 4 views, all labelled. Tests leave it as it is."""
    return filled_store(tmp_path_factory.mktemp("filled"))


@pytest.fixture(scope="module")
def half_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """130 samples, of which HALF makes as many steps: for runs of many epochs."""
    return filled_store(tmp_path_factory.mktemp("half"), counts=(66, 31, 1, 32))


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> str:
    """40 validation samples: one block."""
    return validation_shard(tmp_path_factory.mktemp("val") / "val.tar", 40)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, store: Store, val: str) -> Path:
    """A run of the small recipe with validation, which nothing has stopped. Tests leave it as it is."""
    out = tmp_path_factory.mktemp("whole")
    train_small(store, out, val=(val,))
    return out


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory, half_store: Store) -> Path:
    """A run of the small recipe that has learned something. Tests leave it as it is."""
    out = tmp_path_factory.mktemp("longer")
    train_small(half_store, out, *LONGER)
    return out


def train_command(store: Store, out: Path, *overrides: str, val: str | None = None, every_s: float = 600) -> list[str]:
    command = ["train", str(store.path), "--recipe", SMALL, "--out", str(out), "--workers", "0"]
    command += ["--device", "cpu", "--checkpoint-every", str(every_s)]
    command += ["--val", val] if val else []
    return command + [word for setting in (student("two_heads"), *overrides) for word in ("--set", setting)]


def checkpoint(out: Path) -> dict[str, Any]:
    return torch.load(out / NEWEST, weights_only=True)


def position(out: Path) -> tuple[int, int]:
    found = checkpoint(out)["position"]
    return found["epoch"], found["step"]


def equal(one: Any, other: Any) -> bool:
    """Equality to the bit of nested dictionaries, lists and tensors."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def check_same_run(one: Path, other: Path) -> None:
    """Weights, average, optimiser, random state and logs of two finished runs are the same, but for speeds."""
    ours, theirs = checkpoint(one), checkpoint(other)
    differing = [name for name in ours if not equal(ours[name], theirs.get(name))]
    assert (differing, ours.keys()) == ([], theirs.keys())
    assert (one / "steps.csv").read_bytes() == (other / "steps.csv").read_bytes()
    epochs = rows(one / "epochs.csv", without=SPEED)
    assert epochs == rows(other / "epochs.csv", without=SPEED)
    assert [int(row["epoch"]) for row in epochs] == list(range(ours["position"]["epoch"]))
    assert [int(row["step"]) for row in rows(one / "steps.csv")] == list(range(sum(1 for _ in rows(one / "steps.csv"))))
    assert (one / "results.json").read_bytes() == (other / "results.json").read_bytes()


# -- going on ------------------------------------------------------------------------------------------------------


def test_killed_and_stopped_again_and_again_ends_with_the_same_bits(
    tmp_path: Path, half_store: Store, val: str, forks: Forks
) -> None:
    settings = [*HALF, "epochs=12", "clip_grad=1"]
    train_small(half_store, tmp_path / "whole", *settings, val=(val,))
    out = tmp_path / "killed"
    command = train_command(half_store, out, *settings, val=val, every_s=0.01)
    draw = random.Random(5)
    numbers = [signal.SIGKILL] * 10 + [signal.SIGTERM, signal.SIGUSR1]
    draw.shuffle(numbers)
    stopped_at = []
    for number in numbers:
        process = forks.start("student", command)
        for _ in range(draw.randint(1, 5)):
            wait_for_checkpoint(out, process.running)
        time.sleep(draw.uniform(0, 0.02))
        assert process.running(), f"it ended before it was stopped: {process.output}"
        if number == signal.SIGKILL:
            os.kill(process.id, number)
            assert process.wait() == -number
        else:
            assert process.stop(number) == STOPPED == 75, process.output
            epoch, step = position(out)
            assert f"stopped at epoch {epoch + 1}, step {step}; the same command goes on" in process.output
        stopped_at.append(position(out))
        (out / f"{NEWEST}.partial").write_bytes(b"half a checkpoint")
    assert stopped_at == sorted(set(stopped_at))
    assert any(step for _, step in stopped_at), "only epochs' ends were met: the test shows little"
    process = forks.start("student", command)
    assert process.wait() == 0, process.output
    epoch, step = stopped_at[-1]
    assert f"going on from {out}: epoch {epoch + 1}, step {step}" in process.output
    check_same_run(tmp_path / "whole", out)


def wait_for_checkpoint(out: Path, running: Callable[[], bool]) -> None:
    """Until another checkpoint is written, or the run ends."""
    before = written_at(out)
    while written_at(out) == before and running():
        time.sleep(0.002)


def written_at(out: Path) -> int:
    try:
        return (out / NEWEST).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    """Send this process a signal in the middle of a run's step, counted from 0 over the whole run."""
    train_step = Run.train_step

    def stopping(run: Run, batch: Batch) -> None:
        if run.steps_done() == step:
            signal.raise_signal(number)
        train_step(run, batch)

    monkeypatch.setattr(Run, "train_step", stopping)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_at_any_step_ends_that_step_and_the_rest_is_the_same(
    tmp_path: Path, store: Store, val: str, whole: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    for step in range(0, 15, 2):  # 8 steps an epoch; the 8th is the first one's last
        with monkeypatch.context() as patch:
            stop_at(patch, step, number)
            with pytest.raises(Stopped, match=f"stopped at epoch {1 + (step + 1) // 8}, step {(step + 1) % 8};"):
                train_small(store, tmp_path / "stopped", val=(val,))
        assert position(tmp_path / "stopped") == divmod(step + 1, 8)
    with monkeypatch.context() as patch:
        stop_at(patch, 15, number)
        train_small(store, tmp_path / "stopped", val=(val,))  # nothing is left to do after the last step
    check_same_run(whole, tmp_path / "stopped")
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)] == handlers


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path, store: Store, forks: Forks) -> None:
    out = tmp_path / "out"
    command = train_command(store, out, "epochs=100000", every_s=0.01)
    first = forks.start("student", command)
    wait_for_checkpoint(out, first.running)
    refused = rf"error: another run writes to {out} \(pid {first.id} on \S+\): wait for its end, stop it, or give this "
    second = CliRunner().invoke(main, command)
    assert second.exit_code == 1
    assert re.fullmatch(refused + "one another --out\n", second.output)
    ranks = forks.start_ranks("student", command, 2)
    assert [rank.wait() for rank in ranks] == [1, 1]
    assert all(re.fullmatch(refused + "one another --out\n", rank.output) for rank in ranks), ranks[1].output
    wait_for_checkpoint(out, first.running)
    os.kill(first.id, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    epoch, step = position(out)
    third = forks.start("student", command)
    wait_for_checkpoint(out, third.running)
    os.kill(third.id, signal.SIGTERM)
    assert third.wait() == STOPPED, third.output
    assert f"going on from {out}: epoch {epoch + 1}, step {step}" in third.output
    assert not (out / LOCK).exists()
    steps = column(out / "steps.csv", "step")
    assert np.array_equal(steps, np.arange(len(steps)))


def test_a_finished_run_trains_nothing_and_prints_the_table(tmp_path: Path, store: Store, val: str) -> None:
    command = train_command(store, tmp_path / "out", val=val)
    first, second = CliRunner().invoke(main, command), CliRunner().invoke(main, command)
    assert first.exit_code == second.exit_code == 0, second.output
    assert "epoch 2/2" in first.output
    assert "epoch 2/2" not in second.output
    table = [line for line in second.output.splitlines() if "small, " in line]
    assert len(table) == 6
    assert all(line in first.output for line in table)
    assert len(rows(tmp_path / "out" / "steps.csv")) == 16


def test_a_finished_run_needs_its_shards_no_more(tmp_path: Path, val: str) -> None:
    store, out = filled_store(tmp_path / "filled"), tmp_path / "out"
    command = train_command(store, out, val=val)
    trained = CliRunner().invoke(main, command)
    shard = Path(store.index.shards[0].path)
    shard.rename(shard.with_suffix(".away"))
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 0, again.output
    assert f"{out} is trained to the end of its 2 epochs, and evaluated again" in again.output
    assert again.output.splitlines()[-6:] == trained.output.splitlines()[-6:]


def test_a_run_that_goes_on_misses_its_shards_before_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, out = filled_store(tmp_path / "filled"), tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_at(patch, 5, signal.SIGTERM)
        with pytest.raises(Stopped):
            train_small(store, out)
    shard = Path(store.index.shards[0].path)
    shard.rename(shard.with_suffix(".away"))
    done = CliRunner().invoke(main, train_command(store, out))
    assert done.exit_code == 1
    (told,) = [line for line in done.output.splitlines() if line.startswith("error: ")]
    assert "shards is not where the store says; the first is " in told


def test_a_finished_run_without_validation_keeps_what_it_knows(tmp_path: Path, whole: Path, store: Store) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    before = (out / "results.json").read_bytes()
    said: list[str] = []
    train_small(store, out, said=said)
    assert said == [f"{out} is trained to the end of its 2 epochs; without --val nothing is evaluated"]
    assert (out / "results.json").read_bytes() == before
    for text in ("", "half a fi"):  # as of a run that was killed before it wrote them, or on a disk that lost them
        (out / "results.json").write_text(text) if text else (out / "results.json").unlink()
        train_small(store, out)
        assert json.loads((out / "results.json").read_text())["accuracy"] == {}
    told = CliRunner().invoke(main, ["results", str(out)])
    assert told.exit_code == 1
    assert told.output.startswith(f"error: {out} was trained without --val: `student evaluate {out}/checkpoint.pt ")
    told = CliRunner().invoke(main, ["results", str(out), "--plot", "-"])
    assert told.exit_code == 0, told.output
    assert "out was trained without --val\n" in told.output
    assert "validation" not in told.output


def test_a_training_that_goes_on_leaves_no_results_of_another(
    tmp_path: Path, whole: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "from the epoch"
    shutil.copytree(whole, out)
    (out / EPOCH_END).replace(out / NEWEST)
    with monkeypatch.context() as patch:
        stop_at(patch, 9, signal.SIGTERM)
        with pytest.raises(Stopped):
            train_small(store, out)
    told = CliRunner().invoke(main, ["results", str(out)])
    assert told.output.startswith(f"error: {out} has no results.json: its training is not finished")


def test_a_training_does_not_begin_where_it_would_remove_what_another_left(
    tmp_path: Path, whole: Path, store: Store
) -> None:
    out = tmp_path / "copied without its checkpoints"
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("*.pt"))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(
        CheckpointError, match=r"has results\.json, epochs\.csv of an earlier training but no checkpoint"
    ):
        train_small(store, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        (["batch_size=16"], {}, "recipe batch_size = 32, now it is 16"),
        (["seed=1"], {}, "recipe seed = 0, now it is 1"),
        (["repeats=1"], {}, "recipe repeats = 2, now it is 1"),
        (["pool_batches=3"], {}, "recipe pool_batches = 2, now it is 3"),
        (["lr=0.1"], {}, "recipe lr = 0.005, now it is 0.1"),
        ([], {"views_in_use": 2}, "plan views_in_use = 4, now it is 2"),
    ],
)
def test_another_setting_is_refused_by_name(
    tmp_path: Path, store: Store, overrides: list[str], options: dict[str, Any], message: str
) -> None:
    train_small(store, tmp_path / "out")
    before = (tmp_path / "out" / NEWEST).read_bytes()
    with pytest.raises(CheckpointError, match=message):
        train_small(store, tmp_path / "out", *overrides, **options)
    assert (tmp_path / "out" / NEWEST).read_bytes() == before
    assert len(rows(tmp_path / "out" / "steps.csv")) == 16


def test_another_store_and_another_list_of_skipped_samples_are_refused(tmp_path: Path, store: Store) -> None:
    no_labels = "distill=none"
    unfilled = bright_store(tmp_path)
    train_small(unfilled, tmp_path / "out", no_labels)
    with pytest.raises(CheckpointError, match="store seed = 3, now it is 4"):
        train_small(bright_store(tmp_path, seed=4, name="seed"), tmp_path / "out", no_labels)
    (tmp_path / "others").mkdir()
    other = bright_store(tmp_path / "others", counts=(130, 64, 65, 1))
    with pytest.raises(CheckpointError, match="store index = "):
        train_small(other, tmp_path / "out", no_labels)
    spoil_image(unfilled, 70)
    fill_store(unfilled, skip_bad=True)
    with pytest.raises(CheckpointError, match=r"plan skipped = [0-9a-f]{57}.*, now it is"):
        train_small(unfilled, tmp_path / "out", no_labels)


def test_micro_batches_train_the_same_and_may_change(tmp_path: Path, store: Store) -> None:
    train_small(store, tmp_path / "whole", student("plain"))
    train_small(store, tmp_path / "parts", student("plain"), "micro_batch=8")
    for name in ("loss", "class_loss", "distill_loss"):
        whole, parts = (column(tmp_path / run / "steps.csv", name) for run in ("whole", "parts"))
        assert np.allclose(whole, parts, rtol=1e-4)
    assert checkpoint(tmp_path / "whole")["plan"] == checkpoint(tmp_path / "parts")["plan"]
    train_small(store, tmp_path / "parts", student("plain"), "micro_batch=16")  # not refused


def test_what_a_checkpoint_holds(tmp_path: Path, store: Store) -> None:
    train_small(store, tmp_path / "out", "ema=0.9")
    found = checkpoint(tmp_path / "out")
    assert found["model"].keys() == found["model_ema"].keys()
    assert not equal(found["model"], found["model_ema"])
    assert found["class_names"] == [str(number) for number in range(10)]
    assert (found["size"], found["mean"], found["std"]) == ([8, 8], list(store.policy.mean), list(store.policy.std))
    assert found["recipe"] == small_recipe("ema=0.9").to_json()
    assert found["position"] == {"epoch": 2, "step": 0}
    assert found["optimizer"]["param_groups"][0]["lr"] < 5e-3
    train_small(store, tmp_path / "none", "ema=none")
    assert "model_ema" not in checkpoint(tmp_path / "none")


# -- ranks ---------------------------------------------------------------------------------------------------------


def test_two_ranks(tmp_path: Path, half_store: Store, forks: Forks) -> None:
    """Uninterrupted, stopped by a signal to either and resumed, resumed by one, and against one rank."""
    store, val = half_store, validation_shard(tmp_path / "val.tar", 100)
    settings = [*HALF, "epochs=8", "optimizer=sgd", "lr=0.05", "micro_batch=8"]
    ranks = forks.start_ranks("student", train_command(store, tmp_path / "whole", *settings, val=val), 2)
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].output
    assert ["top-1 %" in rank.output for rank in ranks] == [True, False]

    # the checkpoint alone gives what the ranks reported, each for its part
    reported = json.loads((tmp_path / "whole" / "results.json").read_text())["accuracy"]
    for kind in ("", "ema_"):
        trained = read_own(tmp_path / "whole" / NEWEST, ema=bool(kind))
        index = index_validation([val], trained.class_names)
        with ValidationSet(index, trained.preprocessing, workers=0) as validation:
            found = evaluate(build_trained(trained), validation, torch.device("cpu"))
        assert found == {head: reported[f"{kind}{head}"] for head in ("class", "distillation", "fused")}

    losses = column(tmp_path / "whole" / "epochs.csv", "loss")
    assert losses[-1] < losses[0] - 0.1

    # what looks at no batch as a whole, and draws nothing, learns nearly the same by one rank, whose batches hold other
    # views of an epoch's; by plain gradient descent: with gradients summed over the ranks 6 % are between them
    plain = [*settings, student("plain"), "epochs=2", "lr=0.02"]
    ranks = forks.start_ranks("student", train_command(store, tmp_path / "plain", *plain), 2)
    train_small(store, tmp_path / "alone", *plain)
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].output
    one, two = (column(tmp_path / run / "epochs.csv", "loss") for run in ("alone", "plain"))
    assert np.abs(one / two - 1).max() < 0.02, (one, two)

    out = tmp_path / "stopped"
    for stopped, number in enumerate((signal.SIGUSR1, signal.SIGTERM)):
        ranks = forks.start_ranks("student", train_command(store, out, *settings, val=val, every_s=0.01), 2)
        wait_for_checkpoint(out, ranks[0].running)
        while not (out / EPOCH_END).exists() and ranks[0].running():
            time.sleep(0.001)
        assert ranks[0].running(), f"it ended before it was stopped: {ranks[0].output}"
        os.kill(ranks[1 - stopped].id, number)
        assert [rank.wait() for rank in ranks] == [STOPPED, STOPPED], ranks[0].output
        epoch, step = position(out)
        assert f"stopped at epoch {epoch + 1}, step {step}; the same command goes on" in ranks[0].output
    shutil.copytree(out, tmp_path / "other")
    ranks = forks.start_ranks("student", train_command(store, out, *settings, val=val), 2)
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].output
    assert f"going on from {out}: epoch {epoch + 1}, step {step}" in ranks[0].output
    check_same_run(tmp_path / "whole", out)

    # one rank goes on from the last epoch's end, and has nowhere to go on from before the first
    found = checkpoint(tmp_path / "other")
    if step == 0:  # the next write would keep it
        shutil.copy(tmp_path / "other" / NEWEST, tmp_path / "other" / EPOCH_END)
    torch.save({**found, "position": {"epoch": epoch, "step": 3}}, tmp_path / "other" / NEWEST)
    shutil.copytree(tmp_path / "other", tmp_path / "first epoch")
    said: list[str] = []
    train_small(store, tmp_path / "other", *settings, val=(val,), said=said)
    assert said[0] == f"going on from {tmp_path / 'other'}: epoch {epoch + 1}, step 0"
    steps = column(tmp_path / "other" / "steps.csv", "step")
    assert np.array_equal(steps, np.arange(8 * 8))
    assert np.array_equal(column(tmp_path / "other" / "epochs.csv", "epoch"), np.arange(8))
    (tmp_path / "first epoch" / EPOCH_END).unlink()
    with pytest.raises(CheckpointError, match="in the middle of the first epoch by 2 ranks"):
        train_small(store, tmp_path / "first epoch", *settings)


def test_the_first_ranks_folder_counts(tmp_path: Path, half_store: Store, forks: Forks) -> None:
    """As where each host has an --out of its own: all ranks go on where the first one's says, and only it writes."""
    settings = [*HALF, "epochs=4"]
    whole, first, second = (tmp_path / name for name in ("whole", "first", "second"))
    ranks = forks.start_ranks("student", train_command(half_store, whole, *settings), 2)
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].output
    commands = [train_command(half_store, out, *settings, every_s=0.01) for out in (first, second)]
    ranks = forks.start_ranks("student", commands[0], 2, commands[1])
    wait_for_checkpoint(first, ranks[0].running)
    os.kill(ranks[1].id, signal.SIGTERM)
    assert [rank.wait() for rank in ranks] == [STOPPED] * 2, ranks[1].output
    epoch, step = position(first)
    assert not second.exists()

    ranks = forks.start_ranks("student", commands[1], 2, commands[0])
    assert [rank.wait() for rank in ranks] == [1, 1]
    refused = f"error: rank 1 finds a {NEWEST} in {second}, the first rank, which reads and writes there, finds none: "
    assert [rank.output.startswith(refused) for rank in ranks] == [True, True]

    ranks = forks.start_ranks("student", commands[0], 2, commands[1])
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[1].output
    assert f"going on from {first}: epoch {epoch + 1}, step {step}" in ranks[0].output
    check_same_run(whole, first)
    assert not (second / NEWEST).exists()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (["lr=0.001"], "recipe lr = 0.001, the first rank has 0.005"),
        ([student("one_head")], f"recipe model = {STUDENTS[:50]}"),
        (["epochs=2", "--views-used", "2"], "plan views_in_use = 2, the first rank has 4"),
        (["epochs=2", "--val", "VAL"], "validation shards = [('val.tar', "),
    ],
)
def test_ranks_that_are_asked_for_different_things_say_so(
    tmp_path: Path, half_store: Store, val: str, forks: Forks, other: list[str], message: str
) -> None:
    setting, *options = (word.replace("VAL", val) for word in other)
    command = train_command(half_store, tmp_path / "out", *HALF)
    ranks = forks.start_ranks("student", command, 2, [*command, "--set", setting, *options])
    assert [rank.wait() for rank in ranks] == [1, 1], ranks[0].output
    for rank in ranks:
        assert f"error: rank 1 has {message}" in rank.output
        assert "Traceback" not in rank.output
    assert not (tmp_path / "out" / NEWEST).exists()


def test_three_ranks_go_on_to_the_same_bits(tmp_path: Path, half_store: Store, forks: Forks) -> None:
    """Of three numbers the order of adding matters, in which DDP lays gradients out; of two it does not."""
    settings = ["batch_size=18", "epochs=4", student("two_heads")]
    command = train_command(half_store, tmp_path / "whole", *settings)
    ranks = forks.start_ranks("student", command, 3)
    assert [rank.wait() for rank in ranks] == [0, 0, 0], ranks[0].output
    out = tmp_path / "stopped"
    command = train_command(half_store, out, *settings, every_s=0.01)
    ranks = forks.start_ranks("student", command, 3)
    wait_for_checkpoint(out, ranks[0].running)
    os.kill(ranks[1].id, signal.SIGTERM)
    assert [rank.wait() for rank in ranks] == [STOPPED] * 3, ranks[0].output
    ranks = forks.start_ranks("student", command, 3)
    assert [rank.wait() for rank in ranks] == [0, 0, 0], ranks[0].output
    assert "going on from " in ranks[0].output
    check_same_run(tmp_path / "whole", out)


def test_two_ranks_train_a_model_that_does_not_use_all_its_parameters(
    tmp_path: Path, half_store: Store, forks: Forks
) -> None:
    learnt = {}
    for every in (1, 2):  # never, and in every other step
        out = tmp_path / str(every)
        command = train_command(half_store, out, *HALF, student("unused"), f"model_args.every={every}")
        ranks = forks.start_ranks("student", command, 2)
        assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].output
        said = f"the loss does not use 2 parameters of {STUDENTS}:unused (spare.weight first): they stay as they are\n"
        assert [rank.output.count(said) for rank in ranks] == [1, 0]
        learnt[every] = checkpoint(out)["model"]["spare.weight"]
    torch.manual_seed(0)
    begun = build_model(small_recipe(student("unused")), 10, (8, 8)).state_dict()["spare.weight"]
    assert equal(learnt[1], begun)
    assert not equal(learnt[2], begun)


def test_two_ranks_tell_of_parameters_that_are_used_no_more(tmp_path: Path, half_store: Store, forks: Forks) -> None:
    ranks = forks.start_ranks("student", train_command(half_store, tmp_path, *HALF, student("left_out_later")), 2)
    assert [rank.wait() for rank in ranks] == [1, 1]
    for rank in ranks:
        assert "Traceback" not in rank.output
        assert "error: a step did not use all parameters that the first one used, which several ranks" in rank.output


@pytest.mark.parametrize(
    ("most_bytes", "place"), [(10_000, r"checkpoint\.pt"), (1_200, r"(steps\.csv|tensorboard)"), (None, "tensorboard")]
)
def test_what_the_first_rank_cannot_write_is_told_by_all(
    tmp_path: Path, half_store: Store, forks: Forks, most_bytes: int | None, place: str
) -> None:
    """Not that a rank, which has said why it ended, did not come."""
    settings = [] if most_bytes is None else [student("on_a_full_disk"), f"model_args.most_bytes={most_bytes}"]
    if most_bytes is None:
        (tmp_path / "tensorboard").write_text("a file")
    ranks = forks.start_ranks("student", train_command(half_store, tmp_path, *HALF, *settings), 2)
    assert [rank.wait() for rank in ranks] == [1, 1]
    for rank in ranks:
        last = rank.output.splitlines()[-1]
        assert re.fullmatch(rf"error: {re.escape(str(tmp_path))}/{place} cannot be written \(.*", last), rank.output


def test_logs_lack_no_step_where_another_number_of_ranks_came_to_no_checkpoint(
    tmp_path: Path, store: Store, whole: Path, val: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written_by(ranks: int) -> None:
        found = checkpoint(tmp_path)
        torch.save({**found, "plan": {**found["plan"], "world_size": ranks}}, tmp_path / NEWEST)

    with monkeypatch.context() as patch:
        stop_at(patch, 12, signal.SIGTERM)
        with pytest.raises(Stopped, match="stopped at epoch 2, step 5"):
            train_small(store, tmp_path, val=(val,))
    written_by(2)
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(Run, "train_step", lambda run, batch: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_small(store, tmp_path, val=(val,), said=said)
    assert said[:2] == [
        f"going on from {tmp_path}: epoch 2, step 0",
        "given up: checkpoint.pt of another number of ranks, at epoch 2, step 5",
    ]
    assert len(rows(tmp_path / "steps.csv")) == 8
    written_by(1)
    train_small(store, tmp_path, val=(val,))
    check_same_run(whole, tmp_path)


def test_torchrun_passes_sigterm_on_and_waits_for_the_checkpoint(tmp_path: Path, store: Store, forks: Forks) -> None:
    out = tmp_path / "out"
    words = ["-m", "student", *train_command(store, out, "epochs=2000", every_s=0.01)]
    launcher = forks.start("torch.distributed.run", ["--standalone", "--nproc-per-node", "2", *words])
    wait_for_checkpoint(out, launcher.running)
    os.kill(launcher.id, signal.SIGTERM)
    assert launcher.wait() == 1, launcher.output
    epoch, step = position(out)
    assert launcher.output.count(f"stopped at epoch {epoch + 1}, step {step}; the same command goes on") == 2


# -- what is trained -----------------------------------------------------------------------------------------------


def test_the_first_epochs_speed_does_not_count_what_comes_before_it(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = itertools.count()
    monkeypatch.setattr("student.meter.time", SimpleNamespace(perf_counter=lambda: float(next(now_s))))

    def slow(*words: Any) -> AbstractContextManager[RunLog | None]:
        for _ in range(1000):
            next(now_s)
        return open_log(*words)

    monkeypatch.setattr("student.train.open_log", slow)
    train_small(store, tmp_path)
    assert column(tmp_path / "epochs.csv", "images_per_s").tolist() == [256.0, 256.0]


def test_a_long_epoch_tells_how_far_it_is(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("student.train.TOLD_EVERY_S", 0.0)
    said: list[str] = []
    train_small(store, tmp_path, said=said)
    told = [line for line in said if "  step " in line]
    assert re.fullmatch(r"epoch 1/2  step 1 of \d+  \d+ images/s, \d+ % waiting", told[0])
    num_steps = int(told[0].split()[5])
    assert len(told) == 2 * (num_steps - 1)  # an epoch's last step has the epoch's own line


def test_results_have_the_views_that_drifted_before_a_stop_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled_store(tmp_path)
    change_pixel(store, 0)
    with monkeypatch.context() as patch:
        stop_at(patch, 7, signal.SIGTERM)
        with pytest.raises(Stopped, match="epoch 2, step 0"):
            train_small(store, tmp_path / "out", on_drift="warn")
    before = checkpoint(tmp_path / "out")["views_drifted"]
    train_small(store, tmp_path / "out", on_drift="warn")
    found = json.loads((tmp_path / "out" / "results.json").read_text())["views_drifted"]
    assert 0 < before <= found
    assert found == checkpoint(tmp_path / "out")["views_drifted"]


def test_results_name_the_teacher(tmp_path: Path, store: Store) -> None:
    assert store.teacher is not None
    for distill, name in (("hard", store.teacher.name), ("none", None)):
        train_small(store, tmp_path / distill, f"distill={distill}", "epochs=1")
        assert json.loads((tmp_path / distill / "results.json").read_text())["teacher"] == name


def test_losses_are_the_frozen_ones(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    found = golden_losses(tmp_path)
    assert found["losses"].keys() == golden["losses"].keys()
    for name, losses in golden["losses"].items():
        near = 1e-3 if "drop_path=0.1" not in SETTINGS[name] or found["mask"] == golden["mask"] else 1e-2
        for loss, values in losses.items():
            assert found["losses"][name][loss] == pytest.approx(values, rel=near), (name, loss)


@pytest.mark.parametrize(
    "overrides",
    [
        ["label_smoothing=0"],
        ["clip_grad=0.1"],
        ["optimizer=sgd", "lr=0.1"],
        ["distill=none"],
        ["distill=none", student("one_head"), "repeats_order=together", "warmup_epochs=1"],
    ],
    ids=" ".join,
)
def test_options_change_what_is_trained_and_it_learns(
    tmp_path: Path, half_store: Store, longer: Path, overrides: list[str]
) -> None:
    train_small(half_store, tmp_path / "changed", *LONGER, *overrides)
    plain, changed = (column(run / "epochs.csv", "loss") for run in (longer, tmp_path / "changed"))
    assert not np.allclose(plain, changed, rtol=1e-4)
    assert changed[-1] < changed[0] - 0.1
    agreement = [row["teacher_agreement"] for row in rows(tmp_path / "changed" / "epochs.csv")]
    if "distill=none" in overrides:
        assert set(agreement) == {""}
    else:
        assert float(agreement[-1]) > float(agreement[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: bf16 and fp16 are for CUDA only")
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_stays_near_full(tmp_path: Path, store: Store, val: str, amp: str) -> None:
    train_small(store, tmp_path / "full", student("plain"), "amp=none", val=(val,), device="cuda")
    train_small(store, tmp_path / "half", student("plain"), f"amp={amp}", val=(val,), device="cuda")
    full, half = (column(tmp_path / run / "steps.csv", "loss") for run in ("full", "half"))
    assert np.abs(full - half).max() < 0.05
    assert not np.array_equal(full, half)


# -- refusals ------------------------------------------------------------------------------------------------------


def test_another_policy_needs_to_be_allowed(tmp_path: Path, store: Store) -> None:
    with pytest.raises(RecipeError, match=r"expects a store of policy deit, .* has cifar: --allow-policy, or "):
        refuse(policy_faults(store, small_recipe("policy=deit"), allow_policy=False))
    refuse(policy_faults(store, small_recipe("policy=none"), allow_policy=False))
    refused = CliRunner().invoke(main, train_command(store, tmp_path / "out", "policy=deit"))
    assert refused.exit_code == 1
    assert refused.output.startswith("error: recipe small expects a store of policy deit")
    assert refused.output.count("\n") == 1
    allowed = CliRunner().invoke(main, [*train_command(store, tmp_path / "out", "policy=deit"), "--allow-policy"])
    assert allowed.exit_code == 0, allowed.output


@pytest.mark.parametrize(
    ("overrides", "options", "error", "message"),
    [
        (["epoch=3"], {}, RecipeError, "unknown setting epoch"),
        ([student("nobody")], {}, ModelError, "has no function nobody"),
        (["batch_size=600"], {}, PlanError, "less than one global batch of 600"),
        (["repeats=5"], {}, PlanError, "5 repeats need as many views of a sample, 4 views are in use"),
        ([], {"views_in_use": 9}, PlanError, "--views-used 9 is not within the store's 1 to 4"),
        (["model=resnet10t", "micro_batch=1"], {}, ModelError, "over a batch, and cannot train on one view at once"),
    ],
)
def test_runs_that_cannot_be(
    tmp_path: Path, store: Store, overrides: list[str], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train_small(store, tmp_path / "out", *overrides, **options)
    assert not (tmp_path / "out" / NEWEST).exists()


def test_missing_labels_stop_before_the_first_step(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_store(store, views=range(2))
    with pytest.raises(MissingLabelError, match=r"520 of 1,040 labels.*teacher-cache fill .* --views 2:4"):
        train_small(store, tmp_path / "out", "epochs=4")
    assert list((tmp_path / "out").iterdir()) == []
    result = CliRunner().invoke(main, train_command(store, tmp_path / "out", "epochs=4"))
    assert result.exit_code == 1
    assert result.output.startswith("error: 520 of 1,040 labels that the plan needs are missing")
    said: list[str] = []
    train_small(store, tmp_path / "out", "epochs=4", views_in_use=2, said=said)
    assert said[0] == "labels: all 520 that the plan needs are there (260 samples x 2 views)"
    assert "warning: 4 epochs with 2 repeats need 4 views of a sample, 2 views are in use" in said[1]
    assert "replayed views compared with the store's digests, 0 differ" in said[-1]


def test_a_loss_that_is_not_finite_stops_and_is_not_saved(tmp_path: Path, store: Store) -> None:
    message = r"the loss is nan at epoch 1, step 0, learning rate 0.005: no checkpoint was written yet; lower --set lr"
    with pytest.raises(TrainingError, match=message):
        train_small(store, tmp_path / "out", student("infinite"), "distill=none")
    assert not (tmp_path / "out" / NEWEST).exists()
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_loss_that_is_no_longer_finite_names_the_last_good_checkpoint(tmp_path: Path, store: Store) -> None:
    out = tmp_path / "out"
    message = rf"at epoch 1, step 5, learning rate .*: the last good checkpoint is {out / NEWEST} \(epoch 1, step 5\)"
    with pytest.raises(TrainingError, match=message):
        train_small(store, out, student("infinite_later"), "distill=none", checkpoint_every_s=0)
    assert position(out) == (0, 5)
    good = checkpoint(out)
    assert all(value.isfinite().all() for name in ("model", "model_ema") for value in good[name].values())
    with pytest.raises(TrainingError, match=rf"at epoch 2, step 2, .*checkpoint is {out / NEWEST} \(epoch 2, step 2\)"):
        train_small(store, out, student("infinite_later"), "distill=none", checkpoint_every_s=0)  # it counts anew


def test_a_recipe_for_the_token_and_a_model_without_are_told(tmp_path: Path, store: Store) -> None:
    for name, beginning in (("one_head", f"{STUDENTS}:one_head has no"), ("two_heads", "recipe small distils through")):
        said: list[str] = []
        train_small(store, tmp_path / name, student(name), said=said)
        (line,) = [line for line in said if "distillation token" in line]
        assert line.startswith(beginning)
        assert said.index(line) < said.index(next(line for line in said if line.startswith("epoch 1/")))


def test_a_checkpoint_that_does_not_know_a_setting_is_gone_on_from_with_a_word(tmp_path: Path, store: Store) -> None:
    out = tmp_path / "out"
    train_small(store, out)
    content = checkpoint(out)
    del content["recipe"]["decay_dist_token"]
    torch.save(content, out / NEWEST)
    said: list[str] = []
    train_small(store, out, said=said)
    assert said[:2] == [
        f"the checkpoint in {out} says nothing of recipe decay_dist_token, which the version that wrote it did not "
        "know: taken to be False, today's default",
        f"{out} is trained to the end of its 2 epochs; without --val nothing is evaluated",
    ]
    with pytest.raises(CheckpointError, match=r"nothing of recipe decay_dist_token, .*, now it is True: leave the"):
        train_small(store, out, "decay_dist_token=true")


def test_validation_shards_of_other_classes_stop_before_the_first_step(tmp_path: Path, store: Store) -> None:
    other = validation_shard(tmp_path / "val.tar", 20, [f"class {number}" for number in range(10)])
    result = CliRunner().invoke(main, train_command(store, tmp_path / "out", val=other))
    assert result.exit_code == 1
    assert "have other classes than the model (class 0 is class 0 there and 0 here)" in result.output
    assert not (tmp_path / "out" / "steps.csv").exists()
