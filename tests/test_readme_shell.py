"""The shell lines of README and of the pages of docs/ run, in the order in which they stand, on data and networks that
are small; those of experiments long past, in the log for instance, are at least lines that the commands take.

`STANDS_FOR` says what is put in place of what no test has, `SMALL` and `TINY` what makes a training small.
Whatever else a line says is run as it is printed.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import timm
import torch
from click.testing import CliRunner

from student.cli import main as student
from teacher_cache.cli import main as teacher_cache
from teacher_cache.replay.policy import load_policy
from tests.support.bright_shards import bright_image, bright_store, write_bright_shards
from tests.support.filling import TEACHERS, fill_store
from tests.support.shard_files import write_shard
from tools.inspect_cache import main as inspect_cache
from tools.make_shards import main as make_shards
from tools.restart_markers import JPEGTRAN

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))), "CONTRIBUTING.md")
RUN = (
    "README",
    "docs/stage-one",
    "docs/stage-two",
    "docs/deit",
    "docs/soft-labels",
    "docs/fine-tuning",
    "docs/own-data",
)
TEACHER = f"{TEACHERS}:brightness"
STANDS_FOR = {
    "'/data/imagenet1k-train-{0000..1023}.tar'": "'shards/train-{0000..0001}.tar'",
    "'/data/imagenet1k-validation-{00..63}.tar'": "'val/val-{00..01}.tar'",
    "'s3://bucket/imagenet/train-{0000..1023}.tar'": "'shards/train-{0000..0001}.tar'",
    "'s3://bucket/imagenet/val-*.tar'": "'val/val-*.tar'",
    "--checkpoint s3://bucket/teacher.safetensors": "--checkpoint convnet.pt",
    "--cache /scratch/shards --cache-bytes 200G": "--cache copies --cache-bytes 1G",
    "'/data/cifar10/train-*.tar'": "'shards/train-*.tar'",
    "'shards/train/*.tar'": "'shards/train-*.tar'",
    "'shards/val/*.tar'": "'val/val-*.tar'",
    "finetune regnety_160.deit_in1k": "finetune --model test_resnet convnet.pt",
    "--teacher regnety_160.deit_in1k": f"--teacher {TEACHER}",
    "--teacher regnety_160 ": "--teacher test_resnet --allow-low-agreement ",
    "runs/deit_base_distilled/checkpoint.pt": "runs/deit_tiny_distilled/checkpoint.pt",
    "runs/deit_base/checkpoint.pt": "table3/deit_tiny/checkpoint.pt",
    "--val ...": "--val val/val-00.tar",
    "--views 1008": "--views 4",
    "--views 304": "--views 2",
    "--views 32": "--views 2",
    "--views 16": "--views 2",
    "--topk 100": "--topk 10",
    "size=384": "size=48",
    "--resolution 384": "--resolution 48",
    "--fraction 0.001": "--fraction 1",
    "--policy deit": "--policy deit --set size=32",
    "--policy transfer": "--policy transfer --set size=32",
    "torchrun --nproc-per-node 8 -m teacher_cache": "teacher-cache",
    "torchrun --nproc-per-node 8 -m student": "student",
    "--workers 12": "--workers 0",
    " --real real.json": "",  # wants a model of ImageNet's 1,000 classes: see tests/student/test_real.py
}
DEIT = "deit_tiny_distilled_patch16_224"
SMALL = ["epochs=1", "warmup_epochs=0", "batch_size=32", "pool_batches=2", "repeats=1", "ema=0.9", "lr_batch=none"]
TINY = "model_args={ embed_dim = 24, depth = 1, num_heads = 3 }"


def blocks(text: str) -> Iterator[str]:
    """What stands between fences without a language."""
    language: str | None = None
    lines: list[str] = []
    for line in text.splitlines():
        if not line.startswith("```"):
            lines.append(line)
        elif language is None:
            language, lines = line.removeprefix("```"), []
        else:
            if language == "":
                yield "\n".join(lines)
            language = None


def shell_lines(program: str, pages: tuple[str, ...] = PAGES) -> list[str]:
    """The pages' lines that call this program, each once, continued ones as one, without comments."""
    text = "\n".join(block for page in pages for block in blocks((ROOT / page).read_text())).replace("\\\n", " ")
    lines = [re.sub(r"\s+#.*", "", line) for line in text.splitlines()]
    return list(dict.fromkeys(re.sub(r"\s+", " ", line) for line in lines if re.match(rf"({program}) ", line)))


def run(program: click.Command, words: list[str]) -> str:
    done = CliRunner().invoke(program, words)
    assert done.exit_code == 0, f"{' '.join(words)}\n{done.output}\n{done.exception!r}"
    return done.output


def small(line: str) -> list[str]:
    """The words of a line of `teacher-cache` or `student`, on small data."""
    for large, little in STANDS_FOR.items():
        line = line.replace(large, little)
    program, command, *words = shlex.split(line)
    if words[-1] == "...":
        words[-1:] = ["--val", "val/val-00.tar"]
    if program == "student" and command in ("train", "finetune"):
        words += [word for setting in SMALL for word in ("--set", setting)] + ["--workers", "0"]
        if "--out" not in words:
            words += ["--out", f"table3/{words[words.index('--recipe') + 1]}{'-online' * ('--teacher' in words)}"]
        if command == "train":
            words += ["--set", TINY]
    if command in ("index", "fill", "verify", "evaluate"):  # processes take seconds to start
        words += ["--workers", "1" if command == "index" else "0"]
    return [command, *words]


@pytest.fixture
def readers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a reader of README has: shards, checkpoints, stores S and SOFT."""
    write_bright_shards(tmp_path / "shards", (32, 32))
    for shard in range(2):
        samples = [
            {"__key__": f"v{number}", "png": bright_image(number), "cls": str(number % 10).encode()}
            for number in range(8 * shard, 8 * shard + 8)
        ]
        write_shard(tmp_path / "val" / f"val-{shard:02d}.tar", samples)
    torch.manual_seed(0)
    for file, name in (("convnet.pt", "test_resnet"), (f"{DEIT}-b40b3cf7.pth", DEIT)):
        torch.save(timm.create_model(name, num_classes=10).state_dict(), tmp_path / file)
    policy = load_policy("deit", ["size=32"])
    for name, topk in (("S", None), ("SOFT", 10)):
        store = bright_store(tmp_path, policy=policy, views=2, name=name)
        fill_store(store, topk=topk, tau=None if topk is None else 3.0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def program_of(line: str) -> click.Command:
    line = re.sub(r"^torchrun .* -m (\w+)", lambda found: found[1].replace("_", "-"), line)
    return {"teacher-cache": teacher_cache, "student": student}[line.split()[0]]


def test_lines_of_both_command_lines(readers_folder: Path) -> None:
    lines = shell_lines("teacher-cache|student|torchrun", tuple(f"{page}.md" for page in RUN))
    assert len(lines) >= 30
    for line in lines:
        run(program_of(line), small(line))


@pytest.mark.parametrize("line", shell_lines("teacher-cache|student|torchrun"))
def test_commands_take_every_line(line: str) -> None:
    """Names of options and numbers of arguments: nothing is run."""
    program = program_of(line)
    line = re.sub(r"^torchrun .* -m \w+", "program", line).replace("--val ...", "--val V")
    _, name, *words = shlex.split(line)
    assert isinstance(program, click.Group)
    command = program.commands[name]
    if words[-1] == "...":
        words[-1:] = ["--out", "OUT"]
    with command.make_context(name, words) as context:
        assert context.params


def test_lines_of_inspect_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On small stores of the same shards."""
    monkeypatch.chdir(tmp_path)
    for name, teacher in (("STORE", "brightness"), ("OTHER_STORE", "shifted")):
        fill_store(bright_store(tmp_path, name=name), teacher, allow_low_agreement=True)
    lines = [line for line in shell_lines("python tools/inspect_cache.py") if " STORE" in line]
    assert len(lines) >= 8
    for line in lines:
        words = shlex.split(line)[2:]
        few = ["--limit", "5", "--workers", "0"]  # pictures, made here: processes take seconds to start
        run(inspect_cache, words + few * ("report" in words))
    assert {"labels.parquet", "report.html"} <= {path.name for path in tmp_path.iterdir()}
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_lines_of_make_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a folder for each class, as the page has it."""
    monkeypatch.chdir(tmp_path)
    for part in ("train", "val"):
        for number in range(20):
            folder = Path("photos", part, f"class-{number % 10}")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{part}-{number}.png").write_bytes(bright_image(number))
    lines = shell_lines("python tools/make_shards.py")
    assert len(lines) >= 2
    for line in lines:
        words = shlex.split(line)[2:]
        if "--restart" not in words or shutil.which(JPEGTRAN) is not None:
            run(make_shards, words)
    assert Path("shards/train/classes.json").read_bytes() == Path("shards/val/classes.json").read_bytes()


@pytest.mark.parametrize("line", shell_lines("make"))
def test_lines_of_make(line: str, tmp_path: Path) -> None:
    """As far as make's own grammar and variables: tests/test_makefile.py has what they do."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    for file in ("Makefile", "pyproject.toml", "requirements.lock"):
        (tmp_path / file).symlink_to(ROOT / file)
    words = shlex.split(line)
    for word in words:
        if word.startswith(("FOLDER=", "VAL_FOLDER=")):
            (tmp_path / word.partition("=")[2]).mkdir(parents=True)
    done = subprocess.run([*words, "-n"], cwd=tmp_path, env=plain, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert ".venv/bin/" in done.stdout
