"""Decoding, whole and in part: Pillow's bytes whatever the library, the same errors whatever part is asked for."""

import io
import random
import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from teacher_cache.errors import ImageError
from teacher_cache.replay import decode as decode_module
from teacher_cache.replay.decode import decode, decode_crop
from teacher_cache.replay.geometry import cut
from teacher_cache.replay.header import MAX_PIXELS, image_size, read_header
from teacher_cache.replay.recipe import Box
from teacher_cache.replay.regions import region_decoder, region_library
from tests import images
from tests.images import ENCODERS, photographs, picture

SAMPLINGS = {"4:4:4": 0x111111, "4:2:2": 0x211111, "4:2:0": 0x221111, "4:4:0": 0x121111, "4:1:1": 0x411111}

needs_region_decoder = pytest.mark.skipif(
    region_library() is None, reason="nvImageCodec is not installed: pip install '.[regions]'"
)


def by_pillow(image: bytes) -> np.ndarray:
    """The rule's reference: Pillow alone."""
    return decode_module._decode_with_pillow(image, read_header(image).format, MAX_PIXELS)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("size", [(61, 83), (1, 1), (16, 9)])
def test_every_encoding_decodes_as_pillow_converts(encoder: str, size: tuple[int, int]) -> None:
    image = ENCODERS[encoder](picture(1, *size))
    decoded = decode(image)
    opened = Image.open(io.BytesIO(image))
    opened.info.pop("transparency", None)  # Pillow warns, and drops it
    assert np.array_equal(decoded, np.asarray(opened.convert("RGB")))
    assert decoded.shape == (*size, 3)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    assert np.array_equal(decoded, by_pillow(image))


@pytest.mark.parametrize(
    "options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}, {"quality": 30}]
)
def test_jpegs_decode_to_pillows_bytes(options: dict[str, int]) -> None:
    for seed in range(4):
        image = images.jpeg(picture(seed, 67 + seed, 93), **options)
        assert np.array_equal(decode(image), by_pillow(image))


def test_grey_of_16_bits_clips_at_255() -> None:
    pixels = picture(0)
    doubled = np.minimum(pixels[:, :, 0].astype(int) * 2, 255)
    assert np.array_equal(decode(images.grey_16_bit_png(pixels)), np.repeat(doubled[:, :, None], 3, axis=2))


@pytest.mark.parametrize("encoder", ["png", "jpeg", "webp", "cmyk_jpeg", "grey_jpeg", "palette_png"])
@pytest.mark.parametrize("lenient", [False, True])
def test_truncated_images_are_refused(encoder: str, lenient: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    image = ENCODERS[encoder](picture(2, 80, 100))
    for share in (0.2, 0.5, 0.9):
        with pytest.raises(ImageError, match=r"the image cannot be decoded: .* bytes"):
            decode(image[: int(len(image) * share)])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ImageError, match="no bytes"):
        decode(b"")
    for junk in (b"hello", b"\xff\xd8", b"\xff\xd8\xff\xc0\x00", b"\x89PNG\r\n\x1a\n", bytes(1000)):
        with pytest.raises(ImageError, match=re.escape(f"({len(junk)} bytes)")) as raised:
            decode(junk)
        assert "\n" not in str(raised.value)


# A part of a picture


def encoded(pixels: np.ndarray, sampling: str, *, progressive: bool, restarts: int, quality: int) -> bytes:
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling], cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    options += [cv2.IMWRITE_JPEG_RST_INTERVAL, restarts, cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", pixels[:, :, ::-1], [int(option) for option in options])[1].tobytes()


def random_box(rng: random.Random, height: int, width: int) -> Box:
    top, left = rng.randrange(height), rng.randrange(width)
    return Box(top, left, rng.randint(1, height - top), rng.randint(1, width - left))


@needs_region_decoder
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("progressive", [False, True])
def test_a_region_decodes_to_the_bytes_of_the_whole(sampling: str, progressive: bool) -> None:
    """Every subsampling, odd sizes, boxes down to a pixel, with and without restart markers."""
    decode_region = region_decoder()
    assert decode_region is not None
    rng = random.Random(0)
    for number in range(25):
        height, width = (rng.randint(100, 300), rng.randint(100, 300)) if number % 3 else (rng.randint(1, 60), 37)
        pixels = picture(number, height, width)
        image = encoded(pixels, sampling, progressive=progressive, restarts=3 * (number % 2), quality=40 + 2 * number)
        whole = by_pillow(image)
        for _ in range(6):
            box = random_box(rng, height, width)
            region = decode_region(image, box)
            assert region is not None
            assert np.array_equal(region, cut(whole, box))


@needs_region_decoder
def test_a_region_of_grey_and_of_photographs() -> None:
    decode_region = region_decoder()
    assert decode_region is not None
    rng = random.Random(1)
    for pixels in photographs().values():
        for image in (images.grey_jpeg(pixels), images.jpeg(pixels), images.jpeg(pixels, exif=_turned())):
            whole = by_pillow(image)
            for _ in range(8):
                box = random_box(rng, *whole.shape[:2])
                assert np.array_equal(decode_region(image, box), cut(whole, box))


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: ignored
    return exif


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_crop_is_cut_out_of_the_picture(encoder: str) -> None:
    image = ENCODERS[encoder](picture(1, 170, 190))
    rng = random.Random(encoder)
    for box in [Box(0, 0, 170, 190), *(random_box(rng, 170, 190) for _ in range(8))]:
        assert np.array_equal(decode_crop(image, box), cut(decode(image), box))


@needs_region_decoder
def test_only_the_crop_is_decoded_where_that_is_less(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(image: bytes) -> np.ndarray:
        raise AssertionError("decoded whole")

    monkeypatch.setattr(decode_module, "decode", refuse)
    image = images.jpeg(picture(0, 300, 400))
    assert decode_crop(image, Box(20, 30, 200, 250)).shape == (200, 250, 3)
    for other, box in ((image, Box(0, 0, 299, 399)), (images.jpeg(picture(0, 32, 32)), Box(0, 0, 8, 8))):
        with pytest.raises(AssertionError, match="whole"):
            decode_crop(other, box)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40), st.booleans())
def test_a_damaged_file_gives_no_other_bytes(seed: int, flips: int, cut_short: bool) -> None:
    """A file cut short: the whole's error. One with bytes changed: the whole's bytes; where the whole is refused for
    damage below the crop, the crop may still decode, which is why labelling decodes wholes."""
    rng = random.Random(seed)
    image = bytearray(encoded(picture(3, 140, 150), "4:2:0", progressive=seed % 2 == 1, restarts=0, quality=80))
    for _ in range(flips):
        image[rng.randrange(2, len(image))] = rng.randrange(256)
    damaged = bytes(image[: rng.randrange(10, len(image))] if cut_short else image)
    box = Box(0, 0, 30, 40)
    try:
        whole = decode(damaged)
    except ImageError as error:
        if not damaged.endswith(b"\xff\xd9"):
            with pytest.raises(ImageError, match=re.escape(str(error))):
                decode_crop(damaged, box)
        return
    if whole.shape[0] >= 30 and whole.shape[1] >= 40:
        assert np.array_equal(decode_crop(damaged, box), cut(whole, box))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_header_tells_the_size_of_the_decoded_image(encoder: str) -> None:
    image = ENCODERS[encoder](picture(1, height=61, width=83))
    assert image_size(image[:4096]) == decode(image).shape[:2]
