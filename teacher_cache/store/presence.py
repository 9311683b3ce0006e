"""Whether a store is at a path, told without what reads it, whose imports take a third of a second."""

import os
from pathlib import Path

from teacher_cache.errors import StoreError
from teacher_cache.files import check_local
from teacher_cache.messages.recognise import is_part, is_store, meant, what_is


def check_is_store(path: str | os.PathLike[str]) -> None:
    """StoreError where there is nothing, or plainly something else; where its metadata are damaged it opens or says
    so."""
    check_local(path)
    path = Path(path)
    if not path.exists():
        make = f"make one with `teacher-cache index SHARDS --store {path}`"
        raise StoreError(f"there is no store at {path}{meant(path)}: {make}")
    if not (path / "zarr.json").is_file() or (not is_store(path) and is_part(path)):
        raise StoreError(f"{path} is not a store, {what_is(path)}")
