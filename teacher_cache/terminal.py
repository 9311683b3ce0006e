"""The one door to a terminal: strangers' strings move no cursor, forge no line, are no markup and no emoji codes."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from teacher_cache.errors import TeacherCacheError
from teacher_cache.messages.shown import MESSAGE, SHOWN, shown

if TYPE_CHECKING:  # rich is imported where something is drawn: help and errors of one line do without
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


def open_streams() -> None:
    """Standard streams that this process was started without (`>&-`) lead nowhere: else the next files and pipes that
    it opens would be them, to libraries that print and to processes that inherit them."""
    for stream in range(3):
        try:
            os.fstat(stream)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free, which is this one


def say(text: str, *, err: bool = False) -> None:
    """Print one line, whatever names are in it: on standard output, or on standard error."""
    click.echo(shown(text, MESSAGE), err=err)


def say_lines(text: str) -> None:
    """Print a text of several lines, the ends of which are ours: names in it must be shown before."""
    for line in text.split("\n"):
        say(line)


def say_aside(message: str) -> None:
    """Print one line beside what is asked for, on standard error."""
    say(message, err=True)


def warn(message: str) -> None:
    """Print a warning, one line, on standard error."""
    say_aside(f"warning: {message}")


def say_json(value: Any) -> None:
    """Print plain values as JSON, in printable ASCII. TeacherCacheError where a number is infinite or none."""
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except ValueError as error:
        raise TeacherCacheError(f"what was found cannot be written as JSON ({error}): leave out --json") from error
    click.echo(text.replace("\x7f", "\\u007f"))  # the one control character that json.dumps leaves as it is


def terminal(*, err: bool = False, width: int | None = None) -> "Console":
    """A console that takes strings as they are."""
    from rich.console import Console

    return Console(stderr=err, width=width, markup=False, emoji=False, highlight=False)


def line(text: str, style: str = "") -> "Text":
    """Text for a console, one line that is not wrapped: a name cannot put what follows it on a line of its own."""
    from rich.text import Text

    return Text(shown(text, MESSAGE), style, no_wrap=True, overflow="ignore")


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Iterable[str] = (),
    limits: Mapping[str, int] | None = None,
    styles: Sequence[str] | None = None,
    title: str | None = None,
    caption: str | None = None,
    **how: Any,
) -> "Table":
    """A table for a console, every string in it shown.

    right: columns that stand at the right; limits: characters of a cell, by column, else SHOWN; styles: of each row;
    how: of rich's Table.
    """
    from rich.table import Table
    from rich.text import Text

    above, below = (None if text is None else Text(shown(text, MESSAGE)) for text in (title, caption))
    made, at_right, limits = Table(title=above, caption=below, **how), set(right), limits or {}
    for column in columns:
        made.add_column(Text(shown(column)), justify="right" if column in at_right else "left", overflow="fold")
    for number, row in enumerate(rows):
        cells = (Text(shown(cell, limits.get(column, SHOWN))) for column, cell in zip(columns, row, strict=True))
        made.add_row(*cells, style=styles[number] if styles is not None else None)
    return made
