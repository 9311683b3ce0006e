"""A run's curve in a tracking library: each step once, whatever stopped the run; and no curve is worth a training."""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from student.checkpoint import NEWEST
from student.cli import main
from student.tracker import SENT, Tracker, new_curve
from student.train import STOPPED
from teacher_cache.errors import RecipeError
from teacher_cache.store.store import Store
from tests.support.forked import Forks
from tests.support.small_runs import SMALL, column, filled_store, rows, student, train_small
from tests.support.tracked import trackio_curve, wandb_curves


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """260 samples, 4 views, all labelled. Tests leave it as it is."""
    return filled_store(tmp_path_factory.mktemp("filled"))


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The library, which reaches nobody and keeps to this test's folder; its process ends with the test."""
    library = pytest.importorskip("wandb", reason="wandb is not installed (pip install 'deit-teacher-cache[wandb]')")
    places = {name: str(tmp_path / "home") for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR")}
    quiet = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    for name, value in {**quiet, **places, "NETRC": str(tmp_path / "netrc")}.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    yield library
    library.teardown()


def step_rows(first: int, stop: int) -> list[dict[str, Any]]:
    return [{"step": step, "epoch": step // 4, "lr": 0.1, "loss": 1 / (step + 1)} for step in range(first, stop)]


def write(out: Path, curve: str, first: int, stop: int, *epochs: int, library: Any = "wandb") -> None:
    """One life of a run, which trains the steps from `first` on, 4 an epoch, and ends these epochs."""
    with Tracker(library, out, curve, {"recipe": {"lr": 0.1}, "store": {"seed": 7}}, print) as tracker:
        for epoch in epochs:
            end = 4 * (epoch + 1)
            tracker.write_steps(step_rows(min(first, end), end))
            tracker.write_epoch({"epoch": epoch, "loss": 2.0, "teacher_agreement": None}, end)
            first = max(first, end)
        tracker.write_steps(step_rows(first, stop))


def test_what_is_logged_offline_is_read_back_and_no_step_is_sent_twice(tmp_path: Path, wandb: Any) -> None:
    curve = new_curve()
    write(tmp_path, curve, 0, 6, 0)
    write(tmp_path, curve, 2, 10, 0, 1)  # as after a kill: its checkpoint was that of step 2
    write(tmp_path, new_curve(), 0, 2)  # another run in the same folder
    (tmp_path / SENT).write_text("{")
    write(tmp_path, curve, 1, 3)
    wandb.teardown()  # which waits for its process to have written
    first, second, other, damaged = wandb_curves(tmp_path)
    assert first.id == second.id == curve
    assert first.project == "deit-teacher-cache"
    assert first.config["recipe"] == {"lr": 0.1}
    assert first.config["store"] == {"seed": 7}
    assert first.values("step/loss") == {step: 1 / (step + 1) for step in range(6)}
    assert second.steps("step/loss") == [6, 7, 8, 9]
    assert set(first.rows[0][1]) == {"step/lr", "step/loss"}
    assert (first.values("epoch/loss"), second.values("epoch/loss")) == ({4: 2.0}, {8: 2.0})
    assert "epoch/teacher_agreement" not in {name for _, values in first.rows for name in values}
    assert other.steps("step/loss") == [0, 1]
    assert damaged.steps("step/loss") == [1, 2]


@pytest.mark.usefixtures("wandb")
def test_a_killed_training_goes_on_in_its_curve(tmp_path: Path, store: Store, forks: Forks) -> None:
    out = tmp_path / "out"
    command = ["train", str(store.path), "--recipe", SMALL, "--out", str(out), "--workers", "0", "--device", "cpu"]
    command += ["--set", student("two_heads"), "--set", "epochs=20", "--checkpoint-every", "0.1", "--log", "wandb"]
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = forks.start("student", command)
        before = newest(out)
        while newest(out) == before and process.running():
            time.sleep(0.001)
        assert process.running(), process.output
        os.kill(process.id, number)
        assert process.wait() == (STOPPED if number == signal.SIGTERM else -signal.SIGKILL), process.output
    curve, sent = torch.load(out / NEWEST)["curve"], json.loads((out / SENT).read_text())["steps"]
    process = forks.start("student", command)
    assert process.wait() == 0, process.output
    stopped, killed, ended = wandb_curves(out)  # of the killed one wandb had written nothing yet
    assert stopped.id == ended.id == curve
    loss = dict(enumerate(column(out / "steps.csv", "loss")))
    assert len(loss) == 8 * 20
    logged = [one.values("step/loss") for one in (stopped, killed, ended)]
    assert sum(map(len, logged)) == len(logged[0] | logged[1] | logged[2])
    assert min(logged[2]) == sent > max(logged[0])
    assert logged[0] | logged[2] == {step: loss[step] for step in (*range(len(logged[0])), *range(sent, len(loss)))}
    epochs = stopped.steps("epoch/class_loss") + ended.steps("epoch/class_loss")
    assert epochs == sorted(set(epochs))
    assert epochs[-1] == len(loss)
    assert ended.config["store"]["seed"] == store.seed
    assert ended.config["recipe"]["epochs"] == 20
    assert str(tmp_path) not in str(ended.config)


def newest(out: Path) -> int:
    return (out / NEWEST).stat().st_mtime_ns if (out / NEWEST).exists() else 0


def test_a_library_that_fails_ends_no_training(
    tmp_path: Path, store: Store, wandb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, said = wandb.Run.log, []

    def failing(run: Any, values: Any, step: int) -> None:
        if step == 9:
            raise ConnectionError("the network is down\nand more")
        log(run, values, step=step)

    monkeypatch.setattr(wandb.Run, "log", failing)
    train_small(store, tmp_path / "out", log="wandb", said=said)
    (told,) = [line for line in said if "--log" in line]
    assert told == (
        "--log wandb fails (the network is down): no more is sent in this run; steps.csv and epochs.csv have everything"
    )
    assert len(rows(tmp_path / "out" / "steps.csv")) == 16
    wandb.teardown()
    (curve,) = wandb_curves(tmp_path / "out")
    assert curve.steps("step/loss") == list(range(9))


def test_a_curve_that_cannot_begin_is_told_before_training_and_ends_no_resumed_one(
    tmp_path: Path, store: Store, wandb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(**options: Any) -> None:
        raise wandb.errors.CommError("no answer from the server")

    told = r"--log wandb cannot begin \(no answer from the server\): log in, set WANDB_MODE=offline, or leave it out"
    with monkeypatch.context() as patch:
        patch.setattr(wandb, "init", down)
        with pytest.raises(RecipeError, match=told):
            train_small(store, tmp_path / "out", log="wandb")
        assert not (tmp_path / "out" / NEWEST).exists()
    train_small(store, tmp_path / "out", "epochs=1")
    shutil.copytree(tmp_path / "out", tmp_path / "half")
    content = torch.load(tmp_path / "half" / NEWEST)
    content["recipe"]["epochs"] = 2
    torch.save(content, tmp_path / "half" / NEWEST)
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(wandb, "init", down)
        train_small(store, tmp_path / "half", "epochs=2", log="wandb", said=said)
    assert [line for line in said if "--log" in line] == [
        "--log wandb cannot begin (no answer from the server): log in, set WANDB_MODE=offline, or leave it out; this "
        "run goes on without"
    ]
    assert torch.load(tmp_path / "half" / NEWEST)["position"] == {"epoch": 2, "step": 0}


@pytest.mark.usefixtures("wandb")
def test_a_setting_that_the_library_cannot_take_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "at home")
    with pytest.raises(RecipeError, match=r"^--log wandb cannot begin \(mode: Input should be 'online', 'offline', "):
        Tracker("wandb", tmp_path, new_curve(), {}, print)


@pytest.mark.parametrize("library", ["wandb", "trackio"])
def test_a_library_that_is_absent_is_told_before_anything_is_made(
    tmp_path: Path, store: Store, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    command = ["train", str(store.path), "--recipe", SMALL, "--set", student("two_heads"), "--log", library]
    done = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "out")])
    told = f"--log {library} needs {library}: pip install 'deit-teacher-cache[{library}]'"
    assert (done.exit_code, done.output) == (1, f"error: {told}\n")
    assert not (tmp_path / "out").exists()
    with pytest.raises(RecipeError) as error:
        Tracker(library, tmp_path / "out", "1", {}, print)
    assert str(error.value) == told


def test_trackio_has_the_same_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trackio = pytest.importorskip(
        "trackio", reason="trackio is not installed (pip install 'deit-teacher-cache[trackio]')"
    )
    monkeypatch.setattr(trackio.sqlite_storage, "TRACKIO_DIR", tmp_path)
    curve = new_curve()
    write(tmp_path, curve, 0, 6, 0, library="trackio")
    write(tmp_path, curve, 2, 10, 0, 1, library="trackio")
    found = trackio_curve(tmp_path / "deit-teacher-cache.db")
    assert found.id == f"{tmp_path.name}-{curve}"
    assert found.values("step/loss") == {step: 1 / (step + 1) for step in range(10)}
    assert found.steps("step/loss") == list(range(10))
    assert found.values("epoch/loss") == {4: 2.0, 8: 2.0}
    assert found.config["store"] == {"seed": 7}
