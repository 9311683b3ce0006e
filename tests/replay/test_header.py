"""What is refused before a decoder sees it: formats, pixels, scans."""

import io
import subprocess
import sys
import time
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from teacher_cache.errors import ImageError
from teacher_cache.replay.decode import decode
from teacher_cache.replay.header import (
    MAX_PIXELS,
    MAX_SCANS,
    MAX_SEGMENTS,
    JpegFrame,
    check_scans,
    image_size,
    jpeg_frame,
    read_header,
)
from tests.support import images
from tests.support.images import frame_at, picture, scans_of, split_jpeg

PICTURE = picture(0, 40, 50)
SCANNED = picture(1, 130, 140)
PROGRESSIVE = images.jpeg(SCANNED, progressive=True)
SPLIT = split_jpeg(SCANNED)


# Formats


def saved_as(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["eps", "gif", "tiff", "bmp", "ppm", "ico", "jpeg2000", "pdf"])
def test_only_three_formats_are_opened(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a file is called: Pillow would start Ghostscript for an EPS, and has decoders for fifty more."""
    image = saved_as(kind)
    monkeypatch.setattr(Image, "open", None)
    for read in (decode, image_size):
        with pytest.raises(ImageError, match=r"no known format \(JPEG, PNG, WebP\), it begins with b'") as raised:
            read(image)
        assert repr(image[:12])[:6] in str(raised.value)


@pytest.mark.parametrize("encoder", images.ENCODERS)
def test_pillow_is_asked_for_the_one_format_that_the_bytes_tell(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    opened = Image.open

    def recorded(file: io.BytesIO, **options: object) -> Image.Image:
        asked.append(options)
        return opened(file, **options)

    monkeypatch.setattr(Image, "open", recorded)
    image = images.ENCODERS[encoder](PICTURE)
    decode(image)
    kind = next(kind for kind in ("JPEG", "PNG", "WEBP") if encoder.endswith(kind.lower()))
    assert asked in ([{"formats": (kind,)}], [] if kind == "JPEG" else None)


# Pixels


def enlarged(image: bytes, height: int, width: int) -> bytes:
    """A real JPEG whose header was changed."""
    place = frame_at(image)
    return image[: place + 5] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + image[place + 9 :]


def large_jpeg(height: int, width: int) -> bytes:
    return enlarged(images.jpeg(picture(3, 60, 80)), height, width)


def large_progressive(height: int, width: int) -> bytes:
    return enlarged(PROGRESSIVE, height, width)


def large_cmyk(height: int, width: int) -> bytes:
    return enlarged(images.cmyk_jpeg(PICTURE), height, width)


def two_frames(height: int, width: int) -> bytes:
    """A second frame header behind the first: libjpeg refuses it, Pillow takes its size."""
    image, large = images.jpeg(PICTURE), large_jpeg(height, width)
    place, there = frame_at(image), frame_at(large)
    return image[: place + 19] + large[there : there + 19] + image[place + 19 :]


def after_junk(height: int, width: int) -> bytes:
    """Fill bytes, stray bytes and a restart marker in the header: libjpeg passes over them."""
    image = large_jpeg(height, width)
    place = frame_at(image)
    return image[:place] + b"\0junk\xff\0\xff\xd3" + b"\xff" * 5000 + image[place:]


def large_png(height: int, width: int) -> bytes:
    image = images.png(PICTURE)
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + image[24:29]
    return image[:12] + header + zlib.crc32(header).to_bytes(4, "big") + image[33:]


def two_png_headers(height: int, width: int) -> bytes:
    """Pillow takes the second's size."""
    return images.png(PICTURE)[:33] + large_png(height, width)[8:]


def large_webp(height: int, width: int) -> bytes:
    """Its canvas, up to 2^24 on a side."""
    body = images.webp(PICTURE)[12:]
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"WEBPVP8X" + (10).to_bytes(4, "little") + canvas + body
    return b"RIFF" + len(chunks).to_bytes(4, "little") + chunks


def lossless_webp(height: int, width: int) -> bytes:
    image = bytearray(images.webp(PICTURE))
    image[21:25] = (width - 1 | height - 1 << 14).to_bytes(4, "little")
    return bytes(image)


def lossy_webp(height: int, width: int) -> bytes:
    image = bytearray(saved_as("webp"))
    image[26:30] = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    return bytes(image)


BOMBS: dict[str, tuple[Callable[[int, int], bytes], int]] = {
    make.__name__: (make, side)
    for make, side in [
        (large_jpeg, 65_000),
        (large_progressive, 65_000),
        (large_cmyk, 65_000),
        (two_frames, 65_000),
        (after_junk, 65_000),
        (large_png, 65_000),
        (two_png_headers, 65_000),
        (large_webp, 65_000),
        (lossless_webp, 16_000),
        (lossy_webp, 16_000),
    ]
}

REFUSING = """
import resource, sys
from teacher_cache.errors import ImageError
from teacher_cache.replay.decode import decode
from tests.replay.test_header import BOMBS, PICTURE
from tests.support.images import ENCODERS

for encoder in ENCODERS.values():
    decode(encoder(PICTURE))
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))  # so that a failure costs no more
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for make, side in BOMBS.values():
    image = make(side, side)
    try:
        decode(image)
    except ImageError as error:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""


@pytest.fixture(scope="module")
def refusals() -> dict[str, str]:
    """What is said of each, behind the kilobytes that this and those before it have taken."""
    command = [sys.executable, "-W", "error", "-c", REFUSING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(zip(BOMBS, done.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("name", BOMBS)
def test_a_header_that_asks_for_gigabytes_gets_none(name: str, refusals: dict[str, str]) -> None:
    kilobytes, _, refusal = refusals[name].partition(" ")
    side = BOMBS[name][1]
    assert refusal == (
        f"the image is {side} x {side} pixels large, more than the {MAX_PIXELS} that this store allows "
        f"(`index --max-pixels {side * side}` makes one that takes it)"
    )
    assert int(kilobytes) < 30_000


@pytest.mark.parametrize("encoder", images.ENCODERS)
def test_the_limit_is_what_is_asked_for_alone(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own does not count, and is left as it was."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    image = images.ENCODERS[encoder](PICTURE)
    assert decode(image, 2000).shape == (40, 50, 3)
    assert image_size(image, 2000) == (40, 50)
    for read in (decode, image_size):
        with pytest.raises(ImageError, match="40 x 50 pixels large, more than the 1999 that"):
            read(image, 1999)
    assert Image.MAX_IMAGE_PIXELS == 900


def test_the_largest_that_is_allowed_is_no_more_than_pillows() -> None:
    assert MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS
    allowed = MAX_PIXELS // 65_000
    assert read_header(large_jpeg(65_000, allowed)).size == (65_000, allowed)
    with pytest.raises(ImageError, match="pixels large"):
        read_header(large_jpeg(65_000, allowed + 1))


# Scans


def test_the_frame_is_found_as_libjpeg_finds_it() -> None:
    image = images.jpeg(PICTURE)
    plain = jpeg_frame(image)
    assert plain is not None
    assert plain[:5] == (0xC0, 8, 40, 50, 3)
    place = frame_at(image)
    for between in (b"junk", b"\xff" * 9, b"\0\xff\0\0", b"\xff\xd7", b"\xff\x01", b"\xff\xfe\0\x04\xff\xc0"):
        assert jpeg_frame(image[:place] + between + image[place:]) == plain._replace(end=plain.end + len(between))
    for refused in (b"\xff\xd9", b"\xff\xd8", b"\xff\x02\0\x02", image[scans_of(image)[0] :]):
        assert jpeg_frame(image[:place] + refused + image[place:]) is None
    for length in range(place + 10):
        assert jpeg_frame(image[:length]) is None


@pytest.mark.parametrize("image", [images.jpeg(SCANNED), images.grey_jpeg(SCANNED), PROGRESSIVE, SPLIT])
def test_a_jpeg_has_all_its_scans_or_is_refused(image: bytes) -> None:
    """Cut where a scan begins, with an end put behind it: libjpeg paints the missing component grey."""
    starts = scans_of(image)
    assert len(starts) == (3 if image == SPLIT else 10 if image == PROGRESSIVE else 1)
    needed = 3 if image == SPLIT else 1
    for kept, place in enumerate(starts):
        cut_short = image[:place] + b"\xff\xd9"
        if kept >= needed:
            check_scans(cut_short, frame_of(cut_short))
            continue
        with pytest.raises(ImageError, match=r"cut short, \d of \d components? ha(s|ve) no scan \([\d,]+ bytes\)"):
            decode(cut_short)
    assert decode(image).shape == SCANNED.shape


def test_a_progressive_jpeg_without_a_first_coefficient_is_refused() -> None:
    """Its other scans are there."""
    starts = scans_of(PROGRESSIVE)
    without = PROGRESSIVE[: starts[0]] + PROGRESSIVE[starts[1] : starts[2]] + b"\xff\xd9"
    with pytest.raises(ImageError, match="cut short, 3 of 3 components have no scan"):
        decode(without)


def frame_of(image: bytes) -> JpegFrame:
    frame = jpeg_frame(image)
    assert frame is not None
    return frame


def with_scans(num_scans: int) -> bytes:
    """The last scan of a progressive file again and again, then again, without any data."""
    starts = scans_of(PROGRESSIVE)
    last = PROGRESSIVE[starts[-1] : -2]
    empty = last[: 2 + int.from_bytes(last[2:4], "big")]
    return PROGRESSIVE[:-2] + empty * (num_scans - len(starts)) + b"\xff\xd9"


def split_then_together(num_scans: int) -> bytes:
    """Baseline, one component first, then all three in each scan: libjpeg takes them all."""
    image = SPLIT
    [first, second, _] = scans_of(image)
    together = b"\xff\xda\0\x0c\x03" + bytes([1, 0, 2, 0, 3, 0, 0, 63, 0])
    return image[:second] + (together + image[first + 10 : second]) * (num_scans - 1) + b"\xff\xd9"


@pytest.mark.parametrize("make", [with_scans, lambda number: split_jpeg(SCANNED, number), split_then_together])
def test_scans_are_bounded(make: Callable[[int], bytes]) -> None:
    allowed = make(MAX_SCANS)
    assert len(scans_of(allowed)) == MAX_SCANS
    assert decode(allowed).shape == SCANNED.shape
    for number in (MAX_SCANS + 1, 1000):
        with pytest.raises(ImageError, match=r"more than 100 scans, which no encoder makes \([\d,]+ bytes\)"):
            decode(make(number))


@pytest.mark.parametrize(
    ("junk", "refusal"),
    [
        (b"\xff\xe1\0\x02" * 1_000_000, f"more than {MAX_SEGMENTS} segments"),
        (b"\xff\xd3" * 1_000_000, f"more than {MAX_SEGMENTS} segments"),
        (b"\xff" * 5_000_000, None),
        (b"\xff\0" * 2_500_000, None),
    ],
)
def test_a_header_of_junk_takes_no_time(junk: bytes, refusal: str | None) -> None:
    """Before the frame and behind it."""
    image = images.jpeg(PICTURE)
    frame = frame_of(image)
    for place in (frame_at(image), frame.end):
        stuffed = image[:place] + junk + image[place:]
        start = time.process_time()
        if refusal:
            with pytest.raises(ImageError, match=refusal):
                check_scans(stuffed, frame_of(stuffed))
        else:
            check_scans(stuffed, frame_of(stuffed))
        assert time.process_time() - start < 1  # 0.03 s; a step of Python a byte takes longer
