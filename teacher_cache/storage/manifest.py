"""The manifest of a published store, which says what lies there: hashes for whoever fetches it, and what stands for a
listing of a web server's files.

    TARGET/manifest.json    {"files": {"store/labels/c/0/0/0": {"sha256": ..., "bytes": ...}, ...}}
    TARGET/store/           the packed store
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from teacher_cache.errors import StorageError
from teacher_cache.storage.held import HeldStorage
from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.place import Place, Url
from teacher_cache.storage.storage import Entry, Stamp, Storage, ask_each

STORE, MANIFEST = "store", "manifest.json"


def write_manifest(files: Mapping[str, tuple[str, int]]) -> bytes:
    """A manifest of files: the SHA-256 and bytes of each, by name."""
    said = {name: {"sha256": sha256, "bytes": num_bytes} for name, (sha256, num_bytes) in sorted(files.items())}
    return json.dumps({"files": said}, indent=1).encode()


def read_manifest(content: bytes) -> dict[str, str]:
    """The SHA-256 of each file, by name. ValueError where it is damaged."""
    try:
        return {str(name): str(said["sha256"]) for name, said in json.loads(content)["files"].items()}
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def place_above(store: Place) -> Place:
    """The place that a store was published to, if it was: the one above its own, which may be the folder `.`."""
    named = _named(store)
    return named if isinstance(named, Url) and named.is_top else named.parent


def _named(store: Place) -> Place:
    """A store's place with its name at the end."""
    return Path(os.path.abspath(store)) if isinstance(store, Path) and store.name in ("", "..") else store


def read_hashes(store: Place) -> dict[str, str] | None:
    """The SHA-256 of a store's files, by their names in it, as the manifest above it says; None where there is none.
    ValueError where that is damaged, or names no such store."""
    named = _named(store)
    if isinstance(named, Url) and named.is_top:
        return None
    content = open_storage(named.parent).get(MANIFEST)
    if content is None:
        return None
    within = f"{named.name}/"
    hashes = {
        name.removeprefix(within): sha256 for name, sha256 in read_manifest(content).items() if name.startswith(within)
    }
    if "zarr.json" not in hashes:
        raise ValueError(f"it names no {within}zarr.json")
    return hashes


def open_listed(place: Place, *, durable: bool = True) -> Storage:
    """The storage of a store, as open_storage gives it, which can be listed. That of a web server by the manifest above
    it, which is read at once; StorageError where there is none."""
    storage = open_storage(place, durable=durable)
    if not isinstance(place, Url) or not place.is_web:
        return storage
    fault = "absent"
    try:
        hashes = read_hashes(place)
    except ValueError:
        hashes, fault = None, "damaged"
    if hashes is None:
        raise StorageError(
            f"{place}: a web server cannot list a store's files, and {place_above(place) / MANIFEST} is {fault}: "
            "have it serve what `teacher-cache publish` makes, or copy the store to a folder or a bucket"
        )
    return ListedStorage(storage, sorted(hashes), lists=False)


def open_named(storage: Storage) -> Storage:
    """A published store's storage, of the files that the manifest above it names and no others; as it is where there is
    no manifest, or where the store is not named as it was published. ValueError where the manifest is damaged."""
    place = storage.place
    is_web = isinstance(place, Url) and place.is_web
    hashes = None if is_web or _named(place).name != STORE else read_hashes(place)
    return storage if hashes is None else ListedStorage(storage, sorted(hashes), lists=True)


def named_files(storage: Storage) -> Iterable[str]:
    """The files of a published store that shall be there, as its manifest says; none where none was read."""
    if isinstance(storage, HeldStorage):
        storage = storage.behind
    return storage.names if isinstance(storage, ListedStorage) else ()


class ListedStorage:
    """A storage of these names alone, in order: what else lies there is absent. Sizes and stamps are those that it says
    itself; name by name where it lists nothing."""

    def __init__(self, storage: Storage, names: Iterable[str], *, lists: bool) -> None:
        self.place = storage.place
        self._storage, self._names, self._lists = storage, dict.fromkeys(names), lists

    @property
    def names(self) -> Iterable[str]:
        return self._names

    @property
    def is_local(self) -> bool:
        return self._storage.is_local

    def get(self, name: str) -> bytes | None:
        return self._storage.get(name) if name in self._names else None

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]], stamp: Stamp | None = None) -> list[bytes]:
        if name not in self._names:
            raise FileNotFoundError(f"{self.place / name} is not there: check the place")
        return self._storage.get_ranges(name, ranges, stamp)

    def put(self, name: str, content: bytes | Path) -> None:
        self._storage.put(name, content)

    def put_if_absent(self, name: str, content: bytes) -> bool:
        return self._storage.put_if_absent(name, content)

    def list(self, prefix: str = "") -> list[Entry]:
        if self._lists:
            return [entry for entry in self._storage.list(prefix) if entry.name in self._names]
        top = prefix.rstrip("/")
        names = [name for name in self._names if not top or name == top or name.startswith(f"{top}/")]
        return [entry for found in ask_each(self._storage, self._storage.list, names) for entry in found]

    def delete(self, name: str) -> None:
        self._storage.delete(name)
