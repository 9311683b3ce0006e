"""Options that commands share: their old spellings, and that help says what an option is counted in and its default."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from student.cli import main as student
from teacher_cache.cli import main as teacher_cache
from teacher_cache.options import (
    ActorCount,
    ByteCount,
    FiniteRange,
    OldSpelling,
    RenamedParameter,
    cache_options,
    endpoint_option,
)
from teacher_cache.storage.cache import NodeCache
from teacher_cache.storage.place import ENDPOINTS, Url
from tests.support.azurite import Containers
from tests.support.bright_shards import bright_store
from tests.support.object_server import Buckets
from tools import benchmark, inspect_cache, make_shards, range_server, simulate_scale, simulate_store, topk_table

PROGRAMS = {
    "teacher-cache": teacher_cache,
    "student": student,
    "inspect_cache.py": inspect_cache.main,
    "make_shards.py": make_shards.main,
    "topk_table.py": topk_table.main,
    "simulate_store.py": simulate_store.main,
    "simulate_scale.py": simulate_scale.main,
    "benchmark.py": benchmark.main,
    "range_server.py": range_server.main,
}

TRAIN, EVALUATE, EXPORT = "--recipe R --out O", "--val V", "--format onnx --out m.onnx"

# what is written now, what it was before this release, and what each line on standard error says
OLD = [
    ("teacher-cache fill S", "teacher-cache fill --store S", ["--store fill STORE"]),
    ("teacher-cache extend S --views 4", "teacher-cache extend --store S --views 4", ["--store extend STORE"]),
    ("teacher-cache status S", "teacher-cache status --store S", ["--store status STORE"]),
    ("teacher-cache verify S", "teacher-cache verify --store S", ["--store verify STORE"]),
    (f"student train S {TRAIN}", f"student train --store S {TRAIN}", ["--store train STORE"]),
    (
        f"student train S --teacher T --checkpoint W {TRAIN}",
        f"student train S --teacher T --teacher-checkpoint W {TRAIN}",
        ["--teacher-checkpoint train --checkpoint FILE"],
    ),
    (
        f"student finetune M S --teacher T --checkpoint W {TRAIN}",
        f"student finetune --checkpoint M --store S --teacher T --teacher-checkpoint W {TRAIN}",
        [
            "--checkpoint finetune MODEL STORE",
            "--store finetune MODEL STORE",
            "--teacher-checkpoint finetune --checkpoint FILE",
        ],
    ),
    (f"student finetune M S {TRAIN}", f"student finetune M --store S {TRAIN}", ["--store finetune MODEL STORE"]),
    (
        f"student finetune M S --checkpoint W {TRAIN}",
        f"student finetune M --store S --checkpoint W {TRAIN}",
        ["--store finetune MODEL STORE"],
    ),
    (f"student evaluate M {EVALUATE}", f"student evaluate --checkpoint M {EVALUATE}", ["--checkpoint evaluate MODEL"]),
    (
        f"student evaluate M --teacher T --checkpoint W {EVALUATE}",
        f"student evaluate --teacher-checkpoint W --teacher T --checkpoint M {EVALUATE}",
        ["--checkpoint evaluate MODEL", "--teacher-checkpoint evaluate --checkpoint FILE"],
    ),
    (f"student export M {EXPORT}", f"student export --checkpoint M {EXPORT}", ["--checkpoint export MODEL"]),
    ("topk_table.py S", "topk_table.py --store S", ["--store topk_table.py [STORE]"]),
]


def commands(name: str, command: click.Command, above: click.Context | None = None) -> Iterator[click.Context]:
    """The context of a command and of all below it."""
    context = click.Context(command, above, name, **command.context_settings)
    yield context
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        yield from commands(str(below.name), below, context)


ALL = [context for name, program in PROGRAMS.items() for context in commands(name, program)]
MAIN = [context for context in ALL if context.command_path.split()[0] in ("teacher-cache", "student")]


def parse(line: str) -> dict[str, object]:
    """A command's parameters as its function gets them; the command is not run."""
    program, *words = line.split()
    command: click.Command = PROGRAMS[program]
    if isinstance(command, click.Group):
        program, command = words[0], command.commands[words.pop(0)]
    return command.make_context(program, words).params


@pytest.mark.parametrize(("new", "old", "lines"), OLD, ids=lambda value: value if isinstance(value, str) else "")
def test_an_old_spelling_means_the_same_and_says_what_is_written_now(
    new: str, old: str, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = parse(new)
    assert capsys.readouterr() == ("", "")
    assert parse(old) == expected
    out, err = capsys.readouterr()
    said = sorted(
        f"warning: {option} is deprecated, the next release does not take it: write `{written}`"
        for option, _, written in (line.partition(" ") for line in lines)
    )
    assert (out, sorted(err.splitlines())) == ("", said)


def test_every_parameter_with_an_old_spelling_is_tested() -> None:
    renamed = {
        (context.command_path, param.name)
        for context in ALL
        for param in context.command.params
        if isinstance(param, RenamedParameter)
    }
    teachers = {(f"teacher-cache {name}", "checkpoint") for name in ("fill", "verify")}  # never was spelled otherwise
    tested = set()
    for new, old, _ in OLD:
        path = " ".join(word for word in new.split()[:2] if word != "S")
        tested |= {(path, "store_path")} if "--store" in old else set()
        tested |= {(path, "checkpoint")} if "--teacher-checkpoint" in old else set()
        tested |= {(path, "trained_model")} if " --checkpoint M" in old else set()
    assert renamed - teachers == tested


def test_only_the_first_rank_says_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert parse("teacher-cache fill --store S")["store_path"] == "S"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        *(
            (f"{command} A --store B {more}", "STORE is given twice, A and --store B: leave --store out")
            for command, more in (
                ("teacher-cache fill", ""),
                ("teacher-cache extend", "--views 4"),
                ("teacher-cache status", ""),
                ("teacher-cache verify", ""),
                ("student train", TRAIN),
                ("student finetune M", TRAIN),
            )
        ),
        ("topk_table.py A --store B", "[STORE] is given twice, A and --store B: leave --store out"),
        (
            f"student export A --checkpoint B {EXPORT}",
            "MODEL is given twice, A and --checkpoint B: leave --checkpoint out",
        ),
        *(
            (
                f"student {command} --checkpoint A --teacher-checkpoint B --teacher T {more}",
                "--checkpoint is given twice, A and --teacher-checkpoint B: leave --teacher-checkpoint out",
            )
            for command, more in (("train S", TRAIN), ("finetune M S", TRAIN), ("evaluate M", EVALUATE))
        ),
        *((f"teacher-cache {command}", "Missing argument 'STORE'.") for command in ("fill", "status", "verify")),
        ("teacher-cache extend --views 4", "Missing argument 'STORE'."),
        (f"student train {TRAIN}", "Missing argument 'STORE'."),
        (f"student finetune M {TRAIN}", "Missing argument 'STORE'."),
        (f"student finetune --store S {TRAIN}", "Missing argument 'MODEL'."),
        (f"student evaluate {EVALUATE}", "Missing argument 'MODEL'."),
        (f"student export {EXPORT}", "Missing argument 'MODEL'."),
        ("teacher-cache index x.tar", "Missing option '--store'."),
    ],
)
def test_both_spellings_or_neither_are_refused_in_one_line(line: str, message: str) -> None:
    with pytest.raises(click.UsageError) as refused:
        parse(line)
    assert refused.value.format_message() == message


def test_a_refusal_ends_the_command_with_2_and_prints_one_error() -> None:
    ended = CliRunner().invoke(teacher_cache, ["status", "A", "--store", "B"])
    assert ended.exit_code == 2
    (error,) = [line for line in ended.stderr.splitlines() if line.startswith("Error: ")]
    assert error == "Error: STORE is given twice, A and --store B: leave --store out"


def test_weights_of_no_teacher_are_refused() -> None:
    ended = CliRunner().invoke(student, ["evaluate", "M", "--checkpoint", "W", "--val", "V"])
    assert ended.exit_code == 2
    assert "Error: --checkpoint W is a teacher's weights: name it with --teacher (the trained model is MODEL)" in (
        ended.stderr
    )


@pytest.mark.parametrize("context", ALL, ids=lambda context: context.command_path)
def test_help_of_every_command(context: click.Context) -> None:
    """Each option says what it is, in which unit, and what holds without it; old spellings are not shown."""
    text = context.get_help()
    assert context.command.help
    assert context.show_default
    for param in context.command.params:
        if isinstance(param, click.Argument):
            assert param.make_metavar(context) in text.splitlines()[0]
            continue
        assert isinstance(param, click.Option)
        if param.hidden:
            assert f"  {param.opts[0]} " not in text, param.opts
            continue
        help_text, where = str(param.help), f"{context.command_path} {param.opts[0]}"
        assert re.search(r"[.\]]$", help_text), where
        assert param.make_metavar(context) not in (
            "INTEGER",
            "INTEGER RANGE",
            "FLOAT",
            "FLOAT RANGE",
            "TEXT",
            "PATH",
        ), where
        shown = param.get_help_extra(context)
        says_default = "[default:" in help_text or "default" in shown or "required" in shown
        assert says_default or (param.is_flag and not param.secondary_opts) or param.multiple, where


def test_views_are_said_to_be_a_count_or_a_range() -> None:
    metavars = {
        context.command_path: (param.make_metavar(context), str(param.help))
        for context in ALL
        for param in context.command.params
        if "--views" in param.opts
    }
    assert {path for path, (metavar, _) in metavars.items() if metavar == "A:B"} == {"teacher-cache fill"}
    assert {metavar for _, (metavar, _) in metavars.items()} == {"A:B", "COUNT"}
    assert metavars["teacher-cache fill"][1].startswith("A range: ")
    assert all("ow many" in text for metavar, text in metavars.values() if metavar == "COUNT")


def test_old_spellings_give_no_parameter_of_their_own() -> None:
    old = [param for context in ALL for param in context.command.params if isinstance(param, OldSpelling)]
    assert {param.opts[0] for param in old} == {"--store", "--teacher-checkpoint", "--checkpoint"}
    assert all(param.hidden and not param.expose_value for param in old)


def test_nan_is_in_no_range() -> None:
    assert FiniteRange(0, 1).convert("0.5", None, None) == 0.5
    with pytest.raises(click.BadParameter, match="nan is no number"):
        FiniteRange(0, 1).convert("nan", None, None)


def numeric(param: click.Parameter) -> bool:
    kinds = (click.IntRange, click.FloatRange, ActorCount, ByteCount)
    return isinstance(param.type, kinds) or param.type in (click.INT, click.FLOAT)


JUDGED_LATER = {"tau", "checkpoint_every_s"}  # of which a setting's own check tells


@pytest.mark.parametrize("context", MAIN, ids=lambda context: context.command_path)
def test_no_number_that_is_typed_is_more_than_a_refusal(context: click.Context) -> None:
    """Whatever its length; and where it is taken, it is no more than what is of any use."""
    for param in filter(numeric, context.command.params):
        if param.name in JUDGED_LATER:
            continue
        many, very_many = "9" * 400, "9" * 5000
        for text in (many, very_many, "nan", "inf", "1e400", "9" * 18 + "P", many + "P", f".{many}", f"1:{very_many}"):
            with suppress(click.BadParameter):
                taken = param.type.convert(text, param, context)
                assert max(taken if isinstance(taken, tuple) else (taken,)) < 2**63, (param.name, text)


# -- where s3:// is ----------------------------------------------------------------------------------------------------

PLACES = {"store", "store_path", "shards", "val", "trained_model", "checkpoint", "packed", "target", "like", "other"}


@pytest.mark.parametrize("context", ALL, ids=lambda context: context.command_path)
def test_what_reads_places_takes_an_endpoint(context: click.Context) -> None:
    """Else its shards, stores or weights could lie on Amazon's servers alone."""
    above = context.parent.command.params if context.parent is not None else []
    if "benchmark.py" not in context.command_path and not isinstance(context.command, click.Group):
        texts = {param.name for param in [*above, *context.command.params] if not hasattr(param.type, "min")}
        assert not texts & PLACES or "endpoint" in {param.name for param in context.command.params}


def test_an_endpoint_goes_before_those_of_the_environment_and_to_other_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ENDPOINTS["S3"]:
        monkeypatch.setenv(variable, "http://another")

    @click.command()
    @endpoint_option
    def command() -> None:
        click.echo([os.environ.get(variable) for variable in ENDPOINTS["S3"]])

    runner = CliRunner()
    assert runner.invoke(command, []).output == f"{['http://another'] * 3}\n"
    assert runner.invoke(command, ["--endpoint", "https://host"]).output == "[None, 'https://host', None]\n"
    for endpoint in ("host:9000", "http://user:PASSWORD@host"):
        refused = runner.invoke(command, ["--endpoint", endpoint])
        assert refused.exit_code == 2
        assert "it is no URL of a server: give http(s)://HOST, without user and query" in refused.output
        assert "PASSWORD" not in refused.output


def test_a_command_that_is_offered_has_the_endpoint_that_was_given(
    s3: Buckets, new_bucket: Callable[[Buckets | Containers], Url]
) -> None:
    """Else it would go to Amazon's servers, and find nothing there."""
    place = new_bucket(s3)
    for given in (["--endpoint", s3.url], []):
        told = CliRunner().invoke(teacher_cache, ["status", str(place), *given])
        offered = " ".join(["teacher-cache index SHARDS --store", place, *given])
        assert told.exit_code == 1
        assert told.output.strip().endswith(f"check the place, or make one with `{offered}`")


@pytest.mark.parametrize("place", ["az://container/store", "gs://bucket/store", "abfss://container@account/store"])
def test_an_endpoint_of_s3_is_not_taken_for_that_of_another(place: str) -> None:
    for more in ([], ["--shards", "https://host/0.tar"]):
        refused = CliRunner().invoke(teacher_cache, ["verify", place, *more, "--endpoint", "http://host"])
        assert refused.exit_code == 2
        scheme = place.partition(":")[0]
        variable = "GOOGLE_BASE_URL" if scheme == "gs" else "AZURE_STORAGE_ENDPOINT"
        assert f"--endpoint is of s3:// alone: that of {scheme}:// is {variable}; for shards" in refused.output


@pytest.mark.parametrize(
    ("text", "num_bytes"), [("200G", 200 * 10**9), ("1.5T", 15 * 10**11), ("7000000", 7 * 10**6), ("5kB", 5000)]
)
def test_bytes_are_counted_by_thousands(text: str, num_bytes: int) -> None:
    assert ByteCount().convert(text, None, None) == num_bytes


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "1X", "nan", "1e9", "0.2", "200 GiB"])
def test_what_is_no_number_of_bytes(text: str) -> None:
    with pytest.raises(click.BadParameter, match=f"{text} is no number of bytes: 200G, 1.5T, 5000000"):
        ByteCount().convert(text, None, None)


def test_a_cache_is_its_folder_and_its_budget(tmp_path: Path) -> None:
    @click.command()
    @cache_options
    def command(cache: NodeCache | None) -> None:
        click.echo(repr(cache))

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(command, words)
        return done.exit_code, done.output.strip()

    folder = tmp_path / "some" / "cache"
    assert run() == (0, "None")
    assert run("--cache", str(folder), "--cache-bytes", "2G") == (0, repr(NodeCache(folder, 2 * 10**9)))
    assert folder.is_dir()
    code, said = run("--cache", "", "--cache-bytes", "2G")
    assert (code, said.splitlines()[-1]) == (2, "Error: Invalid value for '--cache': it is empty")
    for words in (("--cache", str(folder)), ("--cache-bytes", "2G")):
        code, said = run(*words)
        assert code == 2
        assert "--cache FOLDER and --cache-bytes BYTES go together" in said


@pytest.mark.parametrize(("inside", "told"), [("", "is a store"), ("copies", r"lies in the store \S+")])
def test_a_cache_lies_in_no_store(tmp_path: Path, inside: str, told: str) -> None:
    store = bright_store(tmp_path)
    before = sorted(store.path.rglob("*"))
    words = ["verify", str(store.path), "--teacher", "T", "--cache", str(store.path / inside), "--cache-bytes", "1G"]
    done = CliRunner().invoke(teacher_cache, words)
    assert done.exit_code == 1
    assert re.fullmatch(rf"error: \S+ {told}, where nothing else may be: choose another \w+\n", done.output)
    assert sorted(store.path.rglob("*")) == before


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("teacher-cache", ["index", "train.tar", "--store", ""]),
        ("teacher-cache", ["index", "--like", "", "--store", "store"]),
        ("teacher-cache", ["status", ""]),
        ("teacher-cache", ["publish", "", "target"]),
        ("teacher-cache", ["publish", "store", ""]),
        ("teacher-cache", ["unpack", "", "folder"]),
        ("teacher-cache", ["unpack", "packed", ""]),
        ("student", ["train", "", "--recipe", "deit_tiny", "--out", "out"]),
        ("student", ["finetune", "", "store", "--out", "out"]),
        ("student", ["evaluate", "", "--val", "val.tar"]),
        ("student", ["export", "", "--format", "hf", "--out", "out"]),
        ("student", ["export", "model.pt", "--format", "hf", "--out", ""]),
        ("student", ["results", ""]),
        ("inspect_cache.py", [""]),
        ("make_shards.py", ["digits", ""]),
        ("make_shards.py", ["folder", "", "out"]),
        ("topk_table.py", [""]),
        ("simulate_store.py", [""]),
        ("simulate_scale.py", [""]),
    ],
)
def test_a_place_without_a_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, words: list[str]
) -> None:
    """As of a variable of the shell that is not set: it was the folder that one is in, which a message said to remove,
    and which got shards."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(PROGRAMS[program], words)
    assert (done.exit_code, done.output.splitlines()[-1].endswith(": it is empty")) == (2, True), done.output
    assert not list(tmp_path.iterdir())
