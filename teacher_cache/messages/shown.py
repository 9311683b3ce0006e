"""How a string of a stranger's (a key, a member's name, a class, a path, a library's message) is shown to a person."""

import shlex
from collections.abc import Iterable

SHOWN = 60  # characters of a name in a table
LISTED = 3  # names in a message
MESSAGE = 4000  # characters of a message: names in it may be of any length


def shown(text: str | bytes, limit: int | None = SHOWN) -> str:
    """Text of one line that cannot move a cursor, turn the direction of writing, or fill a screen.

    What is not printable is written as Python writes it in ASCII (\\x1b, \\u202e); text of more than limit characters
    is cut, and says so. Bytes are read as UTF-8, others among them as \\xff.
    """
    if isinstance(text, bytes):
        text = text.decode(errors="backslashreplace")
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    return text if text.isprintable() else "".join(each if each.isprintable() else escaped(each) for each in text)


def listed(names: Iterable[str | bytes], limit: int | None = SHOWN) -> str:
    """Names of strangers in a message: the first three, and how many more there are. limit: of a name's characters."""
    known = list(names)
    more = f" and {len(known) - LISTED:,} more" if len(known) > LISTED else ""
    return ", ".join(shown(name, limit) for name in known[:LISTED]) + more


def counted(number: int, noun: str, verb: str = "", *, of: int | None = None) -> str:
    """'1 unit', '4,096 units', '10 classes', '1 unit waits', '2 units wait', '1 of 2 units waits'. noun, verb: of one;
    of: how many there are in all."""
    if (number if of is None else of) != 1:
        noun = _plural(noun)
    if number != 1:
        verb = {"is": "are", "has": "have"}.get(verb, verb.removesuffix("s"))
    share = "" if of is None else f" of {of:,}"
    return f"{number:,}{share} {noun} {verb}".rstrip()


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return noun + ("es" if noun.endswith(("s", "tch")) else "s")


def escaped(letter: str) -> str:
    """As Python writes it in ASCII: \\x1b, \\u732b."""
    return letter.encode("unicode_escape").decode("ascii")


def as_word(value: object) -> str:
    """A path as one word of a shell, for a command that a message offers; one that is no option."""
    word = str(value)
    return shlex.quote(f"./{word}" if word.startswith("-") else word)


def as_code(value: object) -> str:
    """A value from a file for a table of Markdown, in which it shall become no markup."""
    return f"`{shown(str(value), None).replace('`', chr(39)).replace('|', '/')}`"
