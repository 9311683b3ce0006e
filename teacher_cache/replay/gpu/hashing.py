"""xxh3_64 of each view's pixels, where the pixels are.

Within 1 KiB the sums of XXH3 commute; between, eight numbers are scrambled in turn. So the sums are made by one kernel,
the chain by another, of all views side by side.
"""

import numpy as np
import torch
import xxhash

from teacher_cache.replay.gpu import hash_kernels

_SECRET = bytes.fromhex(  # XXH3's default
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
_PRIMES_32 = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
_PRIMES_64 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
_START = (_PRIMES_32[2], *_PRIMES_64[:4], _PRIMES_32[1], _PRIMES_64[4], _PRIMES_32[0])
_LONG = 240  # of more bytes XXH3 is what is written here
_BLOCK = 1024
_UNROLLED = 16
_LAST_STRIPE, _MERGE = 192 - 64 - 7, 11  # where their secrets begin


class PixelHasher:
    """Constants of the hash on a device."""

    def __init__(self, device: torch.device) -> None:
        words = np.concatenate(
            [
                np.frombuffer(_SECRET, "<i8"),  # 24
                np.frombuffer(_SECRET[_LAST_STRIPE : _LAST_STRIPE + 64], "<i8"),
                np.frombuffer(_SECRET[_MERGE : _MERGE + 64], "<i8"),
                np.array(_START, np.uint64).view(np.int64),
            ]
        )
        self._words = torch.from_numpy(words.copy()).to(device)

    def digests(self, views: torch.Tensor) -> torch.Tensor:
        """views (n, H, W, 3) uint8, contiguous -> (n,) int64, the digests' bits, on the same device."""
        num, num_bytes = len(views), views[0].numel() if len(views) else 0
        if num_bytes <= _LONG or num_bytes % 8:  # a short view's hash is another; one of odd size has no whole words
            found = [xxhash.xxh3_64_intdigest(row.data) for row in views.cpu().numpy()]
            return torch.from_numpy(np.array(found, np.uint64).view(np.int64)).to(views.device)
        blocks = (num_bytes - 1) // _BLOCK
        sums = torch.empty((num, max(blocks, 1), 8), dtype=torch.int64, device=views.device)
        digests = torch.empty(num, dtype=torch.int64, device=views.device)
        words = views.view(-1).view(torch.int64)
        together, views_a_program = 8, 4
        stripes = (num_bytes - 1 - blocks * _BLOCK) // 64
        with torch.cuda.device_of(views):  # which need not be the caller's current one
            if blocks:
                tiles = -(-blocks // together)
                hash_kernels.block_sums[(num * tiles,)](words, self._words, sums, num_bytes, blocks, together)
            hash_kernels.chain_blocks[(-(-num // views_a_program),)](
                *(words, self._words, sums, digests, num, num_bytes, blocks, stripes, views_a_program, _UNROLLED),
                num_warps=1,
            )
        return digests
