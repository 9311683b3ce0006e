"""How the library is built where others build it: by their compiler and its flags, or by none."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.replay.native.test_kernels import INCLUDED, KERNELS, SOURCES, compiler_here, emulator, fuzzed
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


def checked_out(folder: Path) -> Path:
    """The packages."""
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


@pytest.fixture(scope="module")
def flagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout, in a folder whose name shells take for two, where CFLAGS bend arithmetic and are of one processor."""
    checkout = checked_out(tmp_path_factory.mktemp("flagged") / "a checkout")
    flags = "-Ofast -ffast-math -march=native"
    (library,) = built(checkout, CC=compiler_here(), CFLAGS=flags, LDFLAGS=flags)
    assert library.relative_to(checkout) == NATIVE.relative_to(ROOT) / "libreplay.so"
    return checkout


def test_a_library_built_with_flags_that_bend_arithmetic_has_the_specifications_bytes(flagged: Path) -> None:
    """At -Ofast and -ffast-math compilers also link what makes a process lose small floats."""
    done = python_of(flagged, "-c", RENDER.format(installed=str(ROOT / "tests/replay/native/installed.py")))
    assert done.returncode == 0, done.stderr
    assert "20 views rendered with " in done.stdout


def test_a_library_built_for_this_processor_runs_on_one_that_has_less(flagged: Path, tmp_path: Path) -> None:
    """As in a checkout that several share: the fuzz, linked with what was built."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip(f"needs Linux on x86-64, not {platform.system()} on {platform.machine()}")
    emulated = [emulator("x86_64"), "-cpu", "Conroe"]
    objects = [path for path in (flagged / "build").rglob("*.o") if f"{path.stem}.c" not in INCLUDED[KERNELS]]
    command = [compiler_here(), "-std=c11", f"-I{SOURCES}", str(KERNELS), *map(str, objects), "-lm"]
    subprocess.run([*command, "-o", str(tmp_path / "fuzz")], check=True)
    assert fuzzed([*emulated, str(tmp_path / "fuzz")], "20") == ["plain"]


@pytest.mark.parametrize("compiler", ["/no/compiler", "false"])
def test_without_a_compiler_that_works_nothing_is_built_and_a_line_says_so(compiler: str, tmp_path: Path) -> None:
    checkout = checked_out(tmp_path)
    assert built(checkout, CC=compiler) == []
    done = python_of(checkout, "-m", "teacher_cache.rendering")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("views are rendered by NumPy")
    assert done.stdout.count("\n") == 1
