"""Whether a store is at a place, told without what reads it, whose imports take a third of a second."""

import os
from pathlib import Path

from teacher_cache.errors import DiskError, StoreError
from teacher_cache.messages.recognise import is_headless, is_of_store, is_part, is_store, meant, what_is
from teacher_cache.storage.manifest import MANIFEST, STORE
from teacher_cache.storage.opening import open_storage, pinned
from teacher_cache.storage.place import Place, Url, as_place, to_place


def check_is_store(path: str | os.PathLike[str]) -> Place:
    """The place of the store at a path: this, or store/ in what `publish` made, on the Hub at its commit. StoreError
    where there is nothing, or plainly something else; where its metadata are damaged it opens or says so."""
    place = to_place(path)
    make = f"make one with `teacher-cache index SHARDS --store {as_place(place)}`"
    if isinstance(place, Url):
        found = pinned(place)
        storage = open_storage(found)
        if (content := storage.get("zarr.json")) is not None:
            if not is_of_store(content) and (store := is_part(found)) is not None:
                raise StoreError(f"{found} is not a store, it is a part of the store {store}: name that one")
            return found
        if storage.get(f"{STORE}/zarr.json") is not None:
            return found / STORE
        can_be_made = not (place.is_web or place.is_top or place.scheme == "hf")
        raise StoreError(f"there is no store at {place}: check the place{f', or {make}' if can_be_made else ''}")
    if not place.exists():
        raise StoreError(f"there is no store at {place}{meant(place)}: {make}")
    published = place / STORE
    if (place / MANIFEST).is_file() and ((published / "zarr.json").is_file() or is_headless(published)):
        place = published
    if not (place / "zarr.json").is_file() or (not is_store(place) and is_part(place)):
        raise StoreError(f"{place} is not a store, {what_is(place)}")
    return place


def check_outside(place: Place) -> None:
    """DiskError for what is to be made in a store, where nothing else may be; of places that are only read nobody is
    asked."""
    if isinstance(place, Url) and (place.is_web or place.scheme == "hf"):
        return
    if (store := is_part(place)) is not None:
        raise DiskError(f"{place} lies in the store {store}, where nothing else may be: choose another place")


def check_folder_outside(folder: Path) -> None:
    """DiskError for a folder that other files go into, and that is a store or lies in one."""
    if is_store(folder):
        raise DiskError(f"{folder} is a store, where nothing else may be: choose another folder")
    check_outside(folder)
