"""Which way imports go, and by which doors the large libraries come in."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from teacher_cache.replay.native.library import lacking
from tests.support.bright_shards import bright_store
from tests.support.brought import SLOW, UNNEEDED
from tests.support.filling import fill_store

ROOT = Path(__file__).parents[1]
DOORS = {
    "torchvision": {"tools/make_shards.py"},
    "simplejpeg": {"teacher_cache/replay/decode.py"},
    "cv2": {
        f"teacher_cache/replay/{name}.py" for name in ("render", "geometry", "colour", "erase", "mix", "libraries")
    },
    "PIL": {f"teacher_cache/replay/{name}.py" for name in ("decode", "colour", "libraries")}
    | {
        "teacher_cache/audit/pictures.py",
        "teacher_cache/audit/thumbnails.py",
        "tools/make_shards.py",
        "tools/restart_markers.py",
    }
    | {"tools/benchmarks/photographs.py", "tools/benchmarks/peers.py"},
    "triton": {
        "teacher_cache/replay/gpu/kernels.py",
        "teacher_cache/replay/gpu/hash_kernels.py",
        "tools/benchmarks/renderer.py",  # which kernels there are, to tell their share of a device
    },
    "webdataset": {"tools/make_shards.py"},
    "zarr": {"teacher_cache/store/making.py", "teacher_cache/store/arrays.py", "teacher_cache/store/proof.py"},
    "numcodecs": {"teacher_cache/store/chunks.py"},
    "timm": {
        "teacher_cache/teacher/models.py",
        "student/model.py",
        "student/ema.py",
        "student/export.py",
        "student/hub.py",
        "student/optim.py",
        "tools/benchmarks/models.py",
        "tools/benchmarks/peers.py",
    },
    "sklearn": {"tools/make_shards.py"},
    "scipy": {
        "teacher_cache/store/agreement.py",
        "teacher_cache/audit/intervals.py",
        "teacher_cache/store/simulated.py",
        "tools/topk_table.py",
        "tools/evidence/compare.py",
    },
    "safetensors": {"teacher_cache/teacher/weights.py", "student/export.py"},
    "onnxruntime": {"student/export.py"},
    "pyarrow": {"teacher_cache/audit/export.py"},
    "plotly": {"teacher_cache/audit/report.py"},
    "jinja2": {"teacher_cache/audit/report.py"},
    "matplotlib": {"student/curves.py", "tools/benchmarks/plot.py", "tools/evidence/plots.py"},
    "multiprocessing": {  # no pool of processes is made elsewhere
        "teacher_cache/processes/pool.py",
        "teacher_cache/processes/fork_server.py",
        "teacher_cache/processes/ties.py",
        "teacher_cache/processes/shared.py",  # a descriptor goes with a process that is started
    },
    "concurrent": {"teacher_cache/processes/pool.py", "teacher_cache/processes/fork_server.py"}
    | {"teacher_cache/storage/objects.py", "teacher_cache/storage/hub.py"}  # threads that wait for answers
    | {"teacher_cache/shards/source.py", "tools/make_shards.py"},
    "obstore": {"teacher_cache/storage/objects.py", "teacher_cache/storage/credentials.py"},
    "botocore": {"teacher_cache/storage/credentials.py"},
    "nvidia": {"tools/benchmarks/peers.py"},
    "wandb": {"student/tracker.py"},
    "huggingface_hub": {"student/hub.py", "student/arguments.py", "student/trained.py", "teacher_cache/storage/hub.py"},
    "ray": {"teacher_cache/actors.py"},
    "trackio": {"student/tracker.py"},
}


def modules() -> list[Path]:
    return sorted(path for room in ("teacher_cache", "student", "tools") for path in (ROOT / room).rglob("*.py"))


@cache
def imported(path: Path) -> frozenset[str]:
    """Every module that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            found.add(node.module or "")
    return frozenset(found)


def imports_from(path: Path, package: str) -> set[str]:
    return {name for name in imported(path) if name == package or name.startswith(f"{package}.")}


def test_there_is_something_to_look_at() -> None:
    assert len(modules()) > 30
    assert "teacher_cache.errors" in imported(ROOT / "teacher_cache/store/store.py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    place = str(path.relative_to(ROOT))
    if place.startswith("teacher_cache/replay/"):
        above = imports_from(path, "teacher_cache") - imports_from(path, "teacher_cache.replay")
        assert above <= {
            f"teacher_cache.{name}" for name in ("errors", "settings", "messages.nearest", "messages.shown")
        }
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


BROUGHT = ROOT / "tests" / "support" / "brought.py"
TORCHS = {"torch", "torchvision", "timm"}
Command = tuple[str, tuple[str, ...]]  # the module whose `main` it is, and its words


def brought(*commands: Command, cwd: Path = ROOT) -> Iterator[tuple[int, str, set[str]]]:
    """Run commands one after the other in a process of their own -> of each its exit code, what it printed, and the
    slow libraries that it, or one before it, imported."""
    words, environment = [sys.executable, str(BROUGHT), json.dumps(commands)], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd, env=environment, check=True
    )
    *parts, rest = re.split(r"^brought: (\d+)(.*)\n", done.stdout, flags=re.MULTILINE)
    assert (rest, len(parts)) == ("", 3 * len(commands)), done.stdout
    for said, code, modules in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        yield int(code), said, set(modules.split())


ENTRIES = ("teacher_cache.cli", "student.cli", "tools.inspect_cache", "tools.make_shards")


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_imports_nothing_slow(entry: str) -> None:
    """Of the command and of all below it, shown in one process: what one of them imports is there to the end."""
    code = (
        "import click, sys\n"
        f"from {entry} import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit as ended:\n"
        f"    print('|', ended.code, *sorted({SLOW!r} & set(sys.modules)), '|')\n"
        "def show(command, parent=None):\n"
        "    context = click.Context(command, parent, command.name)\n"
        "    assert 'Usage: ' in command.get_help(context)\n"
        "    for each in getattr(command, 'commands', {}).values():\n"
        "        yield each.name\n"
        "        yield from show(each, context)\n"
        f"print(*show(main), '|', *sorted({SLOW | UNNEEDED!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    said, of_itself, shown, slow = done.stdout.split("|")
    assert "Usage: " in said
    assert of_itself.split() == ["0"]
    assert len(shown.split()) >= 4
    assert not {*slow.split()} & SLOW
    assert slow.split() == [] or entry.startswith("tools.")


@pytest.mark.parametrize(
    ("entry", "mistyped"),
    [
        ("teacher_cache.cli", {("fil",): 2, ("fill", "s", "--teachr", "x"): 2}),
        (
            "student.cli",
            {
                ("train", "--stor", "s"): 2,
                ("evaluate", "c.pt", "--val", "t", "--checkpoint", "x"): 2,
                ("evaluate", "deit_tiny_patch16_22", "--val", "t"): 1,
                ("export", "deit_tiny_patch16_22", "--format", "onnx", "--out", "x.onnx"): 1,
                ("results", "nothing"): 1,
            },
        ),
        ("tools.inspect_cache", {("s", "veiw"): 2}),
        (
            "tools.make_shards",
            {
                ("folder", "--sed", "1"): 2,
                ("folder", "nothing", "out"): 1,
                ("reshuffle", "nothing.tar", "out"): 1,
            },
        ),
    ],
)
def test_what_is_mistyped_is_told_before_anything_slow_is_imported(
    entry: str, mistyped: dict[tuple[str, ...], int], tmp_path: Path
) -> None:
    found = brought(*((entry, words) for words in mistyped), cwd=tmp_path)
    for (words, status), (exit_code, said, slow) in zip(mistyped.items(), found, strict=True):
        assert exit_code == status, said
        assert slow <= (UNNEEDED if entry.startswith("tools.") or words[0] == "results" else set()), words
        assert "rror: " in said


def test_help_of_a_command_in_a_group_imports_no_more() -> None:
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('|', *sorted({SLOW | UNNEEDED!r} & set(sys.modules))))\n"
        "from student.cli import main\n"
        "main(['recipes', 'show', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    shown, _, slow = done.stdout.partition("|")
    assert "recipes show" in shown
    assert slow.split() == []


def test_labels_are_made_room_for_and_read_without_torch(tmp_path: Path) -> None:
    """It takes seconds to import; making a store, its status, its records and most audits need none of it, nor do
    pictures that the native library renders."""
    store = bright_store(tmp_path, counts=(70,))
    fill_store(store)
    (shard,) = tmp_path.rglob("*.tar")
    index = ("index", str(shard), "--store", "new", "--policy", "digits", "--views", "2")
    absent = ("--checkpoint", "nothing.pt")
    without_torch = (
        ("teacher_cache.cli", index, 0),
        ("teacher_cache.cli", index, 0),  # compared, as it is there now
        ("teacher_cache.cli", ("index", "--like", "new", "--store", "other"), 0),
        ("teacher_cache.cli", ("extend", "new", "--views", "4"), 0),
        ("teacher_cache.cli", ("verify", str(store.path), "--fraction", "0"), 0),
        ("teacher_cache.cli", ("verify", str(store.path), *absent), 1),
        ("teacher_cache.cli", ("fill", "new", "--teacher", "resnet10t", *absent), 1),
        ("tools.inspect_cache", (str(store.path), "summary"), 0),
        *(() if lacking() else (("tools.inspect_cache", (str(store.path), "sample", "3", "--out", "s.png"), 0),)),
        ("tools.inspect_cache", ("nothing",), 1),
    )
    found = brought(*((entry, words) for entry, words, _ in without_torch), cwd=tmp_path)
    for (_, words, status), (exit_code, said, slow) in zip(without_torch, found, strict=True):
        assert exit_code == status, said
        assert not slow & TORCHS, words
    quick = (
        ("teacher_cache.cli", ("status", str(store.path)), 0),
        ("teacher_cache.cli", ("status", "nothing"), 1),
        ("teacher_cache.cli", ("fill", "nothing"), 1),
        ("student.cli", ("train", "nothing", "--recipe", "deit_tiny", "--out", "run"), 1),
    )
    found = brought(*((entry, words) for entry, words, _ in quick), cwd=tmp_path)
    for (_, words, status), (exit_code, said, slow) in zip(quick, found, strict=True):
        assert exit_code == status, said
        assert not slow & SLOW, words


def test_a_name_of_no_model_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    """Wherever one is given: only timm knows its models, and imports torch, but its source names them."""
    store = bright_store(tmp_path, counts=(70,))
    fill_store(store)
    (shard,) = map(str, tmp_path.rglob("*.tar"))
    (tmp_path / "own.toml").write_text('base = "digits_undistilled"\nmodel = "resnet10"\nmodel_args = {}\n')
    (tmp_path / "w.pth").touch()
    train = ("train", str(store.path), "--out", "run", "--allow-policy", "--recipe")
    finetune = ("finetune", "w.pth", str(store.path), "--out", "run", "--allow-policy")
    file, out = "; or give the path of a checkpoint", ("--format", "safetensors", "--out", "m.safetensors")
    teacher, named = ("--teacher", "resnet10"), ("--model", "resnet10")
    asked = (
        ("teacher_cache.cli", ("fill", str(store.path), *teacher), "", ""),
        ("teacher_cache.cli", ("verify", str(store.path), *teacher), "", ""),
        ("student.cli", (*train, "own.toml"), "model: ", ""),
        ("student.cli", (*train, "digits_undistilled", "--set", "model=resnet10"), "model: ", ""),
        ("student.cli", (*train, "digits_undistilled", *named), "model: ", ""),
        ("student.cli", (*train, "deit_tiny", *teacher), "", ""),
        ("student.cli", (*finetune, *named), "", ""),
        ("student.cli", ("finetune", "resnet10", *finetune[2:]), "", file),
        ("student.cli", ("evaluate", "resnet10", "--val", shard), "", file),
        ("student.cli", ("evaluate", "w.pth", "--val", shard, *named), "", ""),
        ("student.cli", ("evaluate", "w.pth", "--val", shard, *teacher), "", ""),
        ("student.cli", ("export", "resnet10", *out), "", file),
        ("student.cli", ("export", "w.pth", *out, *named), "", ""),
    )
    found = brought(*((entry, words) for entry, words, _, _ in asked), cwd=tmp_path)
    for (_, words, start, end), (exit_code, said, slow) in zip(asked, found, strict=True):
        told = f"error: {start}timm has no model resnet10: did you mean 'resnet10t', 'resnet101' or 'resnet101c'? `"
        lines = [line for line in said.splitlines() if line.startswith(told)]
        assert exit_code == 1, said
        assert len(lines) == 1, said
        assert lines[0].endswith(f"list_models())'` lists them all{end}"), said
        assert not slow & TORCHS, words


def test_a_place_that_cannot_be_exported_to_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    for name in ("c.safetensors", "m.pt2"):
        (tmp_path / name).touch()
    (tmp_path / "f.pt2").mkdir()
    captured, weights = ("--format", "torch-export", "--out"), ("--format", "safetensors", "--out")
    told = {
        (*captured, "m.pt"): "m.pt: a file of --format torch-export is called *.pt2",
        (*captured, "m.pt2"): "m.pt2 exists already: choose another --out, or --force",
        (*captured, "f.pt2", "--force"): "f.pt2 is a folder: name a file in it with --out",
        (*weights, "c.safetensors", "--force"): "c.safetensors is the checkpoint itself",
    }
    found = brought(*(("student.cli", ("export", "c.safetensors", *words)) for words in told), cwd=tmp_path)
    for message, (exit_code, said, slow) in zip(told.values(), found, strict=True):
        assert exit_code == 1
        assert said.startswith(f"error: {message}")
        assert said.count("\n") == 1
        assert not slow & SLOW
