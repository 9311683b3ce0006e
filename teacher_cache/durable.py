"""Bringing files to disk. A rename is atomic, but only what was synced before it survives a power cut."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_up(file: Path, top: Path) -> None:
    """Bring a file and the folders that lead to it, `top` included, to disk: zarr renames but does not sync."""
    sync(file)
    for folder in file.parents:
        sync(folder)
        if folder == top:
            return


def sync_tree(root: Path) -> None:
    """Bring everything under a folder to disk."""
    for folder, _, files in os.walk(root):
        for file in files:
            sync(Path(folder, file))
        sync(Path(folder))
