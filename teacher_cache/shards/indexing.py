"""Shards -> an index: all of them are walked, in processes if asked, with fingerprints that tell their images apart."""

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from teacher_cache.errors import ShardError, StorageError
from teacher_cache.files import writing
from teacher_cache.messages.shown import counted
from teacher_cache.processes.pool import Child, ProcessDiedError, in_processes
from teacher_cache.processes.timeouts import TIMEOUT_S
from teacher_cache.shards.classes import ClassRule
from teacher_cache.shards.fingerprint import LIMIT, Fingerprint, image_fingerprint
from teacher_cache.shards.index import Index, ShardIndex
from teacher_cache.shards.source import open_ranges, reason
from teacher_cache.shards.walk import index_shard_resumed
from teacher_cache.storage.cache import NodeCache
from teacher_cache.terminal import warn


def index_shards(
    paths: Sequence[str],
    rule: ClassRule,
    *,
    whole: bool = False,
    num_classes: int | None = None,
    workers: int = 1,
    scratch: Path | NodeCache | None = None,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
    warn_after_s: float = TIMEOUT_S,
) -> Index:
    """Walk all shards and join them in the order given.

    Fingerprints are of images' tails; with whole, and where over 1 % of the samples are unlike images with equal tails,
    of all of each image: then note is told, in one line. num_classes: how many classes the model has that the shards
    are for; without it, and without rule.names, a stray class far above all others is refused.

    With more than one worker, processes walk the shards; progress(done, total) is called in this process as
    each is finished. Where none is finished for warn_after_s, a warning on standard error says which are being walked:
    a disk may be slow. What is walked is kept in the folder `scratch`, so that an interrupted call goes on where it
    was, and the caller removes it when it has what it needs; or in the node's cache, so that a shard far away is walked
    once for all.
    """

    def walked(kind: Fingerprint) -> Index:
        parts = walk_shards(
            paths, rule, kind, workers=workers, scratch=scratch, progress=progress, warn_after_s=warn_after_s
        )
        return Index.join(parts, rule, kind, num_classes=num_classes)

    index = walked("whole" if whole else "tail")
    unlike = 0 if whole else count_unlike(index)
    if unlike <= LIMIT * index.num_samples:
        return index
    if note is not None:
        note(
            f"fingerprints are taken of whole images: at least {unlike:,} of {counted(index.num_samples, 'sample')} "
            "end as another, unlike image does"
        )
    return walked("whole")


def walk_shards(
    paths: Sequence[str],
    rule: ClassRule,
    kind: Fingerprint,
    *,
    workers: int = 1,
    scratch: Path | NodeCache | None = None,
    progress: Callable[[int, int], None] | None = None,
    warn_after_s: float = TIMEOUT_S,
) -> list[ShardIndex]:
    """What each shard holds, in the order given; the arguments are those of index_shards."""
    if isinstance(scratch, Path):
        with writing(scratch):
            scratch.mkdir(parents=True, exist_ok=True)
    parts: dict[int, ShardIndex] = {}
    with closing(_walk_all(paths, rule, kind, min(workers, len(paths)), scratch, warn_after_s)) as walked:
        for number, part in walked:
            parts[number] = part
            if progress is not None:
                progress(len(parts), len(paths))
    return [parts[number] for number in range(len(paths))]


def _walk_all(
    paths: Sequence[str],
    rule: ClassRule,
    kind: Fingerprint,
    workers: int,
    scratch: Path | NodeCache | None,
    warn_after_s: float,
) -> Generator[tuple[int, ShardIndex], None, None]:
    """(a shard's number, what it holds) as each is walked: here, or in processes where there are several workers."""
    if workers <= 1:
        for number, path in enumerate(paths):
            yield number, index_shard_resumed(path, rule, kind, scratch)
        return
    walked = in_processes(
        _walk_shard,
        (rule, kind, scratch),
        paths,
        workers=workers,
        name="walk",
        timeout_s=warn_after_s,
        on_silence=lambda doing: _warn_of_silence(paths, doing, warn_after_s),
    )
    with closing(walked):
        try:
            yield from walked
        except ProcessDiedError as error:
            raise ShardError(
                f"shard {os.path.basename(paths[error.task])}: the process that walked it died (exit code "
                f"{error.exit_code}; -9 is often a lack of memory): run again, with fewer --workers"
            ) from None


def count_unlike(index: Index) -> int:
    """How many samples have the fingerprint of another, unlike image; 0 where few collide at all.

    Those that collide are read and hashed whole, and no others, until they are more than 1 % of the index.
    """
    _, kinds, members = np.unique(index.fingerprints, return_inverse=True, return_counts=True)
    colliding = np.flatnonzero(members[kinds] > 1)
    if len(colliding) <= LIMIT * index.num_samples:
        return 0
    first: dict[int, int] = {}
    unlike: set[int] = set()
    for sample, digest in _whole_digests(index, colliding):
        kind = int(kinds[sample])
        if first.setdefault(kind, digest) != digest:
            unlike.add(kind)
            if members[list(unlike)].sum() > LIMIT * index.num_samples:
                break
    return int(members[list(unlike)].sum())


def _whole_digests(index: Index, samples: np.ndarray) -> Iterator[tuple[int, int]]:
    """(sample, its whole image's fingerprint), shard by shard; samples (n,) int64 in ascending order."""
    for number, entry in enumerate(index.shards):
        first, last = np.searchsorted(samples, index.starts[number : number + 2])
        if first == last:
            continue
        try:
            with open_ranges(entry.path) as read:
                for sample in samples[first:last].tolist():
                    image = read(int(index.offsets[sample]), int(index.sizes[sample]))
                    yield sample, image_fingerprint(image, "whole")
        except StorageError as error:
            raise ShardError(f"shard {entry.name}: {error}") from None
        except OSError as error:
            raise ShardError(f"shard {entry.name}: {entry.path} cannot be read ({reason(error)})") from None


def _walk_shard(common: tuple[ClassRule, Fingerprint, Path | NodeCache | None], path: str) -> ShardIndex:
    return index_shard_resumed(path, *common)


def _warn_of_silence(paths: Sequence[str], doing: Mapping[int, Child], after_s: float) -> None:
    walked = ", ".join(f"{paths[number]} ({child.state()})" for number, child in sorted(doing.items()))
    warn(
        f"no shard was finished for {after_s:g} s; still being walked: {walked}; slow disks may take so long, "
        "a process that is stopped will not end: Ctrl-C, and the same command goes on"
    )
