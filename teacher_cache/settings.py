"""Settings files: TOML, shipped by name or given as a path, with `key=value` put over it, validated by pydantic.

The one reader of TOML, and of JSON that others wrote. Whatever stands in such a file, the answer is plain values or
one line of an error: size, nesting and numbers have bounds.
"""

import json
import math
import os
import tomllib
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, time
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from teacher_cache.errors import TeacherCacheError
from teacher_cache.files import reading_advice
from teacher_cache.messages.nearest import did_you_mean
from teacher_cache.messages.shown import listed, shown

Settings = TypeVar("Settings")
Pairs = list[tuple[str, Any]]

SMALLEST, LARGEST = 2.0**-126, 2.0**128 * (1 - 2.0**-24)  # float32, in full precision

MAX_TOML_BYTES = 2**16  # tomllib takes quadratic time for a key of very many dots
MAX_JSON_BYTES = 2**24
MAX_NESTING = 32
MAX_VALUES = 2**24
MAX_INTEGER = 2**63 - 1  # TOML's
SHOWN_VALUE = 80  # characters of a value in a message
SHOWN_PATH = 1000


def shipped(folder: Path) -> list[str]:
    """Names of the settings files in a folder."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def read_settings(
    name_or_path: str, folder: Path, what: str, error_type: type[TeacherCacheError], listing: str = ""
) -> dict[str, Any]:
    """The values of a file shipped in `folder`, or of any TOML file; "name" is the file's unless it says otherwise.

    what ("policy") names the kind of file in messages, listing says what lists the shipped ones. Raises error_type.
    """
    return read_settings_text(name_or_path, folder, what, error_type, listing)[0]


def read_settings_text(
    name_or_path: str, folder: Path, what: str, error_type: type[TeacherCacheError], listing: str = ""
) -> tuple[dict[str, Any], str]:
    """read_settings' values, and the text that they stand in."""
    names = shipped(folder)
    path = folder / f"{name_or_path}.toml" if name_or_path in names else Path(name_or_path)
    try:
        text = _read_text(path, MAX_TOML_BYTES)
        values = tomllib.loads(text)
        check_plain(values)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise error_type(
            f"no {what} {shown(name_or_path, SHOWN_PATH)!r}, neither a file nor a shipped one: "
            + did_you_mean(path.stem, names, listing or f"shipped are {', '.join(names)}")
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise error_type(
            f"{what} {shown(name_or_path, SHOWN_PATH)} cannot be read: {_reason(error)}: "
            + reading_advice(error, "correct the file")
        ) from None
    values.setdefault("name", path.stem)
    return values, text


def read_json(path: str | os.PathLike[str], what: str, error_type: type[TeacherCacheError], advice: str) -> Any:
    """The plain values of a JSON file. what names it in messages, advice is their end. Raises error_type."""
    try:
        return _plain_json(_read_text(Path(path), MAX_JSON_BYTES), names=each_once)
    except (OSError, ValueError, RecursionError) as error:
        raise error_type(f"{what} cannot be read ({_reason(error)}): {reading_advice(error, advice)}") from None


def parse_json(
    content: str | bytes,
    what: str,
    error_type: type[TeacherCacheError],
    advice: str,
    *,
    names: Callable[[Pairs], dict[str, Any]] = dict,
) -> Any:
    """The same for JSON that stands elsewhere: in a shard, in a file's header. names: `each_once`, or the last counts
    of those that stand twice."""
    try:
        if len(content) > MAX_JSON_BYTES:
            _refuse(f"it has {len(content):,} bytes, at most {MAX_JSON_BYTES:,} are read")
        return _plain_json(content.decode() if isinstance(content, bytes) else content, names=names)
    except (ValueError, RecursionError) as error:
        raise error_type(f"{what} cannot be read ({_reason(error)}): {advice}") from None


def parse_override(override: str, error_type: type[TeacherCacheError]) -> tuple[str, Any]:
    """`key=value` -> dotted key, value: TOML, or a bare word; `none` gives None. Raises error_type."""
    key, equals, text = override.partition("=")
    key, text = key.strip(), text.strip()
    if not equals or not key:
        raise error_type(f"setting {shown(override, SHOWN_VALUE)!r} is not of the form key=value")
    if text.lower() == "none":
        return key, None
    try:
        if len(override) > MAX_TOML_BYTES:
            _refuse(f"it has {len(override):,} characters, at most {MAX_TOML_BYTES:,} are read")
        value = _toml_or_word(text)
        check_plain({key: value})
    except (ValueError, RecursionError) as error:
        raise error_type(f"setting {shown(override, SHOWN_VALUE)}: {_reason(error)}: give another value") from None
    return key, value


def parse_overrides(overrides: Sequence[str], error_type: type[TeacherCacheError]) -> list[tuple[str, Any]]:
    """parse_override of each; one error for all that are none. Raises error_type."""
    found, wrong = [], []
    for override in overrides:
        try:
            found.append(parse_override(override, error_type))
        except error_type as error:
            wrong.append(str(error))
    if wrong:
        raise error_type("; ".join(wrong))
    return found


def put_setting(values: dict[str, Any], key: str, value: Any, error_type: type[TeacherCacheError]) -> None:
    """Set a dotted key in place; sections that are absent, or were removed, are made. Raises error_type."""
    *sections, name = key.split(".")
    if len(sections) >= MAX_NESTING:
        raise error_type(f"setting {shown(key, SHOWN_VALUE)} nests deeper than {MAX_NESTING}")
    for part in sections:
        below = values.get(part)
        if below is None:
            below = values[part] = {}
        if not isinstance(below, dict):
            raise error_type(f"setting {shown(key, SHOWN_VALUE)}: {shown(part)} is not a section")
        values = below
    values[name] = value


def validated(
    model: type[Settings],
    values: dict[str, Any],
    where: str,
    error_type: type[TeacherCacheError],
    *,
    listing: str = "",
    context: Any = None,
) -> Settings:
    """The model, or dataclass, of these values. Raises error_type, which names every unknown or impossible setting.

    listing: one clause that says where all settings are. context: what the model's own validators are told.
    """
    try:
        check_plain(values)
        return TypeAdapter(model).validate_python(values, context=context)
    except ValidationError as error:
        names = list(setting_names(model)) if issubclass(model, BaseModel) else []
        problems = list(_problems(error.errors(include_url=False), names, listing))
        raise error_type(f"{where}: {'; '.join(problems)}") from error
    except ValueError as error:
        raise error_type(f"{where}: {error}") from None


def in_float32(value: float) -> float:
    """The number, if a float32 holds it: for settings that a device computes with. ValueError."""
    if value and not SMALLEST <= abs(value) <= LARGEST:
        _refuse(f"is no number that a float32 holds, {SMALLEST:.2g} to {LARGEST:.2g}")
    return value


def below_one(value: float) -> float:
    """The number, if it is below 1 as a float32 too. ValueError."""
    if value > 1 - 2.0**-24:
        _refuse(f"is 1 as a float32; at most {1 - 2.0**-24:.8f}")
    return value


def setting_names(model: type[BaseModel]) -> Iterator[str]:
    """The dotted names of a model's settings, those of its sections included."""
    for name, field in model.model_fields.items():
        yield name
        for section in _sections(field.annotation):
            yield from (f"{name}.{below}" for below in setting_names(section))


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a setting may be: Crop of Crop, and of Crop | None."""
    kinds = typing.get_args(annotation) if typing.get_origin(annotation) is types.UnionType else (annotation,)
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def check_plain(values: Any) -> None:
    """Raise ValueError for what a settings file cannot hold: deep nesting, huge integers, NaN, objects, half a letter.

    Also for values that hold themselves, or name one part very often.
    """
    waiting: list[tuple[str, Any, int]] = [("", values, 0)]
    seen = 0
    while waiting:
        place, value, depth = waiting.pop()
        seen += 1
        if depth > MAX_NESTING or seen > MAX_VALUES:
            _refuse(f"it nests deeper than {MAX_NESTING}" if depth > MAX_NESTING else f"over {MAX_VALUES:,} values")
        if isinstance(value, dict):
            for name, below in value.items():
                if not isinstance(name, str):
                    _refuse(f"{place or 'it'} has a {type(name).__name__} for a name, a string is expected")
                waiting.append((name, name, depth))
                waiting.append((name, below, depth + 1))
        elif isinstance(value, list | tuple):
            waiting.extend((place, below, depth + 1) for below in value)
        elif problem := _problem_of(value):
            _refuse(f"{shown(place)}: {problem}" if place else problem)


def _toml_or_word(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def _problem_of(value: Any) -> str | None:
    """Why a single value cannot stand in settings."""
    if isinstance(value, str):
        return None if value.isascii() or not _has_surrogates(value) else "half a letter (a lone surrogate)"
    if isinstance(value, int):
        return None if abs(value) <= MAX_INTEGER else f"an integer of {value.bit_length()} bits, 64 are the most"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{value} is not a finite number"
    if value is None or isinstance(value, date | time):
        return None
    return f"a {type(value).__name__}, which no settings file holds"


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _plain_json(text: str, *, names: Callable[[Pairs], dict[str, Any]] = dict) -> Any:
    """Raises ValueError or RecursionError. names: what makes an object of its names and values."""
    values = json.loads(
        text,
        parse_constant=lambda word: _refuse(f"{word} is no JSON"),
        parse_int=_integer,
        object_pairs_hook=names,
    )
    check_plain(values)
    return values


def each_once(pairs: Pairs) -> dict[str, Any]:
    """An object in which no name stands twice, of which json keeps the last alone."""
    several = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if several:
        named = ", ".join(f"'{shown(name)}'" for name in several[:3])
        more = f" and {len(several) - 3} more" if len(several) > 3 else ""
        _refuse(f"of its {len(pairs):,} names {named}{more} {'stand' if several[1:] else 'stands'} more than once")
    return dict(pairs)


def _integer(digits: str) -> int:
    return int(digits) if len(digits) <= 20 else _refuse(f"an integer of {len(digits):,} digits")


def _read_text(path: Path, limit: int) -> str:
    """A file's text. Raises OSError, or ValueError for more than limit bytes, a path with NUL, what is not UTF-8."""
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        _refuse(f"it has more than the {limit:,} bytes that are read")
    return content.decode().replace("\r\n", "\n")


def _refuse(problem: str) -> NoReturn:
    raise ValueError(problem)


def _reason(error: Exception) -> str:
    """What is wrong, in a few words."""
    if isinstance(error, RecursionError):
        return f"it nests deeper than {MAX_NESTING}"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if "integer string conversion" in str(error):  # Python's own words tell how to lift its limit
        return "it has a number of thousands of digits"
    return shown(str(error), 2 * SHOWN_VALUE)


def _problems(problems: Sequence[Any], known: Sequence[str], listing: str) -> Iterable[str]:
    unknown = sum(problem["type"] == "extra_forbidden" for problem in problems)
    for problem in problems:
        place = shown(".".join(str(part) for part in problem["loc"]), SHOWN_VALUE)
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            unknown -= 1
            yield f"unknown setting {place}: {did_you_mean(place, known, '' if unknown else listing)}"
        elif problem["type"] == "missing":
            yield f"{place} is missing"
        elif problem["type"] in ("model_type", "dataclass_type") and place in known:
            below = listed([name for name in known if name.startswith(f"{place}.")])
            yield f"{place} is a section: set {below}{_got(problem['input'])}"
        elif problem["type"] == "tuple_type":  # pydantic asks for a tuple, which nobody can write
            yield f"{place}: a list in brackets is expected, as [1, 2]{_got(problem['input'])}"
        elif not place:
            yield message
        else:
            yield f"{place}: {message[0].lower()}{message[1:]}{_got(problem['input'])}"


def _got(given: Any) -> str:
    return "" if isinstance(given, dict | BaseModel) else f" (got {shown(repr(given), SHOWN_VALUE)})"
