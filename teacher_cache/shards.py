"""Shards as one index, and blocks read at their byte offsets.

`index.py` walks one shard; here are all of them: finding them, walking them in parallel, the Index that both stages
carry, and reading a block's images.
"""

import glob
import multiprocessing
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import braceexpand
import numpy as np

from teacher_cache.errors import ShardError
from teacher_cache.index import (
    ClassRule,
    ShardEntry,
    ShardIndex,
    class_rule,
    follow_parent,
    index_shard,
    index_shard_resumed,
    read_class_names,
)
from teacher_cache.replay.block import BLOCK_SAMPLES, Block

__all__ = [
    "BlockPlace",
    "ClassRule",
    "Index",
    "ShardEntry",
    "ShardIndex",
    "check_shards",
    "class_order_warning",
    "class_rule",
    "expand_shards",
    "index_shard",
    "index_shards",
    "read_block",
    "read_class_names",
]

_GLOB = re.compile(r"[*?\[]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


@dataclass(frozen=True, eq=False)
class BlockPlace:
    """What a worker needs to read one block: its shard's place and name, its number there, and its samples' keys,
    classes (int32) and image bytes.
    """

    path: str
    shard: str
    number: int
    keys: tuple[str, ...]
    classes: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    skipped: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class Index:
    """All samples of all shards, in shard order, as flat arrays.

    counts (S,) int64 samples per shard; key_bytes (K,) uint8 the keys' UTF-8 one after the other, key_ends (N,) int64
    where each ends; classes (N,) int32; offsets and sizes (N,) int64 each image's bytes in its tar.
    """

    shards: tuple[ShardEntry, ...]
    counts: np.ndarray
    key_bytes: np.ndarray
    key_ends: np.ndarray
    classes: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    class_names: tuple[str, ...]
    class_from: str = "cls"  # where classes were read: ClassRule.source

    @staticmethod
    def join(parts: Sequence[ShardIndex], class_names: tuple[str, ...] | None, class_from: str = "cls") -> "Index":
        """Put shards together in the order given. Without class_names classes are called "0", "1" ... up to the largest
        found.
        """
        keys = [key.encode() for part in parts for key in part.keys]
        classes = np.concatenate([np.empty(0, np.int32), *(part.classes for part in parts)])
        if class_names is None:
            class_names = tuple(str(number) for number in range(int(classes.max(initial=-1)) + 1))
        return Index(
            shards=tuple(part.entry for part in parts),
            counts=np.array([len(part.keys) for part in parts], np.int64),
            key_bytes=np.frombuffer(b"".join(keys), np.uint8),
            key_ends=np.cumsum([len(key) for key in keys], dtype=np.int64),
            classes=classes,
            offsets=np.concatenate([np.empty(0, np.int64), *(part.offsets for part in parts)]),
            sizes=np.concatenate([np.empty(0, np.int64), *(part.sizes for part in parts)]),
            class_names=class_names,
            class_from=class_from,
        )

    @property
    def num_samples(self) -> int:
        return len(self.classes)

    @property
    def num_shards(self) -> int:
        return len(self.shards)

    @cached_property
    def starts(self) -> np.ndarray:
        """(S + 1,) int64: shard s holds samples starts[s] .. starts[s + 1] - 1."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts, dtype=np.int64)])

    def key(self, sample: int) -> str:
        return self._keys(sample, sample + 1)[0]

    def shard_of(self, sample: int) -> int:
        """The number of the shard that holds a sample."""
        return int(np.searchsorted(self.starts, sample, side="right")) - 1

    def num_blocks(self, shard: int) -> int:
        return -(-int(self.counts[shard]) // BLOCK_SAMPLES)

    def find(self, key: str, shard_name: str | None = None) -> int:
        """The sample of this key, in the shard of that name where given; ShardError when there is none, or one in
        several shards.
        """
        first, last = 0, self.num_samples
        if shard_name is not None:
            numbers = [number for number, entry in enumerate(self.shards) if entry.name == shard_name]
            if not numbers:
                raise ShardError(f"shard {shard_name} is not in the index")
            first, last = int(self.starts[numbers[0]]), int(self.starts[numbers[0] + 1])
        wanted = key.encode()
        found = [
            sample for sample in self._samples_of_length(len(wanted), first, last) if self._key_at(sample) == wanted
        ]
        if not found:
            raise ShardError(
                f"no sample {key!r} in " + (f"shard {shard_name}" if shard_name else f"any of {self.num_shards} shards")
            )
        if len(found) > 1:
            names = ", ".join(self.shards[self.shard_of(sample)].name for sample in found[:3])
            raise ShardError(f"{len(found)} samples have the key {key!r} (in {names}): name the shard too")
        return found[0]

    def place(self, shard: int, block: int, skipped: frozenset[int] = frozenset()) -> BlockPlace:
        """Where a block's images lie; skipped holds positions in the block."""
        assert 0 <= block < self.num_blocks(shard), (shard, block)
        first = int(self.starts[shard]) + block * BLOCK_SAMPLES
        last = min(first + BLOCK_SAMPLES, int(self.starts[shard + 1]))
        entry = self.shards[shard]
        return BlockPlace(
            entry.path,
            entry.name,
            block,
            self._keys(first, last),
            self.classes[first:last],
            self.offsets[first:last],
            self.sizes[first:last],
            skipped,
        )

    def _keys(self, first: int, last: int) -> tuple[str, ...]:
        return tuple(self._key_at(sample).decode() for sample in range(first, last))

    def _key_at(self, sample: int) -> bytes:
        start = int(self.key_ends[sample - 1]) if sample else 0
        return self.key_bytes[start : int(self.key_ends[sample])].tobytes()

    def _samples_of_length(self, length: int, first: int, last: int) -> list[int]:
        lengths = np.diff(self.key_ends[:last], prepend=0)[first:]
        return [first + int(position) for position in np.flatnonzero(lengths == length)]


def read_block(place: BlockPlace) -> Block:
    """Read a block's images with one read of their byte range; ShardError when the file is gone, or shorter than its
    index says.
    """
    again = "put the shard back, give its new place with --shards, or index again"
    start = int(place.offsets[0])
    ends = (place.offsets + place.sizes).tolist()
    try:
        fd = os.open(place.path, os.O_RDONLY)
        try:
            content = _read_range(fd, start, ends[-1] - start)
        finally:
            os.close(fd)
    except OSError as error:
        message = (
            f"shard {place.shard}: {place.path} cannot be read at key {place.keys[0]!r} ({error.strerror}); {again}"
        )
        raise ShardError(message) from None
    for key, end in zip(place.keys, ends, strict=True):
        if end - start > len(content):
            missing = ends[-1] - start - len(content)
            message = (
                f"shard {place.shard}: {place.path} ends {missing:,} bytes early, in or before key {key!r}; {again}"
            )
            raise ShardError(message)
    images = tuple(
        content[offset - start : end - start] for offset, end in zip(place.offsets.tolist(), ends, strict=True)
    )
    return Block(place.shard, place.number, place.keys, place.classes, images, place.skipped)


def _read_range(fd: int, start: int, size: int) -> bytes:
    """os.pread, again where it returns early: Linux reads at most 2 GiB at a time, network file systems less."""
    content = os.pread(fd, size, start)
    while len(content) < size:
        more = os.pread(fd, size - len(content), start + len(content))
        if not more:
            break
        content += more
    return content


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
            raise ShardError(f"no shard {one} there" + (f" (of the pattern {pattern})" if one != pattern else ""))
        paths += found
    return paths


def index_shards(
    paths: Sequence[str],
    rule: ClassRule,
    *,
    workers: int = 1,
    scratch: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Index:
    """Walk all shards and join them in the order given.

    With more than one worker, spawned processes walk them; progress(done, total) is called in this process as each is
    finished. What is walked is kept in the folder `scratch`, so that an interrupted call goes on where it was; the
    caller removes the folder when it has what it needs.
    """
    if scratch is not None:
        scratch.mkdir(parents=True, exist_ok=True)
    parts: dict[int, ShardIndex] = {}
    workers = min(workers, len(paths))
    if workers <= 1:
        for number, path in enumerate(paths):
            parts[number] = index_shard_resumed(path, rule, scratch)
            if progress is not None:
                progress(len(parts), len(paths))
    else:
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=follow_parent)
        try:
            futures = {
                pool.submit(index_shard_resumed, path, rule, scratch): number for number, path in enumerate(paths)
            }
            for future in as_completed(futures):
                parts[futures[future]] = future.result()
                if progress is not None:
                    progress(len(parts), len(paths))
        except BrokenProcessPool:
            raise ShardError(
                "a process that walked shards died (out of memory?): run again, with fewer workers"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
    return Index.join([parts[number] for number in range(len(paths))], rule.names, rule.source)


def class_order_warning(index: Index) -> str | None:
    """One line when neighbouring samples share their class far more often than after a shuffle; None when all is well.

    After a shuffle two neighbours share a class with probability sum(p_c^2). The warning comes a fifth of the way from
    there to 'always', and beyond three standard deviations.
    """
    same = index.classes[1:] == index.classes[:-1]
    same = np.delete(same, index.starts[1:-1][(index.starts[1:-1] > 0) & (index.starts[1:-1] < index.num_samples)] - 1)
    if not len(same):
        return None
    shares = np.bincount(index.classes) / index.num_samples
    expected = float((shares**2).sum())
    found = float(same.mean())
    deviation = (expected * (1 - expected) / len(same)) ** 0.5
    if found - expected <= max(0.2 * (1 - expected), 3 * deviation):
        return None
    return (
        f"shards look sorted by class: {found:.0%} of neighbouring samples share their class, {expected:.1%} would "
        "after a shuffle; "
        "Mixup pairs and batches would be degenerate: write the shards again, shuffled"
    )


def check_shards(
    index: Index,
    paths: Sequence[str],
    rule: ClassRule,
    *,
    workers: int = 1,
    scratch: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Index:
    """The same index with its shards at other places, matched by file name.

    They are walked, and a missing one, one too many, or one that holds anything else is refused. Classes are read by
    rule.source and the index's own class names; rule.names, where there are any, must be the same.
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
            f"{len(missing)} of {index.num_shards} shards of the index are not among the {len(places)} given, the "
            f"first is {missing[0]}"
        )
    extra = sorted(places.keys() - {entry.name for entry in index.shards})
    if extra:
        raise ShardError(
            f"shard {extra[0]} is not in the index ({len(extra)} such): give only the {index.num_shards} that are"
        )
    for entry in index.shards:
        try:
            num_bytes = os.stat(places[entry.name]).st_size
        except OSError as error:
            raise ShardError(f"shard {entry.name}: {places[entry.name]} cannot be opened ({error.strerror})") from None
        if num_bytes != entry.num_bytes:
            raise ShardError(
                f"shard {entry.name}: {places[entry.name]} has {num_bytes:,} bytes, the index says "
                f"{entry.num_bytes:,}; give the shards that were indexed"
            )
    ordered = [places[entry.name] for entry in index.shards]
    walk_rule = ClassRule(rule.source, index.class_names)
    found = index_shards(ordered, walk_rule, workers=workers, scratch=scratch, progress=progress)
    for number, (entry, other) in enumerate(zip(index.shards, found.shards, strict=True)):
        what = ""
        if index.counts[number] != found.counts[number]:
            what = f"holds {found.counts[number]:,} samples, the index says {index.counts[number]:,}"
        elif entry.hash != other.hash:
            what = f"has other names, sizes or classes: hash {other.hash:016x}, the index says {entry.hash:016x}"
        if what:
            raise ShardError(
                f"shard {entry.name}: {other.path} {what}; give the shards that were indexed, or index again"
            )
    return replace(index, shards=found.shards)
