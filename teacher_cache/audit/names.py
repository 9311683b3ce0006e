"""Keys and class names come from strangers: finding a sample by its name, and names fit for a terminal or a file."""

import re
from typing import Any

import xxhash

from teacher_cache.errors import ShardError
from teacher_cache.store import Store

FILE_NAME = 80  # characters of a file name's stem

_NO_FILE_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def find_sample(store: Store, name: str) -> int:
    """The sample called SHARD/KEY, or KEY where only one shard has it; keys may hold slashes themselves.

    ShardError where there is none, or several.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ShardError(f"no sample {name!r}: keys are UTF-8") from None
    index = store.index
    for entry in index.shards:
        if name.startswith(f"{entry.name}/"):
            try:
                return index.find(name[len(entry.name) + 1 :], entry.name)
            except ShardError as error:
                try:
                    return index.find(name)  # a key that begins as a shard is called
                except ShardError:
                    raise error from None
    return index.find(name)


def place(store: Store, sample: int) -> dict[str, Any]:
    """Where a sample is: {"shard": "train-0000.tar", "key": "n01440764/1", "sample": 17}."""
    return {"shard": store.shard_name(store.index.shard_of(sample)), "key": store.index.key(sample), "sample": sample}


def file_stem(*parts: str) -> str:
    """A file name, without suffix, of letters, digits, dots, dashes and underscores; two names never give the same."""
    text = "_".join(parts)
    plain = _NO_FILE_NAME.sub("_", text).lstrip(".-")
    if plain == text and len(plain) <= FILE_NAME:
        return plain
    return f"{plain[:FILE_NAME]}-{xxhash.xxh3_64_hexdigest(text.encode('utf-8', 'surrogatepass'))[:8]}"
