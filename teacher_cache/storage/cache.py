"""Copies of what lies far away in a folder of this machine, which all its processes share.

    DIR/.teacher-cache.total    bytes of all copies, and when it was last said that none can be kept; locked by whoever
                                adds or removes copies
    DIR/4f/KEY.CONTENT.copy     a copy: KEY is the xxh3_128 of its key, which begins with 4f, CONTENT the xxh3_64 of
                                its bytes; its time of change is when it was last used

Copies are written aside and renamed, so they are whole; a damaged one is told by its hash and fetched again. Nothing
else that lies in the folder is touched.
"""

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from teacher_cache.files import aside_of, remove, writing
from teacher_cache.terminal import warn

TOTAL = ".teacher-cache.total"
TOLD_S = 3600  # between two warnings that nothing can be kept, of all processes
FILLED = 0.9  # of the budget: down to that copies are removed together, as finding the oldest reads all their names
_COPY = re.compile(r"([0-9a-f]{2})[0-9a-f]{30}\.[0-9a-f]{16}\.copy")
_ASIDE = re.compile(r"\.[0-9a-f]{32}\.[0-9a-f]{7}\.[0-9a-f]{32}\.partial\.copy")


@dataclass
class NodeCache:
    """Copies in a folder, of budget_bytes together at most; those used longest ago are removed.

    Where nothing can be written, on a full disk, everything is fetched, and that is said once.
    """

    folder: Path
    budget_bytes: int
    _told: bool = field(default=False, init=False, repr=False)

    def prepare(self) -> None:
        """Make the folder. DiskError where it cannot be written."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._total():
                pass

    def get(self, key: str, fetch: Callable[[], bytes]) -> bytes:
        """The bytes of a key: those of its copy, else what fetch gives, whose errors are raised."""
        name = xxhash.xxh3_128_hexdigest(key.encode())
        for path in self._copies(name):
            with suppress(OSError):  # another process removed it
                content = path.read_bytes()
                if xxhash.xxh3_64_hexdigest(content) == _content(path):
                    _note_use(path)
                    return content
                remove(path)
        content = fetch()
        self._keep(name, content)
        return content

    def path(self, key: str, fetch: Callable[[], bytes]) -> Path | None:
        """A copy of a key's bytes, which one process at a time fetches; None where it cannot be kept.

        To be opened at once: it is removed when others need its room, and what is open then stays readable.
        """
        name = xxhash.xxh3_128_hexdigest(key.encode())
        with ExitStack() as stack:
            try:
                stack.enter_context(_locked(self._subfolder(name)))
            except OSError as error:
                self._tell(error)
                return None
            for path in self._copies(name):
                with suppress(OSError):
                    if _hash_file(path) == _content(path):
                        _note_use(path)
                        return path
                    remove(path)
            return self._keep(name, fetch())

    def _subfolder(self, name: str) -> Path:
        folder = self.folder / name[:2]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _copies(self, name: str) -> list[Path]:
        folder = self.folder / name[:2]
        with suppress(OSError):
            return [folder / each for each in os.listdir(folder) if each.startswith(name) and _COPY.fullmatch(each)]
        return []

    def _keep(self, name: str, content: bytes) -> Path | None:
        """Keep what a key has -> where; None where it has no room."""
        if len(content) > self.budget_bytes:
            return None
        try:
            path = self._subfolder(name) / f"{name}.{xxhash.xxh3_64_hexdigest(content)}.copy"
            with self._total() as total:  # one writer at a time, so the budget holds at every moment
                if total.num_bytes is None or total.num_bytes + len(content) > self.budget_bytes:
                    total.num_bytes = self._make_room(len(content))
                if not path.exists():
                    _write(path, content)
                    total.num_bytes += len(content)
            return path
        except OSError as error:
            self._tell(error)
            return None

    def _make_room(self, num_bytes: int) -> int:
        """Remove the copies used longest ago where so many bytes have no room, and what killed writers left -> the
        bytes of the copies that are left."""
        copies: list[tuple[float, int, Path]] = []
        for folder in self.folder.iterdir():
            if len(folder.name) != 2 or folder.is_symlink() or not folder.is_dir():
                continue
            for entry in os.scandir(folder):
                match = _COPY.fullmatch(entry.name)
                if match is not None and match[1] == folder.name and entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):  # a reader found it damaged
                        status = entry.stat()
                        copies.append((status.st_mtime, status.st_size, Path(entry.path)))
                elif _ASIDE.fullmatch(entry.name):
                    remove(Path(entry.path))
        left = sum(size for _, size, _ in copies)
        if left + num_bytes > self.budget_bytes:
            for _, size, path in sorted(copies):
                if left + num_bytes <= FILLED * self.budget_bytes:
                    break
                path.unlink(missing_ok=True)
                left -= size
        return left

    @contextmanager
    def _total(self) -> Iterator["_Total"]:
        """What the file of this name says, which no other process sees or changes meanwhile."""
        with _locked(self.folder / TOTAL, os.O_RDWR | os.O_CREAT) as descriptor:
            numbers = [int(word) if word.isdigit() else None for word in os.pread(descriptor, 100, 0).split()]
            num_bytes, told_s, *_ = [*numbers, None, None]
            total = _Total(num_bytes, told_s or 0)
            yield total
            num_bytes, told_s = total.num_bytes, total.told_s
            os.pwrite(descriptor, f"{'?' if num_bytes is None else num_bytes:>20} {told_s:>20}\n".encode(), 0)

    def _tell(self, error: OSError) -> None:
        """Say that nothing can be kept, where no process of this machine has just said so."""
        if self._told:
            return
        self._told = True
        with suppress(OSError), self._total() as total:
            now = int(time.time())
            if now - total.told_s < TOLD_S:
                return
            total.told_s = now
        warn(
            f"{self.folder} cannot be written ({error.strerror or error}): what is read from far away is not kept; "
            "free space there, or give another --cache"
        )


@dataclass
class _Total:
    num_bytes: int | None = None  # None: not known, the copies have to be counted
    told_s: int = 0  # since 1970


@contextmanager
def _locked(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """A file or folder, open and this process's alone; a killed process's lock is free."""
    descriptor = os.open(path, flags, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes) -> None:
    aside = aside_of(path)
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        remove(aside)


def _content(path: Path) -> str:
    """The hash of a copy's bytes, as its name says."""
    return path.name.split(".")[1]


def _hash_file(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _note_use(path: Path) -> None:
    with suppress(OSError):
        os.utime(path)
