"""Decoding: Pillow's bytes whatever the library, and what is said of damage."""

import io
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFile

from teacher_cache.errors import ImageError
from teacher_cache.replay import decode as decode_module
from teacher_cache.replay.decode import decode, decode_and_judge
from teacher_cache.replay.header import MAX_PIXELS, image_size, read_header
from tests.support import images
from tests.support.images import ENCODERS, SAMPLINGS, photographs, picture, sampled_jpeg

END = b"\xff\xd9"


def by_pillow(image: bytes) -> np.ndarray:
    """The rule's reference: Pillow alone."""
    return decode_module.decode_with_pillow(image, read_header(image).format, MAX_PIXELS)


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
        sampled_jpeg(
            picture(seed, 67 + seed, 93), sampling, progressive=progressive, restarts=seed, quality=30 + 20 * seed
        )
        for seed in range(4)
    ]
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: ignored
    for pixels in photographs().values():
        made += [images.jpeg(pixels, progressive=progressive, exif=turned), images.grey_jpeg(pixels)]
    made += [images.grey_jpeg(picture(5, 1, 1)), images.grey_jpeg(picture(5)), images.split_jpeg(picture(6, 33, 50))]
    expected = [by_pillow(image) for image in made]
    monkeypatch.setattr(decode_module, "decode_with_pillow", None)
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
    make = made.get(kind, lambda p: sampled_jpeg(p, "4:2:0", progressive="p" in kind, restarts=restarts, quality=80))
    whole = make(pixels)
    assert decode_and_judge(whole).damage is None
    damaged = harm(whole)
    decoded, damage = decode_and_judge(damaged)
    assert np.array_equal(decoded, by_pillow(damaged))
    assert damage is not None
    assert re.fullmatch(DAMAGES[harm], damage)
    assert capfd.readouterr() == ("", "")


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


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_header_tells_the_size_of_the_decoded_image(encoder: str) -> None:
    image = ENCODERS[encoder](picture(1, height=61, width=83))
    assert image_size(image[:4096]) == decode(image).shape[:2]
