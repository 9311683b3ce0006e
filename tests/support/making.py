"""`make` of this repository, in environments of a test's own."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.forked import CLIENT, Forks

ROOT = Path(__file__).parents[2]


def environment(folder: Path, script: str) -> Path:
    """A folder as `make install` leaves it, whose programs run this shell script."""
    (folder / "bin").mkdir(parents=True)
    for name in ("python", "torchrun"):
        program = folder / "bin" / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    (folder / ".installed").touch()
    return folder


def forking_environment(folder: Path, forks: Forks) -> Path:
    """The same, whose programs do what they are asked, in forked processes."""
    return environment(folder, f'exec {sys.executable} -S {CLIENT} {forks.socket} "$@"')


def make(target: str, *variables: str, code: int = 0) -> str:
    """Run a target; what it printed."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "--no-print-directory", target, *variables],
        cwd=ROOT,
        env=plain,
        capture_output=True,
        text=True,
        timeout=240,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == code, printed
    return printed
