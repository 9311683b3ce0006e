"""Walking one shard: which samples it holds, and where their images lie.

The rule for names is webdataset's: a sample's key is its members' path up to the first dot of the base name, the rest,
lower-cased, is the extension; a sample's members follow each other. As there, directories, `__meta__` members and
members without a key (no dot, or a base name that begins with one) are no part of any sample. What webdataset would
drop or cut without a word is refused here: links and other special members, a sample without image or class, or with
two images where none is chosen, a key that comes back, an archive without its end.
"""

import io
import json
import os
import re
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import xxhash

from teacher_cache.errors import ShardError, StorageError
from teacher_cache.files import replacing
from teacher_cache.messages.shown import shown
from teacher_cache.shards.ahead import AheadReader
from teacher_cache.shards.class_member import MAX_CLASS_MEMBER, ClassError, ClassReader
from teacher_cache.shards.classes import ClassRule
from teacher_cache.shards.fingerprint import Fingerprint, fingerprint, hashed_part
from teacher_cache.shards.incomplete import Run, two_images, why_incomplete
from teacher_cache.shards.index import ShardEntry, ShardIndex
from teacher_cache.shards.source import ShardFacts, cannot_be_opened, look, open_file, place_text, read_object, reason
from teacher_cache.shards.tar import DamageError, OtherFileError, Reader, ShardReader, members
from teacher_cache.storage.cache import NodeCache
from teacher_cache.storage.place import is_url

SCRATCH_VERSION = 4

_META = re.compile(rb"__[^/]*__($|/)")
_HASHED_TOGETHER = 4096  # members' names
_LONGEST_KNOWN = 64  # bytes of a class member that may come again
MOST_KNOWN = 1 << 16  # such members: with a number of the sample in them none comes again


def index_shard(path: str, rule: ClassRule, kind: Fingerprint = "tail", facts: ShardFacts | None = None) -> ShardIndex:
    """Walk one shard: headers, class members, and what the images' fingerprints are of. ShardError, naming shard and
    key, when it is not whole. facts: of an object, where they are known.
    """
    with open_reader(path, facts) as (reader, etag):
        return _Walk(reader, etag, path, rule, kind).walk()


@contextmanager
def open_reader(path: str, facts: ShardFacts | None = None) -> Iterator[tuple[ShardReader, str | None]]:
    """What reads a shard while it is walked, and the ETag of an object."""
    if is_url(path):
        facts = look(path) if facts is None else facts
        yield AheadReader(partial(read_object, path, facts), facts.num_bytes), facts.etag
        return
    try:
        with open_file(path) as descriptor:
            yield Reader(descriptor), None
    except OSError as error:
        raise cannot_be_opened(path, error) from None


def split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """(key, lower-case extension) of a member's name, or None for one that belongs to no sample."""
    base = name.rfind(b"/") + 1
    dot = name.find(b".", base)
    if dot <= base or (name.startswith(b"__") and _META.match(name)):
        return None
    return name[:dot], name[dot + 1 :].lower()


class _Walk:
    """One shard's samples as they close one after the other; of each some 60 bytes are kept."""

    def __init__(self, reader: ShardReader, etag: str | None, path: str, rule: ClassRule, kind: Fingerprint) -> None:
        self.reader, self.etag, self.path, self.rule, self.kind = reader, etag, path, rule, kind
        self.name = os.path.basename(path)
        self.class_reader = ClassReader(rule)
        self.known: dict[bytes, int] = {}  # contents of class members already understood
        # the sample that is open
        self.key: bytes | None = None
        self.image: tuple[int, int, int] | None = None
        self.class_number: int | None = None
        # those that are closed
        self.key_bytes, self.key_ends, self.key_hashes = bytearray(), array("q"), array("Q")
        self.classes = array("i")
        self.offsets, self.sizes, self.fingerprints = array("q"), array("q"), array("Q")
        # all their members
        self.digest = xxhash.xxh3_64()
        self.names: list[bytes] = []  # not yet in the digest
        self.places, self.lengths = array("q"), array("q")

    def walk(self) -> ShardIndex:
        try:
            self._take_members()
            self._close()
            self._refuse_equal_keys()
        except DamageError as damage:
            raise self._damaged(damage) from None
        except (OSError, StorageError) as error:
            raise self._unreadable(error) from None
        classes = np.array(self.classes, np.int32)
        self._hash_names()
        for part in (np.array(self.places, "<i8"), np.array(self.lengths, "<i8"), classes.astype("<i4")):
            self.digest.update(part.tobytes())
        return ShardIndex(
            ShardEntry(self.name, place_text(self.path), self.reader.size, self.digest.intdigest(), self.etag),
            np.frombuffer(bytes(self.key_bytes), np.uint8),
            np.array(self.key_ends, np.int64),
            classes,
            np.array(self.offsets, np.int64),
            np.array(self.sizes, np.int64),
            np.array(self.fingerprints, np.uint64),
        )

    def _take_members(self) -> None:
        extensions: dict[bytes, None] = {}  # of the sample that is open
        image_extensions = {extension.encode() for extension in self.rule.image_extensions}
        class_extension = self.rule.class_extension.encode()
        image_extension = b""
        names, places, lengths = self.names, self.places, self.lengths
        for name, offset, size in members(self.reader):
            split = split_name(name)
            if split is None:
                continue
            key, extension = split
            if key != self.key:
                self._close()
                self.key, self.image, self.class_number, extensions = key, None, None, {}
            if extension in extensions:
                raise self._refusal(
                    key, f"has two members .{shown(extension)}; write the shard again with each key once"
                )
            extensions[extension] = None
            if extension in image_extensions:
                if self.image is not None:
                    raise self._refusal(key, two_images(image_extension, extension))
                self.image, image_extension = (offset, size, self._fingerprint(offset, size)), extension
            elif extension == class_extension:
                self.class_number = self._read_class(key, offset, size)
            names.append(name)
            places.append(offset)
            lengths.append(size)

    def _close(self) -> None:
        """Keep the sample that is open, if there is one."""
        key, image, class_number = self.key, self.image, self.class_number
        if key is None:
            return
        if image is None or class_number is None:
            raise self._incomplete(key)
        if not key.isascii():
            self._check_utf8(key)
        self.key_bytes += key
        self.key_ends.append(len(self.key_bytes))
        self.key_hashes.append(xxhash.xxh3_64_intdigest(key))
        self.classes.append(class_number)
        self.offsets.append(image[0])
        self.sizes.append(image[1])
        self.fingerprints.append(image[2])
        if len(self.names) >= _HASHED_TOGETHER:
            self._hash_names()

    def _hash_names(self) -> None:
        self.digest.update(b"".join(name + b"\0" for name in self.names))
        self.names.clear()

    def _fingerprint(self, offset: int, size: int) -> int:
        start, length = hashed_part(size, self.kind)
        hashed = self.reader.read(offset + start, length)
        if len(hashed) < length:
            raise DamageError(f"became shorter while it was read, at byte {offset + start + len(hashed):,}")
        return fingerprint(size, hashed)

    def _read_class(self, key: bytes, offset: int, size: int) -> int:
        if size > MAX_CLASS_MEMBER:
            member = self.rule.class_extension
            raise self._refusal(
                key,
                f"has a .{member} member of {size:,} bytes, too many for a class; say where it is with --class-from",
            )
        content = self.reader.read(offset, size)
        number = self.known.get(content)
        if number is None:
            try:
                number = self.class_reader.read(content)
            except ClassError as error:
                raise self._refusal(key, str(error)) from None
            if len(content) < _LONGEST_KNOWN and len(self.known) < MOST_KNOWN:
                self.known[content] = number
        return number

    # -- refusals ------------------------------------------------------------------------------------------------

    def _damaged(self, damage: DamageError) -> ShardError:
        if isinstance(damage, OtherFileError):
            return ShardError(f"shard {self.name} {damage.found}: {damage.advice(self.path)}")
        split = split_name(damage.member) if damage.member is not None else None
        if self.image is not None and self.class_number is not None and (split is None or split[0] != self.key):
            self._close()
        where = f", in sample '{shown(split[0])}'" if split is not None else ""
        return ShardError(f"shard {self.name} {damage.found}{where}; {self._last()}: {damage.advice(self.path)}")

    def _unreadable(self, error: OSError | StorageError) -> ShardError:
        found = f"{self.path} cannot be read ({reason(error)})" if isinstance(error, OSError) else str(error)
        return ShardError(f"shard {self.name}: {found}; {self._last()}")

    def _last(self) -> str:
        """How far the walk came."""
        number = len(self.key_ends)
        return (
            f"the last whole sample is '{shown(self._closed_key(number - 1))}'"
            if number
            else ("no whole sample comes before")
        )

    def _refuse_equal_keys(self) -> None:
        hashes = np.array(self.key_hashes, np.uint64)
        values, counts = np.unique(hashes, return_counts=True)
        if len(values) == len(hashes):
            return
        seen: set[bytes] = set()
        for number in np.flatnonzero(np.isin(hashes, values[counts > 1])).tolist():
            key = self._closed_key(number)
            if key in seen:
                raise self._incomplete(key)
            seen.add(key)

    def _closed_key(self, number: int) -> bytes:
        return bytes(self.key_bytes[self.key_ends[number - 1] if number else 0 : self.key_ends[number]])

    def _incomplete(self, key: bytes) -> ShardError:
        return self._refusal(key, why_incomplete(key, self._runs(key), self.rule, self.reader.read))

    def _runs(self, key: bytes) -> list[Run]:
        """All members of a sample, those together that follow each other. It walks the shard again."""
        runs: list[Run] = []
        last: bytes | None = None
        with suppress(DamageError):  # what lies behind damage cannot be known
            for name, offset, size in members(self.reader):
                split = split_name(name)
                if split is None:
                    continue
                if split[0] == key:
                    if last != key:
                        runs.append({})
                    runs[-1][split[1]] = (offset, size)
                last = split[0]
        return runs

    def _check_utf8(self, key: bytes) -> None:
        try:
            key.decode()
        except UnicodeDecodeError:
            raise self._refusal(key, "has a key that is not UTF-8; rename it") from None

    def _refusal(self, key: bytes, found: str) -> ShardError:
        return ShardError(f"shard {self.name}: sample '{shown(key)}' {found}")


def index_shard_resumed(path: str, rule: ClassRule, kind: Fingerprint, scratch: Path | NodeCache | None) -> ShardIndex:
    """Walk one shard, or take what an earlier walk left in a folder, or, of one far away, in the node's cache: then one
    process at a time walks it.

    That counts while the shard's place, size and time of change (an object's ETag), class rule and kind of fingerprint
    are the same.
    """
    if scratch is None or (isinstance(scratch, NodeCache) and not is_url(path)):
        return index_shard(path, rule, kind)
    facts = look(path)
    changed = facts.etag if is_url(path) else os.stat(path).st_mtime_ns
    read_as = [rule.source, rule.names, rule.image_from, kind]
    identity = json.dumps([SCRATCH_VERSION, place_text(path), facts.num_bytes, changed, *read_as])
    if isinstance(scratch, NodeCache):
        content = scratch.get(identity, lambda: _walked_bytes(index_shard(path, rule, kind, facts)), alone=True)
        found = _read_walked(content, path, facts)
        assert found is not None  # of which a copy's hash is proof
        return found
    file = scratch / xxhash.xxh3_128_hexdigest(identity.encode())
    found = None
    with suppress(OSError):
        found = _read_walked(file.read_bytes(), path, facts)
    if found is None:
        found = index_shard(path, rule, kind, facts)
        with replacing(file, "what is walked is kept", durable=False) as aside:
            aside.write_bytes(_walked_bytes(found))
    return found


_DIGEST_BYTES = 16
_WALKED_ARRAYS = ("key_bytes", "key_ends", "classes", "offsets", "sizes", "fingerprints")


def _walked_bytes(found: ShardIndex) -> bytes:
    """What a walk found, as it is kept: a hash, then what it is of."""
    numbers = np.array([found.entry.num_bytes, found.entry.hash], np.uint64)
    stream = io.BytesIO()
    np.savez(stream, numbers=numbers, **{name: getattr(found, name) for name in _WALKED_ARRAYS})
    return xxhash.xxh3_128_digest(stream.getvalue()) + stream.getvalue()


def _read_walked(content: bytes, path: str, facts: ShardFacts) -> ShardIndex | None:
    """What _walked_bytes made; None where it is damaged."""
    digest, arrays = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if xxhash.xxh3_128_digest(arrays) != digest:
        return None
    with np.load(io.BytesIO(arrays), allow_pickle=False) as saved:
        num_bytes, hashed = (int(number) for number in saved["numbers"])
        entry = ShardEntry(os.path.basename(path), place_text(path), num_bytes, hashed, facts.etag)
        return ShardIndex(entry, **{name: saved[name] for name in _WALKED_ARRAYS})
