"""Files of which it is known that they will be asked for, got at once: where a request takes its time, one after the
other would take many times as long."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from teacher_cache.storage.place import Place
from teacher_cache.storage.storage import Entry, Stamp, Storage, get_all


class HeldStorage:
    """A storage, and what was got of it when this was made: `get` gives that, until it is let go of or written."""

    def __init__(self, storage: Storage, names: Iterable[str]) -> None:
        self._storage = storage
        self._held = dict(get_all(storage, names))

    @property
    def behind(self) -> Storage:
        """The storage that it is of."""
        return self._storage

    @property
    def place(self) -> Place:
        return self._storage.place

    @property
    def is_local(self) -> bool:
        return self._storage.is_local

    def let_go(self, but: Callable[[str], bool]) -> None:
        """Ask the storage again for all names, but for these."""
        self._held = {name: content for name, content in self._held.items() if but(name)}

    def get(self, name: str) -> bytes | None:
        return self._held[name] if name in self._held else self._storage.get(name)

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]], stamp: Stamp | None = None) -> list[bytes]:
        return self._storage.get_ranges(name, ranges, stamp)

    def put(self, name: str, content: bytes | Path) -> None:
        self._held.pop(name, None)
        self._storage.put(name, content)

    def put_if_absent(self, name: str, content: bytes) -> bool:
        self._held.pop(name, None)
        return self._storage.put_if_absent(name, content)

    def list(self, prefix: str = "") -> list[Entry]:
        return self._storage.list(prefix)

    def delete(self, name: str) -> None:
        self._held.pop(name, None)
        self._storage.delete(name)
