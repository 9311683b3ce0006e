"""Patterns -> the paths of shards."""

import glob
import os
import re
from collections.abc import Sequence
from contextlib import suppress

import braceexpand

from teacher_cache.errors import ShardError

_GLOB = re.compile(r"[*?\[]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def expand_shards(patterns: Sequence[str]) -> list[str]:
    """Local shard paths of brace patterns and globs, sorted by file name.

    Refused: a URL, a pattern or path that finds nothing, a file given twice, and equal file names in different folders
    (a shard's name is its identity).
    """
    paths: list[str] = []
    for pattern in patterns:
        paths += [pattern] if os.path.exists(pattern) else _expand_pattern(pattern)
    if not paths:
        raise ShardError(
            "no shards given: name .tar files, with braces (train-{0000..1023}.tar) or globs (train-*.tar)"
        )
    places: dict[str, str] = {}
    for path in paths:
        name = os.path.basename(path)
        if name in places:
            if os.path.abspath(places[name]) == os.path.abspath(path):
                raise ShardError(f"shard {name} is given twice ({path}): patterns overlap")
            raise ShardError(
                f"two shards have the file name {name}: {places[name]} and {path}; rename one, a shard is known by "
                "its name"
            )
        if os.path.isdir(path):
            raise ShardError(f"{path} is a folder: give its shards as {os.path.join(path, '*.tar')}")
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
    if _URL.match(pattern):
        raise ShardError(f"{pattern} is a URL or a pipe: shards are read by byte range, give local paths")
    try:
        expanded = list(braceexpand.braceexpand(pattern))
    except ValueError:
        raise ShardError(f"the shard pattern {pattern} has unbalanced braces") from None
    paths: list[str] = []
    for one in expanded:
        found = [one] if os.path.exists(one) else glob.glob(one, recursive=True) if _GLOB.search(one) else []
        if not found:
            _check_open(one)
            raise ShardError(f"no shard {one} there" + (f" (of the pattern {pattern})" if one != pattern else ""))
        paths += found
    return paths
