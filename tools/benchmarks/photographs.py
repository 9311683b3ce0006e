"""Pictures that cost a decoder what photographs cost, made from nothing; or those of the user's own shards.

The real ones they stand for: ImageNet's JPEGs are 474 x 392 pixels and 110 kB on average, most of high quality with
colour at full resolution, a quarter with 4:2:0. A made picture is a cloud with a photograph's spectrum (amplitude
1/f), occluded by ellipses of all sizes, so that it has edges, under fine grain; how much of the fine there is is chosen
so that the file gets its size.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from teacher_cache.messages.shown import counted
from teacher_cache.shards.classes import class_rule
from teacher_cache.shards.find import expand_shards
from teacher_cache.shards.indexing import index_shards
from teacher_cache.shards.read import read_block
from teacher_cache.terminal import say
from tools.benchmarks.row import BenchmarkError

QUALITIES = (96, 96, 96, 92, 75)
SUBSAMPLED = 0.25  # share of 4:2:0


def make_photographs(num: int, size: tuple[int, int], mean_bytes: int, seed: int = 0) -> list[bytes]:
    """JPEGs of about size (height, width) and about mean_bytes on average, each with its own of both."""
    rng = np.random.default_rng(seed)
    side = 2 * (1 << (max(size) - 1).bit_length())  # a power of 2: other sides take ten times as long
    coarse, fine = _cloud(rng, side, 1.7), _cloud(rng, side, 0.9)
    return [_make_photograph(rng, coarse, fine, size, mean_bytes) for _ in range(num)]


def _make_photograph(
    rng: np.random.Generator, coarse: np.ndarray, fine: np.ndarray, mean_size: tuple[int, int], mean_bytes: int
) -> bytes:
    scale = float(np.exp(np.clip(rng.normal(0, 0.15), -0.5, 0.5)))
    height, width = (max(16, round(side * scale)) for side in mean_size)
    target = mean_bytes * scale**2 * float(np.exp(rng.normal(-0.08, 0.4)))
    quality, subsampled = int(rng.choice(QUALITIES)), bool(rng.random() < SUBSAMPLED)
    scene, grain = _scene(rng, _window(rng, coarse, height, width)), _window(rng, fine, height, width)
    low, high = 0.0, 64.0
    encoded = b""
    for _ in range(7):  # the size grows with the amplitude of what is fine
        amplitude = (low + high) / 2
        pixels = np.clip(scene + np.float32(amplitude) * grain, 0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "jpeg", quality=quality, subsampling=2 if subsampled else 0)
        encoded = stream.getvalue()
        low, high = (amplitude, high) if len(encoded) < target else (low, amplitude)
    return encoded


def _scene(rng: np.random.Generator, cloud: np.ndarray) -> np.ndarray:
    """What is large in a picture: (H, W, 3) uint8, the cloud behind ellipses whose sizes follow a power law."""
    height, width = cloud.shape[:2]
    image = Image.fromarray(np.clip(128 + 45 * cloud, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for size in sorted((3 * (1 - rng.random(40)) ** -0.6).tolist(), reverse=True):
        x, y, squeeze, radius = rng.random() * width, rng.random() * height, 0.4 + rng.random(), min(size, height / 3)
        there = np.asarray(image.getpixel((int(x), int(y))))
        red, green, blue = np.clip(there + rng.normal(0, 35, 3), 0, 255).astype(int).tolist()
        box = (x - radius, y - radius * squeeze, x + radius, y + radius * squeeze)
        draw.ellipse(box, fill=(red, green, blue))
    return np.asarray(image)


def _cloud(rng: np.random.Generator, side: int, slope: float) -> np.ndarray:
    """Noise of amplitude 1 / frequency ** slope, standard deviation 1, mostly grey: (side, side, 3) float32."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((4, side, side), np.float32)) / frequency**slope
    noise = np.fft.irfft2(spectrum, (side, side))
    noise /= noise.std(axis=(1, 2), keepdims=True)
    return np.moveaxis(0.97 * noise[:1] + 0.25 * noise[1:], 0, -1).astype(np.float32)


def _window(rng: np.random.Generator, cloud: np.ndarray, height: int, width: int) -> np.ndarray:
    """A part of a cloud, mirrored or not."""
    top, left = int(rng.integers(len(cloud) - height + 1)), int(rng.integers(len(cloud) - width + 1))
    part = cloud[top : top + height, left : left + width]
    return part[:: int(rng.choice((-1, 1))), :: int(rng.choice((-1, 1)))]


def read_photographs(shards: Sequence[str], num: int) -> list[bytes]:
    """The first images of shards, block after block; where there are fewer, all of them again and again. BenchmarkError
    where there is none."""
    paths = expand_shards(shards)
    index = index_shards(paths, class_rule(paths))
    images: list[bytes] = []
    for shard in range(index.num_shards):
        for block in range(index.num_blocks(shard)):
            images += read_block(index.place(shard, block)).images
            if len(images) >= num:
                return images[:num]
    if not images:
        raise BenchmarkError("the shards hold no image: give others with --shards")
    say(f"the shards hold {counted(len(images), 'image')}, repeated up to {num}", err=True)
    return [images[number % len(images)] for number in range(num)]
