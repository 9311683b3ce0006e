"""Strings of strangers, as people see them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.errors import StoreError
from teacher_cache.messages.shown import MESSAGE, counted, shown

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
    ],
)
def test_one_is_no_plural(number: int, noun: str, words: str) -> None:
    assert counted(number, noun) == words
