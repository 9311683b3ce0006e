import ctypes
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from teacher_cache.errors import RenderError
from teacher_cache.rendering.choice import choose_rendering
from teacher_cache.replay.native import library
from teacher_cache.replay.native.sources import sources_hash
from teacher_cache.replay.policy import load_policy
from tests.replay.native.test_kernels import compiler_here
from tests.replay.native.test_views import ABSENT

NATIVE = library._HERE
built = pytest.mark.skipif(library.load() is None, reason=ABSENT)


@built
def test_a_thread_keeps_its_workspace_and_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.SWITCH, raising=False)
    mine = library.workspace()
    assert mine is not None
    assert library.workspace() is mine
    others: list[library.Workspace | None] = []
    thread = threading.Thread(target=lambda: others.append(library.workspace()))
    thread.start()
    thread.join()
    assert others[0] is not None
    assert others[0] is not mine


@built
def test_the_best_kernels_are_taken_and_fewer_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.SWITCH, raising=False)
    held = library.workspace()
    assert held is not None
    assert held.kernels == library.offered()[-1]
    monkeypatch.setenv(library.SWITCH, library.offered()[0])
    fewer = library.workspace()
    assert fewer is not None
    assert fewer.kernels == library.offered()[0]


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.SWITCH, "off")
    assert library.workspace() is None


@built
def test_an_unknown_switch_and_instructions_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.SWITCH, "fast")
    with pytest.raises(RenderError, match=r"TEACHER_CACHE_NATIVE='fast' is unknown; give off, .*, or leave it out"):
        library.workspace()
    held = library.load()
    assert held is not None
    lacking = [kernels for kernels in library.KERNELS if kernels not in library.offered()]
    for kernels in lacking:
        with pytest.raises(RenderError, match="this processor lacks its instructions"):
            library.opened(held, kernels)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A package's folder that the library is looked for in, empty."""
    monkeypatch.delenv(library.SWITCH, raising=False)
    monkeypatch.setattr(library, "_HERE", tmp_path)
    monkeypatch.setattr(library, "_held", threading.local())
    library.load.cache_clear()
    yield tmp_path
    library.load.cache_clear()


@pytest.mark.usefixtures("elsewhere")
def test_a_package_without_it_renders_with_numpy_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert library.load() is None
    assert library.offered() == []
    said = library.lacking()
    assert said is not None
    assert re.fullmatch(r"views are rendered by NumPy, .*: the native library is not built, for want of .*; .*", said)
    policy, device = load_policy("digits"), torch.device("cpu")
    assert choose_rendering("cpu", policy, device).said == choose_rendering("auto", policy, device).said == said
    monkeypatch.setenv(library.SWITCH, "off")
    assert library.lacking() is None


@built
def test_a_library_of_other_sources_is_not_used(elsewhere: Path) -> None:
    for path in [*NATIVE.glob("*.c"), *NATIVE.glob("*.h"), NATIVE / "libreplay.so"]:
        (elsewhere / path.name).write_bytes(path.read_bytes())
    assert isinstance(library.load(), ctypes.CDLL)
    assert library.lacking() is None
    (elsewhere / "colour.c").write_text((elsewhere / "colour.c").read_text() + "\n")
    library.load.cache_clear()
    assert library.load() is None
    assert "the native library was built from other sources than these; install again" in (library.lacking() or "")


def test_a_library_that_cannot_be_loaded_is_not_used(elsewhere: Path) -> None:
    """As in a checkout that machines with other processors share."""
    (elsewhere / "libreplay.so").write_bytes(b"of another kind" * 1000)
    assert library.load() is None
    assert "the native library is not one that can be loaded here; install again" in (library.lacking() or "")


@pytest.mark.parametrize("code", ["int other;", 'const char *replay_sources(void) { return "older"; }'])
def test_a_library_without_the_functions_of_this_one_is_not_used(code: str, elsewhere: Path) -> None:
    """As one is that was built before a `git pull` brought more of them."""
    (elsewhere / "other.c").write_text(code)
    command = [compiler_here(), "-shared", "-fPIC", str(elsewhere / "other.c"), "-o", str(elsewhere / "libreplay.so")]
    subprocess.run(command, check=True)
    assert library.load() is None
    assert "the native library was built from other sources than these; install again" in (library.lacking() or "")
    assert library.offered() == []
    assert library.workspace() is None


@pytest.mark.usefixtures("elsewhere")
def test_an_unknown_switch_is_refused_without_the_library_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.SWITCH, "fast")
    with pytest.raises(RenderError, match="TEACHER_CACHE_NATIVE='fast' is unknown"):
        library.workspace()
    monkeypatch.setenv(library.SWITCH, library.KERNELS[0])
    assert library.workspace() is None


def test_what_is_said_of_an_unknown_switch_is_one_line() -> None:
    """To `make install`, too."""
    environ = {**os.environ, library.SWITCH: "fast"}
    command = [sys.executable, "-m", "teacher_cache.rendering"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"error: TEACHER_CACHE_NATIVE='fast' is unknown; give off, .*, or leave it out\n", done.stderr)


def test_sources_are_told_apart_by_names_and_bytes(tmp_path: Path) -> None:
    assert sources_hash(tmp_path) is None
    (tmp_path / "a.c").write_bytes(b"int a;")
    first = sources_hash(tmp_path)
    (tmp_path / "notes.txt").write_bytes(b"beside")
    assert sources_hash(tmp_path) == first
    (tmp_path / "a.c").rename(tmp_path / "b.c")
    renamed = sources_hash(tmp_path)
    (tmp_path / "b.c").write_bytes(b"int b;")
    assert len({first, renamed, sources_hash(tmp_path)}) == 3
