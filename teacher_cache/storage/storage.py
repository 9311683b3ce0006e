"""The seam: what the project asks of a place that holds bytes.

Names are relative to the storage's place, with slashes: "labels/c/0/0/0". Bytes that are there are whole.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from teacher_cache.errors import StorageError
from teacher_cache.storage.ahead import Ahead
from teacher_cache.storage.place import Place

# What changes when bytes are written anew; compared, and nothing else. Of what lies far away: its ETag, or what stands
# for it, as text, and its size in bytes, which a later run may have kept.
Stamp = tuple[object, ...]

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Entry(NamedTuple):
    """What a listing says of a name: its size in bytes, and its stamp."""

    name: str
    num_bytes: int
    stamp: Stamp


class Storage(Protocol):
    """Bytes by name under a place.

    Raises DiskError or StorageError, which name the place, where something cannot be written or no answer comes;
    OSError where a local file cannot be read.
    """

    @property
    def place(self) -> Place:
        """The folder or URL that names are relative to."""

    @property
    def is_local(self) -> bool:
        """Whether a read costs microseconds, so that nothing is gained by reading much at once or ahead."""

    def get(self, name: str) -> bytes | None:
        """All bytes; None where there is no such name."""

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]], stamp: Stamp | None = None) -> list[bytes]:
        """The bytes of each (start, length), fewer where they end before. Ranges that lie near each other may be read
        as one. FileNotFoundError where there is no such name; with stamp, ChangedError where it is another now."""

    def put(self, name: str, content: bytes | Path) -> None:
        """Write bytes whole, in the place of what is there: these, or a local file's, of which few are in memory. They
        have reached the disk when it returns."""

    def put_if_absent(self, name: str, content: bytes) -> bool:
        """Write bytes whole where there are none. True for one of several writers at most, but for those of the same
        bytes: writers who must tell themselves apart put a nonce in."""

    def list(self, prefix: str = "") -> list[Entry]:
        """What is there under a name as under a folder, or this name itself; in order of names."""

    def delete(self, name: str) -> None:
        """Remove a name; nothing happens where there is none."""


AT_ONCE = 32  # requests in flight
PART_BYTES = 16 << 20  # that are read or sent at once of a file that is not held whole
PARTS_AHEAD = 4  # of them
NEAR = 1 << 20  # bytes between ranges that are read as one where a request takes its time


def ask_each(
    storage: Storage, ask: Callable[[Asked], Answer], wanted: Iterable[Asked], at_once: int = AT_ONCE
) -> Iterator[Answer]:
    """What a function asks a storage for each, in order. Where a request takes its time so many are on their way, or
    wait to be taken, and no more."""
    if storage.is_local:
        yield from map(ask, wanted)
        return
    coming: deque[Ahead[Answer]] = deque()
    for each in wanted:
        coming.append(Ahead(partial(ask, each)))
        if len(coming) == at_once:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()


def get_all(storage: Storage, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
    """(name, bytes) of many, in order; several at once where a request takes its time."""
    return ask_each(storage, lambda name: (name, storage.get(name)), names)


def find_entry(storage: Storage, name: str) -> Entry | None:
    """What a listing says of a name; None where it is not there."""
    return next((entry for entry in storage.list(name) if entry.name == name), None)


def get_parts(storage: Storage, entry: Entry) -> Iterator[bytes]:
    """The bytes of a name as it was listed, part by part, of which few are in memory. Raises what get_ranges raises,
    and StorageError where there are fewer."""

    def get(start: int) -> bytes:
        length = min(PART_BYTES, entry.num_bytes - start)
        (part,) = storage.get_ranges(entry.name, [(start, length)], entry.stamp)
        if len(part) != length:
            raise StorageError(f"{storage.place / entry.name} ends early: run the same command again")
        return part

    return ask_each(storage, get, range(0, entry.num_bytes, PART_BYTES), PARTS_AHEAD)


def joined(ranges: Iterable[tuple[int, int]], near: int) -> list[tuple[int, int]]:
    """(start, end) of what is read as one, in order: those of (start, length) with no more than so many bytes between
    them, but for empty ones."""
    parts: list[tuple[int, int]] = []
    for start, length in sorted(ranges):
        if length <= 0:
            continue
        if parts and start - parts[-1][1] <= near:
            parts[-1] = parts[-1][0], max(parts[-1][1], start + length)
        else:
            parts.append((start, start + length))
    return parts


def cut(read: Sequence[tuple[int, bytes]], start: int, length: int) -> bytes:
    """A range's bytes out of parts that were read, each with its start, in order."""
    first, content = read[max(0, bisect_right(read, start, key=itemgetter(0)) - 1)] if read else (start, b"")
    return content[start - first : start - first + max(length, 0)] if start >= first else b""
