"""What an encoded image says of itself before any decoder touches it: format, size and, of a JPEG, its scans."""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from teacher_cache.errors import ImageError
from teacher_cache.messages.shown import counted

MAX_PIXELS = 178_956_970  # height x width: where Pillow refuses by itself
# A photograph has 1, a progressive one 10 by libjpeg's own script; mozjpeg's search keeps up to some 20. Each scan may
# visit every pixel without having a byte for it, so thousands make seconds of a small file. In scans, not in time: what
# one machine skips, all do. (libjpeg-turbo's fuzzers stop at 500.)
MAX_SCANS = 100
MAX_SEGMENTS = 10_000  # of a JPEG: colour profiles and notes take up to some hundred

JPEG, PNG, WEBP = "JPEG", "PNG", "WEBP"  # Pillow's names

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SEGMENT = struct.Struct(">BBH")  # 0xFF, marker, length of the rest, its own two bytes included
_FRAME = struct.Struct(">HBHHB")  # of a frame: length, bits, height, width, components
# libjpeg passes over whatever is no marker: junk, fill bytes (0xFF) and the stuffed zeros of entropy-coded data
_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_AFTER_SCAN = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # restart markers belong to the scan
_SOS = 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_SEGMENTS = frozenset(range(0xC0, 0xFF)) - frozenset(range(0xD0, 0xDA))  # markers with a length
_BARE = frozenset((0x01, *range(0xD0, 0xD8)))  # without: restarts, astray


class JpegFrame(NamedTuple):
    """What a JPEG's frame header says."""

    marker: int
    bits: int
    height: int
    width: int
    components: int
    end: int  # where the next segment stands


class Header(NamedTuple):
    """size: height and width; None where the beginning does not tell."""

    format: str
    size: tuple[int, int] | None
    frame: JpegFrame | None  # of a JPEG


def read_header(image: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Of an image whose beginning this is, the format told by content. Raises ImageError (without shard and key) where
    it is none that is read here, or of more than max_pixels."""
    if image[:2] == b"\xff\xd8":
        frame = jpeg_frame(image)
        size = (frame.height, frame.width) if frame is not None and frame.height and frame.width else None
        header = Header(JPEG, size, frame)
    elif image[:8] == _PNG_SIGNATURE:
        header = Header(PNG, _png_size(image), None)
    elif image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        header = Header(WEBP, _webp_size(image), None)
    elif not image:
        raise ImageError("the image has no bytes")
    else:
        raise ImageError(
            f"the image cannot be decoded: no known format (JPEG, PNG, WebP), it begins with {image[:12]!r}"
        )
    if header.size is not None:
        check_pixels(*header.size, max_pixels)
    return header


def check_pixels(height: int, width: int, max_pixels: int) -> None:
    """Raises ImageError where a picture is larger than the store allows."""
    if height * width > max_pixels:
        raise ImageError(
            f"the image is {height} x {width} pixels large, more than the {max_pixels} that this store allows "
            f"(`index --max-pixels {height * width}` makes one that takes it)"
        )


def image_size(image: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int] | None:
    """Height and width of an image whose beginning this is; None where it does not tell. Raises as read_header."""
    return read_header(image, max_pixels).size


def jpeg_frame(image: bytes) -> JpegFrame | None:
    """Of a JPEG whose beginning this is; None where there is none. Raises ImageError of more than MAX_SEGMENTS."""
    for marker, place in jpeg_segments(image, 2):
        if marker in _FRAMES:
            if place + 10 > len(image):
                return None
            length, bits, height, width, components = _FRAME.unpack_from(image, place + 2)
            return JpegFrame(marker, bits, height, width, components, place + 2 + length)
        if marker == _SOS:
            return None
    return None


def check_scans(image: bytes, frame: JpegFrame) -> None:
    """Raises ImageError (without shard and key) where a JPEG has more than MAX_SCANS, or a component that no scan
    brings: of a progressive one, whose first coefficient none brings."""
    covered: set[int] = set()
    scans = 0
    for marker, place in jpeg_segments(image, frame.end):
        if marker != _SOS:
            continue
        scans += 1
        if scans > MAX_SCANS:
            raise undecodable(image, f"more than {MAX_SCANS} scans, which no encoder makes")
        chosen = image[place + 4]
        components, first_coefficient = image[place + 5 : place + 5 + 2 * chosen : 2], place + 5 + 2 * chosen
        if frame.marker not in _PROGRESSIVE and scans == 1 and chosen == frame.components:
            return  # libjpeg takes no further one
        if frame.marker not in _PROGRESSIVE or image[first_coefficient : first_coefficient + 1] == b"\0":
            covered.update(components)
    if len(covered) < frame.components:
        what = f"{counted(frame.components - len(covered), 'component', 'has', of=frame.components)} no scan"
        raise undecodable(image, f"cut short, {what}")


def jpeg_segments(image: bytes, place: int) -> Iterator[tuple[int, int]]:
    """Each segment's marker and where it stands, from place on, as libjpeg finds them, to the end of the picture."""
    last = len(image) - 5
    for _ in range(MAX_SEGMENTS):
        if place > last:
            return
        prefix, marker, length = _SEGMENT.unpack_from(image, place)
        if prefix == 0xFF and marker in _SEGMENTS:
            yield marker, place
            place += 2 + length
            if marker != _SOS:
                continue
            found = _AFTER_SCAN.search(image, place)
        elif prefix == 0xFF and marker in _BARE:
            place += 2
            continue
        elif prefix == 0xFF and marker not in (0x00, 0xFF):
            return  # the end, or what libjpeg refuses
        else:
            found = _MARKER.search(image, place)
        if found is None:
            return
        place = found.start()
    raise undecodable(image, f"more than {MAX_SEGMENTS} segments")


def _png_size(image: bytes) -> tuple[int, int] | None:
    if len(image) < 24 or image[12:16] != b"IHDR":
        return None
    width, height = struct.unpack_from(">II", image, 16)
    return height, width


def _webp_size(image: bytes) -> tuple[int, int] | None:
    """Of the canvas, which is the picture's size, from the first chunk: the container's, or the only image's."""
    if len(image) < 30:
        return None
    chunk = image[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(image[27:30], "little"), 1 + int.from_bytes(image[24:27], "little")
    if chunk == b"VP8L" and image[20] == 0x2F:
        sizes = int.from_bytes(image[21:25], "little")
        return 1 + (sizes >> 14 & 0x3FFF), 1 + (sizes & 0x3FFF)
    if chunk == b"VP8 " and image[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", image, 26)
        return height & 0x3FFF, width & 0x3FFF
    return None


def undecodable(image: bytes, what: str) -> ImageError:
    """The one line of every image that no decoder reads."""
    return ImageError(f"the image cannot be decoded: {what} ({counted(len(image), 'byte')})")
