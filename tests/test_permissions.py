"""What may not be read, written or entered ends every command in one line, which calls nothing damaged."""

import json
import shutil
from pathlib import Path

import pytest

from teacher_cache.publish import publish
from tests.support.bright_shards import bright_store
from tests.support.filling import fill_store
from tests.support.forked import Forks
from tests.support.small_runs import ROOT, STUDENTS, train_small, validation_shard

TEACHERS = str(ROOT / "tests" / "support" / "teachers.py")
MODEL = f"--model {STUDENTS}:two_heads"
RECIPE = f"store --recipe small.toml --workers 0 --device cpu --out run {MODEL}"
INDEX = "teacher-cache index --policy none --views 2"
FILL = f"fill empty --teacher {TEACHERS}:brightness --device cpu --workers 1"
EXPORT = f"student export run/checkpoint.pt {MODEL}"

# what is shut, its mode then, and the command
CASES = [
    ("store", "000", "teacher-cache status store"),
    ("store/zarr.json", "000", "teacher-cache status store"),
    ("store/records/c", "000", "teacher-cache status store"),
    ("store/index/counts/c", "000", "teacher-cache status store"),
    ("store/labels/c/0/0/0", "000", "teacher-cache verify store --workers 0 --fraction 1"),
    ("store/teacher", "000", "teacher-cache verify store --workers 0"),
    ("shards/train-0000.tar", "000", "teacher-cache verify store --workers 1 --fraction 1"),
    ("store/labels", "555", "teacher-cache extend store --views 8"),
    ("store/labels/c/0/0/0", "000", "teacher-cache publish store place/new"),
    ("published/store/labels/c/0/0/0", "000", "teacher-cache unpack published new"),
    ("published/store/labels/c/0/0/0", "000", "teacher-cache publish published place/new"),
    ("place", "555", "teacher-cache publish store place/new"),
    ("place", "555", "teacher-cache unpack published place/new"),
    ("shards", "000", f"{INDEX} shards/*.tar --store new"),
    ("shards", "000", f"{INDEX} shards/train-0000.tar --store new"),
    ("shards/train-0001.tar", "000", f"{INDEX} shards/*.tar --store new --workers 1"),
    ("place", "555", f"{INDEX} shards/*.tar --store place/new --workers 1"),
    ("small.toml", "000", f"{INDEX} shards/*.tar --store new --policy small.toml"),
    ("place/names.json", "000", f"{INDEX} shards/*.tar --store new --classes {{}}"),
    ("empty/labels", "555", f"teacher-cache {FILL}"),
    ("shards/train-0001.tar", "000", f"teacher-cache {FILL}"),
    ("run/checkpoint.pt", "000", f"teacher-cache {FILL} --checkpoint run/checkpoint.pt"),
    ("small.toml", "000", f"student train {RECIPE}"),
    ("store/labels/c", "000", f"student train {RECIPE} --out other"),
    ("run/checkpoint.pt", "000", f"student train {RECIPE}"),
    ("run/tensorboard", "000", f"student train {RECIPE}"),
    ("place", "555", f"student train {RECIPE} --out place/run"),
    ("val", "000", f"student train {RECIPE} --out other --val val/val.tar"),
    ("val/val.tar", "000", f"student evaluate run/checkpoint.pt {MODEL} --val val/val.tar --workers 0"),
    ("run", "000", f"student evaluate run/checkpoint.pt {MODEL} --val val/val.tar --workers 0"),
    ("run/checkpoint.pt", "000", f"{EXPORT} --format onnx --out m.onnx"),
    ("place", "555", f"{EXPORT} --format safetensors --out {{}}/m.safetensors"),
    ("run/checkpoint.pt", "000", f"student finetune run/checkpoint.pt {RECIPE} --out other"),
    ("run", "000", "student results run"),
    ("run/results.json", "000", "student results run"),
    ("store", "000", "inspect store"),
    ("store/labels/c", "000", "inspect store sample 3 --out place/s.png"),
    ("place", "555", "inspect store view 3 0 --out place/s.png"),
    ("place", "555", "inspect store export --out place/s.csv"),
    ("place", "555", "inspect store report --out place/s.html --workers 0 --limit 3"),
    ("images/dog", "000", "make_shards folder images place"),
    ("images/dog/1.png", "000", "make_shards folder images place"),
    ("place", "555", "make_shards digits place"),
    ("shards/train-0001.tar", "000", "make_shards reshuffle shards/train-0001.tar place"),
]  # fmt: skip

MISLEADING = ("damaged", "delete", "new store", "index again", "`mv ", "absent", "correct the file", "is no ")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a filled store and an unfilled one, a run, validation shards, images, a recipe, a place to write to."""
    folder = tmp_path_factory.mktemp("world")
    store = bright_store(folder)
    fill_store(store)
    publish(store, str(folder / "published"))
    bright_store(folder, name="empty")
    train_small(store, folder / "run")
    validation_shard(folder / "val" / "val.tar", 3)
    (folder / "place").mkdir()
    (folder / "place" / "names.json").write_text("[]")
    for name in ("cat", "dog"):
        (folder / "images" / name).mkdir(parents=True)
        shutil.copy(ROOT / "tests" / "golden" / "palette.png", folder / "images" / name / "1.png")
    shutil.copy(ROOT / "tests" / "support" / "small.toml", folder)
    return folder


def test_every_command_says_in_one_line_what_is_shut(world: Path, forks: Forks, tmp_path: Path) -> None:
    cases, told = tmp_path / "cases.json", tmp_path / "told.json"
    cases.write_text(json.dumps(CASES))
    command = forks.start(str(ROOT / "tests" / "support" / "shut.py"), [str(world), str(cases), str(told)])
    assert command.wait() == 0, command.output
    assert "Traceback" not in command.output
    if (found := json.loads(told.read_text())) is None:
        pytest.skip("this process passes over permissions, and cannot give that up")
    wrong = [fault for case, answer in zip(CASES, found, strict=True) for fault in faults_of(*case, *answer)]
    assert not wrong, "\n".join(wrong)


def faults_of(place: str, mode: str, command: str, code: int, output: str) -> list[str]:
    """What is wrong with a command's answer."""
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    line = lines[0] if lines else ""
    wrong = {
        f"exit code {code}": code != 1,
        f"{len(lines)} lines": len(lines) != 1 or "Traceback" in output,
        "no reason": "Permission denied" not in line,
        "no place": Path(place).name not in line,
    }
    is_read = mode == "000" and place != "run/tensorboard"
    wrong["says that it is written"] = is_read and " writable" in line
    wrong |= {f"says {word}": word in line for word in MISLEADING}
    return [f"{mode} {place}: {command}: {fault}: {output}" for fault, is_so in wrong.items() if is_so]
