"""Walking one shard: which samples it holds, and where their images lie.

The rule for names is webdataset's: a sample's key is its members' path up to the first dot of the base name, the rest,
lower-cased, is the extension; a sample's members follow each other. As there, directories, `__meta__` members and
members without a key (no dot, or a base name that begins with one) are no part of any sample. What webdataset would
drop or cut without a word is refused here: links and other special members, a sample without image or class, a key that
comes back, an archive without its end.
"""

import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import xxhash

from teacher_cache.classes import CLASSES_FILE, ClassRule
from teacher_cache.errors import ShardError
from teacher_cache.files import replacing
from teacher_cache.fingerprint import Fingerprint, fingerprint, hashed_part
from teacher_cache.index import ShardEntry, ShardIndex
from teacher_cache.shown import shown
from teacher_cache.tar import DamageError, Reader, members

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
MAX_CLASSES = 1_000_000  # without classes.json, where the largest class decides how many there are
MAX_CLASS_MEMBER = 64 << 20  # bytes of a .cls or .json member; real ones hold a number, or a few kB
SCRATCH_VERSION = 2

_IMAGES = frozenset(extension.encode() for extension in IMAGE_EXTENSIONS)
_META = re.compile(rb"__[^/]*__($|/)")
_INTEGER = re.compile(r"-?[0-9]+")
_LISTED = 8  # extensions in a message


def index_shard(path: str, rule: ClassRule, kind: Fingerprint = "tail") -> ShardIndex:
    """Walk one shard: headers, class members, and what the images' fingerprints are of. ShardError, naming shard and
    key, when it is not whole.
    """
    name = os.path.basename(path)
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise ShardError(f"shard {name}: {path} cannot be opened ({error.strerror})") from None
    try:
        return _Walk(fd, name, path, rule, kind).walk()
    except OSError as error:
        raise ShardError(f"shard {name}: {path} cannot be read ({error.strerror})") from None
    finally:
        os.close(fd)


def split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """(key, lower-case extension) of a member's name, or None for one that belongs to no sample."""
    base = name.rfind(b"/") + 1
    dot = name.find(b".", base)
    if dot <= base or (name.startswith(b"__") and _META.match(name)):
        return None
    return name[:dot], name[dot + 1 :].lower()


class _Walk:
    """One shard's samples as they close one after the other."""

    def __init__(self, fd: int, name: str, path: str, rule: ClassRule, kind: Fingerprint) -> None:
        self.reader, self.name, self.path, self.rule, self.kind = Reader(fd), name, path, rule, kind
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
        self.fingerprints: list[int] = []

    def walk(self) -> ShardIndex:
        seen: set[bytes] = set()
        key: bytes | None = None
        extensions: list[bytes] = []
        image: tuple[int, int, int] | None = None
        class_number: int | None = None
        names: list[bytes] = []
        places: list[int] = []
        lengths: list[int] = []
        try:
            for name, offset, size in members(self.reader):
                split = split_name(name)
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
                        f"has two members .{shown(extension)}; write the shard again with each key once",
                    )
                extensions.append(extension)
                if extension in _IMAGES:
                    if image is not None:
                        raise self._refusal(key, f"has two images ({_listed(extensions)}); a sample holds one")
                    image = offset, size, self._fingerprint(offset, size)
                elif extension == self.class_member:
                    class_number = self._read_class(key, offset, size)
                names.append(name)
                places.append(offset)
                lengths.append(size)
        except DamageError as damage:
            split = split_name(damage.member) if damage.member is not None else None
            if (
                key is not None
                and image is not None
                and class_number is not None
                and (split is None or split[0] != key)
            ):
                self._close(key, image, class_number, extensions)
            last = f"the last whole sample is '{shown(self.keys[-1])}'" if self.keys else "no whole sample comes before"
            where = f" in sample '{shown(split[0])}'" if split is not None else ""
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
            np.array(self.fingerprints, np.uint64),
        )

    def _close(
        self, key: bytes, image: tuple[int, int, int] | None, class_number: int | None, extensions: list[bytes]
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
        self.fingerprints.append(image[2])

    def _fingerprint(self, offset: int, size: int) -> int:
        start, length = hashed_part(size, self.kind)
        hashed = self.reader.read(offset + start, length)
        if len(hashed) < length:
            raise DamageError(f"became shorter while it was read, at byte {offset + start + len(hashed):,}")
        return fingerprint(size, hashed)

    def _read_class(self, key: bytes, offset: int, size: int) -> int:
        if size > MAX_CLASS_MEMBER:
            member = self.class_member.decode()
            raise self._refusal(
                key,
                f"has a .{member} member of {size:,} bytes, too many for a class; say where it is with --class-from",
            )
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
        value = self._field_value(key, content) if self.field else self._text(key, content)
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
                    key,
                    f"has class {shown(str(value))}, but {known}; correct the class, or give all names with --classes",
                )
            return value
        if not isinstance(value, str) or not value:
            raise self._refusal(
                key, f"has a class that is neither an integer nor a name: {_quoted(content)} in its {member} member"
            )
        if self.by_name is None:
            raise self._refusal(
                key,
                f"has class '{shown(value)}', a name, and no {CLASSES_FILE} lies beside the shard; give the names with "
                "--classes FILE",
            )
        if value not in self.by_name:
            raise self._refusal(
                key,
                f"has class '{shown(value)}', which is not among the {len(self.by_name)} class names; correct it, or "
                "give all names with --classes",
            )
        by_name = self.by_name[value]
        if by_name is None:
            raise self._refusal(
                key, f"has class '{shown(value)}', which names more than one class; write classes as integers"
            )
        return by_name

    def _text(self, key: bytes, content: bytes) -> str:
        try:
            return content.decode().strip()
        except UnicodeDecodeError:
            raise self._refusal(
                key, f"has no text in its .cls member ({_quoted(content)}); say where the class is with --class-from"
            ) from None

    def _field_value(self, key: bytes, content: bytes) -> object:
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]
            raise self._refusal(
                key, f"has a .json member that cannot be read ({reason}): {_quoted(content)}; write the shard again"
            ) from None
        if not isinstance(document, dict) or self.field not in document:
            raise self._refusal(
                key,
                f"has no field '{shown(self.field)}' in its .json member ({_quoted(content)}); say where the class is "
                "with --class-from",
            )
        return document[self.field]

    def _decoded(self, key: bytes) -> str:
        try:
            return key.decode()
        except UnicodeDecodeError:
            raise self._refusal(key, "has a key that is not UTF-8; rename it") from None

    def _refusal(self, key: bytes, found: str) -> ShardError:
        return ShardError(f"shard {self.name}: sample '{shown(key)}' {found}")


def _listed(extensions: list[bytes]) -> str:
    more = f" and {len(extensions) - _LISTED:,} more" if len(extensions) > _LISTED else ""
    return ", ".join("." + shown(extension) for extension in extensions[:_LISTED]) + more


def _quoted(content: bytes) -> str:
    return f"'{shown(content[:200], 40)}'"


def index_shard_resumed(path: str, rule: ClassRule, kind: Fingerprint, scratch: Path | None) -> ShardIndex:
    """Walk one shard, or take what an earlier walk left in the folder `scratch`.

    That counts while the shard's place, size and time of change, class rule and kind of fingerprint are the same.
    """
    if scratch is None:
        return index_shard(path, rule, kind)
    try:
        stat = os.stat(path)
    except OSError as error:
        raise ShardError(f"shard {os.path.basename(path)}: {path} cannot be opened ({error.strerror})") from None
    identity = [SCRATCH_VERSION, os.path.abspath(path), stat.st_size, stat.st_mtime_ns, rule.source, rule.names, kind]
    file = scratch / f"{xxhash.xxh3_128_hexdigest(json.dumps(identity).encode())}.npz"
    found = _read_scratch(file, path)
    if found is None:
        found = index_shard(path, rule, kind)
        _write_scratch(file, found)
    return found


def _write_scratch(file: Path, found: ShardIndex) -> None:
    keys = [key.encode() for key in found.keys]
    numbers = np.array([found.entry.num_bytes, found.entry.hash], np.uint64)
    key_ends = np.cumsum([len(key) for key in keys], dtype=np.int64)
    with replacing(file, "what is walked is kept", durable=False) as aside, open(aside, "wb") as stream:
        np.savez(
            stream,
            numbers=numbers,
            key_bytes=np.frombuffer(b"".join(keys), np.uint8),
            key_ends=key_ends,
            classes=found.classes,
            offsets=found.offsets,
            sizes=found.sizes,
            fingerprints=found.fingerprints,
        )


def _read_scratch(file: Path, path: str) -> ShardIndex | None:
    """What _write_scratch left; None where that is nothing, or damaged (npz members carry a CRC)."""
    try:
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as saved:
            num_bytes, digest = (int(number) for number in saved["numbers"])
            key_bytes, ends = saved["key_bytes"].tobytes(), saved["key_ends"].tolist()
            keys = tuple(key_bytes[start:end].decode() for start, end in zip([0, *ends], ends, strict=False))
            entry = ShardEntry(os.path.basename(path), os.path.abspath(path), num_bytes, digest)
            arrays = {name: saved[name] for name in ("classes", "offsets", "sizes", "fingerprints")}
            return ShardIndex(entry, keys, **arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
