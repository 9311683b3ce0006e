"""Reading a block's images from its shard, by byte range, and only those that were indexed.

Ours, as WebDataset's reader gives samples in a row from a tar's start, and replay wants one block, anywhere.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from teacher_cache.errors import ChangedError, ShardError, StorageError
from teacher_cache.files import reading_advice
from teacher_cache.messages.shown import counted, shown
from teacher_cache.shards.fingerprint import fingerprint, hashed_part, image_fingerprint
from teacher_cache.shards.index import BlockPlace
from teacher_cache.shards.source import Read, ShardFacts, look, open_file, read_object, reason
from teacher_cache.storage.cache import NodeCache
from teacher_cache.storage.local import read_range
from teacher_cache.storage.place import is_url

if TYPE_CHECKING:
    from teacher_cache.replay.block import Block

_AGAIN = "put the indexed file back, give its place with --shards, or index again"


def read_block(place: BlockPlace, cache: NodeCache | None = None) -> "Block":
    """Read a block's images with one read, or request, of their byte range. cache: where those of shards far away are
    kept.

    ShardError, never ImageError, when the file is gone, of another size than the index says, or holds another image
    than was indexed, of a skipped sample too.
    """
    from teacher_cache.replay.block import Block  # OpenCV and Pillow with it, which finding shards needs not

    offsets = place.offsets.tolist()
    start = offsets[0]
    ends = (place.offsets + place.sizes).tolist()
    with open_shard(place, cache) as read:
        content = read(start, ends[-1] - start)
    images = tuple(content[offset - start : end - start] for offset, end in zip(offsets, ends, strict=True))
    kind, expected = place.fingerprint, place.fingerprints.tolist()
    for position, image in enumerate(images):
        if image_fingerprint(image, kind) != expected[position]:
            raise _other_image(place, position)
    return Block(place.shard, place.number, place.keys, place.classes, images, place.skipped)


@contextmanager
def open_shard(place: BlockPlace, cache: NodeCache | None = None) -> Iterator[Read]:
    """The shard of a block, open to be read by ranges within the block; whatever fails while it is becomes a
    ShardError. Of an object the block comes at once, in one request, or from the cache.

    Refused where its size, or an object's ETag, is not the index's, or the block lies outside of it.
    """
    where = f"shard {place.shard}: {place.path}"
    key = f"at key '{shown(place.keys[0])}'"
    try:
        if is_url(place.path):
            _check_inside(place)
            yield partial(_part, _fetch(place, cache), int(place.offsets[0]))
            return
        with open_file(place.path) as descriptor:
            _check_facts(place, ShardFacts(os.fstat(descriptor).st_size))
            _check_inside(place)
            yield partial(read_range, descriptor)
    except ChangedError as error:
        _check_facts(place, look(place.path))
        raise ShardError(f"shard {place.shard}: {error} (read {key}); run the same command again") from None
    except StorageError as error:
        raise ShardError(f"shard {place.shard} cannot be read {key}: {error}") from None
    except OSError as error:
        raise ShardError(f"{where} cannot be read {key} ({reason(error)}); " + reading_advice(error, _AGAIN)) from None


def check_image(place: BlockPlace, position: int, read: Read) -> None:
    """Read the hashed part of one image of a block from its open shard; ShardError where it is not the one indexed."""
    size = int(place.sizes[position])
    start, length = hashed_part(size, place.fingerprint)
    hashed = read(int(place.offsets[position]) + start, length)
    if fingerprint(size, hashed) != int(place.fingerprints[position]):
        raise _other_image(place, position)


def _fetch(place: BlockPlace, cache: NodeCache | None) -> bytes:
    """All bytes of a block whose shard is an object."""
    start = int(place.offsets[0])
    num_bytes = int((place.offsets + place.sizes).max()) - start
    facts = ShardFacts(place.num_bytes, place.etag)

    def fetch() -> bytes:
        content = read_object(place.path, facts, start, num_bytes)
        if len(content) < num_bytes:
            missing = counted(num_bytes - len(content), "byte")
            raise StorageError(f"{place.path} ends {missing} before block {place.number} does; {_AGAIN}")
        return content

    if cache is None:
        return fetch()
    return cache.get(f"{place.path} {place.etag} {place.num_bytes} {start} {num_bytes}", fetch)


def _part(content: bytes, first: int, start: int, length: int) -> bytes:
    """A range out of the bytes that begin at `first`."""
    return content[start - first : start - first + length]


def _check_facts(place: BlockPlace, found: ShardFacts) -> None:
    """ShardError where a file's size, or an object's ETag, is not the index's."""
    num_bytes, etag = found
    if num_bytes != place.num_bytes:
        differing = f"has {num_bytes:,} bytes, the index says {place.num_bytes:,}"
    elif etag != place.etag:
        differing = f"has the ETag {etag}, the index says {place.etag}"
    else:
        return
    raise ShardError(
        f"shard {place.shard}: {place.path} {differing} (read for key '{shown(place.keys[0])}'): it is another file "
        f"than was indexed; {_AGAIN}"
    )


def _check_inside(place: BlockPlace) -> None:
    """ShardError where a block lies outside of a shard of the index's size."""
    if place.offsets[0] < 0 or (place.offsets + place.sizes).max() > place.num_bytes:
        raise ShardError(
            f"shard {place.shard}: {place.path} ends at byte {place.num_bytes:,}, where the index has images of block "
            f"{place.number} (key '{shown(place.keys[0])}') beyond it: the index is damaged; index again"
        )


def _other_image(place: BlockPlace, position: int) -> ShardError:
    return ShardError(
        f"shard {place.shard}: {place.path} holds another image than was indexed at key "
        f"'{shown(place.keys[position])}' (its fingerprint differs); {_AGAIN}"
    )
