"""Which way imports go, and by which doors the large libraries come in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOORS = {
    "torchvision": {"tools/make_shards.py"},
    "simplejpeg": {"teacher_cache/replay/decode.py"},
    "cv2": {
        f"teacher_cache/replay/{name}.py" for name in ("render", "geometry", "colour", "erase", "mix", "libraries")
    },
    "PIL": {f"teacher_cache/replay/{name}.py" for name in ("decode", "colour", "libraries")}
    | {"teacher_cache/audit/pictures.py", "teacher_cache/audit/thumbnails.py", "tools/make_shards.py"}
    | {"tools/benchmarks/photographs.py", "tools/benchmarks/peers.py"},
    "webdataset": {"tools/make_shards.py"},
    "zarr": {"teacher_cache/store.py", "teacher_cache/arrays.py", "teacher_cache/proof.py"},
    "numcodecs": {"teacher_cache/chunks.py"},
    "timm": {
        "teacher_cache/teacher.py",
        "student/model.py",
        "student/trained.py",
        "student/export.py",
        "student/train.py",
        "tools/benchmarks/models.py",
        "tools/benchmarks/peers.py",
    },
    "sklearn": {"tools/make_shards.py"},
    "scipy": {"teacher_cache/agreement.py", "teacher_cache/audit/intervals.py", "student/report.py"},
    "safetensors": {"teacher_cache/weights.py", "student/export.py"},
    "onnxruntime": {"student/export.py"},
    "pyarrow": {"teacher_cache/audit/export.py"},
    "plotly": {"teacher_cache/audit/report.py"},
    "jinja2": {"teacher_cache/audit/report.py"},
    "matplotlib": {"tools/benchmarks/plot.py"},
    "multiprocessing": {"teacher_cache/processes.py"},  # no pool of processes is made elsewhere
    "concurrent": {"teacher_cache/processes.py"},
    "nvidia": {"teacher_cache/replay/regions.py", "tools/benchmarks/peers.py"},
}


def modules() -> list[Path]:
    return sorted(path for room in ("teacher_cache", "student", "tools") for path in (ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            found.add(node.module or "")
    return found


def imports_from(path: Path, package: str) -> set[str]:
    return {name for name in imported(path) if name == package or name.startswith(f"{package}.")}


def test_there_is_something_to_look_at() -> None:
    assert len(modules()) > 30
    assert "teacher_cache.errors" in imported(ROOT / "teacher_cache/store.py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    place = str(path.relative_to(ROOT))
    if place.startswith("teacher_cache/replay/"):
        above = imports_from(path, "teacher_cache") - imports_from(path, "teacher_cache.replay")
        assert above <= {f"teacher_cache.{name}" for name in ("errors", "nearest", "settings", "shown")}
    if place.startswith("teacher_cache/"):
        assert not imports_from(path, "student")
    if not place.startswith("tools/"):
        assert not imports_from(path, "tools")
    assert not imports_from(path, "tests")


@pytest.mark.parametrize("library", DOORS)
def test_libraries_come_in_by_their_doors(library: str) -> None:
    users = {str(path.relative_to(ROOT)) for path in modules() if imports_from(path, library)}
    assert users == DOORS[library]


def test_importing_the_package_brings_nothing_heavy() -> None:
    script = "import sys, teacher_cache; print({'numpy', 'torch', 'zarr', 'PIL', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()", done.stderr


def test_reading_labels_takes_no_torch() -> None:
    """It takes seconds to import; `status` and most audits need none of it."""
    rooms = "teacher_cache.store, teacher_cache.status, teacher_cache.audit.summary, teacher_cache.audit.export"
    seen = "sorted({'torch', 'torchvision', 'timm'} & set(sys.modules))"
    code = f"import sys, {rooms}, tools.inspect_cache; print({seen})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
