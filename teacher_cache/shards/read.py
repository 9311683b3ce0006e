"""Reading a block's images from its shard, by byte range, and only those that were indexed.

Ours, as WebDataset's reader gives samples in a row from a tar's start, and replay wants one block, anywhere.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from teacher_cache.errors import ShardError
from teacher_cache.files import reading_advice
from teacher_cache.messages.shown import shown
from teacher_cache.shards.fingerprint import fingerprint, hashed_part, image_fingerprint
from teacher_cache.shards.index import BlockPlace
from teacher_cache.shards.tar import read_range

if TYPE_CHECKING:
    from teacher_cache.replay.block import Block

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
