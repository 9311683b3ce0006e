"""Bytes to disk, whole or not at all; a disk that is full, read-only or broken ends in one line, a DiskError.

A rename is atomic, but only what was synced before it survives a power cut.
"""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from teacher_cache.errors import DiskError, StorageError

NOTHING_LOST = "nothing that was there before is lost"
UNIT_IN_FLIGHT = "committed units are kept, those in flight are lost"
STEM = 40  # characters that a file aside keeps of its name: 160 bytes at most, of the 255 that a name may have

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(.*)", re.DOTALL)
_LEFTOVER = re.compile(r"\.[0-9a-f]{32}\.partial(\.[^.]*)?$")
# errors that say nothing of what a file holds: it may not, or cannot just now, be read
_SHUT = {
    *(errno.EACCES, errno.EPERM, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT, errno.EBUSY),
}
_SEE_TO_IT = "see to it, then run the same command again"  # what nothing better is known of
_READING = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "let this user in (see `ls -ld`), or give another place"),
    errno.ESTALE: "the network file system has lost it; run the same command again, or mount it anew",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path before its end is a file: check the path",
    errno.EISDIR: "it is a folder: name a file in it",
    errno.ELOOP: "its links lead in a circle: give the place itself",
    errno.ENAMETOOLONG: "no file can be called so: check what was given",
    errno.EIO: "the disk itself fails (`dmesg` says more): mend it, or give a copy",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`), then run the same command again",
}
_WHAT_NEXT = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space there, then run the same command again"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "make it writable, or choose another place"),
    **dict.fromkeys(
        (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR),
        "something else is there: remove it, or choose another place",
    ),
    errno.EFBIG: "raise the limit of a file's size (`ulimit -f`), then run the same command again",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`), then run the same command again",
    errno.EIO: "the disk itself fails (`dmesg` says more): mend it, or choose another place",
}


@contextmanager
def writing(path: str | os.PathLike[str], lost: str = NOTHING_LOST) -> Iterator[None]:
    """Turn an OSError of the block, which writes `path`, into a DiskError. lost: what of the user's work is lost.

    A RuntimeError that an OSError stands behind is one too: torch tells of a full disk in that way. So is a URL, of
    which a file system would make a folder named `s3:`.
    """
    check_local(path)
    try:
        yield
    except OSError as error:
        raise _disk_error(error, path, lost) from error
    except RuntimeError as error:
        behind = _system_error(error)
        if behind is None:
            raise
        raise _disk_error(behind, path, lost) from error


def check_local(path: str | os.PathLike[str]) -> None:
    """DiskError where a place is a URL, or was one before `Path` made one slash of its two."""
    if url := URL.match(os.fspath(path)):
        place = f"{url[1]}://{url[2]}"
        raise DiskError(f"{place} is a URL: only local folders are known here; copy or mount it, and name that folder")


@contextmanager
def replacing(path: str | os.PathLike[str], lost: str = NOTHING_LOST, *, durable: bool = True) -> Iterator[Path]:
    """A file beside `path` for the block to write, of its suffix, which then takes its place; its folder is made.

    With durable=False nothing waits for the disk. Where the block fails nothing is left; DiskError as in `writing`.
    """
    path = Path(path)
    aside = aside_of(path)
    try:
        with writing(path, lost):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            if durable:
                sync(aside)
            aside.replace(path)
            if durable:
                sync(path.parent)
    finally:
        remove(aside)


@contextmanager
def new_folder(path: str | os.PathLike[str], lost: str = NOTHING_LOST, *, durable: bool = True) -> Iterator[Path]:
    """A folder beside `path` for the block to make and fill, which then takes its place. DiskError where one is there,
    and as in `writing`; where the block fails nothing is left. With durable=False nothing waits for the disk."""
    path = Path(path)
    aside = aside_of(path)
    try:
        with writing(path, lost):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            try:
                place_folder(aside, path, durable=durable)
            except OSError as error:
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise DiskError(f"{path} appeared meanwhile: remove it, or choose another place") from error
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def place_folder(aside: Path, path: Path, *, durable: bool = True) -> None:
    """Bring a folder to disk, then to its place, which succeeds for the first process only: for others OSError, as a
    folder that holds something is no room for another."""
    if durable:
        sync_tree(aside)
    aside.rename(path)
    if durable:
        sync(path.parent)


def place_files(aside: Path, names: Iterable[str], folder: Path) -> None:
    """Bring what a folder holds to disk, then its files of these names, one after the other, to their places in
    another; what is there is replaced."""
    sync_tree(aside)
    for name in names:
        (aside / name).replace(folder / name)
    sync(folder)


def reading_advice(error: BaseException, otherwise: str) -> str:
    """What to do where a file could not be read: that of an error which says nothing of its content, else otherwise."""
    shut = _shut(error)
    return otherwise if shut is None else _READING.get(shut.errno or 0, "run the same command again")


def raise_unreadable(error: BaseException) -> None:
    """Raise a storage's error, or the system's that stands behind one, where it says that a file may not, or cannot
    just now, be read: then nothing is damaged, and nothing has to be removed or made anew."""
    if isinstance(error, StorageError):
        raise error
    if (shut := _shut(error)) is not None:
        raise shut


def describe_os_error(error: OSError) -> str:
    """One line: the path, what the system says, which folder before it is shut, and what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    advice = _READING.get(error.errno or 0, _SEE_TO_IT)
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return f"{reason}: {advice}"
    path = Path(os.fsdecode(error.filename))
    if error.errno == errno.EACCES and (shut := _shut_folder(path)) is not None:
        reason += f", the folder {shut} may not be entered"
    return f"{path}: {reason}: {advice}"


def fail(error: OSError) -> None:
    """For os.walk, which passes over what it cannot look into unless it is given this."""
    raise error


def _shut(error: BaseException) -> OSError | None:
    behind = error if isinstance(error, OSError) else _system_error(error)
    return behind if behind is not None and behind.errno in _SHUT else None


def _shut_folder(path: Path) -> Path | None:
    """The first of the folders that lead to a path which may not be entered."""
    return next((f for f in [*path.absolute().parents][::-1] if not os.access(f, os.X_OK)), None)


def leftovers(path: Path) -> list[Path]:
    """What killed writers of `path` left beside it: `replacing`, and zarr, which writes x.json as x.<hex>.partial."""
    starts = f"{path.stem}.", f".{path.stem[:STEM]}."
    ends = ".partial", f".partial{path.suffix}"
    try:
        names = os.listdir(path.parent)
    except FileNotFoundError:
        return []
    return [path.parent / name for name in names if name.startswith(starts) and name.endswith(ends)]


def is_leftover(name: str) -> bool:
    """Whether a file of this name is one that `leftovers` would find, of whatever path."""
    return _LEFTOVER.search(name) is not None


def sweep(path: Path, but: Path | None = None) -> None:
    """Remove what killed writers of `path` left, all but one of them."""
    for leftover in leftovers(path):
        if leftover != but:
            remove(leftover)


def remove(path: Path) -> None:
    """Remove a file where it is there and can be removed."""
    with suppress(OSError):  # a disk that cannot be written has said so already
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folders(file: Path, top: Path) -> None:
    """Bring the folders that lead to a file, `top` included, to disk; those that have gone with it need it not."""
    for folder in file.parents:
        with suppress(FileNotFoundError):
            sync(folder)
        if folder == top:
            return


def sync_tree(root: Path) -> None:
    """Bring everything under a folder to disk."""
    for folder, _, files in os.walk(root):
        for file in files:
            sync(Path(folder, file))
        sync(Path(folder))


def aside_of(path: Path) -> Path:
    """A free name beside a path, under which `leftovers` finds what is left there."""
    return path.with_name(f".{path.stem[:STEM]}.{uuid.uuid4().hex}.partial{path.suffix}")


def _disk_error(error: OSError, path: str | os.PathLike[str], lost: str) -> DiskError:
    reason, place, other = os.strerror(error.errno) if error.errno else str(error), os.fspath(path), error.filename
    what_next = _WHAT_NEXT.get(error.errno or 0, _SEE_TO_IT)
    if isinstance(other, str) and not _is_part_of_writing(other, place):
        # something else went wrong while it was written: what it is made of, for instance
        reason = f"{other}: {reason}"
        return DiskError(f"{place} cannot be written ({reason}): {lost}; {_READING.get(error.errno or 0, what_next)}")
    shut = os.path.dirname(other) if isinstance(other, str) and error.errno in (errno.EACCES, errno.EPERM) else ""
    if shut and shut != os.path.dirname(place):
        what_next = what_next.replace("make it", f"make {shut}")  # where what is published is first written aside
    return DiskError(f"{place} cannot be written ({reason}): {lost}; {what_next}")


def _is_part_of_writing(other: str, path: str) -> bool:
    """Whether a place is a path, what lies in it, what is written aside for it, or a folder that leads to it."""
    path, other = os.path.abspath(path), os.path.abspath(other)
    folder = os.path.dirname(path)
    beside = os.path.relpath(other, folder).split(os.sep)[0]
    return beside in (".", os.path.basename(path)) or folder.startswith(f"{other}/") or is_leftover(beside)


def _system_error(error: BaseException) -> OSError | None:
    behind = error.__cause__ or error.__context__
    while behind is not None and not isinstance(behind, OSError):
        behind = behind.__cause__ or behind.__context__
    return behind
