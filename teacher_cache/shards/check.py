"""Whether shards are those of an index: at its own places by their sizes, at others by all that they hold."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from teacher_cache.errors import ShardError
from teacher_cache.files import reading_advice
from teacher_cache.messages.shown import counted, shown
from teacher_cache.shards.classes import ClassRule
from teacher_cache.shards.index import Index, ShardEntry, ShardIndex
from teacher_cache.shards.indexing import walk_shards
from teacher_cache.shards.read import AGAIN
from teacher_cache.shards.source import look_all, reason
from teacher_cache.storage.cache import NodeCache
from teacher_cache.storage.place import is_url


def check_are_there(index: Index, numbers: Iterable[int]) -> None:
    """ShardError where shards of these numbers are absent, or of another size than was indexed: one for all.

    Those of this machine are looked at, and no others: each would be a request.
    """
    here = [entry for entry in map(index.shards.__getitem__, numbers) if not is_url(entry.path)]
    failed = []
    for entry in here:
        try:
            num_bytes = os.stat(entry.path).st_size
        except OSError as error:
            failed.append((entry, error))
        else:
            _check_size(entry, entry.path, num_bytes, AGAIN)
    if failed:
        count = counted(len(failed), "shard", "is", of=len(here))
        entry, why = failed[0]
        first = f"the first is {shown(entry.path, limit=None)} ({reason(why)})"
        if entry.path == entry.name:
            raise ShardError(
                f"{count} not in this folder, and the store does not say where; {first}: say so with --shards PATTERN"
            )
        raise ShardError(f"{count} not where the store says; {first}: {reading_advice(why, AGAIN)}")


def check_shards(
    index: Index,
    paths: Sequence[str],
    rule: ClassRule,
    *,
    workers: int = 1,
    scratch: Path | NodeCache | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Index:
    """The same index with its shards at other places, matched by file name.

    They are walked, those far away once a machine where scratch is its cache, and a missing one, one too many, or one
    that holds anything else is refused. Images and classes are read as the index says; rule.names, where there are any,
    must be the index's.
    """
    if rule.names is not None and rule.names != index.class_names:
        raise ShardError(
            f"the classes beside {paths[0]} ({len(rule.names)}) are not the {len(index.class_names)} of the index, "
            "or in another order: give the classes file that the shards were indexed with"
        )
    places = {os.path.basename(path): path for path in paths}
    missing = [entry.name for entry in index.shards if entry.name not in places]
    if missing:
        raise ShardError(
            f"{counted(len(missing), 'indexed shard', 'is', of=index.num_shards)} not among the {len(places)} given, "
            f"the first is {missing[0]}: give all that were indexed, or make another store of these"
        )
    extra = sorted(places.keys() - {entry.name for entry in index.shards})
    if extra:
        raise ShardError(
            f"shard {extra[0]} is not in the index ({len(extra)} such): give only the {index.num_shards} that are"
        )
    ordered = [places[entry.name] for entry in index.shards]
    for entry, path, (num_bytes, _) in zip(index.shards, ordered, look_all(ordered), strict=True):
        _check_size(entry, path, num_bytes, "give the shards that were indexed")
    walk_rule = ClassRule(index.class_from, index.class_names, index.image_from)
    found = walk_shards(ordered, walk_rule, index.fingerprint, workers=workers, scratch=scratch, progress=progress)
    for number, (entry, other) in enumerate(zip(index.shards, found, strict=True)):
        if what := _difference(index, number, other):
            raise ShardError(
                f"shard {entry.name}: {other.entry.path} {what}; give the shards that were indexed, or index again"
            )
    return replace(index, shards=tuple(other.entry for other in found))


def _check_size(entry: ShardEntry, path: str, num_bytes: int, advice: str) -> None:
    if num_bytes != entry.num_bytes:
        raise ShardError(
            f"shard {entry.name}: {path} has {num_bytes:,} bytes, the index says {entry.num_bytes:,}: it is another "
            f"file than was indexed; {advice}"
        )


def _difference(index: Index, number: int, found: ShardIndex) -> str | None:
    """What a walked shard holds other than the shard of this number of an index; None where they are the same."""
    entry, count = index.shards[number], int(index.counts[number])
    if count != len(found.classes):
        return f"holds {counted(len(found.classes), 'sample')}, the index says {count:,}"
    if entry.hash != found.entry.hash:
        return f"has other names, sizes or classes: hash {found.entry.hash:016x}, the index says {entry.hash:016x}"
    fingerprints = index.fingerprints[index.starts[number] : index.starts[number + 1]]
    other = np.flatnonzero(fingerprints != found.fingerprints)
    if len(other):
        key = shown(found.key(int(other[0])))
        return (
            f"holds other images than were indexed, the first at key '{key}' ("
            f"{counted(len(other), 'fingerprint', 'differs', of=count)})"
        )
    return None
