"""How commands end: what is printed where, and the exit code."""

import errno
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from teacher_cache.endings import INTERRUPTED, OneLineErrors
from teacher_cache.errors import StoreError


def ended(error: BaseException | None) -> tuple[int, str, str]:
    """A command that meets an error -> exit code, what is on standard output and on standard error."""

    @click.group(cls=OneLineErrors)
    def main() -> None:
        pass

    @main.command()
    def work() -> None:
        click.echo("at work")
        if error is not None:
            raise error

    done = CliRunner().invoke(main, ["work"])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (None, 0, ""),
        (StoreError("s has\nno index"), 1, "error: s has\\nno index\n"),
        (
            FileNotFoundError(2, "No such file or directory", "a.tar"),
            1,
            "error: a.tar: No such file or directory: check the path\n",
        ),
        (
            OSError(errno.EMFILE, "Too many files"),
            1,
            "error: Too many files: raise the limit of open files (`ulimit -n`), then run the same command again\n",
        ),
        (
            OSError(errno.ENODEV, "No such device"),
            1,
            "error: No such device: see to it, then run the same command again\n",
        ),
        (KeyboardInterrupt(), INTERRUPTED, "stopped\n"),
    ],
)
def test_an_error_is_one_line_on_standard_error(error: BaseException | None, code: int, told: str) -> None:
    assert ended(error) == (code, "at work\n", told)


@pytest.mark.parametrize("allocate", [lambda: np.empty(2**58), lambda: torch.empty(2**58)])
def test_too_little_memory_is_one_line(allocate: Callable[[], object]) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as met:
        allocate()
    code, _, told = ended(met.value)
    assert code == 1
    assert re.fullmatch(r"error: memory is too small \(.*\): lower the numbers given, or free memory\n", told)
    assert ended(RuntimeError("of ours"))[2] == ""


def test_a_fault_of_ours_is_not_hidden() -> None:
    assert ended(ZeroDivisionError("of ours"))[:2] == (1, "at work\n")
    assert ended(ZeroDivisionError("of ours"))[2] == ""  # a traceback is Python's to print


def test_many_extra_arguments_are_three_and_a_count() -> None:
    main = OneLineErrors("main", {"work": click.Command("work")})
    done = CliRunner().invoke(main, ["work", *"abcde"])
    assert done.exit_code == 2
    assert "Got unexpected extra arguments (a, b, c and 2 more): a pattern of an option goes in quotes" in done.stderr


_OPENS = """
import os, sys, click
from teacher_cache.endings import OneLineErrors

def work():
    click.echo("to nobody")
    open(sys.argv[2], "w").write(str(min(os.pipe())))

argument = click.Argument(["to"], expose_value=False)
OneLineErrors("main", {"work": click.Command("work", callback=work, params=[argument])})()
"""


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&- 2>&-", "2>&-", "<&-"])
def test_no_file_or_pipe_of_ours_takes_the_place_of_a_stream_that_is_closed(tmp_path: Path, closed: str) -> None:
    """Processes that were forked with such pipes ended without a word."""
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", _OPENS, "work", str(tmp_path / "lowest")]
    assert subprocess.run(command).returncode == 0
    assert int((tmp_path / "lowest").read_text()) > 2


def test_commands_are_listed_with_their_first_sentence_whole() -> None:
    sentence = "What it does, in more words than one line of a narrow terminal has room for"
    main = OneLineErrors("main", {"work": click.Command("work", help=f"{sentence}. And how.")})
    listed = CliRunner().invoke(main, ["--help"]).output.partition("Commands:")[2]
    assert " ".join(listed.split()) == f"work {sentence}."
