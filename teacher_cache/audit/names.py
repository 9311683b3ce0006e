"""Keys and class names come from strangers: finding a sample by its name, and names fit for a terminal or a file.

And how a mix and what is erased are called, on sheets and terminals alike (the page says the same in report.js).
"""

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from teacher_cache.errors import MissingSampleError, ShardError
from teacher_cache.messages.nearest import OFFERED, did_you_mean
from teacher_cache.shards.index import Index

if TYPE_CHECKING:
    from teacher_cache.store.store import Store

FILE_NAME = 80  # characters of a file name's stem

ERASED_WITH = {"pixel": "noise", "rand": "one colour drawn at random", "const": "the mean colour"}  # by erasing mode

_NO_FILE_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def find_sample(store: "Store", name: str) -> int:
    """The sample called SHARD/KEY, or KEY where only one shard has it; keys may hold slashes themselves.

    MissingSampleError, with the nearest keys, where there is none; ShardError where there are several.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise MissingSampleError(f"no sample {name!r}: keys are UTF-8") from None
    index = store.index
    shard = next((entry.name for entry in index.shards if name.startswith(f"{entry.name}/")), None)
    key = name if shard is None else name[len(shard) + 1 :]
    try:
        return index.find(key, shard)
    except MissingSampleError as error:
        if shard is not None:
            with suppress(ShardError):
                return index.find(name)  # a key that begins as a shard is called
        listing = f"name a sample as SHARD/KEY, KEY, or by its number, 0 to {index.num_samples - 1}"
        raise MissingSampleError(f"{error}: {did_you_mean(name, similar_names(index, name), listing)}") from None


def chosen_sample(store: "Store", text: str) -> int:
    """The sample that the command line names: as find_sample has it, or else by its number from 0 on, in the index, or
    as SHARD/NUMBER in that shard.

    So a key that looks like a number comes before the number.
    """
    index = store.index
    try:
        return find_sample(store, text)
    except MissingSampleError:
        shard, slash, number = text.rpartition("/")
        first, stop = 0, index.num_samples
        if slash:
            at = next((number for number, entry in enumerate(index.shards) if entry.name == shard), None)
            first, stop = (0, 0) if at is None else index.starts[at : at + 2].tolist()
        if number.isascii() and number.isdecimal() and len(number) < 20 and first + int(number) < stop:
            return first + int(number)
        raise


def similar_names(index: Index, name: str) -> list[str]:
    """Samples called nearly so, as KEY, or as SHARD/KEY where the name has a slash: those whose keys share most of
    their first and last bytes with it, as far as lengths differ by one at most.
    """
    key = name.rpartition("/")[2].encode()
    lengths = np.diff(index.key_ends, prepend=0)
    best: list[tuple[int, int]] = []  # bytes shared, sample
    for length in {max(1, len(key) - 1), len(key), len(key) + 1}:
        samples = np.flatnonzero(lengths == length)
        both = min(length, len(key))
        if not len(samples) or not both:
            continue
        ends, wanted = index.key_ends[samples][:, None], np.frombuffer(key, np.uint8)
        first = index.key_bytes[ends - length + np.arange(both)] == wanted[:both]
        last = index.key_bytes[ends - 1 - np.arange(both)] == wanted[::-1][:both]
        shared = np.maximum(first.sum(1), last.sum(1))
        most = np.argsort(-shared, kind="stable")[:OFFERED]
        best += zip(shared[most].tolist(), samples[most].tolist(), strict=True)
    found = [sample for _, sample in sorted(best, key=lambda each: (-each[0], each[1]))]
    if "/" not in name:
        return [index.key(sample) for sample in found]
    return [f"{index.shards[index.shard_of(sample)].name}/{index.key(sample)}" for sample in found]


def place(store: "Store", sample: int) -> dict[str, Any]:
    """Where a sample is: {"shard": "train-0000.tar", "key": "n01440764/1", "sample": 17}."""
    return {"shard": store.shard_name(store.index.shard_of(sample)), "key": store.index.key(sample), "sample": sample}


def mix_text(mix: dict[str, Any]) -> str:
    """A mix of `describe_view` by the part of the view that is the partner's: "cutmix, partner 43%"."""
    return f"{mix['kind']}, partner {1 - mix['lambda']:.0%}"


def file_stem(*parts: str) -> str:
    """A file name, without suffix, of letters, digits, dots, dashes and underscores; two names never give the same."""
    text = "_".join(parts)
    plain = _NO_FILE_NAME.sub("_", text).lstrip(".-")
    if plain == text and len(plain) <= FILE_NAME:
        return plain
    return f"{plain[:FILE_NAME]}-{xxhash.xxh3_64_hexdigest(text.encode('utf-8', 'surrogatepass'))[:8]}"
