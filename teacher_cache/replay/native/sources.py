"""By what a native library is known: the C files that it was compiled from."""

import hashlib
from pathlib import Path


def sources_hash(folder: Path) -> str | None:
    """SHA-256 of the C files in a folder, by names and bytes; None where there are none."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".c", ".h"))
    hashed = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        hashed.update(f"{path.name} {len(content)}\n".encode() + content)
    return hashed.hexdigest() if paths else None
