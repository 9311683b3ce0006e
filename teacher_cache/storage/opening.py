"""Which implementation of the storage a place has."""

import os

from teacher_cache.errors import StorageError
from teacher_cache.storage.place import Place, Url, to_place
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


def pinned(url: Url, commits: dict[str, str] | None = None) -> Url:
    """Where the same will be read for as long as it is there: a place of the Hub at the commit that its revision is at
    now, others as they are. commits: those found for other places before, and for this one. StorageError."""
    if url.scheme != "hf":
        return url
    from teacher_cache.storage.hub import pin

    return pin(url, {} if commits is None else commits)


def check_not_web(place: Place) -> None:
    """StorageError for a web server's place, which is only read, before anything is made to be written there."""
    if isinstance(place, Url) and place.is_web:
        raise StorageError(f"{place}: a web server is only read: give a folder or a bucket to write to")


def check_fillable(place: Place) -> None:
    """StorageError for a place in which no store can be made, as it is not written file by file: a web server's, or one
    of the Hub."""
    check_not_web(place)
    if isinstance(place, Url) and place.scheme == "hf":
        raise StorageError(f"{place} is read only: fill a folder or a bucket, and `teacher-cache publish` it there")
