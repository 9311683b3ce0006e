"""What a sample's class member says: a class in digits, or by its name, as text or in a field of JSON."""

import difflib
import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from teacher_cache.messages.shown import SHOWN, counted, listed, shown
from teacher_cache.shards.classes import CLASSES_FILE, ClassRule

MAX_CLASSES = 1_000_000  # without classes.json, where the largest class decides how many there are
MAX_CLASS_MEMBER = 64 << 20  # bytes of a .cls or .json member; real ones hold a number, or a few kB

_INTEGER = re.compile(r"-?[0-9]+")
_AROUND = "\ufeff\"'()[],;"  # what stands around a number that was printed, quoted, or saved with a byte order mark
_BYTE_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")  # the likely one first
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16
_LIKELY = re.compile("class|cls|label|target|categor", re.IGNORECASE)  # in the name of a field that may be the class
_MISSING = object()


class ClassError(Exception):
    """What is wrong, to follow a sample's key: 'has class 3.0, ...'."""


class ClassReader:
    """Reads classes as a rule says."""

    def __init__(self, rule: ClassRule) -> None:
        self._rule, self._member = rule, f".{rule.class_extension}"
        self._by_name: dict[str, int | None] = {}  # None: of several classes
        for number, name in enumerate(rule.names or ()):
            self._by_name[name] = None if name in self._by_name else number

    def read(self, content: bytes) -> int:
        """The class that a member's bytes say. Raises ClassError."""
        value = self._field_value(content) if self._rule.field else _text(content)
        if isinstance(value, str) and _INTEGER.fullmatch(value) and len(value) < 1000:
            value = int(value)
        if type(value) is int:
            return self._known(value)
        if isinstance(value, float) and value.is_integer():
            raise _badly_written(str(value))
        if isinstance(value, str) and value:
            return self._of_name(value)
        if not content.strip():
            raise ClassError(f"has an empty {self._member} member: a class is digits alone, or a name")
        raise ClassError(
            f"has a class that is neither an integer nor a name: {_quoted(content)} in its {self._member} member"
        )

    def _known(self, number: int) -> int:
        names = self._rule.names
        limit = MAX_CLASSES if names is None else len(names)
        if 0 <= number < limit:
            return number
        known = f"0 to {limit - 1} are " + (f"allowed without {CLASSES_FILE}" if names is None else "known")
        raise ClassError(
            f"has class {shown(str(number))}, but {known}; correct the class, or give all names with --classes"
        )

    def _of_name(self, name: str) -> int:
        if name not in self._by_name:
            if _meant(name) is not None or (self._rule.names is None and _is_figures(name)):
                raise _badly_written(name)
            if self._rule.names is None:
                raise ClassError(
                    f"has class '{shown(name)}', a name, and no {CLASSES_FILE} lies beside the shard; give the names "
                    "with --classes FILE"
                )
            raise _unknown(name, self._rule.names)
        number = self._by_name[name]
        if number is None:
            raise ClassError(f"has class '{shown(name)}', which names more than one class; write classes as integers")
        return number

    def _field_value(self, content: bytes) -> object:
        try:
            document = json.loads(content)
            value = _look_up(document, self._rule.field)
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]
            raise ClassError(
                f"has a .json member that cannot be read ({reason}): {_quoted(content)}; write the shard again"
            ) from None
        if value is _MISSING:
            raise ClassError(
                f"has no field '{shown(self._rule.field)}' in its .json member, {_describe_fields(document, content)}"
            )
        return value


def describe_json(content: bytes) -> str:
    """What a .json member could give as a class, to follow 'its .json member, '."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return f"which cannot be read: {_quoted(content)}"
    return _describe_fields(document, content)


def _describe_fields(document: Any, content: bytes) -> str:
    names = _field_names(document)
    if not names:
        return f"which has no fields: {_quoted(content)}; say where the class is with --class-from"
    names.sort(key=lambda name: _LIKELY.search(name) is None)
    return (
        f"whose {'fields are' if len(names) > 1 else 'only field is'} {listed(names)}: say which is the class with "
        f"--class-from json:{'FIELD' if len(names) > 1 else shown(names[0])}"
    )


def _field_names(document: Any) -> list[str]:
    """Names of all that a document's objects hold, of objects in objects as outer.inner, in their order."""
    names, waiting = [], [("", document)]
    while waiting:
        prefix, value = waiting.pop()
        if isinstance(value, dict) and value:
            waiting += [(f"{prefix}.{name}" if prefix else name, inner) for name, inner in reversed(value.items())]
        elif prefix:
            names.append(prefix)
    return names


def _look_up(document: Any, path: str) -> object:
    """The field of this name, or else of the object that the name says before one of its dots; _MISSING without."""
    if not isinstance(document, dict):
        return _MISSING
    if path in document:
        return document[path]
    dot = path.find(".")
    while dot >= 0:
        value = _look_up(document.get(path[:dot]), path[dot + 1 :])
        if value is not _MISSING:
            return value
        dot = path.find(".", dot + 1)
    return _MISSING


def _text(content: bytes) -> str:
    try:
        if content.startswith(_BYTE_ORDER_MARKS):
            return "\ufeff" + content.decode("utf-16").strip()
        text = content.decode().strip()
    except UnicodeDecodeError:
        text = None
    if (number := _machine_integer(content)) is not None:
        raise ClassError(
            f"has a class in {counted(len(content), 'byte')} ({_quoted(content)}), as a machine keeps an integer: "
            f"write the shard again, each class as text, in digits alone, as {number}"
        )
    if text is None:
        raise ClassError(
            f"has no text in its .cls member ({_quoted(content)}); say where the class is with --class-from"
        )
    return text


def _unknown(name: str, names: Sequence[str]) -> ClassError:
    close = difflib.get_close_matches(name[:SHOWN], names, 1)
    correct = f"correct it ('{shown(close[0])}'?)" if close else "correct it"
    return ClassError(
        f"has class '{shown(name)}', which is not among {counted(len(names), 'class name')}; {correct}, or give all "
        "names with --classes"
    )


def _machine_integer(content: bytes) -> int | None:
    """The class that 4 or 8 bytes are in a machine's memory; None for what is none, as text is."""
    if len(content) in (4, 8):
        for order in _BYTE_ORDERS:
            if (number := int.from_bytes(content, order)) < MAX_CLASSES:
                return number
    return None


def _badly_written(text: str) -> ClassError:
    meant = _meant(text)
    example = "3" if meant is None else str(meant)
    return ClassError(
        f"has class {_quoted(text)}, a badly written number: write the shard again, each class in digits alone, as "
        f"{example}"
    )


def _meant(text: str) -> int | None:
    """The class that somebody wrote as 3.0, "3", +3, 3e0, [3] or in other digits than 0 to 9; None for what is none."""
    try:
        number = float(text.strip(_AROUND).strip())
    except ValueError:
        return None
    return int(number) if number.is_integer() and 0 <= number < MAX_CLASSES else None


def _is_figures(text: str) -> bool:
    """Whether a text has digits and no letters: some way to write a number, or several."""
    return any(map(str.isdigit, text)) and not any(map(str.isalpha, text))


def _quoted(content: str | bytes) -> str:
    return f"'{shown(content[:200], 40)}'"
