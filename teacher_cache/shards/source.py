"""A shard's bytes by range, wherever it lies: a file of this machine, or an object that is known by size and ETag."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import NamedTuple

from teacher_cache.errors import ShardError, StorageError
from teacher_cache.messages.shown import shown
from teacher_cache.storage.local import read_range
from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.place import Url, is_url, to_place
from teacher_cache.storage.storage import AT_ONCE, Storage, find_entry

Read = Callable[[int, int], bytes]  # (start, length) -> the bytes, fewer only at the shard's end
Ranges = Sequence[tuple[int, int]]  # of them


class ShardFacts(NamedTuple):
    """What tells one file, or object, from another without reading it. etag: None of a local file."""

    num_bytes: int
    etag: str | None = None


def place_text(path: str) -> str:
    """A shard's place as an index keeps it: an absolute path, or a URL."""
    return str(to_place(path)) if is_url(path) else os.path.abspath(path)


def look(path: str) -> ShardFacts:
    """The facts of a shard, in one request where it is an object. Raises ShardError where it cannot be opened."""
    try:
        return _look(path)
    except (OSError, StorageError) as error:
        raise cannot_be_opened(path, error) from None


def look_all(paths: Sequence[str]) -> list[ShardFacts]:
    """The facts of many shards; several requests are under way at once. Raises as `look` does, of the first."""
    if not any(map(is_url, paths)):
        return list(map(look, paths))
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(look, paths))


@contextmanager
def open_file(path: str) -> Iterator[int]:
    """A local shard, open to be read (a file descriptor)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def open_ranges(path: str) -> Iterator[Read]:
    """A shard, open to be read by ranges, as it is now; of an object each is a request."""
    if is_url(path):
        yield partial(read_object, path, _look(path))
        return
    with open_file(path) as descriptor:
        yield partial(read_range, descriptor)


def read_object(path: str, facts: ShardFacts, start: int, length: int) -> bytes:
    """A range of the object at a URL, in one request. Raises ChangedError where its facts are others now, StorageError,
    and FileNotFoundError."""
    return read_object_ranges(path, facts, [(start, length)])[0]


def read_object_ranges(path: str, facts: ShardFacts, ranges: Ranges) -> list[bytes]:
    """The same of many ranges, of which the first is a request, and the others are at once."""
    storage, name = _storage_of(path)
    stamp = None if facts.etag is None else (facts.etag, facts.num_bytes)
    return storage.get_ranges(name, ranges, stamp)


def cannot_be_opened(path: str, error: OSError | StorageError) -> ShardError:
    """What to say of a shard that cannot be looked at."""
    name = os.path.basename(path)
    if isinstance(error, StorageError):
        return ShardError(f"shard {shown(name)}: {error}")
    return ShardError(f"shard {shown(name)}: {path} cannot be opened ({reason(error)})")


def reason(error: OSError) -> str:
    """What the system, or a storage, says of an error."""
    return error.strerror or str(error)


def _look(path: str) -> ShardFacts:
    if not is_url(path):
        return ShardFacts(os.stat(path).st_size)
    storage, name = _storage_of(path)
    if (entry := find_entry(storage, name)) is None:
        raise FileNotFoundError(errno.ENOENT, "no such object")
    return ShardFacts(entry.num_bytes, str(entry.stamp[0]))


def _storage_of(path: str) -> tuple[Storage, str]:
    """The storage that holds the object at a URL, and its name there."""
    url = to_place(path)
    assert isinstance(url, Url)
    return _folder(str(url.parent)), url.name


@lru_cache(64)  # connections are kept open
def _folder(place: str) -> Storage:
    return open_storage(place)
