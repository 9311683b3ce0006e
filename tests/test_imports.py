"""Which way imports go, and by which doors the large libraries come in."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.bright_shards import bright_store
from tests.support.brought import SLOW
from tests.support.filling import fill_store
from tests.support.forked import Forks

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
    "triton": {
        "teacher_cache/replay/gpu/kernels.py",
        "teacher_cache/replay/gpu/hash_kernels.py",
        "tools/benchmarks/renderer.py",  # which kernels there are, to tell their share of a device
    },
    "webdataset": {"tools/make_shards.py"},
    "zarr": {"teacher_cache/store/store.py", "teacher_cache/store/arrays.py", "teacher_cache/store/proof.py"},
    "numcodecs": {"teacher_cache/store/chunks.py"},
    "timm": {
        "teacher_cache/teacher/models.py",
        "student/model.py",
        "student/ema.py",
        "student/export.py",
        "student/hub.py",
        "student/run.py",
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
    },
    "concurrent": {"teacher_cache/processes/pool.py", "teacher_cache/processes/fork_server.py"}
    | {"teacher_cache/storage/objects.py", "teacher_cache/storage/hub.py"}  # threads that wait for answers
    | {"teacher_cache/shards/source.py"},
    "obstore": {"teacher_cache/storage/objects.py", "teacher_cache/storage/credentials.py"},
    "botocore": {"teacher_cache/storage/credentials.py"},
    "nvidia": {"tools/benchmarks/peers.py"},
    "wandb": {"student/tracker.py"},
    "huggingface_hub": {"student/hub.py", "student/preflight.py", "teacher_cache/storage/hub.py"},
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


def brought(entry: str, *words: str, cwd: Path = ROOT) -> tuple[int, str, set[str]]:
    """Run a command in a process of its own -> exit code, what it printed, and the slow libraries that it imported.

    entry is the module whose `main` the command is.
    """
    command, environment = [sys.executable, str(BROUGHT), entry, *words], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
    return done.returncode, *split(done.stdout + done.stderr)


def split(output: str) -> tuple[str, set[str]]:
    said, _, modules = output.rpartition("brought:")
    return said, set(modules.split())


@pytest.fixture(scope="module")
def all_but_torch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., tuple[int, str, set[str]]]]:
    """`brought`, in the folder where it is called, by a process that begins with all that a command may import but
    torch and what brings it: `brought` names these alone."""
    libraries = ("zarr", "scipy.stats", "teacher_cache.cli", "student.cli", "tools.inspect_cache", "student.recipe")
    rooms = ("store.store", "replay.render", "audit.tables", "shards.index", "messages.nearest")
    with Forks(tmp_path_factory.mktemp("logs"), [*libraries, *(f"teacher_cache.{room}" for room in rooms)]) as forks:

        def bring(entry: str, *words: str) -> tuple[int, str, set[str]]:
            command = forks.start(str(BROUGHT), [entry, *words])
            exit_code = command.wait()
            said, slow = split(command.output)
            return exit_code, said, slow & TORCHS

        yield bring


UNNEEDED = {"numpy", "pydantic", "rich"}  # by help and by what is mistyped: half a second where a processor is busy
ENTRIES = ("teacher_cache.cli", "student.cli", "tools.inspect_cache", "tools.make_shards")


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_imports_nothing_slow(entry: str) -> None:
    """Of the command and of all below it, shown in one process: what one of them imports is there to the end."""
    code = (
        "import click, sys\n"
        f"from {entry} import main\n"
        "def show(command, parent=None):\n"
        "    context = click.Context(command, parent, command.name)\n"
        "    assert 'Usage: ' in command.get_help(context)\n"
        "    for each in getattr(command, 'commands', {}).values():\n"
        "        yield each.name\n"
        "        yield from show(each, context)\n"
        f"print(*show(main), '|', *sorted({SLOW | UNNEEDED!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    shown, _, slow = done.stdout.partition("|")
    assert len(shown.split()) >= 4
    assert not {*slow.split()} & SLOW
    assert slow.split() == [] or entry.startswith("tools.")
    status, said, slow_itself = brought(entry, "--help")
    assert (status, slow_itself) == (0, set())
    assert "Usage: " in said


@pytest.mark.parametrize(
    ("entry", "words", "status"),
    [
        ("teacher_cache.cli", ("fil",), 2),
        ("teacher_cache.cli", ("fill", "s", "--teachr", "x"), 2),
        ("student.cli", ("train", "--stor", "s"), 2),
        ("student.cli", ("results", "nothing"), 1),
        ("student.cli", ("evaluate", "c.pt", "--val", "t", "--checkpoint", "x"), 2),
        ("tools.inspect_cache", ("s", "veiw"), 2),
        ("tools.make_shards", ("folder", "--sed", "1"), 2),
        ("tools.make_shards", ("folder", "nothing", "out"), 1),
        ("tools.make_shards", ("reshuffle", "nothing.tar", "out"), 1),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else None,
)
def test_what_is_mistyped_is_told_before_anything_slow_is_imported(
    entry: str, words: tuple[str, ...], status: int, tmp_path: Path
) -> None:
    exit_code, said, slow = brought(entry, *words, cwd=tmp_path)
    assert (exit_code, slow) == (status, set())
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


def test_labels_are_made_room_for_and_read_without_torch(
    tmp_path: Path, all_but_torch: Callable[..., tuple[int, str, set[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes seconds to import; making a store, its status, its records and most audits need none of it."""
    store = bright_store(tmp_path, counts=(70,))
    fill_store(store)
    (shard,) = tmp_path.rglob("*.tar")
    index = ("index", str(shard), "--store", "new", "--policy", "digits", "--views", "2")
    absent = ("--checkpoint", "nothing.pt")
    monkeypatch.chdir(tmp_path)
    for entry, words, status in (
        ("teacher_cache.cli", index, 0),
        ("teacher_cache.cli", index, 0),  # compared, as it is there now
        ("teacher_cache.cli", ("index", "--like", "new", "--store", "other"), 0),
        ("teacher_cache.cli", ("extend", "new", "--views", "4"), 0),
        ("teacher_cache.cli", ("verify", str(store.path), "--fraction", "0"), 0),
        ("teacher_cache.cli", ("verify", str(store.path), *absent), 1),
        ("teacher_cache.cli", ("fill", "new", "--teacher", "resnet10t", *absent), 1),
        ("tools.inspect_cache", (str(store.path), "summary"), 0),
        ("tools.inspect_cache", ("nothing",), 1),
    ):
        exit_code, said, torchs = all_but_torch(entry, *words)
        assert exit_code == status, said
        assert not torchs, words
    for entry, words, status in (
        ("teacher_cache.cli", ("status", str(store.path)), 0),
        ("teacher_cache.cli", ("status", "nothing"), 1),
        ("teacher_cache.cli", ("fill", "nothing"), 1),
        ("student.cli", ("train", "nothing", "--recipe", "deit_tiny", "--out", "run"), 1),
    ):
        exit_code, said, slow = brought(entry, *words, cwd=tmp_path)
        assert exit_code == status, said
        assert not slow, words


def test_a_name_of_no_model_is_told_before_torch_is_imported(
    tmp_path: Path, all_but_torch: Callable[..., tuple[int, str, set[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever one is given: only timm knows its models, and imports torch, but its source names them."""
    store = bright_store(tmp_path, counts=(70,))
    fill_store(store)
    (shard,) = map(str, tmp_path.rglob("*.tar"))
    (tmp_path / "own.toml").write_text('base = "digits_undistilled"\nmodel = "resnet10"\nmodel_args = {}\n')
    (tmp_path / "w.pth").touch()
    train = ("train", str(store.path), "--out", "run", "--allow-policy", "--recipe")
    finetune = ("finetune", "w.pth", str(store.path), "--out", "run", "--allow-policy")
    monkeypatch.chdir(tmp_path)
    file, out = "; or give the path of a checkpoint", ("--format", "safetensors", "--out", "m.safetensors")
    teacher, named = ("--teacher", "resnet10"), ("--model", "resnet10")
    for entry, words, start, end in (
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
    ):
        exit_code, said, torchs = all_but_torch(entry, *words)
        told = f"error: {start}timm has no model resnet10: did you mean 'resnet10t', 'resnet101' or 'resnet101c'? `"
        lines = [line for line in said.splitlines() if line.startswith(told)]
        assert exit_code == 1, said
        assert len(lines) == 1, said
        assert lines[0].endswith(f"list_models())'` lists them all{end}"), said
        assert not torchs, words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--format", "torch-export", "--out", "m.pt"), "m.pt: a file of --format torch-export is called *.pt2"),
        (("--format", "torch-export", "--out", "m.pt2"), "m.pt2 exists already: choose another --out, or --force"),
        (("--format", "torch-export", "--out", "f.pt2", "--force"), "f.pt2 is a folder: name a file in it with --out"),
        (("--format", "safetensors", "--out", "c.safetensors", "--force"), "c.safetensors is the checkpoint itself"),
    ],
)
def test_a_place_that_cannot_be_exported_to_is_told_before_torch_is_imported(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    for name in ("c.safetensors", "m.pt2"):
        (tmp_path / name).touch()
    (tmp_path / "f.pt2").mkdir()
    exit_code, said, slow = brought("student.cli", "export", "c.safetensors", *words, cwd=tmp_path)
    assert exit_code == 1
    assert said.startswith(f"error: {message}")
    assert said.count("\n") == 1
    assert slow == set()
