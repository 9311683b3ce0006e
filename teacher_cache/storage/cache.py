"""Copies of what lies far away in a folder of this machine, which all its processes share.

    DIR/.teacher-cache.total    bytes of all copies, and when it was last said that none can be kept; locked by whoever
                                adds or removes copies
    DIR/4f/KEY.CONTENT.copy     a copy: KEY is the xxh3_128 of its key, which begins with 4f, CONTENT the xxh3_64 of
                                its bytes; its time of change is when it was last used

Copies are written aside and renamed, so they are whole; a damaged one is told by its hash and fetched again. Large ones
are fetched part by part into a file aside, which has its whole size from the start and is locked by its writer. Nothing
else that lies in the folder is touched, nor what links in it lead to.
"""

import errno
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import xxhash

from teacher_cache.files import aside_of, remove, writing
from teacher_cache.storage.local import read_range
from teacher_cache.storage.storage import Entry, Storage, ask_each, get_all
from teacher_cache.terminal import warn

TOTAL = ".teacher-cache.total"
TOLD_S = 3600  # between two warnings that nothing can be kept, of all processes
FILLED = 0.9  # of the budget: down to that copies are removed together, as finding the oldest reads all their names
Written = TypeVar("Written")

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

    def get(self, key: str, fetch: Callable[[], bytes], *, alone: bool = False) -> bytes:
        """The bytes of a key: those of its copy, else what fetch gives, whose errors are raised. alone: it takes long,
        so one process at a time calls it."""
        name = xxhash.xxh3_128_hexdigest(key.encode())
        if (content := self._read(name)) is not None:
            return content
        with ExitStack() as stack:
            if alone:
                self._tried(lambda: stack.enter_context(_locked(self._subfolder(name))))
                if (content := self._read(name)) is not None:
                    return content
            content = fetch()
            self._keep(name, content)
            return content

    def _read(self, name: str) -> bytes | None:
        """The bytes of a copy; None where there is none."""
        for path in self._copies(name):
            with suppress(OSError):  # another process removed it
                content = path.read_bytes()
                if xxhash.xxh3_64_hexdigest(content) == _content(path):
                    _note_use(path)
                    return content
                remove(path)
        return None

    def open(self, key: str, num_bytes: int, fetch: Callable[[], Iterable[bytes]]) -> "Copy | None":
        """A copy of a key's bytes, open to be read, which one process at a time fetches, part by part; None where it
        cannot be kept. num_bytes: of all parts, one at least. What is open stays readable when others need its room.
        """
        name = xxhash.xxh3_128_hexdigest(key.encode())
        with ExitStack() as stack:
            if self._tried(lambda: stack.enter_context(_locked(self._subfolder(name)))) is None:
                return None
            for path in self._copies(name):
                with suppress(OSError):
                    if _hash_file(path) == _content(path):
                        _note_use(path)
                        return Copy(path)
                    remove(path)
            return self._fetch(name, num_bytes, fetch)

    def _subfolder(self, name: str) -> Path:
        folder = self.folder / name[:2]
        folder.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink():
            raise OSError(errno.ELOOP, f"{folder.name} is a link", str(folder))
        return folder

    def _copies(self, name: str) -> list[Path]:
        folder = self.folder / name[:2]
        with suppress(OSError):
            return [folder / each for each in os.listdir(folder) if each.startswith(name) and _COPY.fullmatch(each)]
        return []

    def _keep(self, name: str, content: bytes) -> None:
        """Keep what a key has, where there is room."""
        if len(content) > self.budget_bytes:
            return
        try:
            path = self._subfolder(name) / f"{name}.{xxhash.xxh3_64_hexdigest(content)}.copy"
            with self._total() as total:  # one writer at a time, so the budget holds at every moment
                if not path.exists() and self._take_room(total, len(content)):
                    _write(path, content)
        except OSError as error:
            self._tell(error)

    def _fetch(self, name: str, num_bytes: int, fetch: Callable[[], Iterable[bytes]]) -> "Copy | None":
        """Fetch what a key has into a copy, open to be read; None where it cannot be kept."""
        aside = aside_of(self.folder / name[:2] / f"{name}.{'0' * 16}.copy")
        writer = self._tried(lambda: self._start(aside, num_bytes))
        if writer is None:
            return None
        copy, digest = None, xxhash.xxh3_64()
        try:
            with writer:
                for part in fetch():
                    digest.update(part)
                    if self._tried(partial(_append, writer, part)) is None:
                        return None
                assert writer.tell() == num_bytes
                copy = self._tried(lambda: self._place(aside, f"{name}.{digest.hexdigest()}.copy"))
                return copy
        finally:
            if copy is None:
                remove(aside)
                with suppress(OSError), self._total() as total:
                    total.num_bytes = None

    def _start(self, aside: Path, num_bytes: int) -> BinaryIO | None:
        """Begin a copy of so many bytes aside, whose room is taken at once, as others fetch meanwhile; None where there
        is none."""
        if num_bytes > self.budget_bytes:
            return None
        with self._total() as total, ExitStack() as undone:
            if not self._take_room(total, num_bytes):
                return None
            writer = undone.enter_context(open(aside, "xb"))
            undone.callback(remove, aside)
            fcntl.flock(writer, fcntl.LOCK_EX)
            os.posix_fallocate(writer.fileno(), 0, num_bytes)
            undone.pop_all()
            return writer

    def _place(self, aside: Path, name: str) -> "Copy":
        """Give a copy that is whole its name, and open it."""
        with self._total():  # nobody counts the copies meanwhile
            return Copy(aside.replace(aside.with_name(name)))

    def _take_room(self, total: "_Total", num_bytes: int) -> bool:
        """Take so much of the budget, and of copies if need be; False where what others fetch leaves too little."""
        if total.num_bytes is None or total.num_bytes + num_bytes > self.budget_bytes:
            total.num_bytes = self._make_room(num_bytes)
        if total.num_bytes + num_bytes > self.budget_bytes:
            return False
        total.num_bytes += num_bytes
        return True

    def _make_room(self, num_bytes: int) -> int:
        """Remove the copies used longest ago where so many bytes have no room, and what killed writers left -> the
        bytes of the copies that are left, and of those that are being fetched."""
        copies: list[tuple[float, int, Path]] = []
        left = 0
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
                    left += _being_written(Path(entry.path))
        left += sum(size for _, size, _ in copies)
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
        with _locked(self.folder / TOTAL, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW) as descriptor:
            numbers = [int(word) if word.isdigit() else None for word in os.pread(descriptor, 100, 0).split()]
            num_bytes, told_s, *_ = [*numbers, None, None]
            total = _Total(num_bytes, told_s or 0)
            yield total
            num_bytes, told_s = total.num_bytes, total.told_s
            os.pwrite(descriptor, f"{'?' if num_bytes is None else num_bytes:>20} {told_s:>20}\n".encode(), 0)

    def _tried(self, write: Callable[[], Written]) -> Written | None:
        """What a call that writes gives; None, which is said once, where the disk refuses."""
        try:
            return write()
        except OSError as error:
            self._tell(error)
            return None

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


def copy_key(storage: Storage, entry: Entry) -> str:
    """What a node knows the bytes of a name by: as it was listed, so that what is put in its place is another."""
    return " ".join(map(str, (storage.place / entry.name, *entry.stamp)))


def get_listed(
    storage: Storage, listed: Iterable[Entry], names: Iterable[str], cache: NodeCache
) -> Iterator[tuple[str, bytes | None]]:
    """(name, bytes) of many that a listing has, as `get_all`: of what lies far away from the node's copies, each made
    by one process. None of what was not listed. Raises ChangedError for what was changed since."""
    entries = {entry.name: entry for entry in listed}

    def get(name: str) -> tuple[str, bytes | None]:
        if (entry := entries.get(name)) is None:
            return name, None
        whole = [(0, entry.num_bytes)]
        fetch = partial(storage.get_ranges, name, whole, entry.stamp)
        return name, cache.get(copy_key(storage, entry), lambda: fetch()[0], alone=True)

    return get_all(storage, names) if storage.is_local else ask_each(storage, get, names)


class Copy:
    """A copy, open to be read by ranges until nobody holds it."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, start: int, length: int) -> bytes:
        """A range, shorter where the copy was cut."""
        return read_range(self._descriptor, start, length)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


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


def _append(writer: BinaryIO, part: bytes) -> int:
    """Write a part, as far as the system -> its bytes."""
    writer.write(part)
    writer.flush()
    return len(part)


def _being_written(aside: Path) -> int:
    """How large a copy will be that is being fetched; 0 of one whose writer was killed, which is removed."""
    with suppress(FileNotFoundError), open(aside, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.fstat(file.fileno()).st_size
        remove(aside)
    return 0


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
