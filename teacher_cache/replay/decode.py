"""Encoded image -> pixels, by one written rule."""

import functools
import io
import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image, ImageFile

from teacher_cache.errors import ImageError
from teacher_cache.replay.geometry import cut
from teacher_cache.replay.recipe import Box
from teacher_cache.replay.regions import region_decoder

_WORTH = 0.9  # a region of more than this share of the picture takes as long as the whole
_WORTH_PX = 1 << 14  # and so does any of a picture with fewer pixels
_END = b"\xff\xd9"


class JpegFrame(NamedTuple):
    """What a JPEG's frame header says."""

    bits: int
    height: int  # 0 where only the scans tell
    width: int
    components: int


def decode(image: bytes) -> np.ndarray:
    """Encoded image -> (H, W, 3) uint8 RGB, by Pillow's convert("RGB"); EXIF orientation is ignored, as in timm.

    Told by content, not by extension. Raises ImageError (without shard and key): truncated or otherwise undecodable.
    """
    frame = jpeg_frame(image)
    if frame is not None and _is_plain(frame):
        try:  # faster than Pillow, the same bytes
            return _jpeg_decoder()(image)
        except (RuntimeError, AttributeError):  # refused, or a torchvision that has no such operator any more
            pass  # Pillow, the rule's reference, reads it or says why not
    return _decode_with_pillow(image)


def decode_crop(image: bytes, box: Box) -> np.ndarray:
    """decode(image)[box], (height, width, 3) uint8: the same bytes, without the rest of the picture where it is a JPEG
    of which that part can be had alone. Then damage below the box may go unseen; a file cut short is refused always.
    The box lies on the picture."""
    frame = jpeg_frame(image)
    if frame is not None and _is_plain(frame) and image.endswith(_END):  # one cut short must not decode by chance
        picture_px = frame.height * frame.width
        decode_region = region_decoder()
        if decode_region and picture_px >= _WORTH_PX and box.height * box.width <= _WORTH * picture_px:
            pixels = decode_region(image, box)
            if pixels is not None:
                return pixels
    return cut(decode(image), box)


def image_size(image: bytes) -> tuple[int, int] | None:
    """Height and width of a PNG or JPEG whose beginning this is; None where it does not tell."""
    if image[:8] == b"\x89PNG\r\n\x1a\n" and image[12:16] == b"IHDR" and len(image) >= 24:
        return int.from_bytes(image[20:24], "big"), int.from_bytes(image[16:20], "big")
    frame = jpeg_frame(image)
    return (frame.height, frame.width) if frame is not None and frame.height and frame.width else None


def jpeg_frame(image: bytes) -> JpegFrame | None:
    """Of a JPEG whose beginning this is; None where there is none."""
    if image[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 10 <= len(image) and image[place] == 0xFF:
        marker = image[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return JpegFrame(image[place + 4], *struct.unpack_from(">HHB", image, place + 5))
        else:
            place += 2 + int.from_bytes(image[place + 2 : place + 4], "big")
    return None


def _is_plain(frame: JpegFrame) -> bool:
    """Grey or colours of 8 bits: what every decoder reads alike."""
    return frame.bits == 8 and frame.components in (1, 3)


@functools.cache
def _jpeg_decoder() -> Callable[[bytes], np.ndarray]:
    # here and in geometry.py: both take seconds to import, and who reads labels only needs neither
    import torch
    from torchvision.io import ImageReadMode

    def decode_jpeg(image: bytes) -> np.ndarray:
        # torchvision.io.decode_jpeg without its notice of deprecation
        data = torch.frombuffer(bytearray(image), dtype=torch.uint8)
        pixels = torch.ops.image.decode_jpeg(data, ImageReadMode.RGB.value)
        return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())

    return decode_jpeg


def _decode_with_pillow(image: bytes) -> np.ndarray:
    if not image:
        raise ImageError("the image has no bytes")
    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False  # other libraries set it
    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.load()
            if opened.mode.startswith("I"):  # 16 bits: other versions of Pillow than 13 do otherwise
                grey = np.asarray(opened).clip(0, 255).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            opened.info.pop("transparency", None)  # warned of, and dropped, in the conversion
            return np.array(opened.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # each of Pillow's decoders raises its own
        what = str(error).replace("\n", " ") if not isinstance(error, PIL.UnidentifiedImageError) else "no known format"
        raise ImageError(f"the image cannot be decoded: {what} ({len(image)} bytes)") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
