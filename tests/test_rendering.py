"""Both ways of rendering give the same views: on Triton's interpreter, in a process of its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.replay.gpu.test_gpu import UNABLE, release

ROOT = Path(__file__).parents[1]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed, which comes with torch for CUDA"
)


@needs_triton
def test_the_devices_way_on_the_interpreter() -> None:
    if release("triton") < UNABLE and release("numpy") >= (2, 4):
        pytest.skip("the interpreter of this Triton does not go with NumPy 2.4: take a later Triton")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/interpreted_rendering.py"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed in " in done.stdout
    assert not {"skipped", "failed", "error"} & set(done.stdout.splitlines()[-1].replace(",", "").split())
