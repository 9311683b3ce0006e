"""Shards whose classes can be seen: class c has the brightness (c + 0.5) / 10, with some texture."""

import io
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from teacher_cache.replay.policy import Policy, load_policy
from teacher_cache.shards.classes import class_rule
from teacher_cache.shards.indexing import index_shards
from teacher_cache.store.store import Store
from tests.support.shard_files import write_shard

_IEND = b"\0\0\0\0IEND\xaeB`\x82"
_END = 84 + len(_IEND)  # bytes of the comment and what follows

SMALL = ("size=8", "rand_augment=none", "crop.scale=[0.5,1.0]")


@cache
def bright_image(number: int, num_classes: int = 10) -> bytes:
    """12 x 10 pixels, stored without compression, and a comment at the end: a changed pixel changes neither the file's
    size nor its tail."""
    rng = np.random.default_rng(number)
    level = 255 * (number % num_classes + 0.5) / num_classes
    pixels = np.clip(level + rng.normal(0, 6, (12, 10, 3)), 0, 255).astype(np.uint8)
    text = b"tEXt" + b"Comment\0" + rng.bytes(32).hex().encode()
    comment = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    return _stored_png(pixels, comment + _IEND)


def _stored_png(pixels: np.ndarray, end: bytes) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png", compress_level=0)
    return stream.getvalue().removesuffix(_IEND) + end


def write_bright_shards(folder: Path, counts: Sequence[int]) -> list[str]:
    """Shards train-0000.tar ... of these numbers of samples. -> their paths."""
    paths, first = [], 0
    order = np.random.default_rng(0).permutation(sum(counts))
    for shard, count in enumerate(counts):
        samples = [
            {"__key__": f"s{number:05d}", "png": bright_image(number), "cls": str(number % 10).encode()}
            for number in order[first : first + count]
        ]
        paths.append(str(write_shard(folder / f"train-{shard:04d}.tar", samples)))
        first += count
    return paths


def small_policy(*overrides: str) -> Policy:
    """A policy of crops, erasing and mixing at 8 x 8."""
    return load_policy("cifar", [*SMALL, *overrides])


def bright_store(
    folder: Path,
    *,
    counts: Sequence[int] = (130, 64, 1, 65),
    policy: Policy | None = None,
    views: int = 4,
    group: int = 2,
    seed: int = 3,
    any_device: bool = False,
    name: str = "store",
) -> Store:
    """An unfilled store in folder/store over shards in folder/shards, units of 64 samples."""
    shards = sorted(str(path) for path in (folder / "shards").glob("*.tar")) or write_bright_shards(
        folder / "shards", counts
    )
    index = index_shards(shards, class_rule(shards))
    return Store.create(
        folder / name,
        index,
        policy or small_policy(),
        views=views,
        seed=seed,
        group=group,
        unit_samples=64,
        any_device=any_device,
    )


def spoil_image(store: Store, sample: int) -> tuple[str, str]:
    """Overwrite the start of one sample's image in its shard. -> shard name, key."""
    shard = store.index.shard_of(sample)
    with open(store.index.shards[shard].path, "r+b") as file:
        file.seek(int(store.index.offsets[sample]))
        file.write(b"not an image")
    return store.index.shards[shard].name, store.index.key(sample)


def change_pixel(store: Store, sample: int) -> tuple[str, int]:
    """Change one byte of one image's pixels (its PNG is stored uncompressed). -> shard name, block number."""
    shard = store.index.shard_of(sample)
    size, offset = int(store.index.sizes[sample]), int(store.index.offsets[sample])
    with open(store.index.shards[shard].path, "r+b") as file:
        file.seek(offset)
        image = file.read(size)
        pixels = np.asarray(Image.open(io.BytesIO(image))).copy()
        pixels[6, 5] ^= 64
        changed = _stored_png(pixels, image[-_END:])
        assert len(changed) == size
        file.seek(offset)
        file.write(changed)
    return store.index.shards[shard].name, (sample - int(store.index.starts[shard])) // 64


def stored_samples(num_samples: int, seed: int = 0) -> list[dict[str, str | bytes]]:
    """Samples whose images are of one size whatever the seed."""
    return [
        {"__key__": f"sample-{n:05d}", "png": bright_image(n + 1000 * seed), "cls": b"%d" % (n % 10)}
        for n in range(num_samples)
    ]
