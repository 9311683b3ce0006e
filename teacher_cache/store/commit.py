"""Several files of a store as one: whole or absent, and the first writer's, whoever is killed or stopped when.

They are first put as one object, which only one writer can create, into a folder beside the store. Its winner then
looks for the last of the files, the mark, and gives way where it is there. Else anybody may copy the winner's bytes to
their places, the mark last; whoever has, removes the object. So files of two writers never mix: until the
mark is there only one object can be copied from, and whoever finds an object beside a mark discards it.
"""

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import xxhash

from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.place import Place, beside
from teacher_cache.storage.storage import Storage, ask_each

_MAGIC = b"teacher-cache pending 1\n"
# What something is called while it is on its way: what it is, and whose (see Store._pending).
PENDING = re.compile(r"(?P<what>unit-(?P<unit>\d+-\d+-\d+)|teacher[.a-z0-9-]*)\.[0-9a-f]{16}", re.ASCII)


def open_pending(store: Place, *, durable: bool = True) -> Storage:
    """Where lies what is on its way into a store: beside it."""
    return open_storage(beside(store, ".pending"), durable=durable)


def sweep_pending(store: Place) -> None:
    """Remove what was on its way into a store that was where a new one shall be."""
    pending = open_pending(store)
    for entry in pending.list():
        if PENDING.fullmatch(entry.name):
            pending.delete(entry.name)


@dataclass(frozen=True)
class Commits:
    """Commits to a store; what is on its way lies in `pending`. Raises DiskError and StorageError."""

    store: Storage
    pending: Storage

    def commit(self, name: str, files: Mapping[str, bytes]) -> bool:
        """Write files, by their names in the store, the mark last, unless the mark is there. Whether it was this call
        that wrote them. name: of what they are, as of all who write the same."""
        *others, mark = files
        if not others:  # one file is one object already
            return self.store.get(mark) is None and self.store.put_if_absent(mark, files[mark])
        content = _encode(files)
        while not self.pending.put_if_absent(name, content):
            self.finish(name, lambda names: names == list(files))
            if self.store.get(mark) is not None:
                return False
        return self._copy(name, files)

    def finish(self, name: str, expected: Callable[[list[str]], bool]) -> bool:
        """Copy what a writer has put and perhaps not copied, whoever it was. expected: whether these are names of files
        that belong there; what has others, or is damaged, is discarded. Whether anything was copied."""
        content = self.pending.get(name)
        if content is None:
            return False
        files = _decode(content)
        if files is not None and expected(list(files)):
            return self._copy(name, files)
        self.pending.delete(name)
        return False

    def discard(self, name: str) -> None:
        """Let go of what was put and is not to be copied."""
        self.pending.delete(name)

    def waiting(self) -> list[str]:
        """Names of what was put and is not removed."""
        return [entry.name for entry in self.pending.list()]

    def _copy(self, name: str, files: Mapping[str, bytes]) -> bool:
        """Bring files that were read, or put, as one object to their places, unless the mark is there by now."""
        *others, mark = files
        there = self.store.get(mark) is not None
        if not there:
            for _ in ask_each(self.store, lambda file: self.store.put(file, files[file]), others):
                pass
            self.store.put(mark, files[mark])
        self.pending.delete(name)
        return not there


def _encode(files: Mapping[str, bytes]) -> bytes:
    """One object: a hash, then names and lengths with a nonce, by which a writer knows its own, then the bytes."""
    lengths = [[name, len(content)] for name, content in files.items()]
    header = json.dumps({"nonce": secrets.token_hex(16), "files": lengths}).encode()
    body = b"".join([len(header).to_bytes(4, "little"), header, *files.values()])
    return _MAGIC + xxhash.xxh3_64_digest(body) + body


def _decode(content: bytes) -> dict[str, bytes] | None:
    """The files of an object; None where it is none."""
    body = content[len(_MAGIC) + 8 :]
    if not content.startswith(_MAGIC) or xxhash.xxh3_64_digest(body) != content[len(_MAGIC) : len(_MAGIC) + 8]:
        return None
    at = 4 + int.from_bytes(body[:4], "little")
    files = {}
    for name, length in json.loads(body[4:at])["files"]:
        files[str(name)] = body[at : at + length]
        at += length
    return files
