"""Trainings that fail: no checkpoint, no results and no accuracy of weights that are not known to be good."""

import signal
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from student.checkpoint import EPOCH_END, NEWEST
from student.cli import main
from student.loader import Batch
from student.run import Run
from teacher_cache.errors import CheckpointError, TrainingError
from teacher_cache.processes.signals import Stopped
from teacher_cache.store.store import Store
from tests.support.forked import Forks
from tests.support.small_runs import SMALL, filled_store, student, train_small

HUGE = 3e38  # a float32 holds it, but no sum of such


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """260 samples, 4 views, all labelled; 8 steps an epoch. Tests leave it as it is."""
    return filled_store(tmp_path_factory.mktemp("filled"))


def train_command(store: Store, out: Path, *overrides: str) -> list[str]:
    settings = [word for setting in (student("two_heads"), *overrides) for word in ("--set", setting)]
    words = ["train", str(store.path), "--recipe", SMALL, "--out", str(out), "--workers", "0"]
    return [*words, "--device", "cpu", *settings]


def ruin_after(monkeypatch: pytest.MonkeyPatch, step: int, *, number: signal.Signals | None = None) -> None:
    """Make the last head's weights huge in a step, counted from 0 over the whole run, and send a signal."""
    train_step = Run.train_step

    def ruining(run: Run, batch: Batch) -> None:
        ruined = run.steps_done() == step
        train_step(run, batch)
        if ruined:
            with torch.no_grad():
                list(run.model.parameters())[-2].fill_(HUGE)
            if number is not None:
                signal.raise_signal(number)

    monkeypatch.setattr(Run, "train_step", ruining)


def stopped_after(store: Store, out: Path, step: int) -> None:
    """Train, and end after a step as on SIGTERM."""
    train_step = Run.train_step

    def stopping(run: Run, batch: Batch) -> None:
        if run.steps_done() == step:
            signal.raise_signal(signal.SIGTERM)
        train_step(run, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "train_step", stopping)
        with pytest.raises(Stopped):
            train_small(store, out)


# -- the newest weights --------------------------------------------------------------------------------------------


def test_one_step_at_an_absurd_rate_is_no_success(tmp_path: Path, store: Store) -> None:
    command = train_command(store, tmp_path / "out", "lr=1e37", "epochs=1", "batch_size=256")
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == (
        "error: the loss that the new weights give is nan at epoch 1, step 0, learning rate 1e+37: no checkpoint was "
        "written yet; lower --set lr, or set clip_grad, and start anew in another --out"
    )
    assert "top-1" not in result.output
    assert "epoch 1/1" not in result.output
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_file()] == ["steps.csv"]


@pytest.mark.parametrize(
    ("step", "number", "every_s"),
    [
        (4, signal.SIGTERM, 600),
        (4, None, 0),
        (7, None, 600),  # the first epoch's last
        (15, None, 600),  # the last epoch's last
        (15, signal.SIGTERM, 600),
    ],
    ids=["at a signal", "at the time", "at an epoch's end", "at the end", "at the end, at a signal"],
)
def test_what_the_last_step_ruined_does_not_take_the_good_ones_place(
    tmp_path: Path,
    store: Store,
    step: int,
    number: signal.Signals | None,
    every_s: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    stopped_after(store, out, 2)
    said: list[str] = []
    with monkeypatch.context() as patch:
        ruin_after(patch, step, number=number)
        with pytest.raises(TrainingError) as ruined:
            train_small(store, out, said=said, checkpoint_every_s=every_s)
    epoch, within = divmod(step, 8)
    message = str(ruined.value)
    assert message.startswith(f"the loss that the new weights give is nan at epoch {epoch + 1}, step {within}, ")
    good = torch.load(out / NEWEST)
    at = (good["position"]["epoch"], good["position"]["step"])
    assert at == {4: (0, 4) if every_s == 0 else (0, 3), 7: (0, 3), 15: (1, 0)}[step]
    assert f"the last good checkpoint is {out / NEWEST} (epoch {at[0] + 1}, step {at[1]}); lower" in message
    assert torch.isfinite(torch.tensor(good["loss"]))
    assert good["model"]["heads.1.weight"].abs().max() < 10
    assert not (out / "results.json").exists()
    assert not [line for line in said if line.startswith(f"epoch {epoch + 1}/")]
    assert [path.name for path in out.glob("*.pt")] == [NEWEST]
    train_small(store, out)  # from there on, and it is well
    assert (out / "results.json").exists()


def test_a_buffer_that_is_infinite_by_design_is_no_ruin(tmp_path: Path, store: Store) -> None:
    train_small(store, tmp_path / "out", student("masked"), "distill=none")
    assert torch.load(tmp_path / "out" / NEWEST)["model"]["mask"].isinf().all()
    train_small(store, tmp_path / "out", student("masked"), "distill=none")  # it is taken up, too


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["lr=1e37"], "the loss is nan at epoch 1, step 1, learning rate 9.9e+36: no checkpoint was written yet"),
        (
            [student("infinite_on_one_rank"), "distill=none"],
            "the loss is nan at epoch 1, step 7, learning rate 0.00299: no",
        ),
    ],
    ids=["both", "one"],
)
def test_ranks_say_the_same(tmp_path: Path, store: Store, forks: Forks, settings: list[str], message: str) -> None:
    """Also where the loss of one alone is not finite, in the epoch's last step: the other waits for no one in vain."""
    ranks = forks.start_ranks("student", train_command(store, tmp_path / "out", *settings), 2)
    assert [rank.wait() for rank in ranks] == [1, 1]
    told = [[line for line in rank.output.splitlines() if line.startswith("error: ")] for rank in ranks]
    assert told[0] == told[1]
    assert message in told[0][0]


# -- where it starts -----------------------------------------------------------------------------------------------


def spoil(path: Path, value: float) -> None:
    """Make of a checkpoint one that an earlier version may have written, which knew no loss."""
    content = torch.load(path)
    content["model"]["heads.1.weight"].fill_(value)
    del content["loss"]
    torch.save(content, path)


def test_a_checkpoint_in_ruins_is_not_gone_on_from(tmp_path: Path, store: Store) -> None:
    out = tmp_path / "out"
    stopped_after(store, out, 10)
    spoil(out / NEWEST, torch.nan)
    message = (
        r"^\S*checkpoint\.pt holds numbers that are not finite \(model\.heads\.1\.weight first\): its training had "
        r"failed; epoch\.pt beside it is whole, the state after epoch 1: `mv "
    )
    with pytest.raises(CheckpointError, match=message):
        train_small(store, out)
    spoil(out / EPOCH_END, torch.inf)
    with pytest.raises(CheckpointError, match=r"failed; there is no whole epoch\.pt to go on from: start anew"):
        train_small(store, out)
    assert not (out / "results.json").exists()


def test_a_checkpoint_of_an_earlier_version_is_not_called_good_before_its_loss(tmp_path: Path, store: Store) -> None:
    out = tmp_path / "out"
    stopped_after(store, out, 4)
    spoil(out / NEWEST, HUGE)  # finite
    place = rf"{out / NEWEST} \(epoch 1, step 5\), where it went on, was written before it had given a finite loss; "
    with pytest.raises(TrainingError, match=rf"the loss is nan at epoch 1, step 5, .*: {place}"):
        train_small(store, out)
