"""What strangers' names may do to a terminal: nothing. A store full of such names, through every command."""

import ast
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from student.cli import main as student
from teacher_cache.cli import main as teacher_cache
from teacher_cache.errors import TeacherCacheError
from teacher_cache.store.store import Store
from teacher_cache.terminal import line, say_json, table
from tests.support.bright_shards import SMALL, bright_image, spoil_image
from tests.support.filling import TEACHERS, fill_words
from tests.support.shard_files import write_shard
from tests.support.small_runs import SMALL as RECIPE
from tests.support.small_runs import student as student_setting
from tools import inspect_cache, make_shards

ROOT = Path(__file__).parents[1]
FORGED = "error: all fine"
NASTY = (
    f"a\x1b[2K\r{FORGED}",
    f"b\n{FORGED}\n",
    f"c\u2028{FORGED}\u2029\x85{FORGED}\x0b\x0c",
    f"{'d' * 79} {FORGED}",
    f"{'e ' * 40}{FORGED}",
    "f\u202egnp\u2066\u200b\ufeff",
    "g[bold]h[/bold][red]i[link=http:j]k[/link][/nothing]",
    "l:boom::warning:m",
    "n\x00\x07\x08\x7f\x9b31mo",
    "p" * 10_000,
)


def name(text: str) -> str:
    """Text as a key or the name of a shard: no dot may be in the one, no slash in the other."""
    return text.replace(".", "_").replace("/", "_").replace("\0", "")


def run(command: click.Command, *words: object, exit_code: int = 0) -> Result:
    """Run a command, and look at every line that it prints."""
    result = CliRunner().invoke(command, [str(word) for word in words])
    assert result.exit_code == exit_code, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    check_text(result.output, longest=10**5 if "--json" in words else 6000)
    return result


def check_text(text: str, longest: int = 6000) -> None:
    """That no line of a text is more than it looks like."""
    for each in text.split("\n"):
        assert each.isprintable(), ascii(each)
        assert not each.startswith(FORGED), each
        assert len(each) < longest
    assert "💥" not in text
    assert "⚠" not in text


def nasty_shard(path: Path, first: int) -> str:
    samples = [
        {
            "__key__": name(f"{NASTY[number % 10]}{number}"),
            "png": bright_image(number),
            "cls": str(number % 10).encode(),
        }
        for number in range(first, first + 40)
    ]
    return str(write_shard(path, samples))


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a filled store, another without labels, and a run, all names of which are nasty."""
    folder = tmp_path_factory.mktemp("nasty")
    shards = [nasty_shard(folder / "shards" / f"{name(NASTY[n])[:100]}.tar", 40 * n) for n in (0, 1, 6, 7)]
    (folder / "shards" / "classes.json").write_text(json.dumps(NASTY))
    policy = ["--policy", "cifar", *(word for setting in SMALL for word in ("--set", setting))]
    for store in ("store", "other"):
        run(teacher_cache, "index", *shards, "--store", folder / store, *policy, "--views", 4, "--workers", 1)
    opened = Store.open(folder / "store")
    for sample in (3, 44):
        spoil_image(opened, sample)
    return folder


def test_teacher_cache(nasty: Path) -> None:
    refused = run(teacher_cache, *fill_words(nasty / "store"), exit_code=1)
    assert "error: shard a\\x1b[2K\\rerror: all fine" in refused.stderr
    filled = run(teacher_cache, *fill_words(nasty / "store"), "--skip-bad")
    assert "warning: 2 samples skipped: a\\x1b[2K\\rerror: all fine" in filled.stderr
    status = run(teacher_cache, "status", nasty / "store")
    assert "a\\x1b[2K\\rerror: all fine" in status.stdout
    as_json = run(teacher_cache, "status", nasty / "store", "--json")
    assert json.loads(as_json.stdout)["skipped"]["first"][0]["shard"] == f"{NASTY[0]}.tar"
    run(teacher_cache, *fill_words(nasty / "store"), "--skip-bad", "--estimate")
    run(teacher_cache, "verify", nasty / "store", "--fraction", 1, "--workers", 0)
    run(teacher_cache, "extend", nasty / "other", "--views", 8)
    opened = Store.open(nasty / "store")
    shard = Path(opened.index.shards[0].path)
    content = shard.read_bytes()
    spoil_image(opened, 5)
    try:
        run(teacher_cache, "verify", nasty / "store", "--fraction", 1, "--workers", 0, exit_code=1)
    finally:
        shard.write_bytes(content)


@pytest.mark.parametrize("number", range(10))
def test_inspect_cache(nasty: Path, tmp_path: Path, number: int) -> None:
    store = nasty / "store"
    run(teacher_cache, *fill_words(store), "--skip-bad")
    key = Store.open(store).index.key(10 + number)  # two before are skipped
    sample = run(inspect_cache.main, store, "sample", key, "--out", tmp_path / "x.png", "--limit", 2)
    view = run(inspect_cache.main, store, "view", key, 0, "--out", tmp_path / "y.png")
    run(inspect_cache.main, store, "sample", f"{key}?", exit_code=1)
    run(inspect_cache.main, store, "disagreements", "--class", NASTY[number], "--limit", 50)
    run(inspect_cache.main, store, "confusions", "--class", NASTY[number][:-1], exit_code=1)
    assert view.stdout
    if number in (6, 7):
        assert NASTY[number].replace("/", "_") in sample.stdout


def test_inspect_cache_as_a_whole(nasty: Path, tmp_path: Path) -> None:
    store, other = nasty / "store", nasty / "other"
    for each in (store, other):
        run(teacher_cache, *fill_words(each), "--skip-bad")
    for words in (["summary"], ["disagreements"], ["confusions"], ["compare", other]):
        run(inspect_cache.main, store, *words)
        text = run(inspect_cache.main, store, *words, "--json").stdout
        assert text.isascii()
        assert json.loads(text)
    run(inspect_cache.main, store, "export", "--out", tmp_path / "x.csv")
    run(inspect_cache.main, store, "report", "--out", tmp_path / "x.html", "--workers", 0, "--limit", 5)
    page = (tmp_path / "x.html").read_text()
    assert all(name[:8] in page for name in ("pppppppp", "g[bold]h"))
    check_text(page[: page.index("<script")], longest=10**6)


def test_student(nasty: Path, tmp_path: Path) -> None:
    store = nasty / "store"
    run(teacher_cache, *fill_words(store), "--skip-bad")
    recipe = tmp_path / f"{name(NASTY[0])}.toml"
    recipe.write_text(Path(RECIPE).read_text())
    out = tmp_path / f"{name(NASTY[1])}"
    settings = ["--workers", 0, "--device", "cpu"]
    model = ["--set", student_setting("two_heads")]
    val = nasty_shard(tmp_path / "val" / f"{name(NASTY[7])}.tar", 1000)
    (tmp_path / "val" / "classes.json").write_text(json.dumps(NASTY))
    train = ["train", store, "--recipe", recipe, *model, "--out", out, "--val", val, *settings]
    run(student, *train)
    run(student, *train)
    run(student, "recipes", "show", recipe, *model)
    evaluate = ["evaluate", out / "checkpoint.pt", "--model", str(model[1]).partition("=")[2]]
    teacher = ["--teacher", f"{TEACHERS}:brightness"]
    for more in ([], ["--json"]):
        run(student, *evaluate, "--val", val, *teacher, *settings, *more)
    for each in NASTY:
        if name(each) != out.name:
            run(student, "results", f"{name(each)}={out}", out)
    refused = CliRunner().invoke(student, ["results", str(out), f"{out.name}={out}"])
    assert refused.exit_code == 2
    assert len([line for line in refused.output.splitlines() if "are both called" in line]) == 1
    assert "all fine" not in refused.output.splitlines()
    assert "\nerror: all fine" not in refused.output


def test_make_shards(tmp_path: Path) -> None:
    for number, each in enumerate(NASTY):
        file = tmp_path / "source" / name(each)[:200] / f"{name(each)[:100]}.png"
        file.parent.mkdir(parents=True)
        file.write_bytes(bright_image(number))
    out = tmp_path / name(NASTY[0])
    run(make_shards.main, "folder", tmp_path / "source", out)
    run(make_shards.main, "folder", tmp_path / "source", out, exit_code=1)


@pytest.mark.parametrize("text", NASTY)
def test_a_console_of_anyone_shows_text_as_it_is(text: str) -> None:
    console = Console(width=80, file=StringIO())
    console.print(line(text), soft_wrap=True)
    console.print(table((text, "x"), [(text, text)], limits={"x": 10**5}, title=text, caption=text))
    check_text(console.file.getvalue())


def test_json_is_exact_and_printable() -> None:
    value = {text: [text] for text in NASTY}

    @click.command()
    def command() -> None:
        say_json(value)

    printed = CliRunner().invoke(command).stdout
    check_text(printed, longest=11_000)
    assert json.loads(printed) == value
    assert "\x7f" not in printed
    with pytest.raises(TeacherCacheError, match="cannot be written as JSON"):
        say_json({"tau": float("nan")})


def calls(path: Path) -> set[str]:
    """What a file calls, as it stands there: print, click.echo."""
    return {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}


def printers(path: Path) -> set[str]:
    return calls(path) & {
        "print",
        "click.echo",
        "click.secho",
        "Console",
        "Table",
        "sys.stdout.write",
        "sys.stderr.write",
    }


def python_files() -> Sequence[Path]:
    return sorted(path for room in ("teacher_cache", "student", "tools") for path in (ROOT / room).rglob("*.py"))


def test_one_door_leads_to_a_terminal() -> None:
    door = ROOT / "teacher_cache" / "terminal.py"
    assert printers(door) == {"click.echo", "Console", "Table"}
    assert {path: printers(path) for path in python_files() if path != door and printers(path)} == {}
