"""Distillation in every way of the paper's table 3, from cached and from online answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from student.checkpoint import NEWEST
from student.cli import main
from teacher_cache.errors import CheckpointError, RecipeError, StoreError
from teacher_cache.store.store import Store
from teacher_cache.teacher.settings import TeacherSettings
from teacher_cache.teacher.weights import state_sha256
from tests.support.bright_shards import bright_store
from tests.support.convnet_stores import CONVNET, convnet_store, online
from tests.support.filling import TEACHERS
from tests.support.small_runs import SMALL, column, rows, student, train_small

COUNTS = (66, 31, 1, 32)  # of samples in the shards


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return convnet_store(tmp_path_factory.mktemp("hard"), counts=COUNTS)


@pytest.fixture(scope="module")
def soft_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All ten classes' probabilities at temperature 2."""
    return convnet_store(tmp_path_factory.mktemp("soft"), counts=COUNTS, topk=10, tau=2.0)


ROWS = {
    "none": [student("one_head"), "distill=none"],
    "soft": [student("one_head"), "distill=soft", "distill_tau=2.0", "distill_alpha=0.1"],
    "hard, teacher only": [student("one_head"), "distill=hard", "hard_without_token=teacher"],
    "hard, half truth": [student("one_head"), "distill=hard", "hard_without_token=both"],
    "soft through the token": [student("two_heads"), "distill=soft", "distill_tau=2.0"],
    "hard through the token": [student("two_heads"), "distill=hard"],
}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_table_3_trains(tmp_path: Path, soft_store: Store, row: str) -> None:
    train_small(soft_store, tmp_path / "out", *ROWS[row], "epochs=8")
    totals, truth, taught = (
        column(tmp_path / "out" / "epochs.csv", name) for name in ("loss", "class_loss", "distill_loss")
    )
    assert totals[-1] < totals[0] - 0.01
    alpha = {"none": 0.0, "soft": 0.1, "hard, teacher only": 1.0}.get(row, 0.5)
    np.testing.assert_allclose(totals, (1 - alpha) * truth + alpha * taught, rtol=1e-4)


@pytest.mark.parametrize("overrides", [["epochs=3"], ["micro_batch=8", student("one_head")]], ids=["token", "no token"])
def test_cached_and_online_losses_are_the_same_bits(tmp_path: Path, store: Store, overrides: list[str]) -> None:
    cached, asked = tmp_path / "cached", tmp_path / "online"
    train_small(store, cached, *overrides)
    said: list[str] = []
    train_small(store, asked, *overrides, teacher=online(), said=said)
    assert (cached / "steps.csv").read_bytes() == (asked / "steps.csv").read_bytes()
    one, other = (torch.load(run / NEWEST, weights_only=True) for run in (cached, asked))
    assert state_sha256(one["model"]) == state_sha256(other["model"])
    as_then = "32 views at a time, fp32; it is the store's teacher, and answers its proof as then; no label is read"
    assert any(as_then in line for line in said)


def test_another_teacher_online_gives_other_losses_and_says_so(tmp_path: Path, store: Store) -> None:
    train_small(store, tmp_path / "cached")
    said: list[str] = []
    brightness = TeacherSettings(spec=f"{TEACHERS}:brightness", device="cpu")
    train_small(store, tmp_path / "online", teacher=brightness, said=said)
    steps = [(tmp_path / run / "steps.csv").read_bytes() for run in ("cached", "online")]
    assert steps[0] != steps[1]
    assert any("warning: it is not the store's teacher (weights_sha256 differ)" in line for line in said)


def test_an_unfilled_store_will_do_for_an_online_teacher(tmp_path: Path, store: Store) -> None:
    unfilled = bright_store(tmp_path, counts=COUNTS)
    said: list[str] = []
    train_small(unfilled, tmp_path / "online", teacher=online(batch_size=32), said=said)
    train_small(store, tmp_path / "cached")
    steps = [(tmp_path / run / "steps.csv").read_bytes() for run in ("cached", "online")]
    assert steps[0] == steps[1]
    assert any("were not labelled yet, so not compared" in line for line in said)


def test_all_probabilities_cached_are_nearly_the_online_ones(tmp_path: Path, soft_store: Store) -> None:
    overrides = ["distill=soft", "distill_tau=2.0", "epochs=3"]
    train_small(soft_store, tmp_path / "cached", *overrides)
    train_small(soft_store, tmp_path / "online", *overrides, teacher=online())
    losses = [column(tmp_path / run / "steps.csv", "distill_loss") for run in ("cached", "online")]
    np.testing.assert_allclose(*losses, rtol=0.01, atol=1e-5)
    assert losses[0].max() > 0.01


# -- going on, and refusals ----------------------------------------------------------------------------------------


def test_a_run_goes_on_with_the_same_teacher_only(tmp_path: Path, store: Store) -> None:
    train_small(store, tmp_path / "out")
    train_small(store, tmp_path / "out", teacher=online())  # its answers are the store's
    with pytest.raises(CheckpointError, match="was trained with weights teacher = "):
        train_small(store, tmp_path / "out", teacher=TeacherSettings(spec=f"{TEACHERS}:brightness", device="cpu"))


@pytest.mark.parametrize(
    ("overrides", "options", "error", "message"),
    [
        (["distill=soft"], {}, StoreError, r"topk.* --topk K --tau T"),
        (
            ["distill=none"],
            {"teacher": online()},
            RecipeError,
            "does not distil, .*: --set distill=hard, or leave out",
        ),
    ],
)
def test_refusals(
    tmp_path: Path,
    store: Store,
    overrides: list[str],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        train_small(store, tmp_path / "out", *overrides, **options)
    assert not (tmp_path / "out" / NEWEST).exists()


def test_another_temperature_is_refused(tmp_path: Path, soft_store: Store) -> None:
    with pytest.raises(RecipeError, match=r"distils at distill_tau 3, .* are at tau 2: --set distill_tau=2.0, or fill"):
        train_small(soft_store, tmp_path / "out", "distill=soft", "distill_tau=3.0")


def test_the_command_takes_a_teacher(tmp_path: Path, store: Store) -> None:
    command = ["train", str(store.path), "--recipe", SMALL, "--set", student("plain"), "--workers", "0"]
    command += ["--set", "epochs=1", "--device", "cpu"]
    for out, words in (("cached", []), ("online", ["--teacher", CONVNET])):
        result = CliRunner().invoke(main, [*command, "--out", str(tmp_path / out), *words])
        assert result.exit_code == 0, result.output
        assert ("runs online" in result.output) == bool(words)
    assert rows(tmp_path / "cached" / "steps.csv") == rows(tmp_path / "online" / "steps.csv")
