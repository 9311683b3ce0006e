"""Walking one shard's tar headers: which samples it holds, and where their images lie.

Nothing that is not whole gets through. The rule for names is webdataset's: a sample's key is its members' path up to
the first dot of the base name, the rest, lower-cased, is the extension; a sample's members follow each other. As there,
directories, `__meta__` members and members without a key (no dot, or a base name that begins with one) are no part of
any sample. What webdataset would drop or cut without a word is refused here: links and other special members, a sample
without image or class, a key that comes back, an archive without its end.
"""

import json
import multiprocessing
import os
import re
import signal
import threading
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xxhash

from teacher_cache.errors import ShardError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
CLASSES_FILE = "classes.json"
MAX_CLASSES = 1_000_000  # without classes.json, where the largest class decides how many there are
SCRATCH_VERSION = 1

_BLOCK = 512
_NEAR_WINDOW = 1 << 20  # small members: many headers in one read
_FAR_WINDOW = 4096  # after a large member: the next headers and a class, not the next image
_LARGE_MEMBER = 1 << 14
_MAX_EXTENDED_HEADER = 1 << 20  # of a PAX or long-name member; real ones hold a path
_ZEROS = bytes(_BLOCK)
_IMAGES = frozenset(extension.encode() for extension in IMAGE_EXTENSIONS)
_META = re.compile(rb"__[^/]*__($|/)")
_INTEGER = re.compile(r"-?[0-9]+")


@dataclass(frozen=True)
class ShardEntry:
    """One shard of an index.

    name is the file name as given, before links are followed; path its place; num_bytes the file's size; hash the
    xxh3_64 of, in this order: every sample member's name (bytes, a zero byte after each), their data offsets and their
    sizes (int64 little-endian), and the samples' classes (int32 little-endian).
    """

    name: str
    path: str
    num_bytes: int
    hash: int


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """What one shard holds: per sample its key, class (int32), and its image's place in the file in bytes (int64)."""

    entry: ShardEntry
    keys: tuple[str, ...]
    classes: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class ClassRule:
    """Where a sample's class is read, "cls" or "json:FIELD", and the class names; without them classes are integers."""

    source: str = "cls"
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.source != "cls" and not (self.source.startswith("json:") and len(self.source) > len("json:")):
            raise ShardError(
                f"a class cannot be read from {self.source!r}: give cls, or json:FIELD for a field of the .json member"
            )


def read_class_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read a classes file: a JSON list of names in class order, or an object of name -> class, each of 0..n-1 once."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ShardError(f"the classes file {path} cannot be read ({error}): give a JSON list of class names") from None
    if isinstance(content, dict):
        if not all(type(c) is int for c in content.values()) or sorted(content.values()) != list(range(len(content))):
            raise ShardError(
                f"the classes file {path} does not number its {len(content)} names 0 to {len(content) - 1}"
            )
        content = sorted(content, key=content.__getitem__)
    if not isinstance(content, list) or not content or not all(isinstance(name, str) for name in content):
        raise ShardError(f"the classes file {path} is not a JSON list of class names")
    return tuple(content)


def class_rule(paths: Sequence[str], class_from: str = "cls", classes_file: str | None = None) -> ClassRule:
    """Find the shards' class names: classes_file, or the classes.json beside them; differing ones are refused."""
    rule = ClassRule(class_from)
    if classes_file is not None:
        return replace(rule, names=read_class_names(classes_file))
    found: tuple[Path, tuple[str, ...]] | None = None
    for folder in sorted({Path(path).parent for path in paths}):
        file = folder / CLASSES_FILE
        if not file.exists():
            continue
        names = read_class_names(file)
        if found is not None and found[1] != names:
            raise ShardError(f"{found[0]} and {file} name different classes: say which counts with --classes FILE")
        found = found or (file, names)
    return replace(rule, names=found[1]) if found else rule


def index_shard(path: str, rule: ClassRule) -> ShardIndex:
    """Walk one shard: headers and class members only. ShardError, naming shard and key, when it is not whole."""
    name = os.path.basename(path)
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise ShardError(f"shard {name}: {path} cannot be opened ({error.strerror})") from None
    try:
        return _Walk(fd, name, path, rule).walk()
    except OSError as error:
        raise ShardError(f"shard {name}: {path} cannot be read ({error.strerror})") from None
    finally:
        os.close(fd)


class _DamageError(Exception):
    """The archive itself is broken: what was found, and the member's name where it is known."""

    def __init__(self, found: str, member: bytes | None = None) -> None:
        super().__init__(found)
        self.found, self.member = found, member


class _Reader:
    """Byte ranges of an open file through a window that adapts: wide among small members, narrow after large ones."""

    def __init__(self, fd: int) -> None:
        self.fd, self.size = fd, os.fstat(fd).st_size
        self.start, self.data = 0, b""
        self.window = _NEAR_WINDOW

    def read(self, offset: int, size: int) -> bytes:
        """Return size bytes, fewer only at the file's end."""
        at = offset - self.start
        if at < 0 or at + size > len(self.data):
            if size > self.window:
                return os.pread(self.fd, size, offset)
            self.start, self.data, at = offset, os.pread(self.fd, self.window, offset), 0
        return self.data[at : at + size]


def _read_number(field: bytes) -> int:
    """Decode a header's octal or base-256 number (GNU tar's, from 8 GiB on)."""
    if field[0] & 0x80:
        number = int.from_bytes(field, "big", signed=False) & ~(0x80 << 8 * (len(field) - 1))
        return -1 if field[0] & 0x40 else number
    return int(field.split(b"\0", 1)[0].strip() or b"0", 8)


def _read_pax(records: bytes) -> dict[bytes, bytes]:
    """Decode a PAX extended header: records of 'LENGTH KEYWORD=VALUE\\n', the length counting the whole record."""
    fields = {}
    at = 0
    while at < len(records) and records[at]:
        length = int(records[at : records.index(b" ", at)])
        record = records[at : at + length]
        keyword, equals, value = record.partition(b" ")[2].partition(b"=")
        if length < 5 or len(record) != length or not equals or not value.endswith(b"\n"):
            raise ValueError("record")
        fields[keyword] = value[:-1]
        at += length
    return fields


def _members(reader: _Reader) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, data offset, data size) of every regular member; _DamageError where the archive is broken.

    Understands ustar with its prefix, GNU long names and base-256 sizes, and PAX paths and sizes.
    """
    position = 0
    long_name: bytes | None = None  # an extended header before this one gave the name, or the size
    long_size: int | None = None
    read, file_size = reader.read, reader.size
    while True:
        header = read(position, _BLOCK)
        if len(header) < _BLOCK:
            raise _DamageError(
                f"ends at byte {position + len(header):,} without the two zero blocks that close an archive", long_name
            )
        if header == _ZEROS:
            if long_name is not None or long_size is not None:
                raise _DamageError(f"closes at byte {position:,} where a member should follow", long_name)
            _check_end(reader, position + _BLOCK)
            return
        # adler32's low half is 1 + the sum of the bytes modulo 65521: the header's checksum at a fifth of sum()'s time
        try:
            checksum = _read_number(header[148:156])
            size = _read_number(header[124:136])
        except ValueError:
            raise _DamageError(f"has no tar header at byte {position:,}") from None
        if zlib.adler32(header[:148] + b"        " + header[156:]) & 0xFFFF != (checksum + 1) % 65521:
            raise _DamageError(f"has no valid tar header at byte {position:,} (wrong checksum)")
        kind = header[156:157]
        name = header[:100].split(b"\0", 1)[0]
        if header[345] and header[257:263] == b"ustar\0":  # GNU's own magic has other fields there
            name = header[345:500].split(b"\0", 1)[0] + b"/" + name
        offset = position + _BLOCK
        if kind in b"LKxg" and kind:
            if not 0 <= size <= _MAX_EXTENDED_HEADER or offset + size > file_size:
                raise _DamageError(f"has an extended header of {size:,} bytes at byte {position:,} that does not fit")
            content = read(offset, size)
            if kind == b"L":
                long_name = content.split(b"\0", 1)[0]
            elif kind != b"K":
                try:
                    fields = _read_pax(content)
                    if any(keyword.startswith(b"GNU.sparse") for keyword in fields):
                        raise _DamageError("holds a sparse member", fields.get(b"path", name))
                    if kind == b"x":
                        long_name = fields.get(b"path", long_name)
                        long_size = int(fields[b"size"]) if b"size" in fields else long_size
                    elif b"path" in fields or b"size" in fields:
                        raise ValueError("global")
                except ValueError:
                    raise _DamageError(f"has a PAX header at byte {position:,} that cannot be read") from None
            position = offset + (size + _BLOCK - 1) // _BLOCK * _BLOCK
            continue
        if long_name is not None:
            name, long_name = long_name, None
        if long_size is not None:
            size, long_size = long_size, None
        directory = kind == b"5" or (kind == b"\0" and name.endswith(b"/"))
        if not directory and kind not in b"0\x007":
            raise _DamageError(
                f"holds a member that is no regular file (tar type {_text(kind)!r}: a link, say)",
                name,
            )
        if size < 0:
            raise _DamageError(f"holds a member of negative size at byte {position:,}", name)
        if directory:  # has no data, whatever its size field says
            size = 0
        span = (size + _BLOCK - 1) // _BLOCK * _BLOCK
        if offset + size > file_size:
            missing = offset + size - file_size
            raise _DamageError(f"ends {missing:,} bytes before the member {_text(name)!r} does", name)
        if not directory:
            yield name, offset, size
        reader.window = _FAR_WINDOW if span > _LARGE_MEMBER else _NEAR_WINDOW
        position = offset + span


def _check_end(reader: _Reader, position: int) -> None:
    """Refuse anything but a second zero block and more zeros after the first."""
    second = reader.read(position, _BLOCK)
    if len(second) < _BLOCK and not any(second):
        raise _DamageError(f"ends at byte {position + len(second):,} without the two zero blocks that close an archive")
    while position < reader.size:
        rest = os.pread(reader.fd, _NEAR_WINDOW, position)
        if not rest:
            raise _DamageError(f"became shorter while it was read, at byte {position:,}")
        if rest.count(0) != len(rest):
            raise _DamageError(
                f"goes on after its end: a zero block before byte {position:,}, and other bytes behind it"
            )
        position += len(rest)


def _split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """(key, lower-case extension) of a member's name, or None for one that belongs to no sample."""
    base = name.rfind(b"/") + 1
    dot = name.find(b".", base)
    if dot <= base or (name.startswith(b"__") and _META.match(name)):
        return None
    return name[:dot], name[dot + 1 :].lower()


class _Walk:
    """One shard's samples as they close one after the other."""

    def __init__(self, fd: int, name: str, path: str, rule: ClassRule) -> None:
        self.reader, self.name, self.path, self.rule = _Reader(fd), name, path, rule
        self.field = rule.source.partition(":")[2]
        self.class_member = b"json" if self.field else b"cls"
        self.known: dict[bytes, int] = {}  # contents of .cls members already understood
        self.by_name: dict[str, int | None] | None = None
        if rule.names is not None:
            self.by_name = {}
            for number, class_name in enumerate(rule.names):
                self.by_name[class_name] = None if class_name in self.by_name else number
        self.keys: list[bytes] = []
        self.classes: list[int] = []
        self.offsets: list[int] = []
        self.sizes: list[int] = []

    def walk(self) -> ShardIndex:
        seen: set[bytes] = set()
        key: bytes | None = None
        extensions: list[bytes] = []
        image: tuple[int, int] | None = None
        class_number: int | None = None
        names: list[bytes] = []
        places: list[int] = []
        lengths: list[int] = []
        try:
            for name, offset, size in _members(self.reader):
                split = _split_name(name)
                if split is None:
                    continue
                if split[0] != key:
                    if key is not None:
                        self._close(key, image, class_number, extensions)
                    key, image, class_number, extensions = split[0], None, None, []
                    if key in seen:
                        raise self._refusal(
                            key,
                            "comes back after other samples: keys are duplicate or interleaved; write the shard again "
                            "with each key once",
                        )
                    seen.add(key)
                extension = split[1]
                if extension in extensions:
                    raise self._refusal(
                        key,
                        f"has two members .{_text(extension)}; write the shard again with each key once",
                    )
                extensions.append(extension)
                if extension in _IMAGES:
                    if image is not None:
                        raise self._refusal(key, f"has two images ({_listed(extensions)}); a sample holds one")
                    image = offset, size
                elif extension == self.class_member:
                    class_number = self._read_class(key, offset, size)
                names.append(name)
                places.append(offset)
                lengths.append(size)
        except _DamageError as damage:
            split = _split_name(damage.member) if damage.member is not None else None
            if (
                key is not None
                and image is not None
                and class_number is not None
                and (split is None or split[0] != key)
            ):
                self._close(key, image, class_number, extensions)
            last = f"the last whole sample is {_text(self.keys[-1])!r}" if self.keys else "no whole sample comes before"
            where = f" in sample {_text(split[0])!r}" if split is not None else ""
            raise ShardError(
                f"shard {self.name} {damage.found}{where}; {last}: copy or write {self.path} again, as an "
                "uncompressed tar"
            ) from None
        if key is not None:
            self._close(key, image, class_number, extensions)
        classes = np.array(self.classes, "<i4")
        digest = xxhash.xxh3_64()
        digest.update(b"".join(member + b"\0" for member in names))
        digest.update(np.array(places, "<i8").tobytes())
        digest.update(np.array(lengths, "<i8").tobytes())
        digest.update(classes.tobytes())
        return ShardIndex(
            ShardEntry(self.name, os.path.abspath(self.path), self.reader.size, digest.intdigest()),
            tuple(self._decoded(key) for key in self.keys),
            classes.astype(np.int32),
            np.array(self.offsets, np.int64),
            np.array(self.sizes, np.int64),
        )

    def _close(
        self, key: bytes, image: tuple[int, int] | None, class_number: int | None, extensions: list[bytes]
    ) -> None:
        if image is None:
            raise self._refusal(
                key,
                f"has no image (.{', .'.join(IMAGE_EXTENSIONS)}) but {_listed(extensions)}; write the shard again, or "
                "leave the sample out",
            )
        if class_number is None:
            wanted = self.class_member.decode()
            raise self._refusal(
                key, f"has no class: no .{wanted} member but {_listed(extensions)}; say where it is with --class-from"
            )
        self.keys.append(key)
        self.classes.append(class_number)
        self.offsets.append(image[0])
        self.sizes.append(image[1])

    def _read_class(self, key: bytes, offset: int, size: int) -> int:
        content = self.reader.read(offset, size)
        number = self.known.get(content)
        if number is None:
            number = self._class_number(key, content)
            if len(content) < 64:
                self.known[content] = number
        return number

    def _class_number(self, key: bytes, content: bytes) -> int:
        """A class as it is written: an integer, in digits or as JSON, or else a name."""
        member = f".{self.class_member.decode()}"
        try:
            value = json.loads(content)[self.field] if self.field else content.decode().strip()
        except (ValueError, KeyError, TypeError, IndexError):
            what = f"no field {self.field!r}" if self.field else "no text"
            raise self._refusal(
                key, f"has {what} in its {member} member ({_shown(content)}); say where the class is with --class-from"
            ) from None
        if isinstance(value, str) and _INTEGER.fullmatch(value) and len(value) < 1000:
            value = int(value)
        if type(value) is int:
            limit = MAX_CLASSES if self.rule.names is None else len(self.rule.names)
            if not 0 <= value < limit:
                known = (
                    f"0 to {limit - 1} are known"
                    if self.rule.names is not None
                    else f"0 to {limit - 1} are allowed without {CLASSES_FILE}"
                )
                raise self._refusal(
                    key, f"has class {value}, but {known}; correct the class, or give all names with --classes"
                )
            return value
        if not isinstance(value, str) or not value:
            raise self._refusal(
                key, f"has a class that is neither an integer nor a name: {_shown(content)} in its {member} member"
            )
        if self.by_name is None:
            raise self._refusal(
                key,
                f"has class {value!r}, a name, and no {CLASSES_FILE} lies beside the shard; give the names with "
                "--classes FILE",
            )
        if value not in self.by_name:
            raise self._refusal(
                key,
                f"has class {value!r}, which is not among the {len(self.by_name)} class names; correct it, or give "
                "all names with --classes",
            )
        by_name = self.by_name[value]
        if by_name is None:
            raise self._refusal(key, f"has class {value!r}, which names more than one class; write classes as integers")
        return by_name

    def _decoded(self, key: bytes) -> str:
        try:
            return key.decode()
        except UnicodeDecodeError:
            raise self._refusal(key, "has a key that is not UTF-8; rename it") from None

    def _refusal(self, key: bytes, found: str) -> ShardError:
        return ShardError(f"shard {self.name}: sample {_text(key)!r} {found}")


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def _listed(extensions: list[bytes]) -> str:
    return ", ".join("." + _text(extension) for extension in extensions)


def _shown(content: bytes) -> str:
    return repr(content[:40].decode(errors="replace")) + ("..." if len(content) > 40 else "")


def index_shard_resumed(path: str, rule: ClassRule, scratch: Path | None) -> ShardIndex:
    """Walk one shard, or take what an earlier walk left in the folder `scratch`.

    That counts while the shard's place, size, time of change and class rule are the same.
    """
    if scratch is None:
        return index_shard(path, rule)
    try:
        stat = os.stat(path)
    except OSError as error:
        raise ShardError(f"shard {os.path.basename(path)}: {path} cannot be opened ({error.strerror})") from None
    identity = [SCRATCH_VERSION, os.path.abspath(path), stat.st_size, stat.st_mtime_ns, rule.source, rule.names]
    file = scratch / f"{xxhash.xxh3_128_hexdigest(json.dumps(identity).encode())}.npz"
    found = _read_scratch(file, path)
    if found is None:
        found = index_shard(path, rule)
        _write_scratch(file, found)
    return found


def _write_scratch(file: Path, found: ShardIndex) -> None:
    aside = file.with_suffix(f".{os.getpid()}.partial")
    keys = [key.encode() for key in found.keys]
    numbers = np.array([found.entry.num_bytes, found.entry.hash], np.uint64)
    key_ends = np.cumsum([len(key) for key in keys], dtype=np.int64)
    with open(aside, "wb") as stream:
        np.savez(
            stream,
            numbers=numbers,
            key_bytes=np.frombuffer(b"".join(keys), np.uint8),
            key_ends=key_ends,
            classes=found.classes,
            offsets=found.offsets,
            sizes=found.sizes,
        )
    os.replace(aside, file)


def _read_scratch(file: Path, path: str) -> ShardIndex | None:
    """What _write_scratch left; None where that is nothing, or damaged (npz members carry a CRC)."""
    try:
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as saved:
            num_bytes, digest = (int(number) for number in saved["numbers"])
            key_bytes, ends = saved["key_bytes"].tobytes(), saved["key_ends"].tolist()
            keys = tuple(key_bytes[start:end].decode() for start, end in zip([0, *ends], ends, strict=False))
            entry = ShardEntry(os.path.basename(path), os.path.abspath(path), num_bytes, digest)
            return ShardIndex(entry, keys, saved["classes"], saved["offsets"], saved["sizes"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def follow_parent() -> None:
    """Initialise a spawned walker: Ctrl-C is the parent's to handle, and a walker ends when its parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
