"""Settings files: TOML, shipped by name or given as a path, with `key=value` put over it, validated by pydantic."""

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from teacher_cache.errors import TeacherCacheError

Settings = TypeVar("Settings", bound=BaseModel)


def shipped(folder: Path) -> list[str]:
    """Names of the settings files in a folder."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def settings_path(name_or_path: str, folder: Path) -> Path:
    """Where a settings file is: in `folder` if it ships there, else at this path."""
    return folder / f"{name_or_path}.toml" if name_or_path in shipped(folder) else Path(name_or_path)


def read_settings(name_or_path: str, folder: Path, what: str, error_type: type[TeacherCacheError]) -> dict[str, Any]:
    """The values of a file shipped in `folder`, or of any TOML file; "name" is the file's unless it says otherwise.

    what ("policy") names the kind of file in messages. Raises error_type.
    """
    path = settings_path(name_or_path, folder)
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise error_type(
            f"no {what} {name_or_path!r}: neither a file nor one of {', '.join(shipped(folder))}"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise error_type(f"{what} {name_or_path} cannot be read: {error}") from error
    values.setdefault("name", path.stem)
    return values


def parse_override(override: str, error_type: type[TeacherCacheError]) -> tuple[str, Any]:
    """`key=value` -> dotted key, value: TOML, or a bare word; `none` gives None. Raises error_type."""
    key, equals, text = override.partition("=")
    key, text = key.strip(), text.strip()
    if not equals or not key:
        raise error_type(f"setting {override!r} is not of the form key=value")
    if text.lower() == "none":
        return key, None
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return key, text
    return key, table["value"] if len(table) == 1 else text


def put_setting(values: dict[str, Any], key: str, value: Any, error_type: type[TeacherCacheError]) -> None:
    """Set a dotted key in place; sections that are absent, or were removed, are made. Raises error_type."""
    *sections, name = key.split(".")
    for part in sections:
        below = values.get(part)
        if below is None:
            below = values[part] = {}
        if not isinstance(below, dict):
            raise error_type(f"setting {key}: {part} is not a section")
        values = below
    values[name] = value


def validated(
    model: type[Settings], values: dict[str, Any], where: str, error_type: type[TeacherCacheError]
) -> Settings:
    """The model of these values. Raises error_type, which names every unknown or impossible setting."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise error_type(f"{where}: {'; '.join(_problems(error.errors(include_url=False)))}") from error


def _problems(problems: Sequence[Any]) -> Iterable[str]:
    for problem in problems:
        place = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            yield f"unknown setting {place}"
        elif problem["type"] == "missing":
            yield f"{place} is missing"
        elif not place:
            yield message
        else:
            given = "" if isinstance(problem["input"], dict | BaseModel) else f" (got {problem['input']!r})"
            yield f"{place}: {message[0].lower()}{message[1:]}{given}"
