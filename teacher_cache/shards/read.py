"""Reading a block's images from its shard, by byte range, and only those that were indexed.

Ours, as WebDataset's reader gives samples in a row from a tar's start, and replay wants one block, anywhere.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from teacher_cache.errors import ChangedError, ShardError, StorageError
from teacher_cache.files import reading_advice
from teacher_cache.messages.shown import counted, shown
from teacher_cache.shards.fingerprint import fingerprint, hashed_part, image_fingerprint
from teacher_cache.shards.index import BlockPlace
from teacher_cache.shards.source import Ranges, Read, ShardFacts, look, open_file, read_object_ranges, reason
from teacher_cache.storage.cache import NodeCache
from teacher_cache.storage.local import read_range
from teacher_cache.storage.place import is_url
from teacher_cache.storage.storage import NEAR, cut, joined

if TYPE_CHECKING:
    from teacher_cache.replay.block import Block

_NEAR = 64 << 10  # bytes between images of a file that are read as one: less time than another read takes
AGAIN = "put the indexed file back, give its place with --shards, or index again"  # a shard that was indexed


def read_block(place: BlockPlace, cache: NodeCache | None = None) -> "Block":
    """Read a block's images by their byte ranges, those near each other with one read, or request. cache: where those
    of shards far away are kept.

    ShardError, never ImageError, when the file is gone, of another size than the index says, or holds another image
    than was indexed, of a skipped sample too.
    """
    from teacher_cache.replay.block import Block  # OpenCV and Pillow with it, which finding shards needs not

    with _open_ranges(place, cache) as read_ranges:
        images = tuple(read_ranges(_image_ranges(place)))
    kind, expected = place.fingerprint, place.fingerprints.tolist()
    for position, image in enumerate(images):
        if image_fingerprint(image, kind) != expected[position]:
            raise _other_image(place, position)
    return Block(place.shard, place.number, place.keys, place.classes, images, place.skipped)


@contextmanager
def open_shard(place: BlockPlace, cache: NodeCache | None = None) -> Iterator[Read]:
    """The shard of a block, open to be read by ranges within the block's images; whatever fails while it is becomes a
    ShardError. Of an object the images come at once, or from the cache.

    Refused where its size, or an object's ETag, is not the index's, or the block lies outside of it.
    """
    with _open_ranges(place, cache) as read_ranges:
        yield lambda start, length: read_ranges([(start, length)])[0]


@contextmanager
def _open_ranges(place: BlockPlace, cache: NodeCache | None) -> Iterator[Callable[[Ranges], list[bytes]]]:
    """What `open_shard` opens, to be read by many ranges at once."""
    where = f"shard {place.shard}: {place.path}"
    key = f"at key '{shown(place.keys[0])}'"
    try:
        if is_url(place.path):
            _check_inside(place)
            yield partial(_cut_all, _fetch(place, cache))
            return
        with open_file(place.path) as descriptor:
            _check_facts(place, ShardFacts(os.fstat(descriptor).st_size))
            _check_inside(place)
            yield partial(_read_near, descriptor)
    except ChangedError as error:
        _check_facts(place, look(place.path))
        raise ShardError(f"shard {place.shard}: {error} (read {key}); run the same command again") from None
    except StorageError as error:
        raise ShardError(f"shard {place.shard} cannot be read {key}: {error}") from None
    except OSError as error:
        raise ShardError(f"{where} cannot be read {key} ({reason(error)}); " + reading_advice(error, AGAIN)) from None


def far_bytes(place: BlockPlace) -> int:
    """What has to come from far away to read a block; 0 where its shard is a file of this machine."""
    return sum(end - start for start, end in joined(_image_ranges(place), NEAR)) if is_url(place.path) else 0


def check_image(place: BlockPlace, position: int, read: Read) -> None:
    """Read the hashed part of one image of a block from its open shard; ShardError where it is not the one indexed."""
    size = int(place.sizes[position])
    start, length = hashed_part(size, place.fingerprint)
    hashed = read(int(place.offsets[position]) + start, length)
    if fingerprint(size, hashed) != int(place.fingerprints[position]):
        raise _other_image(place, position)


def _image_ranges(place: BlockPlace) -> list[tuple[int, int]]:
    return list(zip(place.offsets.tolist(), place.sizes.tolist(), strict=True))


def _read_near(descriptor: int, ranges: Ranges) -> list[bytes]:
    """Ranges of a file; what lies between near ones is read with them, and not kept."""
    read = [(start, read_range(descriptor, start, end - start)) for start, end in joined(ranges, _NEAR)]
    return [cut(read, start, length) for start, length in ranges]


def _fetch(place: BlockPlace, cache: NodeCache | None) -> list[tuple[int, bytes]]:
    """The images of a block whose shard is an object, those near each other as one, each with its start; in order."""
    parts = joined(_image_ranges(place), NEAR)
    lengths = [end - start for start, end in parts]

    def fetch() -> list[bytes]:
        ranges = [(start, end - start) for start, end in parts]
        contents = read_object_ranges(place.path, ShardFacts(place.num_bytes, place.etag), ranges)
        if (missing := sum(lengths) - sum(map(len, contents))) > 0:
            raise StorageError(
                f"{place.path} ends {counted(missing, 'byte')} before block {place.number} does; {AGAIN}"
            )
        return contents

    starts = [start for start, _ in parts]
    if cache is None:
        return list(zip(starts, fetch(), strict=True))
    where = " ".join(f"{start} {length}" for start, length in zip(starts, lengths, strict=True))
    whole = memoryview(cache.get(f"{place.path} {place.etag} {place.num_bytes} {where}", lambda: b"".join(fetch())))
    ends = itertools.accumulate(lengths)
    return [(at, bytes(whole[end - n : end])) for at, n, end in zip(starts, lengths, ends, strict=True)]


def _cut_all(read: Sequence[tuple[int, bytes]], ranges: Ranges) -> list[bytes]:
    """Ranges out of parts that were read."""
    return [cut(read, start, length) for start, length in ranges]


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
        f"than was indexed; {AGAIN}"
    )


def _check_inside(place: BlockPlace) -> None:
    """ShardError where a block lies outside of a shard of the index's size."""
    if place.offsets.min() < 0 or (place.offsets + place.sizes).max() > place.num_bytes:
        raise ShardError(
            f"shard {place.shard}: {place.path} ends at byte {place.num_bytes:,}, where the index has images of block "
            f"{place.number} (key '{shown(place.keys[0])}') beyond it: the index is damaged; index again"
        )


def _other_image(place: BlockPlace, position: int) -> ShardError:
    return ShardError(
        f"shard {place.shard}: {place.path} holds another image than was indexed at key "
        f"'{shown(place.keys[position])}' (its fingerprint differs); {AGAIN}"
    )
