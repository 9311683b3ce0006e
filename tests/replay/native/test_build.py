"""How the library is built where others build it: by their compiler and its flags, or by none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.replay.native.test_kernels import compiler_here
from tests.replay.native.test_library import NATIVE
from tests.test_packaging import COPIED, ROOT, sources_of

SETUP = "from setuptools import setup; setup(script_name='setup.py')"
RENDER = """
import runpy
import numpy as np
runpy.run_path({installed!r}, run_name='__main__')
smallest = np.finfo(np.float32).tiny
assert smallest * np.float32(0.5) > 0, 'loading it has changed how this process computes'
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Of the packages, in a folder whose name shells take for two."""
    folder = tmp_path / "a checkout"
    for name in (*COPIED, *sources_of("teacher_cache/**/*", "student/*.py")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def built(checkout: Path, **environ: str) -> list[Path]:
    """What building leaves, which ends well whether there is a compiler or not."""
    command = [sys.executable, "-c", SETUP, "-q", "build_ext", "--inplace"]
    given = {**os.environ, **environ}
    done = subprocess.run(command, cwd=checkout, env=given, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return list(checkout.glob("teacher_cache/**/*.so"))


def python_of(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": f"{checkout}{os.pathsep}{ROOT}"}
    environ.pop("TEACHER_CACHE_NATIVE", None)
    return subprocess.run([sys.executable, *words], cwd=checkout, env=environ, capture_output=True, text=True)


def test_a_library_built_with_flags_that_bend_arithmetic_has_the_specifications_bytes(checkout: Path) -> None:
    """CFLAGS are anybody's; at -Ofast and -ffast-math compilers also link what makes a process lose small floats."""
    flags = "-Ofast -ffast-math"
    (library,) = built(checkout, CC=compiler_here(), CFLAGS=flags, LDFLAGS=flags)
    assert library.relative_to(checkout) == NATIVE.relative_to(ROOT) / "libreplay.so"
    done = python_of(checkout, "-c", RENDER.format(installed=str(ROOT / "tests/replay/native/installed.py")))
    assert done.returncode == 0, done.stderr
    assert "20 views rendered with " in done.stdout


@pytest.mark.parametrize("compiler", ["/no/compiler", "false"])
def test_without_a_compiler_that_works_nothing_is_built_and_a_line_says_so(compiler: str, checkout: Path) -> None:
    assert built(checkout, CC=compiler) == []
    done = python_of(checkout, "-m", "teacher_cache.rendering")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("views are rendered by NumPy")
    assert done.stdout.count("\n") == 1
