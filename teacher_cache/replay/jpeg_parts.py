"""A part of a JPEG as a JPEG of its own, where restart markers allow it: between two of them nothing depends on what
lies outside.

Cutting is exact: entropy-coded data is copied as it is, by MCUs (pixels that are coded together), those included whose
chroma is smoothed into the part; the picture's size and the markers' numbers are written anew.
"""

import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from teacher_cache.replay.header import JpegFrame, jpeg_segments
from teacher_cache.replay.native.restarts import find_starts, join_intervals

_SEQUENTIAL = frozenset((0xC0, 0xC1))  # frames whose only scan brings every coefficient, by Huffman codes
_SOS, _DRI = 0xDA, 0xDD
_BLOCK_PX = 8
_UNSMOOTHED = 2  # libjpeg smooths no chroma of a picture that has so few samples of it a row
_SIZE = struct.Struct(">HH")
_SIZE_AT = 5  # of a frame's segment: where height and width stand


@dataclass(frozen=True)
class Restarts:
    """A JPEG of which every row of MCUs is cut by restart markers at the same places."""

    image: bytes
    size: tuple[int, int]  # height and width
    mcu_px: tuple[int, int]  # height and width of an MCU
    interval: int  # MCUs from marker to marker
    frame: int  # where the frame's segment begins
    scan: int  # where the entropy-coded data begins
    offsets: np.ndarray  # (rows, intervals + 1) int64, from there: each interval of a row, and the next row's first

    def part(self, box: tuple[int, int, int, int]) -> "JpegPart | None":
        """A part that decodes to the picture's pixels in a box (top, left, height, width); None where that is the
        whole."""
        rows, intervals = self.offsets.shape[0], self.offsets.shape[1] - 1
        mcu_height, mcu_width = self.mcu_px
        first_row, end_row = _mcus(box[0], box[2], mcu_height, rows)
        first_column, end_column = _mcus(box[1], box[3], mcu_width, intervals * self.interval)
        first, end = first_column // self.interval, -(-end_column // self.interval)
        if first and self.size[1] - first * self.interval * mcu_width <= _UNSMOOTHED * mcu_width // _BLOCK_PX:
            first -= 1
        if (end_row - first_row, end - first) == (rows, intervals):
            return None
        top, left = first_row * mcu_height, first * self.interval * mcu_width
        height = min(self.size[0], end_row * mcu_height) - top
        width = min(self.size[1], end * self.interval * mcu_width) - left
        return JpegPart(self, top, left, height, width, self.offsets[first_row:end_row, first : end + 1])


class JpegPart(NamedTuple):
    """A part of a picture, and where in the picture it lies."""

    restarts: Restarts
    top: int
    left: int
    height: int
    width: int
    offsets: np.ndarray  # (rows, intervals + 1) int64: of the intervals that it has, as those of `restarts`

    @property
    def num_bytes(self) -> int:
        return self.restarts.scan + int((self.offsets[:, -1] - self.offsets[:, 0]).sum())

    def jpeg(self, memory: np.ndarray | None = None) -> np.ndarray:
        """As a JPEG of its own, (num_bytes,) uint8, at the beginning of `memory`, which is that large at least, or in
        its own."""
        image, scan = np.frombuffer(self.restarts.image, np.uint8), self.restarts.scan
        jpeg = (np.empty(self.num_bytes, np.uint8) if memory is None else memory)[: self.num_bytes]
        jpeg[:scan] = image[:scan]
        _SIZE.pack_into(jpeg.data, self.restarts.frame + _SIZE_AT, self.height, self.width)
        join_intervals(image[scan:], self.offsets, jpeg[scan:])
        return jpeg


def find_restarts(image: bytes, frame: JpegFrame) -> Restarts | None:
    """Of a JPEG with this frame; None where it has no such markers, or is in any way other than such JPEGs are."""
    mcu = mcu_px(image, frame)
    interval, scan = (0, 0) if mcu is None or frame.marker not in _SEQUENTIAL else _scan(image, frame)
    if mcu is None or not interval or scan >= len(image):
        return None
    rows, columns = -(-frame.height // mcu[0]), -(-frame.width // mcu[1])
    if columns % interval or rows * columns // interval > len(image):
        return None
    intervals = columns // interval
    found = find_starts(np.frombuffer(image, np.uint8, offset=scan), rows * intervals)
    if found is None:
        return None
    step = found.itemsize
    offsets = np.lib.stride_tricks.as_strided(found, (rows, intervals + 1), (intervals * step, step), writeable=False)
    return Restarts(image, (frame.height, frame.width), mcu, interval, _begin(frame), scan, offsets)


def mcu_px(image: bytes, frame: JpegFrame) -> tuple[int, int] | None:
    """Height and width of an MCU of a JPEG with this frame, whose components share their scans; None of a kind that is
    not decoded in parts: other than grey or of three colours, of 8 bits."""
    begin, end = _begin(frame), frame.end
    if frame.bits != 8 or frame.components not in (1, 3) or not frame.height or not frame.width or begin < 0:
        return None
    factors = image[begin + 11 : end : 3]
    if image[begin : begin + 2] != bytes((0xFF, frame.marker)) or len(factors) != frame.components:
        return None
    down, across = [factor & 15 for factor in factors], [factor >> 4 for factor in factors]
    if not all(1 <= factor <= 4 for factor in down + across):
        return None
    if frame.components == 1:  # alone it has a block an MCU, whatever its factors
        return _BLOCK_PX, _BLOCK_PX
    return _BLOCK_PX * max(down), _BLOCK_PX * max(across)


def _begin(frame: JpegFrame) -> int:
    """Where the frame's segment begins."""
    return frame.end - 10 - 3 * frame.components


def _scan(image: bytes, frame: JpegFrame) -> tuple[int, int]:
    """MCUs from marker to marker, and where the data of a scan of all components begins; zeros where there is none."""
    interval = 0
    for marker, place in jpeg_segments(image, frame.end):
        if marker == _DRI:
            interval = int.from_bytes(image[place + 4 : place + 6])
        elif marker == _SOS:
            if image[place + 4] != frame.components:
                break
            return interval, place + 2 + int.from_bytes(image[place + 2 : place + 4])
    return 0, 0


def _mcus(first: int, length: int, mcu_px: int, num: int) -> tuple[int, int]:
    """The MCUs along a side, first and end, that its pixels are decoded from: a sample of chroma that is wider than a
    pixel is smoothed with its neighbours."""
    sample_px = mcu_px // _BLOCK_PX
    beside = sample_px if sample_px > 1 else 0
    return max(0, first - beside) // mcu_px, min(num, -(-(first + length + beside) // mcu_px))
