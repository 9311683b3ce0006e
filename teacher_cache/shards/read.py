"""Shards: finding them, walking them in parallel, telling whether they are an index's, and reading a block's images."""

import glob
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import braceexpand
import numpy as np

from teacher_cache.errors import ShardError
from teacher_cache.files import reading_advice, writing
from teacher_cache.messages.shown import shown
from teacher_cache.messages.terminal import warn
from teacher_cache.processes import TIMEOUT_S, Child, ProcessDiedError, in_processes
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.shards.classes import ClassRule
from teacher_cache.shards.fingerprint import LIMIT, Fingerprint, fingerprint, hashed_part, image_fingerprint
from teacher_cache.shards.index import BlockPlace, Index, ShardIndex
from teacher_cache.shards.tar import read_range
from teacher_cache.shards.walk import index_shard_resumed

if TYPE_CHECKING:
    from teacher_cache.replay.block import Block

_GLOB = re.compile(r"[*?\[]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


_AGAIN = "put the indexed file back, give its place with --shards, or index again"


def read_block(place: BlockPlace) -> "Block":
    """Read a block's images with one read of their byte range.

    ShardError, never ImageError, when the file is gone, of another size than the index says, or holds another image
    than was indexed, of a skipped sample too.
    """
    from teacher_cache.replay.block import Block  # OpenCV and Pillow with it, which finding shards needs not

    offsets = place.offsets.tolist()
    start = offsets[0]
    ends = (place.offsets + place.sizes).tolist()
    with open_shard(place) as fd:
        content = read_range(fd, start, ends[-1] - start)
    images = tuple(content[offset - start : end - start] for offset, end in zip(offsets, ends, strict=True))
    kind, expected = place.fingerprint, place.fingerprints.tolist()
    for position, image in enumerate(images):
        if image_fingerprint(image, kind) != expected[position]:
            raise _other_image(place, position)
    return Block(place.shard, place.number, place.keys, place.classes, images, place.skipped)


@contextmanager
def open_shard(place: BlockPlace) -> Iterator[int]:
    """The shard of a block, open to be read (a file descriptor); whatever fails while it is becomes a ShardError.

    Refused where its size is not the index's, or the block lies outside of it.
    """
    where = f"shard {place.shard}: {place.path}"
    try:
        fd = os.open(place.path, os.O_RDONLY)
        try:
            num_bytes = os.fstat(fd).st_size
            if num_bytes != place.num_bytes:
                raise ShardError(
                    f"{where} has {num_bytes:,} bytes, the index says {place.num_bytes:,} (read for key "
                    f"'{shown(place.keys[0])}'): it is another file than was indexed; {_AGAIN}"
                )
            if place.offsets[0] < 0 or (place.offsets + place.sizes).max() > num_bytes:
                raise ShardError(
                    f"{where} ends at byte {num_bytes:,}, where the index has images of block {place.number} (key "
                    f"'{shown(place.keys[0])}') beyond it: the index is damaged; index again"
                )
            yield fd
        finally:
            os.close(fd)
    except OSError as error:
        raise ShardError(
            f"{where} cannot be read at key '{shown(place.keys[0])}' ({error.strerror}); "
            + reading_advice(error, _AGAIN)
        ) from None


def check_image(place: BlockPlace, position: int, fd: int) -> None:
    """Read the hashed part of one image of a block from its open shard; ShardError where it is not the one indexed."""
    size = int(place.sizes[position])
    start, length = hashed_part(size, place.fingerprint)
    hashed = read_range(fd, int(place.offsets[position]) + start, length)
    if fingerprint(size, hashed) != int(place.fingerprints[position]):
        raise _other_image(place, position)


def _other_image(place: BlockPlace, position: int) -> ShardError:
    return ShardError(
        f"shard {place.shard}: {place.path} holds another image than was indexed at key "
        f"'{shown(place.keys[position])}' (its fingerprint differs); {_AGAIN}"
    )


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


def index_shards(
    paths: Sequence[str],
    rule: ClassRule,
    *,
    whole: bool = False,
    num_classes: int | None = None,
    workers: int = 1,
    scratch: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
    warn_after_s: float = TIMEOUT_S,
) -> Index:
    """Walk all shards and join them in the order given.

    Fingerprints are of images' tails; with whole, and where over 1 % of the samples are unlike images with equal tails,
    of all of each image: then note is told, in one line. num_classes: how many classes the model has that the shards
    are for; without it, and without rule.names, a stray class far above all others is refused.

    With more than one worker, spawned processes walk the shards; progress(done, total) is called in this process as
    each is finished. Where none is finished for warn_after_s, a warning on standard error says which are being walked:
    a disk may be slow. What is walked is kept in the folder `scratch`, so that an interrupted call goes on where it
    was; the caller removes the folder when it has what it needs.
    """
    kind: Fingerprint = "whole" if whole else "tail"
    parts = _walk_shards(paths, rule, kind, workers, scratch, progress, warn_after_s)
    index = Index.join(parts, rule.names, rule.source, kind, num_classes, rule.image_from)
    unlike = 0 if whole else count_unlike(index)
    if unlike <= LIMIT * index.num_samples:
        return index
    if note is not None:
        note(
            f"fingerprints are taken of whole images: at least {unlike:,} of {index.num_samples:,} samples end with "
            "the same bytes as another, unlike image"
        )
    parts = _walk_shards(paths, rule, "whole", workers, scratch, progress, warn_after_s)
    return Index.join(parts, rule.names, rule.source, "whole", num_classes, rule.image_from)


def count_unlike(index: Index) -> int:
    """How many samples have the fingerprint of another, unlike image; 0 where few collide at all.

    Those that collide are read and hashed whole, and no others, until they are more than 1 % of the index.
    """
    _, groups, members = np.unique(index.fingerprints, return_inverse=True, return_counts=True)
    colliding = np.flatnonzero(members[groups] > 1)
    if len(colliding) <= LIMIT * index.num_samples:
        return 0
    first: dict[int, int] = {}
    unlike: set[int] = set()
    for sample, digest in _whole_digests(index, colliding):
        group = int(groups[sample])
        if first.setdefault(group, digest) != digest:
            unlike.add(group)
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
            fd = os.open(entry.path, os.O_RDONLY)
            try:
                for sample in samples[first:last].tolist():
                    image = read_range(fd, int(index.offsets[sample]), int(index.sizes[sample]))
                    yield sample, image_fingerprint(image, "whole")
            finally:
                os.close(fd)
        except OSError as error:
            raise ShardError(f"shard {entry.name}: {entry.path} cannot be read ({error.strerror})") from None


def _walk_shards(
    paths: Sequence[str],
    rule: ClassRule,
    kind: Fingerprint,
    workers: int,
    scratch: Path | None,
    progress: Callable[[int, int], None] | None,
    warn_after_s: float = TIMEOUT_S,
) -> list[ShardIndex]:
    """What each shard holds, in the order given."""
    if scratch is not None:
        with writing(scratch):
            scratch.mkdir(parents=True, exist_ok=True)
    parts: dict[int, ShardIndex] = {}
    workers = min(workers, len(paths))
    if workers <= 1:
        for number, path in enumerate(paths):
            parts[number] = index_shard_resumed(path, rule, kind, scratch)
            if progress is not None:
                progress(len(parts), len(paths))
    else:
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
                for number, part in walked:
                    parts[number] = part
                    if progress is not None:
                        progress(len(parts), len(paths))
            except ProcessDiedError as error:
                raise ShardError(
                    f"shard {os.path.basename(paths[error.task])}: the process that walked it died (exit code "
                    f"{error.exit_code}; -9 is often a lack of memory): run again, with fewer --workers"
                ) from None
    return [parts[number] for number in range(len(paths))]


SMALL_BLOCK = 8  # samples; see class_order_warning


def class_order_warning(index: Index) -> str | None:
    """One line when blocks make poor mixing: what was found, and how to shuffle; None when all is well.

    Partners are drawn within blocks, so what counts is how often the two of a pair share their class. After a shuffle
    of all samples that is sum(N_c (N_c - 1)) / (N (N - 1)). The warning comes at twice that, or half-way from there to
    'always' where that is less (few classes), and beyond three standard deviations of chance; and where most samples
    are in blocks of fewer than 8, though there are more: 8 are the fewest with which mixing was measured to be as good
    as over the whole set, and in small odd blocks many have no partner.
    """
    sizes = block_sizes(index)
    if index.num_samples < 4:
        return None
    found, expected, deviation = same_class_share(index, sizes)
    if found >= min(2 * expected, (1 + expected) / 2) and found - expected > 3 * deviation:
        return (
            f"shards look sorted by class: {_percent(found)} of the pairs in blocks of {BLOCK_SAMPLES} samples share "
            f"their class, after a shuffle {_percent(expected)} would, so Mixup and CutMix would mix like with like; "
            f"{_RESHUFFLE}"
        )
    median = int(np.median(np.repeat(sizes, sizes)))
    if median < SMALL_BLOCK <= index.num_samples:
        return (
            f"shards are too small: half of the samples are in blocks of {median} or fewer, where Mixup and CutMix "
            f"find few partners (blocks of {BLOCK_SAMPLES} are best, and do not cross shards); {_RESHUFFLE}"
        )
    return None


_RESHUFFLE = "write them again with `python tools/make_shards.py reshuffle SHARDS OUT`"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.2g}%"


def block_sizes(index: Index) -> np.ndarray:
    """(B,) int64: the samples of every block, shard by shard."""
    blocks = -(-index.counts // BLOCK_SAMPLES)
    sizes = np.full(int(blocks.sum()), BLOCK_SAMPLES, np.int64)
    last = np.cumsum(blocks)[blocks > 0] - 1
    sizes[last] = (index.counts[blocks > 0] - 1) % BLOCK_SAMPLES + 1
    return sizes


def same_class_share(index: Index, sizes: np.ndarray) -> tuple[float, float, float]:
    """How likely a sample's partner is to have its class: in the blocks as they are, and expected after a shuffle, with
    the standard deviation of that. Of 4 samples or more; sizes (B,) int64 of their blocks.

    Both moments are exact, those of sum(A_ij B_p(i)p(j)) over all orders p (Mantel 1967, "The detection of disease
    clustering", Cancer Research 27): A_ij is 1 / (n - 1) where i and j are in one block of n, B_ij 1 where they are of
    one class. Blocks of one sample have no pairs; without any pair all are 0.
    """
    total = index.num_samples
    paired = sizes[sizes > 1].astype(float)
    if not len(paired):
        return 0.0, 0.0, 0.0
    members = np.bincount(index.classes).astype(float)
    cells, counts = np.unique(
        np.repeat(np.arange(len(sizes)), sizes) * len(members) + index.classes, return_counts=True
    )
    others = np.maximum(sizes[cells // len(members)] - 1, 1)
    found = float((counts * (counts - 1) / others).sum())
    # Sums over all i != j of A_ij and of A_ij squared, and over i of (sum over j of A_ij) squared; of B alike.
    a_sum = a_rows = paired.sum()
    a_squares = (paired / (paired - 1)).sum()
    b_sum = b_squares = (members * (members - 1)).sum()
    b_rows = (members * (members - 1) ** 2).sum()
    two, three, four = (float(math.perm(total, places)) for places in (2, 3, 4))
    expected = float(a_sum * b_sum / two)
    second_moment = (
        2 * a_squares * b_squares / two
        + 4 * (a_rows - a_squares) * (b_rows - b_squares) / three
        + (a_sum**2 + 2 * a_squares - 4 * a_rows) * (b_sum**2 + 2 * b_squares - 4 * b_rows) / four
    )
    deviation = max(0.0, float(second_moment) - expected**2) ** 0.5
    return found / a_sum, expected / a_sum, deviation / a_sum


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

    They are walked, and a missing one, one too many, or one that holds anything else is refused. Images and classes
    are read as the index says; rule.names, where there are any, must be the index's.
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
    walk_rule = ClassRule(index.class_from, index.class_names, index.image_from)
    found = _walk_shards(ordered, walk_rule, index.fingerprint, workers, scratch, progress)
    for number, (entry, other) in enumerate(zip(index.shards, found, strict=True)):
        if what := _difference(index, number, other):
            raise ShardError(
                f"shard {entry.name}: {other.entry.path} {what}; give the shards that were indexed, or index again"
            )
    return replace(index, shards=tuple(other.entry for other in found))


def _difference(index: Index, number: int, found: ShardIndex) -> str | None:
    """What a walked shard holds other than the shard of this number of an index; None where they are the same."""
    entry, count = index.shards[number], int(index.counts[number])
    if count != len(found.classes):
        return f"holds {len(found.classes):,} samples, the index says {count:,}"
    if entry.hash != found.entry.hash:
        return f"has other names, sizes or classes: hash {found.entry.hash:016x}, the index says {entry.hash:016x}"
    fingerprints = index.fingerprints[index.starts[number] : index.starts[number + 1]]
    other = np.flatnonzero(fingerprints != found.fingerprints)
    if len(other):
        key = shown(found.key(int(other[0])))
        return (
            f"holds other images than were indexed, the first at key '{key}' ({len(other):,} of {count:,} fingerprints "
            "differ)"
        )
    return None


def _walk_shard(common: tuple[ClassRule, Fingerprint, Path | None], path: str) -> ShardIndex:
    return index_shard_resumed(path, *common)


def _warn_of_silence(paths: Sequence[str], doing: Mapping[int, Child], after_s: float) -> None:
    walked = ", ".join(f"{paths[number]} ({child.state()})" for number, child in sorted(doing.items()))
    warn(
        f"no shard was finished for {after_s:g} s; still being walked: {walked}; slow disks may take so long, "
        "a process that is stopped will not end: Ctrl-C, and the same command goes on"
    )
