"""What is wrong with a teacher's settings is told at once, before torch is imported."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from teacher_cache.errors import TeacherError
from teacher_cache.teacher.identity import DECIDING_FIELDS, TeacherIdentity
from teacher_cache.teacher.settings import TeacherSettings, check_as_stored, check_settings
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
        "for each of R, G, B is expected; --std has 1 numbers, one for each of R, G, B is expected; --topk 11 is not "
        "within the 10 classes of the store: lower it\n"
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
        ({"topk": 11, "tau": -1.0}, "--topk 11 is not within the 10 classes of the store: lower it; --tau -1.0"),
    )
    for settings, said in wrong:
        with pytest.raises(TeacherError, match=said):
            check_settings(TeacherSettings("t", **settings), None, 10)
