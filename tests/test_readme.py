"""What README shows is run."""

import re
import subprocess
import sys
from pathlib import Path

from student.recipe import shipped_recipes
from teacher_cache.cli import main as teacher_cache
from teacher_cache.replay.policy import shipped_policies
from tests.support.bright_shards import bright_store
from tests.support.filling import fill_store

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def shown(first_line: str) -> str:
    """The Python block that begins with this line."""
    (block,) = [
        block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if block.startswith(first_line)
    ]
    return block


def test_the_notebook_lines_run(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(64,), views=16)
    fill_store(store)
    lines = shown("import teacher_cache\n")
    changed = lines.replace('"runs/digits/store"', repr(str(store.path)))
    assert changed != lines
    (tmp_path / "lines.py").write_text(changed)
    done = subprocess.run([sys.executable, tmp_path / "lines.py"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "'crop'" in done.stdout


def test_the_training_loop_of_your_own_runs(tmp_path: Path) -> None:
    loop = shown("import timm\n")
    assert loop.count("\n") <= 30
    store = bright_store(tmp_path, counts=(640,), views=4)
    fill_store(store)
    changed = loop.replace('"runs/digits/store"', repr(str(store.path)))
    assert changed != loop
    (tmp_path / "loop.py").write_text(changed)
    done = subprocess.run([sys.executable, tmp_path / "loop.py"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    epochs = [line.split()[0] for line in done.stdout.splitlines()]
    assert epochs == ["0"] * 2 + ["1"] * 2 + ["2"] * 2  # half the samples, two views of each, 256 a batch


def test_every_file_of_the_tree_is_named() -> None:
    (tree,) = re.findall(r"```\n(teacher_cache/ .*?)```", README, re.DOTALL)
    for path in [*(ROOT / "teacher_cache").rglob("*.py"), *(ROOT / "student").rglob("*.py")]:
        if not path.name.startswith("__"):
            assert path.name in tree, f"{path.relative_to(ROOT)} is not in README's tree"


def test_commands_policies_and_recipes_that_it_names_exist() -> None:
    commands = set(re.findall(r"^(?:torchrun .* -m )?teacher[-_]cache (\w+)", README, re.MULTILINE))
    assert commands >= {"index", "fill", "status", "verify"}
    assert commands <= set(teacher_cache.commands)
    assert "deit" in shipped_policies()
    assert "deit_tiny_distilled" in shipped_recipes()


def test_tests_that_the_tables_name_exist() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", README + (ROOT / "docs" / "trust.md").read_text())
    assert len(named) > 90
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"


def test_recipes_that_it_names_exist() -> None:
    named = set(re.findall(r"--recipe (\w+)(?=[ \n`])", README)) - {"R", "NAME"}
    assert {"deit_tiny_soft", "finetune_teacher", "transfer_cifar10"} <= named <= set(shipped_recipes())
