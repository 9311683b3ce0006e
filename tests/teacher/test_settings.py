"""What is wrong with a teacher's settings is told at once, before torch is imported."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from teacher_cache.errors import TeacherError
from teacher_cache.teacher.identity import DECIDING_FIELDS, TeacherIdentity
from teacher_cache.teacher.settings import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TeacherSettings,
    check_as_stored,
    check_settings,
    settle,
)
from tests.support.bright_shards import bright_store
from tests.support.filling import fill_store

ROOT = Path(__file__).parents[2]
SEEN = "print(sorted({'torch', 'timm', 'torchvision'} & set(sys.modules)))"
STORED = TeacherIdentity("first", mean=(0.5, 0.5, 0.5), batch_size=32, topk=3, tau=2.0)


def run_fill(*words: str) -> subprocess.CompletedProcess[str]:
    """`teacher-cache fill` in a process that says at its end what it has imported."""
    code = "import sys\nfrom teacher_cache.cli import main\ntry:\n main(['fill', *sys.argv[1:]])\n"
    script = f"{code}except SystemExit as end:\n print(end.code)\n {SEEN}"
    return subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, cwd=ROOT)


def test_all_that_is_wrong_is_told_at_once_without_torch(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    done = run_fill(str(store.path), "--mean", "0.5,0.5", "--std", "1", "--topk", "11")
    assert done.stdout == "1\n[]\n"
    assert done.stderr == (
        "error: no teacher: name one with --teacher (a timm name, or path/file.py:function); --mean has 2 numbers, one "
        "for each of R, G, B is expected; --std has 1 number, one for each of R, G, B is expected; --topk 11 is not "
        "within the store's 10 classes: lower it\n"
    )


def test_all_that_differs_from_the_stores_teacher_is_told_at_once_without_torch(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_store(store, views=range(2))
    done = run_fill(str(store.path), "--batch-size", "16", "--dtype", "bf16", "--compile", "--topk", "2")
    assert done.stdout == "1\n[]\n"
    for said in ("dtype is bf16", "batch_size is 16", "compile is True", "topk is 2"):
        assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "differing"),
    [
        ({}, []),
        ({"mean": (0.5, 0.5, 0.5), "batch_size": 32, "compile": False, "topk": 3, "tau": 2.0}, []),
        ({"mean": (0.5, 0.5, 0.4), "tau": 1.0}, ["mean", "tau"]),
        ({"input_size": 8, "topk": 0}, ["input_size", "topk", "tau"]),
        ({"device": "cuda"}, []),  # any device has its own rules
    ],
)
def test_only_what_is_given_is_compared(settings: dict[str, Any], differing: list[str]) -> None:
    if not differing:
        check_as_stored(TeacherSettings(**settings), STORED)
        return
    with pytest.raises(TeacherError) as refused:
        check_as_stored(TeacherSettings(**settings), STORED)
    assert [name for name in DECIDING_FIELDS if f"this teacher's {name} is" in str(refused.value)] == differing


def test_soft_settings_need_each_other() -> None:
    check_settings(TeacherSettings("t", topk=3), None, 10)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"tau": 2.0}, "--tau 2 says nothing without probabilities"),
        ({"topk": 3, "tau": float("inf")}, "--tau inf is not a positive number"),
        ({"topk": 3, "tau": 1e-9}, "--tau 1e-09 is not within 1e-06 and 1e"),
        ({"topk": 11, "tau": -1.0}, "--topk 11 is not within the store's 10 classes: lower it; --tau -1.0"),
    )
    for settings, said in wrong:
        with pytest.raises(TeacherError, match=said):
            check_settings(TeacherSettings("t", **settings), None, 10)


@pytest.mark.parametrize(
    ("name", "numbers", "said"),
    [
        ("mean", (float("nan"), 0.5, 0.5), r"--mean nan,0\.5,0\.5 is not within -255 and 255: pixels"),
        ("mean", (0.5, 1e39, 0.5), r"--mean 0\.5,1e\+39,0\.5 is not within -255 and 255"),
        ("std", (0.0, 0.0, 0.0), r"--std 0,0,0 is not within 0\.0001 and 255: pixels are of 0 to 1 before it"),
        ("std", (0.2, 0.2, -0.2), "--std 0.2,0.2,-0.2 is not within"),
        ("std", (0.2, float("inf"), 0.2), "--std 0.2,inf,0.2 is not within"),
    ],
)
def test_a_normalisation_that_makes_no_numbers_is_refused(name: str, numbers: tuple[float, ...], said: str) -> None:
    """Else the teacher's logits would be no numbers, and its dtype be blamed."""
    with pytest.raises(TeacherError, match=f"^{said}"):
        check_settings(TeacherSettings("t", **{name: numbers}), None, 10)
    check_settings(TeacherSettings("t", mean=(0.0, 0.0, 0.0), std=(1 / 255, 1.0, 1.0)), None, 10)


ASKED = TeacherSettings(
    "t", mean=(0.1, 0.1, 0.1), input_size=16, batch_size=8, dtype="fp16", compile=False, topk=5, tau=3
)
KEPT = TeacherIdentity("t", mean=(0.2, 0.2, 0.2), std=(0.3, 0.3, 0.3), batch_size=32, compile=True, topk=3, tau=2.0)
OWN = {"mean": [0.4, 0.4, 0.4], "std": [0.6, 0.6, 0.6]}


def test_what_is_left_open_is_the_stores_then_the_models_own_then_the_default() -> None:
    nothing = TeacherSettings("t")
    asked = settle(ASKED, KEPT, OWN, on_cuda=True)
    assert (asked["mean"], asked["std"], asked["input_size"], asked["batch_size"]) == ((0.1,) * 3, (0.3,) * 3, 16, 8)
    assert (asked["dtype"], asked["compile"], asked["topk"], asked["tau"]) == ("fp16", False, 5, 3.0)
    kept = settle(nothing, KEPT, OWN, on_cuda=True)
    assert kept == {name: getattr(KEPT, name) for name in kept}
    own = settle(nothing, None, OWN, on_cuda=True)
    assert (own["mean"], own["std"], own["batch_size"], own["dtype"]) == ((0.4,) * 3, (0.6,) * 3, 256, "bf16")
    default = settle(nothing, None, {}, on_cuda=False)
    assert (default["mean"], default["std"]) == (IMAGENET_MEAN, IMAGENET_STD)
    assert (default["batch_size"], default["dtype"], default["compile"]) == (64, "fp32", False)


@pytest.mark.parametrize(
    ("asked", "kept", "settled"),
    [
        ({}, None, (0, None)),
        ({"topk": 3}, None, (3, 1.0)),
        ({"topk": 3, "tau": 2}, None, (3, 2.0)),
        ({}, (3, 2.0), (3, 2.0)),
        ({"topk": 0}, (3, 2.0), (0, None)),
        ({}, (0, None), (0, None)),
    ],
)
def test_a_temperature_is_of_probabilities_alone(
    asked: dict[str, Any], kept: tuple[int, float | None] | None, settled: tuple[int, float | None]
) -> None:
    stored = None if kept is None else TeacherIdentity("t", topk=kept[0], tau=kept[1])
    found = settle(TeacherSettings("t", **asked), stored, {}, on_cuda=False)
    assert (found["topk"], found["tau"]) == settled


def test_a_model_of_other_channels_says_which_option_is_wrong() -> None:
    with pytest.raises(TeacherError, match=r"^--std has 1 number, one for each of R, G, B is expected$"):
        settle(TeacherSettings("t"), None, {"mean": OWN["mean"], "std": [0.5]}, on_cuda=False)
