"""Parts of JPEGs decoded alone: the bytes of the whole, or not at all."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teacher_cache.errors import ImageError
from teacher_cache.replay.decode import decode, decode_part, restarts_of
from teacher_cache.replay.jpeg_parts import Restarts
from teacher_cache.replay.native.library import SWITCH
from tests.support import images
from tests.support.images import SAMPLINGS, marked_grey_jpeg, marked_jpeg, photographs, picture, sampled_jpeg

Box = tuple[int, int, int, int]


def restarts_in(image: bytes) -> Restarts:
    found = restarts_of(image)
    assert found is not None
    return found


def check_boxes(image: bytes, boxes: list[Box]) -> int:
    """-> how many of them a part was decoded for."""
    whole, restarts, parts = decode(image), restarts_in(image), 0
    assert restarts.size == whole.shape[:2]
    for box in boxes:
        top, left, height, width = box
        part = restarts.part(box)
        if part is None:
            continue
        assert part.top <= top
        assert part.left <= left
        assert top + height <= part.top + part.height
        assert left + width <= part.left + part.width
        assert part.height * part.width < whole.shape[0] * whole.shape[1]
        pixels = decode_part(part)
        assert pixels is not None
        inside = pixels[top - part.top :, left - part.left :][:height, :width]
        assert np.array_equal(inside, whole[top : top + height, left : left + width]), (box, part[1:5])
        parts += 1
    return parts


def random_boxes(num: int, size: tuple[int, int], seed: int) -> list[Box]:
    """Of all sizes; some at the picture's edges, some of a pixel."""
    random = np.random.default_rng(seed)
    boxes = []
    for number in range(num):
        most = [side if number % 3 else min(side, 9) for side in size]
        height, width = (int(random.integers(1, side + 1)) for side in most)
        bottom, right = size[0] - height, size[1] - width
        top, left = int(random.integers(0, bottom + 1)), int(random.integers(0, right + 1))
        if number % 5 == 4:
            top, left = bottom, right
        boxes.append((top, left, height, width))
    return boxes


@pytest.mark.parametrize("native", ["off", ""], ids=["numpy", "native"])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_part_has_the_bytes_of_the_whole(sampling: str, native: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, native)
    parts = 0
    for seed, size in enumerate([(67, 93), (64, 96), (130, 40), (33, 200)]):
        for quality in (35, 95):
            image = sampled_jpeg(picture(seed, *size), sampling, restarts=1, quality=quality)
            parts += check_boxes(image, random_boxes(30, size, seed))
    assert parts > 100


@pytest.mark.parametrize("name", photographs())
def test_parts_of_photographs(name: str) -> None:
    pixels = photographs()[name]
    boxes = random_boxes(15, pixels.shape[:2], 3)
    made = [
        marked_jpeg(pixels, "4:4:4"),
        sampled_jpeg(pixels, "4:2:0", restarts=5, quality=80),
        marked_grey_jpeg(pixels),
    ]
    assert [check_boxes(image, boxes) > 9 for image in made] == [True] * 3


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.sampled_from([*SAMPLINGS, "grey"]), st.integers(0, 1000))
def test_parts_of_small_pictures(height: int, width: int, sampling: str, seed: int) -> None:
    pixels = picture(seed, height, width)
    image = marked_grey_jpeg(pixels) if sampling == "grey" else marked_jpeg(pixels, sampling)
    if restarts_of(image) is None:
        assert max(height, width) <= 32  # of one MCU: there is no marker
    else:
        check_boxes(image, random_boxes(12, (height, width), seed))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_parts_at_the_right_edge(sampling: str) -> None:
    """Where a part would be so narrow that libjpeg would not smooth its chroma."""
    for width in range(64, 97):
        pixels = np.random.default_rng(width).integers(0, 256, (48, width, 3), np.uint8)
        boxes = [(20, width - narrow, 9, narrow) for narrow in range(1, 12)]
        assert check_boxes(marked_jpeg(pixels, sampling), boxes) == len(boxes)


def test_only_what_is_needed_is_kept() -> None:
    image = marked_jpeg(picture(1, 400, 600))
    part = restarts_in(image).part((200, 300, 20, 20))
    assert part is not None
    assert (part.top, part.left, part.height, part.width) == (192, 288, 32, 48)
    assert part.num_bytes == len(part.jpeg()) < len(image) / 20
    assert restarts_in(image).part((0, 0, 400, 600)) is None
    assert restarts_in(image).part((15, 15, 380, 580)) is None
    assert restarts_in(image).part((17, 17, 381, 581)) is None  # smoothing needs the pixels beside it
    assert restarts_in(image).part((18, 18, 381, 581)) is not None


def test_notes_of_a_picture_are_in_its_parts() -> None:
    note = b"\xff\xe1\x00\x0cExif\0\0beef"
    image = marked_jpeg(picture(1, 64, 64))
    image = image[:2] + note + image[2:]
    part = restarts_in(image).part((0, 0, 1, 1))
    assert part is not None
    assert part.jpeg().tobytes().startswith(b"\xff\xd8" + note)
    check_boxes(image, random_boxes(10, (64, 64), 1))


PIXELS = picture(2, 96, 160)
GOOD = marked_jpeg(PIXELS)


def _without_one_marker(image: bytes) -> bytes:
    place = image.index(b"\xff\xd3", image.index(b"\xff\xda"))
    return image[:place] + image[place + 2 :]


def _first_scan(image: bytes) -> bytes:
    """A progressive JPEG that ends after the scan that all components share."""
    scan = image.index(b"\xff\xda")
    end = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]").search(image, scan + 2)
    assert end is not None
    return image[: end.start()] + b"\xff\xd9"


OTHERS = {
    "no markers": images.jpeg(PIXELS),
    "progressive": sampled_jpeg(PIXELS, "4:2:0", restarts=1, progressive=True),
    "one scan of a progressive one": _first_scan(sampled_jpeg(PIXELS, "4:2:0", restarts=1, progressive=True)),
    "markers at other places in each row": sampled_jpeg(PIXELS, "4:2:0", restarts=3),
    "markers after two rows": sampled_jpeg(PIXELS, "4:2:0", restarts=20),
    "inks": images.cmyk_jpeg(PIXELS),
    "scans of one component": images.split_jpeg(PIXELS),
    "PNG": images.png(PIXELS),
    "WebP": images.webp(PIXELS),
    "cut short": GOOD[: len(GOOD) // 2],
    "without an end": GOOD[:-2],
    "a marker less": _without_one_marker(GOOD),
    "a marker more": GOOD[:-2] + b"\xff\xd7" + GOOD[-2:],
    "another marker's number": GOOD.replace(b"\xff\xd3", b"\xff\xd4", 1),
    "its head alone": GOOD[: GOOD.index(b"\xff\xda") + 14],
}


@pytest.mark.parametrize("native", ["off", ""], ids=["numpy", "native"])
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_decoded_whole(kind: str, native: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, native)
    assert restarts_of(OTHERS[kind]) is None


def test_what_no_decoder_need_see_is_an_error_as_ever() -> None:
    with pytest.raises(ImageError, match="96 x 160 pixels large, more than the 100 that this store allows"):
        restarts_of(GOOD, 100)
    with pytest.raises(ImageError, match="no known format"):
        restarts_of(b"nothing")


def test_a_damaged_part_is_nobodys() -> None:
    """What libjpeg makes of it is the whole picture's decoder's to say."""
    begin, end = (GOOD.index(marker, GOOD.index(b"\xff\xda")) for marker in (b"\xff\xd0", b"\xff\xd1"))
    restarts = restarts_in(GOOD[: begin + 2] + GOOD[end:])
    part, other = restarts.part((0, 0, 16, 32)), restarts.part((80, 144, 16, 16))
    assert part is not None
    assert decode_part(part) is None
    assert other is not None
    assert decode_part(other) is not None


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_elsewhere_changes_nothing(data: st.DataObject) -> None:
    """Of a picture with a changed byte a part is what the whole has there, whatever was changed."""
    image = bytearray(GOOD)
    scan = GOOD.index(b"\xff\xda") + 14
    for _ in range(data.draw(st.integers(1, 3))):
        image[data.draw(st.integers(scan, len(image) - 1))] = data.draw(st.sampled_from([0x00, 0xFF, 0xD1, 0x5A, 0xFE]))
    box = data.draw(st.sampled_from(random_boxes(20, (96, 160), 5)))
    restarts = restarts_of(bytes(image))
    part = None if restarts is None else restarts.part(box)
    pixels = None if part is None else decode_part(part)
    if part is None or pixels is None:
        return
    top, left, height, width = box
    inside = pixels[top - part.top :, left - part.left :][:height, :width]
    assert np.array_equal(inside, decode(bytes(image))[top : top + height, left : left + width])
