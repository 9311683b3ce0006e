"""Test pictures: made by code, photograph-like, the same on every machine, in every encoding that a shard may hold; and
two real photographs."""

import functools
import importlib.util
import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image


def picture(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    """(height, width, 3) uint8: a smooth background, shapes with hard edges, and texture. Integer arithmetic only."""
    random = np.random.Philox(key=seed)

    def grid(rows: int, columns: int, levels: int) -> np.ndarray:
        words = random.random_raw(rows * columns * 3)
        return (words % np.uint64(levels)).astype(np.int64).reshape(rows, columns, 3)

    pixels = _enlarged(grid(2, 2, 256), height, width) // 2 + _enlarged(grid(5, 6, 256), height, width) // 2
    y, x = np.mgrid[:height, :width]
    for number, (a, b, c) in enumerate(grid(1, 7, 1 << 16)[0].tolist()):
        center_y, center_x, reach = a % height, b % width, 4 + c % (2 + min(height, width) // 4)
        distance = np.maximum(abs(y - center_y), abs(x - center_x)) if number % 2 else None
        inside = distance < reach if distance is not None else (y - center_y) ** 2 + (x - center_x) ** 2 < reach**2
        pixels[inside] = (pixels[inside] + 3 * np.array([a % 256, b % 256, c % 256])) // 4
    coarse = _enlarged(grid(2 + height // 6, 2 + width // 6, 61), height, width) - 30
    fine = _smoothed(grid(height, width, 101) - 50)
    return (pixels + coarse + fine).clip(0, 255).astype(np.uint8)


@functools.cache
def photographs() -> dict[str, np.ndarray]:
    """Two photographs that come with scikit-learn, (427, 640, 3) uint8: a temple full of edges, a soft flower."""
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "datasets" / "images"
    return {name: np.array(Image.open(folder / f"{name}.jpg").convert("RGB")) for name in ("china", "flower")}


def _enlarged(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, in integers of 1/256."""
    for axis, size in enumerate((height, width)):
        place = np.arange(size) * (grid.shape[axis] - 1) * 256 // max(size - 1, 1)
        low = np.minimum(place // 256, grid.shape[axis] - 2)
        share = (place - low * 256).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        grid = (np.take(grid, low, axis) * (256 - share) + np.take(grid, low + 1, axis) * share) // 256
    return grid


def _smoothed(noise: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        noise = (np.roll(noise, 1, axis) + 2 * noise + np.roll(noise, -1, axis)) // 4
    return noise


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(pixels: np.ndarray) -> bytes:
    return _saved(Image.fromarray(pixels), "png")


def jpeg(pixels: np.ndarray, quality: int = 90, **options: object) -> bytes:
    return _saved(Image.fromarray(pixels), "jpeg", quality=quality, **options)


SAMPLINGS = {"4:4:4": 0x111111, "4:2:2": 0x211111, "4:2:0": 0x221111, "4:4:0": 0x121111, "4:1:1": 0x411111}


def sampled_jpeg(
    pixels: np.ndarray, sampling: str, *, progressive: bool = False, restarts: int = 0, quality: int = 90
) -> bytes:
    """restarts: MCUs from restart marker to restart marker."""
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling], cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    options += [cv2.IMWRITE_JPEG_RST_INTERVAL, restarts, cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", pixels[:, :, ::-1], [int(option) for option in options])[1].tobytes()


def marked_jpeg(pixels: np.ndarray, sampling: str = "4:2:0") -> bytes:
    """With restart markers between any two MCUs, so that every part of it can be decoded alone."""
    return sampled_jpeg(pixels, sampling, restarts=1)


def marked_grey_jpeg(pixels: np.ndarray) -> bytes:
    return _saved(Image.fromarray(pixels).convert("L"), "jpeg", quality=90, restart_marker_blocks=1)


def webp(pixels: np.ndarray) -> bytes:
    return _saved(Image.fromarray(pixels), "webp", lossless=True)


def grey_jpeg(pixels: np.ndarray) -> bytes:
    return _saved(Image.fromarray(pixels).convert("L"), "jpeg", quality=90)


def cmyk_jpeg(pixels: np.ndarray) -> bytes:
    return _saved(Image.fromarray(pixels).convert("CMYK"), "jpeg", quality=90)


def frame_at(image: bytes | bytearray) -> int:
    """Where the frame header of a JPEG of ours stands."""
    place = 2
    while image[place + 1] not in (0xC0, 0xC2):
        place += 2 + int.from_bytes(image[place + 2 : place + 4], "big")
    return place


def scans_of(image: bytes) -> list[int]:
    """Where the scans of a JPEG of ours, without restarts, stand; tables that belong to one stand before it."""
    return [place for place in range(len(image) - 1) if image[place : place + 2] == b"\xff\xda"]


def split_jpeg(pixels: np.ndarray, num_scans: int = 3) -> bytes:
    """Baseline, each of the three components in a scan of its own; the last again for num_scans of more than 3."""
    parts = [_saved(Image.fromarray(pixels[:, :, channel]), "jpeg", quality=90) for channel in range(3)]
    frame, [scan] = frame_at(parts[0]), scans_of(parts[0])
    shape = parts[0][frame + 4 : frame + 9]
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    bodies = [part[scans_of(part)[0] + 10 : -2] for part in parts]
    bodies += bodies[2:] * (num_scans - 3)
    scans = [
        b"\xff\xda\0\x08\x01" + bytes([min(number, 3), 0, 0, 63, 0]) + body for number, body in enumerate(bodies, 1)
    ]
    header = parts[0][:frame] + b"\xff\xc0\0\x11" + shape + b"\x03" + components
    return header + parts[0][frame + 13 : scan] + b"".join(scans) + b"\xff\xd9"


def rotated_jpeg(pixels: np.ndarray) -> bytes:
    """A camera's picture that says it wants turning: EXIF orientation 6."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(pixels, exif=exif)


def grey_png(pixels: np.ndarray) -> bytes:
    return _saved(Image.fromarray(pixels).convert("L"), "png")


def bilevel_png(pixels: np.ndarray) -> bytes:
    return _saved(Image.fromarray(pixels).convert("1"), "png")


def palette_png(pixels: np.ndarray) -> bytes:
    """With a transparency a palette entry, of which Pillow warns in conversion."""
    palette = Image.fromarray(pixels).quantize(64)
    return _saved(palette, "png", transparency=bytes(range(0, 256, 4)))


def alpha_png(pixels: np.ndarray) -> bytes:
    alpha = pixels[:, :, 1]
    return _saved(Image.fromarray(np.dstack([pixels, alpha])), "png")


def grey_alpha_png(pixels: np.ndarray) -> bytes:
    return _saved(Image.fromarray(np.dstack([pixels, pixels[:, :, 1]])).convert("LA"), "png")


def grey_16_bit_png(pixels: np.ndarray) -> bytes:
    """Values up to 510: some above the 255 at which they clip."""
    return _saved(Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 2), "png")


def rgb_16_bit_png(pixels: np.ndarray) -> bytes:
    """Written by hand: Pillow has no such mode."""
    height, width = pixels.shape[:2]
    samples = (pixels.astype(">u2") * 257 ^ 0x55).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in samples)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


ENCODERS = {
    encoder.__name__: encoder
    for encoder in (
        png,
        jpeg,
        webp,
        grey_jpeg,
        cmyk_jpeg,
        rotated_jpeg,
        grey_png,
        bilevel_png,
        palette_png,
        alpha_png,
        grey_alpha_png,
        grey_16_bit_png,
        rgb_16_bit_png,
    )
}
