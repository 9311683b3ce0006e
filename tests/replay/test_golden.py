"""What was cached must stay what is replayed, from release to release."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from numpy._core._multiarray_umath import __cpu_features__

from tests.replay.freeze import GOLDEN, golden_values


def test_parameters_mixes_and_digests_are_the_frozen_ones() -> None:
    frozen = json.loads((GOLDEN / "replay.json").read_text())
    values = golden_values()
    for name, policy in frozen.items():
        assert values[name]["params"] == policy["params"]
        assert values[name]["mix"] == policy["mix"]
        assert values[name]["digests"] == policy["digests"]
    assert values.keys() == frozen.keys()


_CPUINFO = Path("/proc/cpuinfo")
# not of another machine: an emulator may show its host's
CPU = _CPUINFO.read_text() if platform.machine() == "x86_64" and _CPUINFO.exists() else ""
NUMPY_2_1 = "AVX512F AVX512CD AVX512_KNL AVX512_KNM AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL"


@pytest.mark.skipif("avx512f" not in CPU, reason="this machine has no AVX-512 to do without")
def test_digests_do_not_need_avx_512() -> None:
    without = {
        "ATEN_CPU_CAPABILITY": "avx2",
        "OPENCV_CPU_DISABLE": "AVX512F,AVX512-SKX",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4" if "X86_V4" in __cpu_features__ else NUMPY_2_1,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    # these values, and that ranks and processes render what this one does
    tests = ["tests/replay/test_golden.py", "tests/test_invariants.py", "tests/replay/test_block.py"]
    words = ["-q", "-p", "no:cacheprovider", *tests, "-k", "not gloo and not workers and not avx"]
    again = [sys.executable, "-m", "pytest", *words]
    done = subprocess.run(again, env={**os.environ, **without}, cwd=GOLDEN.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
