import ctypes
import threading
from pathlib import Path

import pytest

from teacher_cache.errors import RenderError
from teacher_cache.replay.native import library
from teacher_cache.replay.native.sources import sources_hash
from tests.replay.native.test_views import ABSENT

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


def test_a_package_without_it_renders_with_numpy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(library.SWITCH, raising=False)
    monkeypatch.setattr(library, "_HERE", tmp_path)
    library.load.cache_clear()
    try:
        assert library.load() is None
    finally:
        library.load.cache_clear()


@built
def test_a_library_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = library._HERE
    for path in [*here.glob("*.c"), *here.glob("*.h"), here / "libreplay.so"]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(library, "_HERE", tmp_path)
    library.load.cache_clear()
    try:
        assert isinstance(library.load(), ctypes.CDLL)
        (tmp_path / "colour.c").write_text((tmp_path / "colour.c").read_text() + "\n")
        library.load.cache_clear()
        assert library.load() is None
    finally:
        library.load.cache_clear()


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
