"""Small shards for tests, written through webdataset's own writer, and read through its reader."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander

Members = Mapping[str, str | bytes]  # "__key__" and a member per extension, as webdataset's writer takes them


def make_image(seed: int, *, size: tuple[int, int] = (8, 8), kind: str = "png") -> bytes:
    """Random pixels of (height, width), encoded as Pillow's `kind`: png, jpeg, webp."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def make_samples(
    num_samples: int, *, num_classes: int = 10, size: tuple[int, int] = (8, 8), first: int = 0, key: str = "sample"
) -> list[dict[str, str | bytes]]:
    """Samples of PNGs, all different, with classes first, first + 1 ... modulo num_classes."""
    return [
        {
            "__key__": f"{key}-{number:05d}",
            "png": make_image(number, size=size),
            "cls": str(number % num_classes).encode(),
        }
        for number in range(first, first + num_samples)
    ]


def write_shard(path: Path, samples: Iterable[Members]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as stream, webdataset.TarWriter(stream, encoder=False, mtime=0) as writer:
        for sample in samples:
            writer.write(dict(sample))
    return path


def write_shards(
    folder: Path, counts: Sequence[int], *, num_classes: int = 10, size: tuple[int, int] = (8, 8), prefix: str = "train"
) -> list[str]:
    """Write a shard PREFIX-0000.tar ... per count, and classes.json -> the shards' paths."""
    paths = []
    first = 0
    for number, count in enumerate(counts):
        samples = make_samples(count, num_classes=num_classes, size=size, first=first)
        paths.append(str(write_shard(folder / f"{prefix}-{number:04d}.tar", samples)))
        first += count
    (folder / "classes.json").write_text(json.dumps([f"class-{number}" for number in range(num_classes)]))
    return paths


def read_webdataset(path: str) -> list[dict[str, bytes]]:
    """webdataset's own reading (its pipeline's two inner steps: the outer one leaves files open)."""
    with open(path, "rb") as stream:
        return list(group_by_keys(tar_file_expander([{"url": path, "stream": stream}])))
