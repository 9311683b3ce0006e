"""The table of soft labels' cost and error: its numbers by hand, and what is printed."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from teacher_cache.store.simulated import MEAN_TOP1, log_softmax, simulate, softmax
from teacher_cache.store.topk import renormalise, top_classes
from tests.support.filled_store import TOPK, fill, make_store
from tools.topk_table import main, soft_loss, table

SMALL = ["--samples", "70", "--views", "2", "--classes", "120"]


def test_the_simulated_teacher_is_as_sure_as_it_is_said_to_be() -> None:
    teacher = simulate(64, 4, 1000, seed=0)
    assert teacher.logits(0).shape == (64, 4, 1000)
    assert abs(softmax(teacher.logits(0), 1.0).max(axis=-1).mean() - MEAN_TOP1) < 1e-3
    np.testing.assert_array_equal(teacher.logits(0), simulate(64, 4, 1000, seed=0).logits(0))
    assert (teacher.logits(0) != simulate(64, 4, 1000, seed=1).logits(0)).all()


def test_the_loss_is_the_divergence_by_hand() -> None:
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(0, 2, (2, 5, 7))
    found = soft_loss(softmax(teacher, 3.0), log_softmax(student, 3.0), 3.0)
    for row in range(5):
        p, q = (np.exp(logits[row] / 3) / np.exp(logits[row] / 3).sum() for logits in (teacher, student))
        assert found[row] == pytest.approx(9 * sum(p * np.log(p / q)))
    assert soft_loss(np.eye(7)[[2]], log_softmax(student[:1], 1.0), 1.0) == pytest.approx(
        -log_softmax(student[:1], 1.0)[0, 2]
    )


def test_errors_and_bytes_of_a_small_table() -> None:
    teacher = simulate(70, 2, 120, seed=0)
    rows = list(table(teacher))
    assert [(row.tau, row.topk) for row in rows] == [(tau, topk) for tau in (1.0, 3.0) for topk in (0, 10, 100)]
    for none, ten, hundred in (rows[:3], rows[3:]):
        assert none.bytes_per_view < ten.bytes_per_view < hundred.bytes_per_view
        for errors in zip(none.errors, ten.errors, hundred.errors, strict=True):
            assert errors[0] > errors[1] > errors[2] > 0
    # The gradient's error of K = 10, for the student that knows nothing, once more from the logits.
    difference = whole = 0.0
    for block in teacher.blocks:
        logits = teacher.logits(block)
        rng = np.random.default_rng([teacher.seed, block, 2])
        for view in range(2):
            exact = softmax(logits[:, view], 3.0)
            student = softmax(rng.standard_normal((2, *exact.shape), np.float32)[0], 3.0)
            soft = renormalise(*top_classes(logits[:, view], 10, 3.0))
            for row in range(len(exact)):
                read = np.full(120, soft.tail[row] / 110)
                read[soft.classes[row]] = soft.probabilities[row]
                difference += np.linalg.norm(read - exact[row])
                whole += np.linalg.norm(student[row] - exact[row])
    assert rows[4].errors[1] == pytest.approx(difference / whole, rel=1e-4)


def test_tool_prints_the_table_and_a_stores_bytes(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    empty = CliRunner().invoke(main, [*SMALL, str(store.path)])
    assert empty.output.endswith(f"{store.path}: K 0, nothing is filled\n")
    store.publish_teacher(TOPK)
    fill(store)
    first, again = (CliRunner().invoke(main, [*SMALL, str(store.path)]) for _ in range(2))
    assert first.exit_code == 0, first.output
    assert first.output == again.output
    lines = first.output.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:8]] == ["0", "10", "100"] * 2
    assert lines[-1].startswith(f"{store.path}: K 3, tau 2, ")
    assert lines[-1].endswith(" bytes a view")
    assert CliRunner().invoke(main, [str(tmp_path / "none")]).exit_code == 1
