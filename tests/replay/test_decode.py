"""Decoding, whole and in part: Pillow's bytes whatever the library, the same errors whatever part is asked for."""

import io
import os
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from teacher_cache.errors import ImageError
from teacher_cache.replay import decode as decode_module
from teacher_cache.replay import regions
from teacher_cache.replay.decode import decode, decode_and_judge, decode_crop
from teacher_cache.replay.geometry import cut
from teacher_cache.replay.header import MAX_PIXELS, image_size, read_header
from teacher_cache.replay.params import Box
from teacher_cache.replay.regions import region_decoder, region_library
from tests.support import images
from tests.support.images import ENCODERS, photographs, picture

END = b"\xff\xd9"
SAMPLINGS = {"4:4:4": 0x111111, "4:2:2": 0x211111, "4:2:0": 0x221111, "4:4:0": 0x121111, "4:1:1": 0x411111}

needs_region_decoder = pytest.mark.skipif(
    region_library() is None, reason="nvImageCodec is not installed: pip install '.[regions]'"
)


def encoded(pixels: np.ndarray, sampling: str, *, progressive: bool, restarts: int, quality: int) -> bytes:
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling], cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    options += [cv2.IMWRITE_JPEG_RST_INTERVAL, restarts, cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", pixels[:, :, ::-1], [int(option) for option in options])[1].tobytes()


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


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_jpegs_decode_to_pillows_bytes_without_pillow(
    sampling: str, progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [
        encoded(picture(seed, 67 + seed, 93), sampling, progressive=progressive, restarts=seed, quality=30 + 20 * seed)
        for seed in range(4)
    ]
    made += [images.jpeg(pixels, progressive=progressive) for pixels in photographs().values()]
    made += [images.grey_jpeg(picture(5, 1, 1)), images.grey_jpeg(picture(5)), images.split_jpeg(picture(6, 33, 50))]
    expected = [by_pillow(image) for image in made]
    monkeypatch.setattr(decode_module, "_decode_with_pillow", None)
    for image, pixels in zip(made, expected, strict=True):
        decoded, damage = decode_and_judge(image)
        assert np.array_equal(decoded, pixels)
        assert damage is None


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
    for junk in (b"hello", bytes(1000)):
        with pytest.raises(
            ImageError, match=re.escape(f"no known format (JPEG, PNG, WebP), it begins with {junk[:12]!r}")
        ):
            decode(junk)
    for junk in (b"\xff\xd8", b"\xff\xd8\xff\xc0\x00", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8 "):
        with pytest.raises(ImageError, match=re.escape(f"({len(junk)} bytes)")) as raised:
            decode(junk)
        assert "\n" not in str(raised.value)


# Damage


def cut_with_an_end(image: bytes) -> bytes:
    """Some of its data gone, and an end behind it: libjpeg paints the rest grey."""
    return image[: len(image) * 9 // 10] + END


def with_stray_bytes(image: bytes) -> bytes:
    place = images.frame_at(image)
    return image[:place] + b"junk" + image[place:]


def with_a_stray_restart(image: bytes) -> bytes:
    place = len(image) * 2 // 3
    return image[:place] + b"\xff\xd3" + image[place:]


DAMAGES = {
    cut_with_an_end: "Corrupt JPEG data: premature end of data segment",
    with_stray_bytes: "Corrupt JPEG data: 4 extraneous bytes before marker 0xc[02]",
    with_a_stray_restart: "Corrupt JPEG data: (premature end of data segment|found marker 0xd3 instead of RST0)",
}


@pytest.mark.parametrize("harm", DAMAGES)
@pytest.mark.parametrize("kind", ["4:2:0", "progressive", "restarts", "grey", "cmyk", "split"])
def test_what_libjpeg_warns_of_is_decoded_as_by_pillow_and_told(
    kind: str, harm: Callable[[bytes], bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    """And not by libjpeg itself, on stderr, whoever decodes."""
    pixels = picture(3, 140, 150)
    restarts = 3 if kind == "restarts" else 0
    made = {"grey": images.grey_jpeg, "cmyk": images.cmyk_jpeg, "split": images.split_jpeg}
    make = made.get(kind, lambda p: encoded(p, "4:2:0", progressive="p" in kind, restarts=restarts, quality=80))
    whole = make(pixels)
    assert decode_and_judge(whole).damage is None
    damaged = harm(whole)
    decoded, damage = decode_and_judge(damaged)
    assert np.array_equal(decoded, by_pillow(damaged))
    assert damage is not None
    assert re.fullmatch(DAMAGES[harm], damage)
    assert np.array_equal(decode_crop(damaged, Box(0, 0, 90, 100)), decoded[:90, :100])
    assert capfd.readouterr() == ("", "")


def test_what_others_write_to_stderr_meanwhile_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    warning = b"Corrupt JPEG data: 4 extraneous bytes before marker 0xd9\n"
    for _ in range(2):
        with regions._without_warnings():
            os.write(2, b"one line\n" + warning + b"another, " + warning)
        os.write(2, b"a third\n")
        assert capfd.readouterr().err == f"one line\nanother, {warning.decode()}a third\n"


@pytest.mark.parametrize("kind", ENCODERS)
def test_damaged_bytes_give_pillows_pixels_or_its_refusal(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Some hundred files of each kind with bytes changed, lost or put in, half of them in the header."""
    rng, decoded = random.Random(kind), 0
    whole = ENCODERS[kind](picture(1, 40, 50))
    for _ in range(300):
        image = spoiled(whole, rng)
        try:
            ours = decode(image, 1 << 22)
        except ImageError:
            continue
        assert np.array_equal(ours, by_pillow(image))
        decoded += 1
    assert decoded > (20 if kind.endswith("jpeg") else 0)  # a changed PNG fails its checksums
    assert capfd.readouterr() == ("", "")


def spoiled(whole: bytes, rng: random.Random) -> bytes:
    image = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(min(len(image), 700) if rng.random() < 0.5 else len(image))
        change = rng.randrange(4)
        if change == 0:
            image[place] ^= 1 << rng.randrange(8)
        elif change == 1:
            image[place] = rng.choice((0xFF, 0x00, 0xDA, 0xD9, rng.randrange(256)))
        elif change == 2:
            del image[place : place + rng.randrange(1, 9)]
        else:
            image[place:place] = bytes(
                rng.choice((0xFF, 0x00, 0xC0, 0xD0, 0xD9, 0xDA)) for _ in range(rng.randrange(5))
            )
    return bytes(image)


def test_warnings_of_pillows_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are of notes beside the picture, and would name no file; here warnings are errors."""
    image = images.png(picture(1, 20, 30))
    opened = Image.open

    def warned(*arguments: object, **options: object) -> Image.Image:
        warnings.warn("Corrupt EXIF data", stacklevel=1)
        return opened(*arguments, **options)

    monkeypatch.setattr(Image, "open", warned)
    assert decode(image).shape == (20, 30, 3)


def test_decoding_takes_no_torch() -> None:
    code = "import sys, teacher_cache.replay.decode; print({'torch', 'torchvision'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# A part of a picture


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
    def refuse(*arguments: object) -> np.ndarray:
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
        if not damaged.endswith(END):
            with pytest.raises(ImageError, match=re.escape(str(error))):
                decode_crop(damaged, box)
        return
    if whole.shape[0] >= 30 and whole.shape[1] >= 40:
        assert np.array_equal(decode_crop(damaged, box), cut(whole, box))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_header_tells_the_size_of_the_decoded_image(encoder: str) -> None:
    image = ENCODERS[encoder](picture(1, height=61, width=83))
    assert image_size(image[:4096]) == decode(image).shape[:2]
