"""Patterns -> the places of shards: local paths, and URLs of what a storage reads."""

import glob
import math
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

import braceexpand

from teacher_cache.errors import ShardError, StorageError
from teacher_cache.messages.recognise import is_store, meant
from teacher_cache.messages.shown import as_word, shown
from teacher_cache.shards.source import place_text
from teacher_cache.storage.opening import open_storage, pinned
from teacher_cache.storage.place import Url, is_url, to_place

_GLOB = re.compile(r"[*?\[]")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.-?\d+)?")
MAX_SHARDS = 1 << 20  # that a pattern stands for
_OTHER_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def expand_shards(patterns: Sequence[str]) -> list[str]:
    """Places of shards, of brace patterns and globs, sorted by file name.

    Refused: a URL that nothing here reads, a pattern or path that finds nothing, a pattern that stands for more than a
    million shards, what is no regular file, a file given twice, and equal file names in different folders (a shard's
    name is its identity). A URL without wildcards is taken as it is; one with wildcards is looked for in one listing of
    the folder before them, which a web server has not. Places of the Hub are given at their commit.
    """
    paths: list[str] = []
    listings: dict[str, list[str]] = {}
    commits: dict[str, str] = {}
    for pattern in patterns:
        if is_url(pattern):
            paths += _expand_url(pattern, listings, commits)
        else:
            paths += [pattern] if os.path.exists(pattern) else _expand_pattern(pattern)
    if not paths:
        raise ShardError(
            "no shards given: name .tar files, with braces (train-{0000..1023}.tar) or globs (train-*.tar)"
        )
    places: dict[str, str] = {}
    for path in paths:
        name = os.path.basename(path)
        if name in places:
            if place_text(places[name]) == place_text(path):
                raise ShardError(f"shard {name} is given twice ({path}): patterns overlap")
            raise ShardError(
                f"two shards have the file name {name}: {places[name]} and {path}; rename one, a shard is known by "
                "its name"
            )
        if not name or os.path.isdir(path):
            raise ShardError(_what_folder(path))
        if not is_url(path) and not os.path.isfile(path):  # reading a pipe would wait for who writes it
            raise ShardError(f"{path} is no regular file, but a pipe or a device: write it to a file, and name that")
        places[name] = path
    return [places[name] for name in sorted(places)]


def _check_open(pattern: str) -> None:
    """Raise PermissionError where what matches a pattern cannot be seen, which neither exists() nor glob() say."""
    at = _GLOB.search(pattern)
    place = pattern if at is None else os.path.dirname(pattern[: at.start()]) or "."
    with suppress(FileNotFoundError, NotADirectoryError):
        os.stat(place)
        if at is not None:
            os.listdir(place)


def _expand_pattern(pattern: str) -> list[str]:
    if _OTHER_URL.match(pattern):
        raise ShardError(
            f"{pattern} is a pipe, or a URL that nothing here reads: shards are read by byte range, give local paths, "
            "or s3://, gs://, az://, https:// or hf://"
        )
    paths: list[str] = []
    for one in _expand_braces(pattern):
        found = [one] if os.path.exists(one) else glob.glob(one, recursive=True) if _GLOB.search(one) else []
        if not found:
            _check_open(one)
            raise _nothing_found(one, pattern, meant(Path(one)))
        paths += found
    return paths


def _expand_url(pattern: str, listings: dict[str, list[str]], commits: dict[str, str]) -> list[str]:
    """URLs of a pattern. listings: what folders hold, each listed once; commits: where repositories of the Hub are."""
    paths: list[str] = []
    for one in _expand_braces(pattern):
        url = to_place(one)
        assert isinstance(url, Url)
        is_query = url.scheme in ("http", "https") and "?" in url
        try:
            open_storage(url)
            url = pinned(url, commits)
            found = _matching(url, listings) if _GLOB.search(url) and not is_query else [str(url)]
        except StorageError as error:
            raise ShardError(str(error)) from None
        if not found:
            raise _nothing_found(one, pattern)
        paths += found
    return paths


def _matching(url: Url, listings: dict[str, list[str]]) -> list[str]:
    """The URLs under the folder before the first wildcard that match; without any that of this very name."""
    at = _GLOB.search(url)
    assert at is not None
    folder = Url(url[: at.start()].rpartition("/")[0])
    wanted = url[len(folder) + 1 :].split("/")
    if str(folder) not in listings:
        listings[str(folder)] = [entry.name for entry in open_storage(folder).list()]
    names = [name for name in listings[str(folder)] if _matches(name.split("/"), wanted)]
    return [str(folder / name) for name in names or {"/".join(wanted)}.intersection(listings[str(folder)])]


def _matches(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether a name matches as glob has it: `*` is within one folder and of no name that begins with a dot, `**` is of
    any number of folders."""
    if not wanted:
        return not parts
    first, *others = wanted
    if first == "**" and _matches(parts, others):
        return True
    if not parts or (parts[0].startswith(".") and not first.startswith(".")):
        return False
    if first == "**":
        return _matches(parts[1:], wanted)
    return fnmatchcase(parts[0], first) and _matches(parts[1:], others)


def _expand_braces(pattern: str) -> list[str]:
    if _count(pattern) > MAX_SHARDS:
        what = f"the shard pattern {shown(pattern)} stands for more than {MAX_SHARDS:,} shards"
        raise ShardError(f"{what}: correct its numbers")
    try:
        return list(braceexpand.braceexpand(pattern))
    except ValueError:
        raise ShardError(f"the shard pattern {pattern} has unbalanced braces") from None


def _count(pattern: str) -> int:
    """For how many names a brace pattern stands, told before they are made; of unbalanced braces any number."""
    return math.prod(map(_count_choices, _parts(pattern, "{", "}")))


def _count_choices(choices: str) -> int:
    """The same of what stands between two braces: a range, several choices, or neither."""
    if numbers := _RANGE.fullmatch(choices):
        if max(map(len, numbers.groups(""))) > 18:
            return MAX_SHARDS + 1
        first, last, step = (int(number or 1) for number in numbers.groups())
        return abs(last - first) // (abs(step) or 1) + 1
    if letters := _LETTERS.fullmatch(choices):
        return abs(ord(letters[2]) - ord(letters[1])) + 1
    several = _parts(choices, ",", ",")
    return sum(map(_count, several)) if several[1:] else _count(choices)


def _parts(text: str, first: str, last: str) -> list[str]:
    """What stands between `{` and its `}`, or between commas, that are in no braces."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        letter = text[at]
        at += 2 if letter == "\\" else 1
        if letter == "{":
            depth += 1
            if first == "{" and depth == 1:
                start = at
        elif letter == "}":
            depth -= 1
            if last == "}" and depth == 0:
                parts.append(text[start : at - 1])
        elif letter == first == "," and depth == 0:
            parts.append(text[start : at - 1])
            start = at
    return [*parts, text[start:]] if first == "," else parts


def _nothing_found(one: str, pattern: str, near: str = "") -> ShardError:
    return ShardError(f"no shard {one} there" + (f" (of the pattern {pattern})" if one != pattern else "") + near)


def _what_folder(path: str) -> str:
    """What is said of a folder that was given as a shard."""
    shards = os.path.join(path, "*.tar")
    if is_url(path) or glob.glob(shards):
        return f"{path} is a folder: give its shards as {shards}"
    if is_store(Path(path)):
        return f"{path} is a store of labels: shards, .tar files of images, go here"
    make = f"`python tools/make_shards.py folder {as_word(path)} OUT`"
    return f"{path} is a folder without shards: {make} makes some of images"
