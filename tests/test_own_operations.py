"""A user's own augmentation from end to end: index, fill, verify and train with --ops, and what is refused without."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click import Group
from click.testing import CliRunner, Result

from student.cli import main as student
from student.loader import ViewLoader
from teacher_cache.cli import main as teacher_cache
from teacher_cache.errors import PlanError, PolicyError
from teacher_cache.rendering.choice import render_all
from teacher_cache.rendering.crew import PoolSettings
from teacher_cache.rendering.workers import RenderPool, RenderTask
from teacher_cache.replay.block import view_params
from teacher_cache.shards.read import read_block
from teacher_cache.store.labels import LabelReader
from teacher_cache.store.places import open_moved
from teacher_cache.store.store import Store
from tests.support.bright_shards import write_bright_shards
from tests.support.filling import TEACHERS
from tests.support.students import __file__ as students_file
from tools.inspect_cache import main as inspect_cache

VIEWS = 4
OWN = Path(__file__).with_name("support") / "own_operations.py"
SMALL = Path(__file__).with_name("support") / "small.toml"
CPU = ("--device", "cpu", "--workers", "0")


def run(group: Group, *words: object) -> Result:
    return CliRunner().invoke(group, [str(word) for word in words])


def refusal(result: Result) -> str:
    assert result.exit_code == 1, result.output
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert result.stderr.count("error: ") == 1
    return result.stderr.splitlines()[-1]


def index(folder: Path, store: Path, *options: object) -> Result:
    settings = ("--policy", "cifar", "--set", "size=8", "--set", "crop.scale=[0.5,1]", "--seed", 3, "--workers", 1)
    views = ("--views", VIEWS, "--group", 2, "--unit-samples", 64)
    return run(teacher_cache, "index", folder / "train-*.tar", "--store", store, *views, *settings, *options)


def fill(store: Path, *options: object) -> Result:
    teacher = ("--teacher", f"{TEACHERS}:brightness", "--batch-size", 32)
    return run(teacher_cache, "fill", store, *teacher, *CPU, *options)


def verify(store: Path, *options: object) -> Result:
    return run(teacher_cache, "verify", store, "--fraction", 1, "--workers", 0, *options)


def train(store: Path, *options: object) -> Result:
    model = f"model={students_file}:two_heads"
    out = store.parent / "run"
    return run(student, "train", store, "--recipe", SMALL, "--set", model, "--out", out, *CPU, *options)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards, the file of operations, and a store filled with both."""
    folder = tmp_path_factory.mktemp("own")
    write_bright_shards(folder, (130, 64))
    shutil.copy(OWN, folder / "mine.py")
    ops = ("--ops", f"{folder / 'mine.py'}:operations")
    made = index(folder, folder / "store", *ops)
    assert made.exit_code == 0, made.output
    finished = fill(folder / "store", *ops)
    assert finished.exit_code == 0, finished.output
    return folder


def test_labels_are_those_of_views_with_own_operations(filled: Path) -> None:
    store, ops = filled / "store", f"{filled / 'mine.py'}:operations"
    opened = open_moved(str(store), (), ops=ops)
    names = {
        operation.name
        for key in read_block(opened.index.place(0, 0)).keys
        for view in range(VIEWS)
        for operation in view_params(opened.policy, opened.seed, "train-0000.tar", key, view, (12, 10)).operations
    }
    assert names > {"roll", "darken"}
    checked = verify(store, "--ops", ops)
    assert checked.exit_code == 0, checked.output
    assert "16 (block, view)s of 2 shards and 2 groups checked: 0 differences" in checked.output
    trained = train(store, "--ops", ops)
    assert trained.exit_code == 0, trained.output
    assert "epoch 2/2" in trained.output


def test_rendering_processes_render_them_too(filled: Path) -> None:
    opened = open_moved(str(filled / "store"), (), ops=f"{filled / 'mine.py'}:operations")
    reader = LabelReader(opened)
    with RenderPool(PoolSettings(opened.policy, opened.seed, workers=1)) as pool:
        for rendered in render_all(pool, [RenderTask(0, opened.index.place(0, 1), (3, 0))]):
            assert rendered.block.digest == reader.digest(0, 1, rendered.view)


def test_every_command_that_is_to_render_them_on_a_gpu_says_that_it_does_not(filled: Path, tmp_path: Path) -> None:
    store, ops = filled / "store", ("--ops", f"{filled / 'mine.py'}:operations")
    said = "views are rendered on the CPU: policy cifar has operations of its own (darken, roll)"
    for out, words in (("sheet.png", ("sample", 7)), ("view.png", ("view", 7, 2))):
        words = (store, *words, *ops, "--out", tmp_path / out)
        assert run(inspect_cache, *words).stderr == ""
        plain = (tmp_path / out).read_bytes()
        done = run(inspect_cache, *words, "--render", "gpu", "--json")
        assert (done.exit_code, done.stderr) == (0, said + "\n")
        assert json.loads(done.stdout)["png"] == str(tmp_path / out)
        assert (tmp_path / out).read_bytes() == plain
    assert said in verify(store, *ops, "--device", "cpu", "--render", "gpu").output
    assert said in fill(store, *ops, "--estimate", "--render", "gpu").output
    shutil.copytree(store, tmp_path / "store")
    assert said in train(tmp_path / "store", *ops, "--render", "gpu").output


def test_a_store_knows_their_hash_and_not_their_place(filled: Path) -> None:
    metadata = "".join(path.read_text() for path in (filled / "store").rglob("zarr.json"))
    assert "mine.py" not in metadata
    assert '"names": [' in metadata
    report = run(inspect_cache, filled / "store", "--json")
    assert report.exit_code == 0, report.output
    assert json.loads(report.output)["labelled"] == 194 * VIEWS
    status = run(teacher_cache, "status", filled / "store", "--json")
    assert json.loads(status.output)["policy"]["own_operations"]["names"] == ["darken", "roll"]


@pytest.mark.parametrize("command", [fill, verify, train, lambda store, *options: fill(store, "--estimate", *options)])
def test_every_command_that_renders_refuses_without_and_with_another_file(
    filled: Path, tmp_path: Path, command: Callable[..., Result]
) -> None:
    store, changed = filled / "store", tmp_path / "changed.py"
    changed.write_text(OWN.read_text().replace("level * len(pixels) / 2", "level * len(pixels) / 3"))
    said = refusal(command(store))
    assert f"the policy of {store} has operations of its own (darken, roll; function operations of a file" in said
    assert "give --ops FILE.py:operations" in said
    assert "give the file as it was, or index a new store" in refusal(command(store, "--ops", f"{changed}:operations"))
    assert "are those of function operations" in refusal(command(store, "--ops", f"{filled / 'mine.py'}:others"))
    assert "cannot be read" in refusal(command(store, "--ops", f"{tmp_path / 'none.py'}:operations"))


def test_the_card_of_a_published_store_says_that_they_are_needed(filled: Path, tmp_path: Path) -> None:
    published = tmp_path / "published"
    assert run(teacher_cache, "publish", filled / "store", published).exit_code == 0
    card = (published / "README.md").read_text()
    sha256 = hashlib.sha256((filled / "mine.py").read_bytes()).hexdigest()
    assert f"| operations of its own | `operations` of a file that is needed as well, SHA-256 `{sha256}` |" in card
    given = "--shards 'SHARDS' --ops FILE.py:operations"
    assert f"teacher-cache verify published/store {given}\n" in card
    assert f"student train published/store {given} --val 'SHARDS'" in card


def test_a_store_without_own_operations_refuses_them(filled: Path, tmp_path: Path) -> None:
    assert index(filled, tmp_path / "store").exit_code == 0
    said = refusal(fill(tmp_path / "store", "--ops", f"{OWN}:operations"))
    assert "has no operations of its own: leave --ops" in said


def test_index_refuses_operations_that_do_not_fit_the_policy(filled: Path, tmp_path: Path) -> None:
    ops = ("--ops", f"{OWN}:operations")
    said = refusal(index(filled, tmp_path / "store", "--set", "rand_augment=none", *ops))
    assert "policy cifar has no section rand_augment, to which --ops adds operations" in said
    said = refusal(index(filled, tmp_path / "store", "--set", "rand_augment.operations=['blur']"))
    assert "rand_augment.operations.0: no operation 'blur': `teacher-cache policies deit` has them all; --ops" in said
    assert not (tmp_path / "store").exists()


def test_a_loop_of_ones_own_takes_them_or_the_opened_store(filled: Path) -> None:
    ops = f"{filled / 'mine.py'}:operations"
    opened = open_moved(str(filled / "store"), (), ops=ops)
    how = {"batch_size": 32, "epochs": 1, "repeats": 2, "workers": 0}
    with ViewLoader(opened, **how) as loader, ViewLoader(filled / "store", **how, ops=ops) as named:
        both = list(zip(loader, named, strict=True))
    assert sum(len(batch.labels) for batch, _ in both) == 3 * 64 // 2 // 32 * 64
    assert all(torch.equal(batch.views, again.views) for batch, again in both)
    with pytest.raises(PolicyError, match=r"the policy of .* has operations of its own .*: give --ops"):
        ViewLoader(filled / "store", **how)
    with pytest.raises(PlanError, match="shards and ops are for a store that is named by its path: "):
        ViewLoader(opened, **how, ops=ops)
    with (
        pytest.raises(PolicyError, match=r"policy cifar has operations of its own .*: give --ops"),
        ViewLoader(Store.open(filled / "store"), batch_size=32, epochs=1, workers=0) as loader,
    ):
        next(iter(loader))


def test_a_failing_operation_stops_a_fill_by_name(filled: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def operations():\n    return {'half': lambda pixels, level: pixels[::2]}\n")
    ops = ("--ops", f"{file}:operations")
    assert index(filled, tmp_path / "store", *ops).exit_code == 0
    said = refusal(fill(tmp_path / "store", "--skip-bad", *ops))
    assert "error: shard train-0000.tar, key s" in said
    assert "operation half at level" in said
    assert "returned an array (4, 8, 3) of uint8, expected (8, 8, 3) of uint8; correct it and index a new store" in said
    assert not Store.open(tmp_path / "store").committed().any()


def test_an_operation_that_is_no_pure_function_is_found(filled: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import random\ndef operations():\n    return {'flicker': lambda pixels, level: pixels ^ random.randrange(8)}\n"
    )
    ops = ("--ops", f"{file}:operations")
    assert index(filled, tmp_path / "store", *ops, "--set", "rand_augment.operations=['flicker']").exit_code == 0
    said = refusal(fill(tmp_path / "store", *ops))  # which renders its first block again
    assert "view 0: rendered twice, the pixels differ, and nothing was written: an operation of --ops gives" in said
