"""Encoded image -> pixels, by one written rule."""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import PIL
import simplejpeg
from PIL import Image, ImageFile

from teacher_cache.errors import ImageError
from teacher_cache.replay.header import MAX_PIXELS, check_pixels, check_scans, read_header, undecodable
from teacher_cache.replay.jpeg_parts import JpegPart, Restarts, find_restarts

_COLOURS = {1: "RGB", 3: "RGB", 4: "CMYK"}  # by a JPEG's number of components
_pillow = threading.Lock()  # its switches are the process's


class DecodedImage(NamedTuple):
    """pixels (H, W, 3) uint8 RGB; damage: libjpeg's word on a file of which Pillow makes a picture none the less."""

    pixels: np.ndarray
    damage: str | None


def decode(image: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Encoded image -> (H, W, 3) uint8 RGB, by Pillow's convert("RGB"); EXIF orientation is ignored, as in timm.

    JPEG, PNG or WebP, told by content, not by extension. Raises ImageError (without shard and key): of more than
    max_pixels (before any decoder sees it), truncated or otherwise undecodable.
    """
    return decode_and_judge(image, max_pixels).pixels


def decode_and_judge(image: bytes, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """As `decode`, with libjpeg's word on a damaged JPEG."""
    header = read_header(image, max_pixels)
    frame, damage = header.frame, None
    if frame is not None:
        check_scans(image, frame)
        if frame.bits == 8 and frame.components in _COLOURS:
            try:  # libjpeg's warnings are errors here, and its bytes are Pillow's, sooner
                pixels = simplejpeg.decode_jpeg(image, _COLOURS[frame.components])
            except ValueError as error:  # Pillow, the rule's reference, reads it or says why not
                damage = str(error)
            else:
                if frame.components != 4:  # how inks become light is Pillow's
                    return DecodedImage(pixels, None)
    return DecodedImage(decode_with_pillow(image, header.format, max_pixels), damage)


def decode_part(part: JpegPart, memory: np.ndarray | None = None) -> np.ndarray | None:
    """A part of a JPEG -> (part.height, part.width, 3) uint8 RGB, in the part's box the bytes of the whole picture's
    decode; None where libjpeg has a word to say of it: what the picture is then, only the whole of it tells. memory:
    for a copy of the part, see JpegPart.jpeg."""
    try:
        pixels = simplejpeg.decode_jpeg(part.jpeg(memory), "RGB")
    except ValueError:
        return None
    assert pixels.shape == (part.height, part.width, 3)
    return pixels


def restarts_of(image: bytes, max_pixels: int = MAX_PIXELS) -> Restarts | None:
    """Of a JPEG whose parts can be decoded alone, its restart markers; None of any other image. Raises ImageError as
    `decode` does where no decoder need see it."""
    frame = read_header(image, max_pixels).frame
    return find_restarts(image, frame) if frame is not None else None


def decode_with_pillow(image: bytes, image_format: str, max_pixels: int) -> np.ndarray:
    """The rule itself, by Pillow alone: what other decoders are held to. (H, W, 3) uint8; raises ImageError."""
    try:
        with _pillows_own_rules_off(), Image.open(io.BytesIO(image), formats=(image_format,)) as opened:
            check_pixels(opened.height, opened.width, max_pixels)  # a later header may say otherwise than the first
            opened.load()
            if opened.mode.startswith("I"):  # 16 bits: other versions of Pillow than 13 do otherwise
                grey = np.asarray(opened).clip(0, 255).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            opened.info.pop("transparency", None)  # warned of, and dropped, in the conversion
            return np.array(opened.convert("RGB"))
    except (MemoryError, ImageError):
        raise
    except Exception as error:  # each of Pillow's decoders raises its own
        unread = isinstance(error, PIL.UnidentifiedImageError)
        what = f"its header is no {image_format}'s" if unread else str(error).replace("\n", " ")
        raise undecodable(image, what) from error


@contextlib.contextmanager
def _pillows_own_rules_off() -> Iterator[None]:
    """Switches of Pillow that other libraries set; the limit in pixels is ours; its warnings are of what is beside the
    picture (notes, second pictures), and name no file."""
    with _pillow, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = lenient, limit
