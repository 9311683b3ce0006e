"""What README and the pages of docs/ show is run, and what they name is there."""

import re
from pathlib import Path

import numpy as np
import timm
import torch

from student.recipe import shipped_recipes
from teacher_cache.cli import main as teacher_cache
from teacher_cache.replay.operations import open_operations
from teacher_cache.replay.policy import shipped_policies
from tests.support.bright_shards import bright_store
from tests.support.filling import fill_store
from tests.support.forked import Forks

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
EVERYTHING = "\n".join([README, *PAGES.values()])


def shown(text: str, first_line: str) -> str:
    """The Python block that begins with this line."""
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if block.startswith(first_line)]
    return block


def printed(forks: Forks, folder: Path, block: str, store: Path) -> str:
    """What a block prints as a file of its own, with this store for the digits'."""
    changed = changed_once(block, '"runs/digits/store"', repr(str(store)))
    (folder / "block.py").write_text(changed)
    done = forks.start(str(folder / "block.py"), [])
    assert done.wait() == 0, done.output
    return done.output


def small(loop: str) -> str:
    """A loop with batches of 32 views, whose rendering processes are left as they are."""
    return changed_once(loop, "batch_size=256", "batch_size=32")


def small_alone(loop: str) -> str:
    """The same, rendering in its own process: others take seconds to start, and README's loop has some."""
    return changed_once(small(loop), "workers=2", "workers=0")


def changed_once(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


def test_readme_is_read_to_its_end() -> None:
    assert len(README.encode()) <= 12_000


def test_the_notebook_lines_run(tmp_path: Path, forks: Forks) -> None:
    store = bright_store(tmp_path, counts=(64,), views=16)
    fill_store(store)
    assert "'crop'" in printed(forks, tmp_path, shown(PAGES["api.md"], "import teacher_cache\n"), store.path)


def test_the_training_loop_of_your_own_runs(tmp_path: Path, forks: Forks) -> None:
    loop = shown(PAGES["own-data.md"], "import timm\n")
    assert loop.count("\n") <= 30
    store = bright_store(tmp_path, counts=(80,), views=4)
    fill_store(store)
    epochs = [line.split()[0] for line in printed(forks, tmp_path, small_alone(loop), store.path).splitlines()]
    assert epochs == ["0"] * 2 + ["1"] * 2 + ["2"] * 2  # half the samples, two views of each, 32 a batch


def test_timms_own_parts_train_from_our_loader(tmp_path: Path, forks: Forks) -> None:
    """Its schedule warms up for an epoch; what is kept is its average of the weights."""
    example = (ROOT / "docs" / "examples" / "timm_loop.py").read_text()
    assert "docs/examples/timm_loop.py" in PAGES["own-data.md"]
    store = bright_store(tmp_path, counts=(80,), views=4)
    fill_store(store)
    kept = tmp_path / "kept.pt"
    loop = changed_once(small_alone(example), '"runs/digits/timm_student.pt"', repr(str(kept)))
    lines = [line.split() for line in printed(forks, tmp_path, loop, store.path).splitlines()]
    assert [line[:2] for line in lines] == [["0", "0"], ["0", "1"], ["1", "0"], ["1", "1"], ["2", "0"], ["2", "1"]]
    rates = [float(line[3]) for line in lines]
    assert rates[0] < rates[1] < rates[2] > rates[3] > rates[4] > rates[5] > 0
    model = timm.create_model("resnet10t", num_classes=store.num_classes)
    model.load_state_dict(torch.load(kept, weights_only=True))


def test_readmes_loop_runs(tmp_path: Path, forks: Forks) -> None:
    loop = small(shown(README, "from student.loader import ViewLoader\n"))
    store = bright_store(tmp_path, counts=(64,), views=2)
    fill_store(store)
    lines = printed(forks, tmp_path, loop, store.path).splitlines()
    steps = [line.split()[:2] for line in lines if "torch.Size([32, 8, 8, 3])" in line]
    assert steps == [["0", "0"], ["0", "1"], ["1", "0"], ["1", "1"]]


def test_the_operation_of_your_own_is_one(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(shown(PAGES["own-data.md"], "import numpy as np\n"))
    functions = open_operations(f"{tmp_path / 'own.py'}:operations").functions
    pixels = np.full((4, 5, 3), 200, np.uint8)
    assert functions["Dim"](pixels, -1.0).tolist() == np.full((4, 5, 3), 160, np.uint8).tolist()


def test_commands_policies_and_recipes_that_are_named_exist() -> None:
    commands = set(re.findall(r"^(?:torchrun .* -m )?teacher[-_]cache (\w+)", EVERYTHING, re.MULTILINE))
    assert commands >= {"index", "fill", "extend", "status", "verify"}
    assert commands <= set(teacher_cache.commands)
    assert "deit" in shipped_policies()
    named = set(re.findall(r"--recipe (\w+)(?=[ \n`])", EVERYTHING)) - {"R", "NAME"}
    assert {"deit_tiny_soft", "finetune_teacher", "transfer_cifar10", "deit_tiny_distilled"} <= named
    assert named <= set(shipped_recipes())


def test_tests_that_the_tables_name_exist() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGES["deit.md"] + PAGES["trust.md"])
    assert len(named) > 90
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"
    for file in re.findall(r"`([\w/]*test_\w+\.py)`", PAGES["trust.md"]):
        assert (ROOT / "tests" / file).is_file(), file


def test_headline_results_are_those_of_the_pages() -> None:
    """Every number of README's tables of results stands in the page that it links to."""
    section = README.partition("\n## Results\n")[2].partition("\n## ")[0]
    ratios, _, others = section.partition("Real pictures, small")
    trained, _, on_a_gpu = others.partition("On one H100")
    cells = re.findall(r"^\| .* \| ([\d.]+(?:; [\d.]+)?)(?: B)? \| [\d.]+(?: B)? \|$", ratios, re.MULTILINE)
    measured = [number for cell in cells for number in cell.split("; ")]
    assert (len(cells), len(measured)) == (8, 9)
    for number in measured:
        assert re.search(rf"[| ]{re.escape(number)}[ |]", PAGES["benchmarks.md"]), number
    top1 = re.findall(r"\d\d\.\d ± \d\.\d", trained)
    assert len(top1) == 17
    for number in top1:
        assert number in (ROOT / "docs" / "evidence" / "index.md").read_text(), number
    rates = re.findall(r"\d+,\d{3}(?= views/s)|\d+,\d{3}(?= and)", on_a_gpu)
    assert len(rates) == 4
    for number in rates:
        assert f"| {number} |" in PAGES["benchmarks.md"], number
