"""A disk that fills, at every file that a command makes: one line, and with space again the same command goes on."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from student.cli import main as student
from teacher_cache.cli import main as teacher_cache
from teacher_cache.store.store import Store
from tests.support.bright_shards import SMALL, bright_store, write_bright_shards
from tests.support.filled_store import files
from tests.support.filling import fill_store, fill_words
from tests.support.full_disk import bad_disk, small_files
from tests.support.small_runs import SMALL as RECIPE
from tests.support.small_runs import SPEED, filled_store, rows
from tests.support.small_runs import student as student_setting
from tools import inspect_cache, make_shards

TAKES_SPACE = (errno.ENOSPC, "No space left on device")


def run(command: click.Command, *words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


def check_one_line(result: Result, said: str) -> None:
    """That a command failed with one line, which says this."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.output
    assert re.search(said, lines[0]), lines[0]
    assert "partial" not in lines[0]


def fill_the_disk(command: click.Command, words: Sequence[object], folder: Path, said: str, step: int = 1) -> int:
    """Run a command until it comes through, each time with room for `step` files more. -> how often it failed."""
    for tries in range(200):
        with bad_disk(folder, after=step * tries) as disk:
            result = run(command, *words)
        if not disk.refused:
            assert result.exit_code == 0, result.output
            return tries
        check_one_line(result, said)
        assert not [path for path in folder.parent.rglob("*.partial*") if path.is_file()]
    raise AssertionError("it never came through")


def train_words(store: Path, out: Path) -> list[object]:
    places = [store, "--out", out, "--recipe", RECIPE, "--set", student_setting("two_heads")]
    return ["train", *places, "--workers", 0, "--device", "cpu", "--checkpoint-every", 0]


def index_words(shards: Sequence[str], store: Path) -> list[object]:
    policy = ["--policy", "cifar", *(word for setting in SMALL for word in ("--set", setting))]
    return ["index", *shards, "--store", store, *policy, "--views", 4, "--workers", 1]


def test_index(tmp_path: Path) -> None:
    shards = write_bright_shards(tmp_path / "shards", (70, 64))
    assert run(teacher_cache, *index_words(shards, tmp_path / "whole")).exit_code == 0
    home = tmp_path / "home"
    home.mkdir()
    said = r"error: \S+/home/store(\.walk\S*)? cannot be written \(No space left on device\): "
    assert fill_the_disk(teacher_cache, index_words(shards, home / "store"), home, said) > 10
    assert files(home / "store") == files(tmp_path / "whole")
    assert os.listdir(home) == ["store"]


def test_fill(tmp_path: Path) -> None:
    store, whole = bright_store(tmp_path, counts=(70, 64)), bright_store(tmp_path, counts=(70, 64), name="whole")
    assert run(teacher_cache, *fill_words(whole.path, "--topk", 2)).exit_code == 0
    said = (
        r"error: \S+/store\S* cannot be written \(No space left on device\): committed units are kept, those in flight"
    )
    assert fill_the_disk(teacher_cache, fill_words(store.path, "--topk", 2), store.path, said, step=3) > 3
    found, expected = files(store.path), files(whole.path)
    assert found.keys() == expected.keys()
    # a build's own file says how its logits were found, by the fill that bound the teacher or by a later one
    assert {name for name in found if found[name] != expected[name]} <= {
        name for name in found if name.startswith("teacher/build-")
    }


def test_extend(tmp_path: Path) -> None:
    store, whole = bright_store(tmp_path, counts=(70,)), bright_store(tmp_path, counts=(70,), name="whole")
    whole.extend(8)
    words = ["extend", store.path, "--views", 8]
    said = r"error: \S+/store/(\w+/)?zarr\.json cannot be written \(No space"
    assert fill_the_disk(teacher_cache, words, store.path, said) == 3
    assert files(store.path) == files(whole.path)


@pytest.mark.parametrize(
    ("error", "said"), [(errno.EROFS, "Read-only file system"), (errno.EACCES, "Permission denied")]
)
def test_a_store_that_cannot_be_written(tmp_path: Path, error: int, said: str) -> None:
    store = bright_store(tmp_path, counts=(70,))
    before = files(store.path)
    for words in (fill_words(store.path, "--topk", 2), ["extend", store.path, "--views", 8]):
        with bad_disk(store.path, error=error):
            check_one_line(
                run(teacher_cache, *words), rf"store\S* cannot be written \({said}\): .*; make (it|\S+) writable"
            )
    assert files(store.path) == before


def test_train(tmp_path: Path) -> None:
    store, out, whole = filled_store(tmp_path, counts=(130,)), tmp_path / "runs" / "out", tmp_path / "whole"
    out.parent.mkdir()
    assert run(student, *train_words(store.path, whole)).exit_code == 0
    said = r"error: \S+/runs/out\S* cannot be written \(No space left on device\): "
    assert fill_the_disk(student, train_words(store.path, out), out, said, step=3) > 3
    for name, without in (("steps.csv", ()), ("epochs.csv", SPEED)):
        assert rows(out / name, without=without) == rows(whole / name, without=without)
    assert (out / "results.json").read_bytes() == (whole / "results.json").read_bytes()


def test_a_disk_that_fills_in_the_middle_of_a_checkpoint_keeps_the_one_before(tmp_path: Path) -> None:
    store, out = filled_store(tmp_path, counts=(130,)), tmp_path / "out"
    words = train_words(store.path, out)
    with small_files(10_000):
        check_one_line(run(student, *words), r"out/checkpoint\.pt cannot be written .*: no checkpoint is written yet; ")
    assert run(student, *words).exit_code == 0
    before = (out / "checkpoint.pt").read_bytes()
    longer = [*words, "--set", "epochs=2"]
    (out / "results.json").unlink()
    with small_files(100):
        check_one_line(run(student, *longer), r"cannot be written \(File too large\): ")
    assert (out / "checkpoint.pt").read_bytes() == before
    assert run(student, *longer).exit_code == 0
    assert not list(out.glob(".*"))


def test_export(tmp_path: Path) -> None:
    store, out = filled_store(tmp_path, counts=(130,)), tmp_path / "run"
    assert run(student, *train_words(store.path, out)).exit_code == 0
    model = [out / "checkpoint.pt", "--model", student_setting("two_heads").partition("=")[2]]
    for name, kind in (("x.safetensors", "safetensors"), ("x.pt2", "torch-export")):
        target = tmp_path / "exported" / name
        words = ["export", *model, "--format", kind, "--out", target]
        with small_files(2000):
            check_one_line(run(student, *words), rf"exported/{name} cannot be written \(File too large\): nothing that")
        assert not list(target.parent.iterdir())
        assert run(student, *words).exit_code == 0
        target.unlink()


def test_inspect_cache(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(70,))
    fill_store(store)
    out = tmp_path / "out"
    out.mkdir()
    key = store.index.key(0)
    for words in (
        ["sample", key, "--out", out / "x.png"],
        ["view", key, 0, "--out", out / "x.png"],
        ["export", "--out", out / "x.csv"],
        ["export", "--out", out / "x.parquet"],
        ["report", "--out", out / "x.html", "--workers", 0],
    ):
        said = r"out/x\.\w+ cannot be written \(%s\): nothing that was there before is lost; "
        with small_files(100):
            check_one_line(run(inspect_cache.main, store.path, *words), said % "File too large")
        if words[-1] != out / "x.parquet":  # which Arrow opens by itself
            with bad_disk(out):
                check_one_line(run(inspect_cache.main, store.path, *words), said % "No space left on device")
        assert not list(out.iterdir())


def test_make_shards(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    words = ["digits", home / "out", "--samples-per-shard", 512]
    for after in (0, 1, 2, 4):
        with bad_disk(home / "out", after=after):
            told = r"home/out(/\.train\.lock)? cannot be written \(No space left on device\): "
            check_one_line(run(make_shards.main, *words), told)
        assert not [path for path in home.rglob("*") if path.is_file()]
    with small_files(5000):
        check_one_line(run(make_shards.main, *words), r"home/out cannot be written \(File too large\): ")
    assert run(make_shards.main, *words).exit_code == 0


def test_an_error_of_the_system_from_anywhere_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = bright_store(tmp_path, counts=(70,))

    def fail(*arguments: object, **options: object) -> Store:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), f"{tmp_path}/x\x1b[2Jy")

    monkeypatch.setattr(Store, "open", fail)
    result = run(teacher_cache, "status", store.path)
    check_one_line(result, r"x\\x1b\[2Jy: Too many open files: raise the limit of open files")


def test_ctrl_c_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = bright_store(tmp_path, counts=(70,))

    def interrupt(*arguments: object, **options: object) -> Store:
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "open", interrupt)
    result = run(teacher_cache, "status", store.path)
    assert (result.exit_code, result.stderr) == (130, "stopped\n")


@pytest.mark.parametrize("words", [["teacher_cache.cli", "status"], ["tools.inspect_cache"]])
def test_a_reader_that_leaves_ends_a_command_quietly(tmp_path: Path, words: list[str]) -> None:
    store = bright_store(tmp_path, counts=(70,))
    command = [sys.executable, "-m", *words, str(store.path)]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    said = "error: standard output cannot be written (No space left on device): send it elsewhere\n"
    assert (ended.returncode, ended.stderr) == (1, said)
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")
