"""Encoded image -> pixels, by one written rule."""

import functools
import io
from collections.abc import Callable

import numpy as np
import PIL
from PIL import Image, ImageFile

from teacher_cache.errors import ImageError


def decode(image: bytes) -> np.ndarray:
    """Encoded image -> (H, W, 3) uint8 RGB, by Pillow's convert("RGB"); EXIF orientation is ignored, as in timm.

    Told by content, not by extension. Raises ImageError (without shard and key): truncated or otherwise undecodable.
    """
    if _jpeg_layout(image) in ((8, 1), (8, 3)):
        try:  # faster than Pillow, the same bytes
            return _jpeg_decoder()(image)
        except (RuntimeError, AttributeError):  # refused, or a torchvision that has no such operator any more
            pass  # Pillow, the rule's reference, reads it or says why not
    return _decode_with_pillow(image)


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


def _jpeg_layout(image: bytes) -> tuple[int, int] | None:
    """Bits a sample and number of components, of a JPEG's frame header; None where there is none."""
    if image[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 10 <= len(image) and image[place] == 0xFF:
        marker = image[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return image[place + 4], image[place + 9]
        else:
            place += 2 + int.from_bytes(image[place + 2 : place + 4], "big")
    return None
