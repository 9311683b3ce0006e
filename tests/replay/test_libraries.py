"""What a store records of the libraries that decide pixels."""

import json
import subprocess
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import PIL
import pytest
import torch

from teacher_cache.replay import libraries
from teacher_cache.replay.libraries import pixel_libraries, torch_version


def test_versions_are_what_each_library_calls_itself() -> None:
    found = pixel_libraries()
    assert found == {
        "torch": str(torch.__version__),
        "opencv": cv2.__version__,
        "simplejpeg": version("simplejpeg"),
        "pillow": PIL.__version__,
        "numpy": np.__version__,
    }
    assert list(found) == ["torch", "opencv", "simplejpeg", "pillow", "numpy"]  # as stores have them


def test_a_process_without_torch_says_the_same() -> None:
    code = (
        "import json, sys; from teacher_cache.replay.libraries import pixel_libraries; "
        "print(json.dumps([pixel_libraries(), 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [pixel_libraries(), False]


def test_torch_is_named_with_its_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the package's metadata says, and however the file writes it."""
    (tmp_path / "version.py").write_text("build = 'gitabc'\n__version__ = '9.8.7' + '+' + build\n")
    spec = ModuleSpec("torch", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(libraries.util, "find_spec", lambda name: spec)
    assert torch_version() == "9.8.7+gitabc"


def test_torch_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="torch"):
        torch_version()
