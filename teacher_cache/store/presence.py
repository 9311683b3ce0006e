"""Whether a store is at a place, told without what reads it, whose imports take a third of a second."""

import os

from teacher_cache.errors import StoreError
from teacher_cache.messages.recognise import is_part, is_store, meant, what_is
from teacher_cache.storage.place import Url, to_place
from teacher_cache.storage.storage import open_storage


def check_is_store(path: str | os.PathLike[str]) -> None:
    """StoreError where there is nothing, or plainly something else; where its metadata are damaged it opens or says
    so."""
    place = to_place(path)
    make = f"make one with `teacher-cache index SHARDS --store {place}`"
    if isinstance(place, Url):
        if open_storage(place).get("zarr.json") is None:
            raise StoreError(f"there is no store at {place}: check the place, or {make}")
        return
    if not place.exists():
        raise StoreError(f"there is no store at {place}{meant(place)}: {make}")
    if not (place / "zarr.json").is_file() or (not is_store(place) and is_part(place)):
        raise StoreError(f"{place} is not a store, {what_is(place)}")
