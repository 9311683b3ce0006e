"""The index: shard names, and per sample its key, class and image's place. Plain data, joined from walked shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from teacher_cache.errors import MissingSampleError, ShardError
from teacher_cache.messages.shown import counted, shown
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.shards.classes import CLASSES_FILE, ClassRule
from teacher_cache.shards.fingerprint import Fingerprint

PLAUSIBLE_CLASSES = 1000  # without class names, this many are believed whatever occurs,
PLAUSIBLE_FACTOR = 10  # or this many times as many as occur


@dataclass(frozen=True)
class ShardEntry:
    """One shard of an index.

    name is the file name as given, before links are followed; path its place, a URL where it is an object; num_bytes
    the file's size; etag the object's, None of a local file; hash the xxh3_64 of, in this order: every sample member's
    name (bytes, a zero byte after each), their data offsets and their sizes (int64 little-endian), and the samples'
    classes (int32 little-endian).
    """

    name: str
    path: str
    num_bytes: int
    hash: int
    etag: str | None = None


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """What one shard holds: per sample its key, class (int32), its image's place in the file in bytes (int64), and its
    fingerprint (uint64). Keys are held as in an Index: a million of them as strings would take 100 MB.
    """

    entry: ShardEntry
    key_bytes: np.ndarray
    key_ends: np.ndarray
    classes: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    fingerprints: np.ndarray

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(map(self.key, range(len(self.key_ends))))

    def key(self, sample: int) -> str:
        return key_at(self.key_bytes, self.key_ends, sample).decode()


@dataclass(frozen=True, eq=False)
class BlockPlace:
    """What a worker needs to read one block: its shard's place, size, ETag and name, its number there, its samples'
    keys, classes (int32) and image bytes, and by which fingerprints (uint64) of which kind it is known to be the one
    indexed.
    """

    path: str
    num_bytes: int
    shard: str
    number: int
    keys: tuple[str, ...]
    classes: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    fingerprints: np.ndarray
    fingerprint: Fingerprint
    skipped: frozenset[int] = frozenset()
    etag: str | None = None


@dataclass(frozen=True, eq=False)
class Index:
    """All samples of all shards, in shard order, as flat arrays.

    counts (S,) int64 samples per shard; key_bytes (K,) uint8 the keys' UTF-8 one after the other, key_ends (N,) int64
    where each ends; classes (N,) int32; offsets and sizes (N,) int64 each image's bytes in its tar; fingerprints (N,)
    uint64.
    """

    shards: tuple[ShardEntry, ...]
    counts: np.ndarray
    key_bytes: np.ndarray
    key_ends: np.ndarray
    classes: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    fingerprints: np.ndarray
    class_names: tuple[str, ...]
    class_from: str = "cls"  # where classes were read: ClassRule.source
    fingerprint: Fingerprint = "tail"  # what of an image its fingerprint is of
    image_from: str | None = None  # where images were read: ClassRule.image_from

    @staticmethod
    def join(
        parts: Sequence[ShardIndex],
        rule: ClassRule,
        fingerprint: Fingerprint = "tail",
        *,
        num_classes: int | None = None,
    ) -> "Index":
        """Put shards that were walked by one rule together, in the order given. Without rule.names classes are called
        "0", "1" ... up to the largest found; then ShardError for a stray one, unless it is below num_classes.
        """
        lengths = [np.diff(part.key_ends, prepend=np.int64(0)) for part in parts]
        classes = np.concatenate([np.empty(0, np.int32), *(part.classes for part in parts)])
        class_names = rule.names
        if class_names is None:
            largest = int(classes.max(initial=-1))
            if num_classes is None or largest >= num_classes:
                _refuse_stray_class(parts, classes)
            class_names = tuple(str(number) for number in range(largest + 1))
        return Index(
            shards=tuple(part.entry for part in parts),
            counts=np.array([len(part.classes) for part in parts], np.int64),
            key_bytes=np.concatenate([np.empty(0, np.uint8), *(part.key_bytes for part in parts)]),
            key_ends=np.cumsum(np.concatenate([np.empty(0, np.int64), *lengths]), dtype=np.int64),
            classes=classes,
            offsets=np.concatenate([np.empty(0, np.int64), *(part.offsets for part in parts)]),
            sizes=np.concatenate([np.empty(0, np.int64), *(part.sizes for part in parts)]),
            fingerprints=np.concatenate([np.empty(0, np.uint64), *(part.fingerprints for part in parts)]),
            class_names=class_names,
            class_from=rule.source,
            fingerprint=fingerprint,
            image_from=rule.image_from,
        )

    @property
    def num_samples(self) -> int:
        return len(self.classes)

    @property
    def num_shards(self) -> int:
        return len(self.shards)

    @cached_property
    def starts(self) -> np.ndarray:
        """(S + 1,) int64: shard s holds samples starts[s] .. starts[s + 1] - 1."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts, dtype=np.int64)])

    def key(self, sample: int) -> str:
        return self._key_at(sample).decode()

    def shard_of(self, sample: int) -> int:
        """The number of the shard that holds a sample."""
        return int(np.searchsorted(self.starts, sample, side="right")) - 1

    def num_blocks(self, shard: int) -> int:
        return -(-int(self.counts[shard]) // BLOCK_SAMPLES)

    def block_samples(self, shard: int, block: int) -> range:
        """The samples of a shard's block."""
        first = int(self.starts[shard]) + block * BLOCK_SAMPLES
        return range(first, min(first + BLOCK_SAMPLES, int(self.starts[shard + 1])))

    def find(self, key: str, shard_name: str | None = None) -> int:
        """The sample of this key, in the shard of that name where given; MissingSampleError when there is none,
        ShardError when several shards have one.
        """
        first, last = 0, self.num_samples
        if shard_name is not None:
            numbers = [number for number, entry in enumerate(self.shards) if entry.name == shard_name]
            if not numbers:
                raise ShardError(f"shard {shard_name} is not in the index")
            first, last = int(self.starts[numbers[0]]), int(self.starts[numbers[0] + 1])
        wanted = key.encode("utf-8", "surrogatepass")  # no UTF-8, as a command line may have: no key
        found = [
            sample for sample in self._samples_of_length(len(wanted), first, last) if self._key_at(sample) == wanted
        ]
        if not found:
            raise MissingSampleError(
                f"no sample '{shown(key)}' in "
                + (f"shard {shard_name}" if shard_name else f"any of {counted(self.num_shards, 'shard')}")
            )
        if len(found) > 1:
            names = ", ".join(self.shards[self.shard_of(sample)].name for sample in found[:3])
            raise ShardError(f"{len(found)} samples have the key '{shown(key)}' (in {names}): name the shard too")
        return found[0]

    def place(self, shard: int, block: int, skipped: frozenset[int] = frozenset()) -> BlockPlace:
        """Where a block's images lie; skipped holds positions in the block."""
        assert 0 <= block < self.num_blocks(shard), (shard, block)
        samples, entry = self.block_samples(shard, block), self.shards[shard]
        own = slice(samples.start, samples.stop)
        return BlockPlace(
            path=entry.path,
            num_bytes=entry.num_bytes,
            shard=entry.name,
            number=block,
            keys=self._keys(samples),
            classes=self.classes[own],
            offsets=self.offsets[own],
            sizes=self.sizes[own],
            fingerprints=self.fingerprints[own],
            fingerprint=self.fingerprint,
            skipped=skipped,
            etag=entry.etag,
        )

    def _keys(self, samples: range) -> tuple[str, ...]:
        """Of one sample at least."""
        ends = self.key_ends[samples.start : samples.stop].tolist()
        begin = int(self.key_ends[samples.start - 1]) if samples.start else 0
        together = self.key_bytes[begin : ends[-1]].tobytes()
        return tuple(together[first - begin : end - begin].decode() for first, end in pairwise([begin, *ends]))

    def _key_at(self, sample: int) -> bytes:
        return key_at(self.key_bytes, self.key_ends, sample)

    def _samples_of_length(self, length: int, first: int, last: int) -> list[int]:
        lengths = np.diff(self.key_ends[:last], prepend=0)[first:]
        return [first + int(position) for position in np.flatnonzero(lengths == length)]


def key_at(key_bytes: np.ndarray, key_ends: np.ndarray, sample: int) -> bytes:
    """A sample's key out of all of them."""
    start = int(key_ends[sample - 1]) if sample else 0
    return key_bytes[start : int(key_ends[sample])].tobytes()


def _refuse_stray_class(parts: Sequence[ShardIndex], classes: np.ndarray) -> None:
    """ShardError, naming the sample, where the largest class is implausible: above 1,000 classes, and more than ten
    times as many as occur. A subset of a large set numbers its classes like that too, and then has to name them.
    """
    found = np.unique(classes)
    if not len(found) or found[-1] < max(PLAUSIBLE_CLASSES, PLAUSIBLE_FACTOR * len(found)):
        return
    for part in parts:
        if (at := np.flatnonzero(part.classes == found[-1])).size:
            raise ShardError(
                f"shard {part.entry.name}: sample '{shown(part.key(int(at[0])))}' has class {found[-1]:,}, but only "
                f"{counted(len(found), 'different class', 'occurs')}: correct it, or name all classes with --classes "
                f"FILE, or in a {CLASSES_FILE} beside the shards"
            )
