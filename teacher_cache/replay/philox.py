"""Philox 4x64-10 (Salmon et al. 2011), NumPy's generator of random words, for many keys and counters at once."""

import numpy as np

BLOCK_WORDS = 4  # a step of the counter makes so many words

_MULTIPLIERS = np.array([[0xD2E7470EE14C6C93], [0xCA5A826395121157]], np.uint64)
_STEPS = np.array([[0x9E3779B97F4A7C15], [0xBB67AE8584CAA73B]], np.uint64)  # of the keys from round to round
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS_LOW, _MULTIPLIERS_HIGH = _MULTIPLIERS & _LOW, _MULTIPLIERS >> _HALF


def philox_words(keys: np.ndarray, nonces: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """The four words of each block of each stream. keys, nonces (n, 2) uint64; blocks (n, b), the number of a block in
    its stream, from 0 -> (n, b, 4) uint64."""
    shape = blocks.shape
    # of a counter's four words the first and the third are multiplied, the other two are not
    multiplied, others = np.zeros((2, 2, *shape), np.uint64)
    multiplied[0] = blocks + 1  # NumPy's generator counts up before it makes a block
    multiplied[1], others[1] = nonces[:, :1], nonces[:, 1:]
    multiplied, others = multiplied.reshape(2, -1), others.reshape(2, -1)
    key = np.repeat(keys.T, shape[1], axis=1)
    for _ in range(_ROUNDS):
        low, high = multiplied * _MULTIPLIERS, _high_words(multiplied)
        multiplied = high[::-1] ^ others
        multiplied ^= key
        others = low[::-1]
        key += _STEPS
    return np.stack([multiplied[0], others[0], multiplied[1], others[1]], axis=1).reshape(*shape, BLOCK_WORDS)


def _high_words(words: np.ndarray) -> np.ndarray:
    """The upper 64 of the 128 bits of (2, n) words times their multipliers, in halves of 32 bits."""
    low, high = words & _LOW, words >> _HALF
    crossed = low * _MULTIPLIERS_LOW
    crossed >>= _HALF
    crossed += high * _MULTIPLIERS_LOW
    low *= _MULTIPLIERS_HIGH
    low += crossed & _LOW
    low >>= _HALF
    crossed >>= _HALF
    high *= _MULTIPLIERS_HIGH
    high += crossed
    high += low
    return high
