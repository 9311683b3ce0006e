"""How long a person waits for a command that has little to do: help, a slip of the finger, status, a small index.

As people have it who have started the program before: each command runs once before it is timed, so its files are in
the system's memory, and its modules' bytecode in a cache of the benchmark's own. Where Python is told to keep none, as
it often is in containers, every start compiles all modules anew.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

import student.cli
import teacher_cache.cli
from teacher_cache.messages.shown import counted
from tools.benchmarks.row import Bench, BenchmarkError, Measurement, RowPlan
from tools.benchmarks.stores import small_store

ROOT = Path(__file__).parents[2]
LIMIT_S, INDEX_LIMIT_S = 0.5, 1.5
PROGRAMS: dict[str, click.Command] = {"teacher_cache": teacher_cache.cli.main, "student": student.cli.main}
SLIPS = (  # what people mistype: a command, an option, the name of a store, policy, recipe, run, model
    ("teacher_cache", "fil"),
    ("teacher_cache", "fill", "store", "--teachr", "resnet10t"),
    ("teacher_cache", "status", "nothing"),
    ("teacher_cache", "policies", "diet"),
    ("student", "train", "--stor", "store"),
    ("student", "recipes", "show", "diet"),
    ("student", "results", "nothing"),
    ("student", "evaluate", "deit_tiny_patch16_22", "--val", "nothing.tar"),
)


def plans() -> list[RowPlan]:
    return [
        _plan("--help, the slowest command's", LIMIT_S, all_help),
        _plan("a wrong name or option, the slowest", LIMIT_S, all_slips),
        _plan("teacher-cache status", LIMIT_S, status),
        _plan("teacher-cache index, a small shard", INDEX_LIMIT_S, index),
    ]


def _plan(what: str, limit_s: float, measure: Callable[[Bench], Measurement]) -> RowPlan:
    return RowPlan(
        f"start-up: {what}", f"limit: {limit_s} s, warm, bytecode cached", "s", measure, lower=True, limit=limit_s
    )


def all_help(bench: Bench) -> Measurement:
    words = [(program, *names, "--help") for program, main in PROGRAMS.items() for names in command_names(main)]
    return slowest(bench, words, 0)


def command_names(command: click.Command) -> Iterator[tuple[str, ...]]:
    """What is written to call each command of a tree, from its root's () on."""
    yield ()
    for name, below in getattr(command, "commands", {}).items():
        yield from ((name, *names) for names in command_names(below))


def all_slips(bench: Bench) -> Measurement:
    teacher = ("teacher_cache", "fill", str(small_store(bench).path), "--teacher", "resnet10")
    return slowest(bench, [*SLIPS, teacher], 1, 2)


def status(bench: Bench) -> Measurement:
    return slowest(bench, [("teacher_cache", "status", str(small_store(bench).path))], 0)


def index(bench: Bench) -> Measurement:
    """A new store each time, which is removed between the turns."""
    (entry,) = small_store(bench).index.shards
    out = bench.scratch / "indexed"
    words = ("teacher_cache", "index", entry.path, "--store", str(out), "--policy", "deit", "--views", "16")
    return slowest(bench, [words], 0, clear=out)


def slowest(bench: Bench, commands: Sequence[tuple[str, ...]], *ends: int, clear: Path | None = None) -> Measurement:
    """The times of the command whose median is the largest; the note has the medians of all, the slowest first.

    ends: exit codes that they may have. clear: a folder that is removed before each.
    """
    found: dict[str, tuple[float, ...]] = {}
    environment = with_bytecode(bench.scratch)
    for words in commands[: bench.scale.startup_commands]:
        _time(words, ends, environment, clear)  # its files and its bytecode are there from now on
        found[" ".join(words)] = tuple(_time(words, ends, environment, clear) for _ in range(bench.repeats))
    ordered = sorted(found, key=lambda name: statistics.median(found[name]), reverse=True)
    told = ", ".join(f"{statistics.median(found[name]):.2f} {name}" for name in ordered)
    return Measurement(found[ordered[0]], note=f"seconds of {counted(len(found), 'command')}, medians: {told}")


def with_bytecode(scratch: Path) -> dict[str, str]:
    """This process's environment, but that Python keeps bytecode, in the scratch folder."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": str(scratch / "bytecode")}


def _time(words: tuple[str, ...], ends: tuple[int, ...], environment: dict[str, str], clear: Path | None) -> float:
    if clear is not None:
        shutil.rmtree(clear, ignore_errors=True)
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, cwd=ROOT, env=environment)
    seconds = time.perf_counter() - started
    if done.returncode not in ends:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BenchmarkError(f"{' '.join(words)} ended with {done.returncode}: {why}")
    return seconds
