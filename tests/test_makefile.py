"""`make` after a finished run: whatever variable changes, its command is called, and goes on, widens or refuses."""

import itertools
import re
from pathlib import Path

import pytest

from teacher_cache.store.store import Store
from tests.support.bright_shards import SMALL, bright_image, write_bright_shards
from tests.support.filling import TEACHERS
from tests.support.forked import Forks
from tests.support.making import environment, forking_environment, make
from tests.support.small_runs import rows, validation_shard

ROOT = Path(__file__).parents[1]

RECIPE = """
model = "student.convnet:small_convnet"
distill = "{distill}"
epochs = 1
batch_size = 32
pool_batches = 2
lr = 1e-3
weight_decay = 0.0
crop_pct = 1.0
"""


def commands(notes: Path) -> dict[str, list[str]]:
    """'teacher_cache index' and so on -> the last such command's words; then forget them."""
    lines = [line.rstrip("\t").split("\t") for line in notes.read_text().splitlines()]
    notes.unlink()
    found = {}
    for program, *words in lines:
        if "-m" not in words:  # whether a store is there
            continue
        at = words.index("-m") + 1
        found[" ".join(words[at : at + 2])] = [Path(program).name, *words]
    return found


def after(words: list[str], option: str) -> list[str]:
    """What stands after each such option."""
    return [value for name, value in itertools.pairwise(words) if name == option]


@pytest.mark.parametrize(
    ("variable", "command", "option", "expected"),
    [
        ("STORE=s3://bucket/a b's", "teacher_cache index", "--store", ["s3://bucket/a b's"]),
        ("STORE=s3://bucket/a b's", "teacher_cache fill", "fill", ["s3://bucket/a b's"]),
        ("STORE=s3://bucket/a b's", "student train", "train", ["s3://bucket/a b's"]),
        ("STORE=s3://bucket/store", "student train", "--out", ["runs/store/deit_tiny_distilled"]),
        ("POLICY=cifar", "teacher_cache index", "--policy", ["cifar"]),
        ("SET=size=8 flip=none", "teacher_cache index", "--set", ["size=8", "flip=none"]),
        ("OPS=a.py:f", "teacher_cache index", "--ops", ["a.py:f"]),
        ("OPS=a.py:f", "teacher_cache fill", "--ops", ["a.py:f"]),
        ("OPS=a.py:f", "student train", "--ops", ["a.py:f"]),
        ("VIEWS=64", "teacher_cache index", "--views", ["64"]),
        ("VIEWS=64", "student train", "--views-used", ["64"]),
        ("VIEWS=64", "student train", "--out", ["runs/cache/deit_tiny_distilled-64views"]),
        ("TEACHER=resnet18", "teacher_cache fill", "--teacher", ["resnet18"]),
        ("CHECKPOINT=it's.pt", "teacher_cache fill", "--checkpoint", ["it's.pt"]),
        ("TOPK=5", "teacher_cache fill", "--topk", ["5"]),
        ("TAU=3", "teacher_cache fill", "--tau", ["3"]),
        ("WORKERS=7", "teacher_cache fill", "--workers", ["7"]),
        ("WORKERS=7", "student train", "--workers", ["7"]),
        ("RENDER=cpu", "teacher_cache fill", "--render", ["cpu"]),
        ("RENDER=gpu", "student train", "--render", ["gpu"]),
        ("RECIPE=own/deit_b.toml", "student train", "--recipe", ["own/deit_b.toml"]),
        ("RECIPE=own/deit_b.toml", "student train", "--out", ["runs/cache/deit_b"]),
        ("VAL=v-*.tar w.tar", "student train", "--val", ["v-*.tar", "w.tar"]),
        ("LOG=wandb", "student train", "--log-to", ["wandb"]),
        ("OUT=elsewhere", "student train", "--out", ["elsewhere/deit_tiny_distilled"]),
        ("NPROC=4", "teacher_cache fill", "--nproc-per-node", ["4"]),
        ("NPROC=4", "student train", "--nproc-per-node", ["4"]),
        ("LEASE=30s", "teacher_cache fill", "--lease", ["30s"]),
        ("ENGINE=ray", "teacher_cache fill", "--engine", ["ray"]),
        ("ACTORS=1:64", "teacher_cache fill", "--actors", ["1:64"]),
        ("GPUS_PER_ACTOR=0.5", "teacher_cache fill", "--gpus-per-actor", ["0.5"]),
        ("ENDPOINT=http://minio:9000", "teacher_cache index", "--endpoint", ["http://minio:9000"]),
        ("ENDPOINT=http://minio:9000", "teacher_cache fill", "--endpoint", ["http://minio:9000"]),
        ("ENDPOINT=http://minio:9000", "student train", "--endpoint", ["http://minio:9000"]),
        ("CACHE=/scratch/a b", "teacher_cache fill", "--cache", ["/scratch/a b"]),
        ("CACHE=/scratch/a b", "student train", "--cache", ["/scratch/a b"]),
        ("CACHE_BYTES=200G", "student train", "--cache-bytes", ["200G"]),
    ],
)
def test_a_variable_reaches_its_command(
    called: tuple[list[str], Path], variable: str, command: str, option: str, expected: list[str]
) -> None:
    programs, notes = called
    make("train-student", "SHARDS=a-*.tar b.tar", *programs)
    before = commands(notes)
    assert list(before) == ["teacher_cache index", "teacher_cache fill", "student train"]
    assert {"a-*.tar", "b.tar"} <= set(before["teacher_cache index"])
    assert after(before[command], option) != expected
    make("train-student", "SHARDS=a-*.tar b.tar", variable, *programs)
    assert after(commands(notes)[command], option) == expected


def test_actors_are_no_ranks(called: tuple[list[str], Path]) -> None:
    programs, notes = called
    make("train-student", "SHARDS=a.tar", "ENGINE=ray", "CLAIM=1", "NPROC=4", *programs)
    asked = commands(notes)
    assert (asked["teacher_cache fill"][0], asked["student train"][0]) == ("python", "torchrun")


def test_a_student_learns_from_what_is_published(called: tuple[list[str], Path]) -> None:
    programs, notes = called
    far = "hf://datasets/some one/labels"
    make("train-student", "SHARDS=a-*.tar b.tar", f"PUBLISHED={far}", "VAL=v.tar", *programs)
    asked = commands(notes)
    assert list(asked) == ["student train"]
    assert after(asked["student train"], "train") == [far]
    assert after(asked["student train"], "--shards") == ["a-*.tar", "b.tar"]
    made = notes.parent / "digits"
    made.mkdir()
    (made / "val-0000.tar").touch()
    make("train-student", f"DATA={made}", f"PUBLISHED={far}", *programs)
    asked = commands(notes)
    assert list(asked) == ["student train"]  # the digits' own teacher has nothing to do with it
    assert after(asked["student train"], "--shards") == [f"{made}/train-*.tar"]


def test_a_store_is_published(called: tuple[list[str], Path]) -> None:
    programs, notes = called
    make("publish", "STORE=a store", "PUBLISHED=s3://bucket/a b", "LICENCE=cc0-1.0", "PARTIAL=1", *programs)
    (words,) = commands(notes).values()
    assert words[-6:] == ["publish", "a store", "s3://bucket/a b", "--licence", "cc0-1.0", "--partial"]
    assert "error: PUBLISHED= is missing: a folder, a bucket, or" in make("publish", *programs, code=2)


@pytest.mark.parametrize(
    ("target", "name"),
    [("publish", "PARTIAL"), ("cache-teacher", "CLAIM"), ("evidence", "PLAN"), ("bench", "BENCH_DALI")],
)
def test_a_switch_is_1_or_left_out(called: tuple[list[str], Path], target: str, name: str) -> None:
    """What is asked not to be done is not done."""
    programs, notes = called
    for value in ("0", "no", "1 1 0"):
        told = make(target, "STORE=s", "PUBLISHED=p", "SHARDS=a.tar", f"{name}={value}", *programs, code=2)
        assert f"{name}={value}: give {name}=1, or leave it out" in told
        assert not notes.exists()


def test_the_embedded_data_are_made_once_and_their_teacher_asked_each_time(called: tuple[list[str], Path]) -> None:
    programs, notes = called
    made = [f"DATA={notes.parent}/digits"]
    (notes.parent / "digits").mkdir()
    (notes.parent / "digits" / "val-0000.tar").touch()
    make("cache-teacher", *made, *programs)
    (usual,) = after(commands(notes)["teacher_cache fill"], "--checkpoint")
    assert usual == "runs/digits/teacher/checkpoint.pt"
    make("cache-teacher", "TEACHER=resnet18", *made, *programs)
    asked = commands(notes)
    assert list(asked) == ["teacher_cache index", "teacher_cache fill"]
    assert after(asked["teacher_cache fill"], "--teacher") == ["resnet18"]
    assert after(asked["teacher_cache fill"], "--checkpoint") == []


def test_a_store_that_is_there_keeps_what_is_not_asked(called: tuple[list[str], Path]) -> None:
    programs, notes = called
    store = notes.parent / "s:tore"
    variables = ["SHARDS=a.tar", f"STORE={store}", *programs]
    make("cache-teacher", *variables)
    new = commands(notes)["teacher_cache index"]
    assert (after(new, "--policy"), after(new, "--views")) == (["deit"], ["304"])
    store.mkdir()
    make("cache-teacher", *variables)
    there = commands(notes)["teacher_cache index"]
    assert (after(there, "--policy"), after(there, "--views")) == ([], [])


@pytest.mark.parametrize(("there", "policy", "views"), [("true", [], []), ("false", ["deit"], ["304"])])
def test_whether_a_store_is_at_a_url_is_looked_up(
    tmp_path: Path, there: str, policy: list[str], views: list[str]
) -> None:
    """As for one in a folder, what is not asked is the usual of a new one, and its own of one that is there."""
    notes = tmp_path / "notes"
    note = f'for word in "$0" "$@"; do printf "%s\\t" "$word"; done >>{notes}; echo >>{notes}'
    script = f'echo "$AWS_ENDPOINT_URL_S3" >>{tmp_path}/asked; {note}; test "$1" != -c || {there}'
    programs = f"VENV={environment(tmp_path / 'venv', script)}"
    make("cache-teacher", "SHARDS=a.tar", "STORE=s3://bucket/a b's", "ENDPOINT=http://minio:9000", programs)
    assert (tmp_path / "asked").read_text().splitlines()[0] == "http://minio:9000"
    index = commands(notes)["teacher_cache index"]
    assert (after(index, "--policy"), after(index, "--views")) == (policy, views)


def test_after_a_finished_run(tmp_path: Path, forks: Forks) -> None:
    """The real commands: the same again, another recipe, more views; another teacher, policy or place is refused."""
    shards = " ".join(write_bright_shards(tmp_path / "shards", (64, 32)))
    for name, distill in (("hard", "hard"), ("plain", "none")):
        (tmp_path / f"{name}.toml").write_text(RECIPE.format(distill=distill))
    store, out = tmp_path / "store", tmp_path / "runs"
    variables = {
        "VENV": forking_environment(tmp_path / "venv", forks),
        "SHARDS": shards,
        "VAL": validation_shard(tmp_path / "val" / "val.tar", 32),
        "STORE": store,
        "OUT": out,
        "POLICY": "cifar",
        "SET": " ".join(SMALL),
        "VIEWS": 2,
        "TEACHER": f"{TEACHERS}:brightness",
        "RECIPE": tmp_path / "hard.toml",
        "WORKERS": 0,
    }

    def again(target: str, code: int = 0, **changed: object) -> str:
        return make(target, *(f"{name}={value}" for name, value in {**variables, **changed}.items()), code=code)

    again("train-student")
    (finished,) = rows(out / "hard-2views" / "epochs.csv")
    said = again("train-student", RECIPE=tmp_path / "plain.toml")
    assert [line.split()[0] for line in said.splitlines() if "top-1 %" in line or " plain " in line] == [
        "validation",
        "plain",
    ]
    assert rows(out / "hard-2views" / "epochs.csv") == [finished]
    assert rows(out / "plain-2views" / "epochs.csv")[0]["teacher_agreement"] == ""
    again("train-student", RECIPE=tmp_path / "plain.toml", VAL="", OUT=tmp_path / "unseen")
    assert (tmp_path / "unseen" / "plain-2views" / "results.json").is_file()

    assert "2 -> 4 views" in again("cache-teacher", VIEWS=4)
    assert len(Store.open(store).units()) == int(Store.open(store).committed().sum()) == 4

    said = again("cache-teacher", code=2, TEACHER=f"{TEACHERS}:constant")
    assert "error: " in said
    assert "--teacher TEACHER=" in said
    said = again("cache-teacher", code=2, SET="size=9 rand_augment=none")
    assert "it has the policy's size [8, 8] (not [9, 9])" in said
    assert "s3://bucket/x/zarr.json: no credentials were found" in again("cache-teacher", code=2, STORE="s3://bucket/x")


# A folder of images


def image_folders(root: Path, classes: str = "abcdefghij") -> tuple[Path, Path]:
    """A folder of a few bright pictures for each class, and another for validation."""
    for part, numbers in (("train", range(40)), ("val", range(40, 60))):
        for number in numbers:
            file = root / part / classes[number % len(classes)] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(bright_image(number))
    return root / "train", root / "val"


def shard_commands(notes: Path) -> list[list[str]]:
    """The words behind `make_shards.py folder` of each such call; the other calls are left in the notes."""
    lines = [line.rstrip("\t").split("\t") for line in notes.read_text().splitlines()]
    found = [words for words in lines if "tools/make_shards.py" in words]
    notes.write_text("".join("\t".join(words) + "\t\n" for words in lines if words not in found))
    return [words[words.index("folder") + 1 :] for words in found]


def test_a_folder_becomes_shards_that_are_indexed_and_validated_with(called: tuple[list[str], Path]) -> None:
    programs, notes = called
    train, val = image_folders(notes.parent / 'my "pho tos" & it\'s (1)[2]')
    name = re.sub(r"[^\w.-]", "-", str(train).strip("/"))
    make("train-student", f"FOLDER={train}/", f"VAL_FOLDER={val}", "TEACHER=resnet18", *programs)
    made = shard_commands(notes)
    data = f"data/{name}"
    assert made == [
        ["--again", f"{train}/", data],
        ["--again", str(val), data, "--prefix", "val", "--classes", f"{data}/classes.json"],
    ]
    run = commands(notes)
    assert list(run) == ["teacher_cache index", "teacher_cache fill", "student train"]
    index = run["teacher_cache index"]
    assert after(index, "index") == [f"{data}/train-*.tar"]
    assert (after(index, "--store"), after(index, "--views")) == ([f"stores/{name}"], ["304"])
    assert after(run["teacher_cache fill"], "fill") == [f"stores/{name}"]
    assert after(run["student train"], "--val") == [f"{data}/val-*.tar"]
    assert after(run["student train"], "--out") == [f"runs/{name}/deit_tiny_distilled"]


def test_a_folder_without_validation_or_with_its_shards(called: tuple[list[str], Path]) -> None:
    programs, notes = called
    train, _ = image_folders(notes.parent)
    data = f"{notes.parent}/da ta"
    make("cache-teacher", f"FOLDER={train}", f"DATA={data}", *programs)
    assert shard_commands(notes) == [["--again", str(train), data]]
    assert after(commands(notes)["teacher_cache index"], "index") == [f"{data}/train-*.tar"]
    make("train-student", f"FOLDER={train}", "VAL=v-*.tar w.tar", "STORE=s", *programs)
    assert len(shard_commands(notes)) == 1
    run = commands(notes)
    assert after(run["student train"], "--val") == ["v-*.tar", "w.tar"]
    assert after(run["student train"], "train") == ["s"]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (("FOLDER={train}", "SHARDS=a.tar"), "FOLDER= and SHARDS= are both given: leave one out"),
        (("FOLDER={train}", "VAL_FOLDER={val}", "VAL=v.tar"), "VAL_FOLDER= and VAL= are both given: leave one out"),
        (("VAL_FOLDER={val}",), "VAL_FOLDER= goes with FOLDER=, whose classes it has: give both, or VAL= for "),
        (("FOLDER={train} x",), "{train} x is no folder: give FOLDER= and VAL_FOLDER= one that holds a folder for "),
        (("VIEW=64", "VIEWS=64"), "VIEW= is no variable of this Makefile: see `make help`"),
        (("FOLDER={train}", "VAL_FOLDER=it's not"), "it's not is no folder: give FOLDER= and VAL_FOLDER= one that "),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(
    called: tuple[list[str], Path], variables: tuple[str, ...], message: str
) -> None:
    programs, notes = called
    train, val = image_folders(notes.parent)
    said = make("train-student", *(each.format(train=train, val=val) for each in variables), *programs, code=2)
    assert message.format(train=train) in said
    assert said.count("\n") == 1
    assert not notes.exists()


def test_every_variable_of_the_help_is_known() -> None:
    known = re.search(r"^KNOWN := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert known
    helped = set(re.findall(r"^  ([A-Z_]+)=|(?<=\S= )([A-Z_]+)=", make("help"), re.MULTILINE))
    assert {one or other for one, other in helped} <= set(known[1].replace("\\", "").split())


def test_a_folder_of_pictures_goes_all_the_way(tmp_path: Path, forks: Forks) -> None:
    """The real commands: shards are made once, and a changed folder, or other classes, are told in a line."""
    train, val = image_folders(tmp_path / "pho tos")
    (tmp_path / "hard.toml").write_text(RECIPE.format(distill="hard"))
    variables = {
        "VENV": forking_environment(tmp_path / "venv", forks),
        "FOLDER": train,
        "VAL_FOLDER": val,
        "DATA": tmp_path / "sha rds",
        "STORE": tmp_path / "store",
        "OUT": tmp_path / "runs",
        "POLICY": "cifar",
        "SET": " ".join(SMALL),
        "VIEWS": 2,
        "TEACHER": f"{TEACHERS}:brightness",
        "RECIPE": tmp_path / "hard.toml",
        "WORKERS": 0,
    }

    def again(target: str, code: int = 0, **changed: object) -> str:
        return make(target, *(f"{name}={value}" for name, value in {**variables, **changed}.items()), code=code)

    said = again("train-student")
    assert "train-0000.tar: 40 samples of 10 classes\n" in said
    assert "val-0000.tar: 20 samples of 10 classes\n" in said
    assert re.search(r"^ hard +\d", said, re.MULTILINE)
    assert int(Store.open(tmp_path / "store").committed().sum()) == 1
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "sha rds").iterdir()}
    assert {path.name for path in shards} == {"classes.json", "train-0000.tar", "val-0000.tar"}
    said = again("cache-teacher")
    assert "train-0000.tar: 40 samples of 10 classes, there already\n" in said
    assert "val-0000.tar: 20 samples of 10 classes, there already\n" in said
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "sha rds").iterdir()} == shards

    (train / "a" / "new.png").write_bytes(bright_image(0))
    said = again("train-student", code=2)
    assert "1 new (first a/new); remove them to have them made anew" in said
    assert "-m teacher_cache" not in said
    (train / "a" / "new.png").unlink()
    (val / "zebra").mkdir()
    said = again("train-student", code=2)
    assert f"error: {val / 'zebra'} is none of 10 classes (such folders: 1)" in said
    assert "-m student train" not in said
