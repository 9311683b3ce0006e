"""Words are those of NumPy's generator."""

import numpy as np

from teacher_cache.replay.philox import philox_words


def test_blocks_are_numpys() -> None:
    random = np.random.default_rng(0)
    keys, nonces = random.integers(0, 1 << 64, (2, 50, 2), dtype=np.uint64)
    keys[0], nonces[0] = 0, 0
    keys[1], nonces[1] = (1 << 64) - 1, (1 << 64) - 1
    blocks = random.integers(0, 1 << 40, (50, 3), dtype=np.uint64)
    blocks[:, 0] = 0
    found = philox_words(keys, nonces, blocks)
    for key, nonce, numbers, words in zip(keys, nonces, blocks, found, strict=True):
        for number, block in zip(numbers, words, strict=True):
            counter = np.array([number, 0, *nonce], np.uint64)
            assert np.array_equal(np.random.Philox(key=key, counter=counter).random_raw(4), block)
