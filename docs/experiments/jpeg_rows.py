"""Whether restart markers pay: of a JPEG that has one after each row of blocks, the rows that a sample's crops need are
decoded alone, and compared with decoding it whole.

    PYTHONPATH=. python docs/experiments/jpeg_rows.py 'SHARD-PATTERN'        # wants jpegtran (libjpeg-turbo-progs)

Cutting is exact: the entropy-coded rows are copied as they are, with a row of blocks to spare on either side for
smoothed chroma, the height and the markers' numbers are written anew, and any decoder reads the result.
"""

import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import simplejpeg

from teacher_cache.replay.block import Block, decode_block, draw_blocks
from teacher_cache.replay.gpu.batch import spanned
from teacher_cache.replay.policy import load_policy
from tools.benchmarks.photographs import read_photographs

PICTURES, TURNS, SEED = 128, 5, 1
RESTART = re.compile(rb"\xff[\xd0-\xd7]")


class Layout(NamedTuple):
    """Of a JPEG: where its frame header and its scan begin, its height, the height of a row of blocks."""

    frame: int
    scan: int
    height: int
    row_px: int


def layout(image: bytes) -> Layout:
    place, frame, height, row_px = 2, 0, 0, 0
    while True:
        marker, length = image[place + 1], int.from_bytes(image[place + 2 : place + 4])
        if marker in (0xC0, 0xC1):
            frame, height = place, int.from_bytes(image[place + 5 : place + 7])
            row_px = 8 * max(image[place + 11 + 3 * number] & 15 for number in range(image[place + 9]))
        place += 2 + length
        if marker == 0xDA:
            return Layout(frame, place, height, row_px)


def cut_rows(image: bytes, top: int, bottom: int) -> tuple[bytes, int]:
    """A JPEG of the rows of blocks around rows top..bottom, and the picture's row that it begins with."""
    found = layout(image)
    restarts = [match.start() for match in RESTART.finditer(image, found.scan)]
    first = max(0, top // found.row_px - 1)
    last = min(len(restarts) + 1, -(-bottom // found.row_px) + 1)
    begin = found.scan if first == 0 else restarts[first - 1] + 2
    end = restarts[last - 1] if last <= len(restarts) else len(image) - 2
    scan = bytearray(image[begin:end])
    for number, place in enumerate(restarts[first : last - 1]):
        scan[place - begin + 1] = 0xD0 + number % 8
    height = struct.pack(">H", min(found.height, last * found.row_px) - first * found.row_px)
    head = image[: found.frame + 5] + height + image[found.frame + 7 : found.scan]
    return head + bytes(scan) + b"\xff\xd9", first * found.row_px


def decode_all(images: Sequence[bytes]) -> None:
    for image in images:
        simplejpeg.decode_jpeg(image)


def decode_rows(images: Sequence[bytes], spans: Sequence[tuple[int, int]]) -> None:
    for image, span in zip(images, spans, strict=True):
        simplejpeg.decode_jpeg(cut_rows(image, *span)[0])


def microseconds(decode: Callable[..., None], *given: Sequence[Any]) -> float:
    """Of a picture, the least of some turns."""
    times = []
    for _ in range(TURNS):
        began = time.thread_time()
        decode(*given)
        times.append(time.thread_time() - began)
    return 1e6 * min(times) / PICTURES


def main(pattern: str) -> None:
    images = read_photographs((pattern,), PICTURES)
    command = ["jpegtran", "-copy", "none", "-restart", "1"]
    marked = [subprocess.run(command, input=image, capture_output=True, check=True).stdout for image in images]
    print(f"bytes: {sum(map(len, images)):,}, with restart markers {sum(map(len, marked)):,}")
    keys = tuple(map(str, range(PICTURES)))
    block = decode_block(Block("marked.tar", 0, keys, np.zeros(PICTURES, np.int32), tuple(marked)))
    policy = load_policy("deit")
    for views in (1, 3, 8):
        crops = draw_blocks(policy, SEED, [block], list(range(views))).crops
        spans = [(top, top + height) for top, _, height, _ in spanned(crops.reshape(views, PICTURES, 4)).tolist()]
        for place, (image, (top, bottom)) in enumerate(zip(marked, spans, strict=True)):
            part, begin = cut_rows(image, top, bottom)
            rows = simplejpeg.decode_jpeg(part)[top - begin : bottom - begin]
            assert np.array_equal(rows, block.image(place)[top:bottom]), f"picture {place} has other bytes"
        whole, with_markers = microseconds(decode_all, images), microseconds(decode_all, marked)
        parts = microseconds(decode_rows, marked, spans)
        print(f"{views} views: whole {whole:.0f} us, with markers {with_markers:.0f}, rows alone {parts:.0f}; equal")


if __name__ == "__main__":
    main(sys.argv[1])
