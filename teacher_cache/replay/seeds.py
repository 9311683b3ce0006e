"""(store seed, purpose, ids) -> a counter-based random stream.

Identity is hashed into Philox's key and upper counter words, so neighbouring seeds, keys and views share nothing. Only
the raw 64-bit words are read: NumPy promises the numbers of `Generator` on one build only, so the transforms are ours.
"""

import hashlib
import math

import numpy as np

GRID = 1 << 20  # drawn reals that went through log, exp or cos are multiples of 1 / GRID: their last bits vary by libm

_CHUNK_WORDS = 32


def on_grid(value: float) -> float:
    """Round to the nearest multiple of 1 / GRID."""
    return round(value * GRID) / GRID


def derive(store_seed: int, purpose: str, *ids: str | int) -> bytes:
    """Hash a stream's identity -> 32 bytes. Types and lengths count: ("ab", "c") is not ("a", "bc"), nor 1 "1"."""
    hasher = hashlib.blake2b(digest_size=32, person=b"teacher-cache")
    for part in (store_seed, purpose, *ids):
        # a key is the name of a tar member, which may hold bytes that are not UTF-8
        text = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else str(int(part)).encode()
        hasher.update((b"s" if isinstance(part, str) else b"i") + len(text).to_bytes(8, "little") + text)
    return hasher.digest()


class Stream:
    """Random numbers of one derived seed, in the order in which they are asked for."""

    def __init__(self, derived: bytes) -> None:
        """derived: 32 bytes of `derive`."""
        words = [int.from_bytes(derived[start : start + 8], "little") for start in (0, 8, 16, 24)]
        key = np.array(words[:2], dtype=np.uint64)
        counter = np.array([0, 0, *words[2:]], dtype=np.uint64)  # the low words count
        self._source = np.random.Philox(key=key, counter=counter)
        self._ahead: list[int] = []  # words read ahead, last first

    def _word(self) -> int:
        if not self._ahead:
            self._ahead = self._source.random_raw(_CHUNK_WORDS).tolist()
            self._ahead.reverse()
        return self._ahead.pop()

    def raw(self, n: int) -> np.ndarray:
        """The next n words, uint64."""
        ahead = [self._ahead.pop() for _ in range(min(n, len(self._ahead)))]
        if not ahead:
            return self._source.random_raw(n)
        return np.concatenate([np.array(ahead, dtype=np.uint64), self._source.random_raw(n - len(ahead))])

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
