"""Shards: finding them, walking them in parallel, telling whether they are an index's, and reading a block's images."""

import glob
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import braceexpand
import numpy as np

from teacher_cache.classes import ClassRule
from teacher_cache.errors import ShardError
from teacher_cache.index import BlockPlace, Index, ShardIndex
from teacher_cache.processes import TIMEOUT_S, Child, ProcessDiedError, in_processes
from teacher_cache.replay.block import Block
from teacher_cache.shown import MESSAGE, shown
from teacher_cache.walk import index_shard_resumed

_GLOB = re.compile(r"[*?\[]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


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
    warn_after_s: float = TIMEOUT_S,
) -> Index:
    """Walk all shards and join them in the order given.

    With more than one worker, spawned processes walk them; progress(done, total) is called in this process as each is
    finished. Where none is finished for warn_after_s, a warning on standard error says which are being walked: a disk
    may be slow. What is walked is kept in the folder `scratch`, so that an interrupted call goes on where it was; the
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
        walked = in_processes(
            _walk_shard,
            (rule, scratch),
            paths,
            workers=workers,
            name="walk",
            timeout_s=warn_after_s,
            on_silence=lambda doing: _warn_of_silence(paths, doing, warn_after_s),
        )
        with closing(walked):
            try:
                for number, part in walked:
                    parts[number] = part
                    if progress is not None:
                        progress(len(parts), len(paths))
            except ProcessDiedError as error:
                raise ShardError(
                    f"shard {os.path.basename(paths[error.task])}: the process that walked it died (exit code "
                    f"{error.exit_code}; -9 is often a lack of memory): run again, with fewer --workers"
                ) from None
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


def _walk_shard(common: tuple[ClassRule, Path | None], path: str) -> ShardIndex:
    return index_shard_resumed(path, *common)


def _warn_of_silence(paths: Sequence[str], doing: Mapping[int, Child], after_s: float) -> None:
    walked = ", ".join(f"{paths[number]} ({child.state()})" for number, child in sorted(doing.items()))
    text = (
        f"no shard was finished for {after_s:g} s; still being walked: {walked}; slow disks may take so long, "
        "a process that is stopped will not end: Ctrl-C, and the same command goes on"
    )
    print(f"warning: {shown(text, MESSAGE)}", file=sys.stderr, flush=True)
