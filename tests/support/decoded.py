"""Blocks of pictures that a test has in memory."""

import numpy as np

from teacher_cache.replay.block import Block, DecodedBlock, decode_block
from tests.support import images


def decoded_block(sources: list[np.ndarray], skipped: frozenset[int] = frozenset(), number: int = 0) -> DecodedBlock:
    """A block of these pictures, its keys by its number."""
    keys = tuple(f"sample-{number}-{position}" for position in range(len(sources)))
    classes = np.arange(len(sources), dtype=np.int32) + 10 * number
    encoded = tuple(b"" if position in skipped else images.png(pixels) for position, pixels in enumerate(sources))
    return decode_block(Block("train-0000.tar", number, keys, classes, encoded, skipped))
