"""A sample's fingerprint: 8 bytes that tell, whenever its block is read, whether its image is the one indexed."""

from typing import Any, Literal

import xxhash

Fingerprint = Literal["tail", "whole"]

_TAIL = 64  # bytes
_END = 2  # every JPEG ends with the same two bytes
LIMIT = 0.01  # of samples that are unlike others of equal fingerprint: beyond it, images are hashed whole


def read_kind(value: Any) -> Fingerprint:
    """A kind as a store keeps it; ValueError for anything else."""
    if value == "tail":
        return "tail"
    if value == "whole":
        return "whole"
    raise ValueError(f"fingerprints of {value!r}: known are tail and whole")


def hashed_part(size: int, kind: Fingerprint) -> tuple[int, int]:
    """Where in an image of so many bytes the hashed part begins, and its length in bytes.

    "whole": everything. "tail": the 64 bytes that end 2 bytes before its end, where entropy-coded data are; the middle
    of a small JPEG is all tables.
    """
    if kind == "whole":
        return 0, size
    end = max(0, size - _END)
    return (end - _TAIL, _TAIL) if end > _TAIL else (0, end)


def fingerprint(size: int, hashed: bytes) -> int:
    """xxh3_64 of an image's size (int64 little-endian) and of its hashed part."""
    return xxhash.xxh3_64_intdigest(size.to_bytes(8, "little") + hashed)


def image_fingerprint(image: bytes, kind: Fingerprint) -> int:
    """The fingerprint of an image that is in memory."""
    return fingerprint(len(image), image if kind == "whole" else image[-_TAIL - _END : -_END])
