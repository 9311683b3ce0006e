"""Files of this machine, or of a disk that it mounts, as a storage."""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from teacher_cache.errors import ChangedError
from teacher_cache.files import UNIT_IN_FLIGHT, aside_of, is_leftover, remove, sweep, sync, sync_folders, writing
from teacher_cache.storage.storage import Entry, Stamp

_ABSENT = FileNotFoundError, NotADirectoryError  # nothing of that name, or a file where a folder is named
_READING = os.O_RDONLY | os.O_NONBLOCK  # a stranger's folder may hold a pipe, for whose writer it would wait for ever
TRIES = 100  # where other processes sweep, or remove empty folders, just as something is written there


class LocalStorage:
    """Files under a folder. What is written is written aside, brought to disk and then named; so it is whole or absent
    whatever is killed when. Several processes may write the same name."""

    is_local = True

    def __init__(self, place: Path, *, durable: bool = True) -> None:
        self.place = place
        self._root = os.fspath(place)
        self._durable = durable

    def get(self, name: str) -> bytes | None:
        try:
            descriptor = os.open(f"{self._root}/{name}", _READING)
        except _ABSENT:
            return None
        try:
            size = os.fstat(descriptor).st_size
            content = os.read(descriptor, size)
            while len(content) < size:  # Linux gives 2 GiB at a time, network file systems less
                more = os.read(descriptor, size - len(content))
                if not more:
                    raise OSError(f"{self._root}/{name} gave {len(content):,} of its {size:,} bytes")
                content += more
            return content
        except IsADirectoryError:
            return None
        finally:
            os.close(descriptor)

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]], stamp: Stamp | None = None) -> list[bytes]:
        path = f"{self._root}/{name}"
        try:
            descriptor = os.open(path, _READING)
        except NotADirectoryError:  # a file stands where a folder is named
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
        try:
            if stamp is not None and _stamp(os.fstat(descriptor)) != stamp:
                raise ChangedError(f"{path} is another file than before")
            return [read_range(descriptor, start, length) for start, length in ranges]
        finally:
            os.close(descriptor)

    def put(self, name: str, content: bytes | Path) -> None:
        path = self.place / name

        def replace(written: Path) -> bool:
            sweep(path, but=written)  # what killed writers of it left
            written.replace(path)
            return True

        self._write(path, content, replace)

    def put_if_absent(self, name: str, content: bytes) -> bool:
        path = self.place / name

        def link(written: Path) -> bool:
            sweep(path, but=written)
            try:
                os.link(written, path)
            except FileExistsError:
                return False
            return True

        return self._write(path, content, link) or self.get(name) == content

    def _write(self, path: Path, content: bytes | Path, place: Callable[[Path], bool]) -> bool:
        """Write bytes aside and have them placed, or not; again where the file or its folder was removed meanwhile."""
        with writing(path, UNIT_IN_FLIGHT):
            for left in range(TRIES, 0, -1):
                written = aside_of(path)
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if isinstance(content, Path):
                        shutil.copyfile(content, written)
                    else:
                        written.write_bytes(content)
                    if self._durable:
                        sync(written)
                    if not place(written):
                        return False
                    break
                except (FileNotFoundError, FileExistsError):  # the latter of mkdir, whose folder is gone as it looks
                    if left == 1:
                        raise
                finally:
                    remove(written)
            if self._durable:
                sync_folders(path, self.place)
        return True

    def list(self, prefix: str = "") -> list[Entry]:
        prefix = prefix.rstrip("/")
        top = f"{self._root}/{prefix}" if prefix else self._root
        try:
            found = os.stat(top)
            if stat.S_ISREG(found.st_mode):
                return [_entry(prefix, found)]
            return sorted(_walk(top, f"{prefix}/" if prefix else ""))
        except _ABSENT:
            return []

    def delete(self, name: str) -> None:
        path = self.place / name
        with writing(path, UNIT_IN_FLIGHT), suppress(*_ABSENT, IsADirectoryError):
            sweep(path)
            path.unlink()
        for folder in path.parents:  # as in an object store, a folder without files is none
            try:
                folder.rmdir()
            except OSError:
                break
            if folder == self.place:
                break


def read_range(descriptor: int, start: int, length: int) -> bytes:
    """os.pread, again where it returns early (Linux reads at most 2 GiB at a time, network file systems less); fewer
    bytes than asked for only at the file's end."""
    content = os.pread(descriptor, length, start)
    while len(content) < length:
        more = os.pread(descriptor, length - len(content), start + len(content))
        if not more:
            break
        content += more
    return content


def _walk(folder: str, prefix: str) -> Iterator[Entry]:
    with suppress(*_ABSENT), os.scandir(folder) as entries:  # either may be removed meanwhile
        for entry in entries:
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif entry.is_file() and not is_leftover(entry.name):
                with suppress(FileNotFoundError):
                    yield _entry(f"{prefix}{entry.name}", entry.stat())


def _entry(name: str, status: os.stat_result) -> Entry:
    return Entry(name, status.st_size, _stamp(status))


def _stamp(status: os.stat_result) -> Stamp:
    """The time of change, and the inode, as clocks are coarse."""
    return status.st_mtime_ns, status.st_ino
