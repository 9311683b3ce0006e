"""Strings of strangers, as people see them."""

import ast
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.errors import StoreError
from teacher_cache.messages.shown import MESSAGE, as_word, counted, shown

ANY_TEXT = st.text(st.characters(exclude_categories=[]))


@given(ANY_TEXT, st.integers(1, 50))
def test_shown_text_is_one_line_that_moves_nothing(text: str, limit: int) -> None:
    found = shown(text, limit)
    assert found.isprintable()
    assert not set(found) & set("\u202e\u200b\x1b\r\n\t")
    assert len(found) <= 10 * limit  # an escape is ten characters at most
    if text.isprintable() and text.isascii():
        assert shown(text, None) == text


def test_what_was_there_is_shown() -> None:
    assert shown("a\x1b[2J\n\u202eb", None) == "a\\x1b[2J\\n\\u202eb"
    assert shown("é日本😀[red]", None) == "é日本😀[red]"
    assert shown("x" * 70) == "x" * 59 + "…"
    assert shown(b"caf\xe9\x1b") == "caf\\xe9\\x1b"


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8")))
def test_a_path_in_a_command_is_one_word(path: str) -> None:
    given = f"./{path}" if path.startswith("-") else path  # a word that is no option
    assert shlex.split(f"fill {as_word(path)} --views 4") == ["fill", given, "--views", "4"]


@given(ANY_TEXT)
def test_no_name_forges_a_second_line_in_a_message(name: str) -> None:
    message = str(StoreError(f"shard {name}: broken"))
    assert message.isprintable()
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("length", [10, 10**6])
def test_a_message_fits_a_screen(length: int) -> None:
    assert len(str(StoreError("k" * length))) == min(length, MESSAGE)


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (0, "unit", "0 units"),
        (1, "unit", "1 unit"),
        (4096, "unit", "4,096 units"),
        (1, "class", "1 class"),
        (1000, "class", "1,000 classes"),
        (2, "batch", "2 batches"),
        (2, "epoch", "2 epochs"),
        (1, "largest probability", "1 largest probability"),
        (2, "largest probability", "2 largest probabilities"),
        (2, "key", "2 keys"),
    ],
)
def test_one_is_no_plural(number: int, noun: str, words: str) -> None:
    assert counted(number, noun) == words


@pytest.mark.parametrize(
    ("verb", "one", "two"),
    [
        ("is", "1 unit is", "2 units are"),
        ("has", "1 unit has", "2 units have"),
        ("waits", "1 unit waits", "2 units wait"),
    ],
)
def test_verbs_agree(verb: str, one: str, two: str) -> None:
    assert counted(1, "unit", verb) == one
    assert counted(2, "unit", verb) == two
    assert counted(1, "unit", verb, of=2) == one.replace("1 unit", "1 of 2 units")
    assert counted(1, "unit", verb, of=1) == one.replace("1 unit", "1 of 1 unit")


NOUNS = (
    "batches|bits|blocks|bytes|channels|characters|chunks|classes|columns|components|cores|digits|epochs|files|folders|"
    "groups|images|labels|members|numbers|patches|pictures|pixels|processes|ranks|repeats|rows|samples|seeds|"
    "shards|skips|students|threads|times|units|values|probabilities|keys|views|workers"
)
NEVER_ONE = {  # what is written before a plural, and is more
    "several of a kind": {
        "len(found)",
        "ranks_here",
        "len(best)",
        "len(sample['labels'])",
    },
    "a limit that was passed, or what passed it": {
        *("len(content)", "len(digits)", "len(override)", "limit", "size", "value.bit_length()"),
    },
    "sides and sizes": {"grid[1]", "height", "width", "num_bytes", "samples", "many"},
}


def test_numbers_before_a_plural_are_counted() -> None:
    """'1 views' is written nowhere: in an f-string a number stands before a plural through `counted`, as a constant, or
    rounded."""
    allowed = set().union(*NEVER_ONE.values())
    written = plurals()
    found = {place: what for place, what in written if what not in allowed}
    assert not found
    assert allowed == {what for _, what in written} & allowed, "some are no longer there"


def plurals() -> list[tuple[str, str]]:
    """What is formatted right before a plural: its place, and the expression."""
    found = []
    for path, text in formatted():
        for number, after in itertools.pairwise(text.values):
            if not isinstance(number, ast.FormattedValue) or not isinstance(after, ast.Constant):
                continue
            rounded = number.format_spec is not None and "." in ast.unparse(number.format_spec)
            what = ast.unparse(number.value)
            if re.match(rf" ({NOUNS})\b(?!/)", str(after.value)) and not rounded and not what.isupper():
                found.append((f"{path}:{number.lineno}", what))
    return found


WORDS_BY_THEMSELVES = {"asked", "given", "height * width", "more", "report", "size", "used", "views"}


def test_what_stands_in_a_command_is_quoted() -> None:
    """A name of a stranger's, put into a command that a message offers, runs nothing where it is pasted."""
    in_commands = list(commands())
    assert len(in_commands) > 20
    quoted = re.compile(r"as_(word|place)\(.*\)")
    bare = {what for _, what in in_commands if not quoted.fullmatch(what)}
    assert bare == WORDS_BY_THEMSELVES, [place for place, what in in_commands if what in bare - WORDS_BY_THEMSELVES]


def commands() -> Iterator[tuple[str, str]]:
    """What is formatted behind the name of a program: its place, and the expression."""
    program = re.compile(r"(?:^|`|python )(?:teacher-cache|student|hf|mv|index|\S+\.py) [^`]*")
    for path, text in formatted():
        before = ""
        for part in text.values:
            if isinstance(part, ast.FormattedValue):
                if program.fullmatch(before[max(before.rfind("`"), 0) :]):
                    yield f"{path}:{part.lineno}", ast.unparse(part.value)
                before += "VALUE"
            else:
                before += str(ast.literal_eval(part))


def formatted() -> Iterator[tuple[Path, ast.JoinedStr]]:
    """The f-strings of the program, with their files."""
    root = Path(__file__).parents[2]
    for package in ("teacher_cache", "student", "tools"):
        for path in (root / package).rglob("*.py"):
            for text in ast.walk(ast.parse(path.read_text())):
                if isinstance(text, ast.JoinedStr):
                    yield path.relative_to(root), text
