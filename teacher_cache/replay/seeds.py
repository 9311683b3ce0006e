"""(store seed, purpose, ids) -> a counter-based random stream.

Identity is hashed into Philox's key and upper counter words, so neighbouring seeds, keys and views share nothing. Only
the raw 64-bit words are read: NumPy promises the numbers of `Generator` on one build only, so the transforms are ours.
"""

import functools
import hashlib
import math
import threading
from collections.abc import Iterable, Sequence

import numpy as np

from teacher_cache.replay.philox import BLOCK_WORDS, philox_words

GRID = 1 << 20  # drawn reals that went through log, exp or cos are multiples of 1 / GRID: their last bits vary by libm

_CHUNK_WORDS = 32  # are read ahead at first; twice as many each time, up to
_MOST_CHUNK_WORDS = 256
_FEW_WORDS = 8  # of one of many streams: it is given more when another wants some
_NOTHING = np.zeros(BLOCK_WORDS, dtype=np.uint64)
_philox = threading.local()  # one generator a thread, which every Stream sets to its own place


def on_grid(value: float) -> float:
    """Round to the nearest multiple of 1 / GRID."""
    return round(value * GRID) / GRID


def all_on_grid(values: np.ndarray) -> np.ndarray:
    """`on_grid` of each: float64, never -0.0."""
    return np.rint(values * GRID) / GRID + 0.0


def derive(store_seed: int, purpose: str, *ids: str | int) -> bytes:
    """Hash a stream's identity -> 32 bytes. Types and lengths count: ("ab", "c") is not ("a", "bc"), nor 1 "1"."""
    message = b"".join(map(_identified, (store_seed, purpose, *ids)))
    return hashlib.blake2b(message, digest_size=32, person=b"teacher-cache").digest()


@functools.lru_cache(maxsize=1 << 12, typed=True)
def _identified(part: str | int) -> bytes:
    """A part of an identity with its type and length. Purposes, shards and views come again and again."""
    # a key is the name of a tar member, which may hold bytes that are not UTF-8
    text = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else str(int(part)).encode()
    return (b"s" if isinstance(part, str) else b"i") + len(text).to_bytes(8, "little") + text


def derive_all(store_seed: int, purpose: str, many: Iterable[Sequence[str | int]]) -> list[bytes]:
    """`derive` of each of many ids."""
    begun = hashlib.blake2b(_identified(store_seed) + _identified(purpose), digest_size=32, person=b"teacher-cache")
    found = []
    for ids in many:
        hashed = begun.copy()
        hashed.update(b"".join(map(_identified, ids)))
        found.append(hashed.digest())
    return found


class Stream:
    """Random numbers of one derived seed, in the order in which they are asked for."""

    def __init__(self, derived: bytes) -> None:
        """derived: 32 bytes of `derive`."""
        words = np.frombuffer(derived, dtype="<u8").astype(np.uint64)
        self._key, self._nonce = words[:2], words[2:]
        self._blocks = 0  # read so far
        self._ahead: list[int] = []  # words read ahead, last first
        self._chunk_words = _CHUNK_WORDS

    def _word(self) -> int:
        if not self._ahead:
            self._ahead = self._read(self._chunk_words // BLOCK_WORDS).tolist()
            self._ahead.reverse()
            self._chunk_words = min(2 * self._chunk_words, _MOST_CHUNK_WORDS)
        return self._ahead.pop()

    def raw(self, n: int) -> np.ndarray:
        """The next n words, uint64."""
        ahead = [self._ahead.pop() for _ in range(min(n, len(self._ahead)))]
        if len(ahead) == n:
            return np.array(ahead, dtype=np.uint64)
        read = self._read(-(-(n - len(ahead)) // BLOCK_WORDS))
        words, left = read[: n - len(ahead)], read[n - len(ahead) :]
        self._ahead = left[::-1].tolist()
        return np.concatenate([np.array(ahead, dtype=np.uint64), words]) if ahead else words

    def _read(self, num_blocks: int) -> np.ndarray:
        """The next blocks of four words. A generator takes seven times as long to make as to be set to a place."""
        source = getattr(_philox, "source", None)
        if source is None:
            source = _philox.source = np.random.Philox(0)
        counter = np.empty(4, dtype=np.uint64)
        counter[0], counter[1], counter[2:] = self._blocks, 0, self._nonce  # the low words count
        source.state = {
            "bit_generator": "Philox",
            "state": {"counter": counter, "key": self._key},
            "buffer": _NOTHING,
            "buffer_pos": BLOCK_WORDS,  # nothing is left of the block before
            "has_uint32": 0,
            "uinteger": 0,
        }
        self._blocks += num_blocks
        words: np.ndarray = source.random_raw(num_blocks * BLOCK_WORDS)
        return words

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A real in [low, high)."""
        return low + (high - low) * ((self._word() >> 11) * 2.0**-53)

    def integer(self, n: int) -> int:
        """An integer in [0, n)."""
        return (self._word() * n) >> 64

    def normal(self) -> float:
        """A standard normal real (Box-Muller), on the grid."""
        radius = math.sqrt(-2.0 * math.log(self._above_zero()))
        return on_grid(radius * math.cos(2.0 * math.pi * self.uniform()))

    def beta(self, a: float, b: float) -> float:
        """A Beta(a, b) real in [0, 1], on the grid; a and b above 0."""
        # in logarithms, as gammas of a small shape underflow
        difference = self._log_gamma_variate(b) - self._log_gamma_variate(a)
        return on_grid(1.0 / (1.0 + math.exp(min(difference, 700.0))))

    def permutation(self, n: int) -> np.ndarray:
        """A random order of 0..n-1, int64."""
        return np.argsort(self.raw(n), kind="stable").astype(np.int64)

    def _above_zero(self) -> float:
        return ((self._word() >> 11) + 1) * 2.0**-53

    def _log_gamma_variate(self, shape: float) -> float:
        """The logarithm of a Gamma(shape) real (Marsaglia and Tsang 2000; shapes below 1 by their section 6)."""
        if shape < 1.0:
            return self._log_gamma_variate(shape + 1.0) + math.log(self._above_zero()) / shape
        d = shape - 1.0 / 3.0
        c = 1.0 / math.sqrt(9.0 * d)
        while True:
            x = self.normal()
            t = 1.0 + c * x
            log_u = math.log(self._above_zero())
            if t > 0.0 and log_u < 0.5 * x * x + d - d * t * t * t + 3.0 * d * math.log(t):
                return math.log(d * t * t * t)


class Streams:
    """Streams of many derived seeds side by side: each gives what a `Stream` of its seed gives.

    of: (m,) int64, the numbers of the streams that are asked, each once; the result has one value for each of them.
    """

    def __init__(self, derived: Sequence[bytes]) -> None:
        """derived: 32 bytes of `derive` for each stream."""
        seeds = np.frombuffer(b"".join(derived), dtype="<u8").astype(np.uint64).reshape(-1, 4)
        self.all = np.arange(len(seeds))
        self._keys, self._nonces = seeds[:, :2], seeds[:, 2:]
        self._next = np.zeros(len(seeds), np.int64)  # the place of each stream's next word
        self._held = np.zeros(len(seeds), np.int64)  # words of each that were made
        self._words = np.zeros((len(seeds), 0), np.uint64)
        self._sure = 0  # so many words every stream has left, at least

    def _word(self, of: np.ndarray) -> np.ndarray:
        if not self._sure:
            self._make()
        self._sure -= 1
        place = self._next[of]
        self._next[of] = place + 1
        return self._words[of, place]

    def _make(self) -> None:
        """Further words of the streams that have few."""
        few = np.flatnonzero(self._held - self._next < _FEW_WORDS)
        begin = self._held[few]
        if (missing := int(begin.max(initial=0)) + _CHUNK_WORDS - self._words.shape[1]) > 0:
            self._words = np.pad(self._words, ((0, 0), (0, missing)))
        blocks = begin[:, None] // BLOCK_WORDS + np.arange(_CHUNK_WORDS // BLOCK_WORDS)
        words = philox_words(self._keys[few], self._nonces[few], blocks.astype(np.uint64))
        self._words[few[:, None], begin[:, None] + np.arange(_CHUNK_WORDS)] = words.reshape(len(few), _CHUNK_WORDS)
        self._held[few] += _CHUNK_WORDS
        self._sure = int((self._held - self._next).min(initial=_CHUNK_WORDS))

    def uniform(self, of: np.ndarray, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """Reals in [low, high)."""
        return low + (high - low) * ((self._word(of) >> 11) * 2.0**-53)

    def integer(self, of: np.ndarray, n: int | np.ndarray) -> np.ndarray:
        """Integers in [0, n), int64. n: for all, or for each; below 2**32."""
        words, n = self._word(of), np.asarray(n, np.uint64)
        return (((words >> 32) * n + ((words & 0xFFFFFFFF) * n >> 32)) >> 32).astype(np.int64)

    def normal(self, of: np.ndarray) -> np.ndarray:
        """Standard normal reals (Box-Muller), on the grid."""
        above_zero = ((self._word(of) >> 11) + 1) * 2.0**-53
        radius = np.sqrt(-2.0 * np.array([math.log(each) for each in above_zero.tolist()]))
        angle = 2.0 * math.pi * self.uniform(of)
        return all_on_grid(radius * np.array([math.cos(each) for each in angle.tolist()]))

    def permutation(self, of: np.ndarray, n: int) -> np.ndarray:
        """Random orders of 0..n-1, (m, n) int64."""
        return np.argsort(np.stack([self._word(of) for _ in range(n)], axis=1), axis=1, kind="stable")
