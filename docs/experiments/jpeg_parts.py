"""What restart markers save: photographs decoded whole, and with markers the parts that crops need; decoding alone, and
all that a process does which feeds a rendering device.

    PYTHONPATH=. python docs/experiments/jpeg_parts.py 'SHARD-PATTERN'        # wants jpegtran (libjpeg-turbo-progs)

Microseconds of one pinned core a picture, the least of some turns, which all ways take one after the other.
"""

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from teacher_cache.replay.block import Block, DecodedBlock, decode_block, decode_parts
from teacher_cache.replay.gpu.handing import hand_over
from teacher_cache.replay.policy import load_policy
from tools.benchmarks.photographs import read_photographs
from tools.benchmarks.rendering import as_blocks
from tools.benchmarks.row import one_pinned_core
from tools.restart_markers import RestartMarkers

PICTURES, TURNS, SEED, ROOM = 192, 9, 0, 256 << 20
POLICY = load_policy("deit")


def parts_of(views: Sequence[int], block: Block) -> DecodedBlock:
    return decode_parts(POLICY, SEED, block, views)


def fed(decode: Callable[[Block], DecodedBlock], views: Sequence[int], room: np.ndarray, block: Block) -> None:
    for _ in hand_over(POLICY, SEED, decode(block), views, itertools.repeat(room)):
        pass


def microseconds(work: Callable[[Block], object], blocks: Sequence[Block]) -> float:
    began = time.thread_time()
    for block in blocks:
        work(block)
    return 1e6 * (time.thread_time() - began) / PICTURES


def main(pattern: str) -> None:
    images, markers = read_photographs((pattern,), PICTURES), RestartMarkers()
    marked = [markers.mark(image) for image in images]
    num_bytes = sum(map(len, images))
    print(f"{num_bytes:,} bytes; with markers in {markers.marked}, {sum(map(len, marked)) / num_bytes - 1:.1%} more")
    room = np.empty(ROOM, np.uint8)
    for views in (range(16), range(8), range(3), range(1)):  # large pieces first: later ones use their memory again
        ways = {
            "whole": (as_blocks(images), decode_block),
            "whole, with markers": (as_blocks(marked), decode_block),
            "parts": (as_blocks(marked), partial(parts_of, views)),
        }
        alone, feeding = ({name: list[float]() for name in ways} for _ in range(2))
        with one_pinned_core():
            for _, (name, (blocks, decode)) in itertools.product(range(TURNS), ways.items()):
                alone[name].append(microseconds(decode, blocks))
                feeding[name].append(microseconds(partial(fed, decode, views, room), blocks))
        for name in ways:
            decoding, fed_in = min(alone[name]), min(feeding[name])
            print(f"{len(views)} views, {name}: decoding {decoding:.0f} us, feeding a device {fed_in:.0f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
