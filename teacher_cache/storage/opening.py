"""Which implementation of the storage a place has."""

import os

from teacher_cache.storage.place import Url, to_place
from teacher_cache.storage.storage import Storage


def open_storage(place: str | os.PathLike[str], *, durable: bool = True) -> Storage:
    """The storage of a place; nothing is looked at yet. With durable=False no write waits for a local disk.

    StorageError for a URL that nothing here reads, or whose library is not installed.
    """
    place = to_place(place)
    if not isinstance(place, Url):
        from teacher_cache.storage.local import LocalStorage

        return LocalStorage(place, durable=durable)
    if place.scheme == "hf":
        from teacher_cache.storage.hub import HubStorage

        return HubStorage(place)
    from teacher_cache.storage.objects import ObjectStorage

    return ObjectStorage(place)
