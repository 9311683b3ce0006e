"""XXH3's long hash as Triton kernels. Its 64-bit words are int64 here, shifted logically where it matters."""

import triton
import triton.language as tl

from teacher_cache.replay.gpu.kernels import high_word


@triton.jit
def _accumulated(word, other, secret):
    """What a stripe adds to each of the eight sums."""
    key = word ^ secret
    return other + (key & 0xFFFFFFFF) * ((key >> 32) & 0xFFFFFFFF)


@triton.jit
def block_sums(views, secret, sums, BYTES: tl.constexpr, BLOCKS: tl.constexpr, TOGETHER: tl.constexpr):
    """sums (n, BLOCKS, 8): of the 16 stripes of each 1 KiB of n views of BYTES."""
    tiles: tl.constexpr = (BLOCKS + TOGETHER - 1) // TOGETHER
    program = tl.program_id(0)
    view = (program // tiles).to(tl.int64)
    first = (program % tiles) * TOGETHER
    i = tl.arange(0, TOGETHER * 128)
    block = tl.minimum(first + i // 128, BLOCKS - 1)
    stripe = (i // 8) % 16
    lane = i % 8
    at = views + view * (BYTES // 8) + block * 128 + stripe * 8
    added = _accumulated(tl.load(at + lane), tl.load(at + (lane ^ 1)), tl.load(secret + stripe + lane))
    total = tl.sum(tl.reshape(added, (TOGETHER, 16, 8)), axis=1)
    number = first + tl.arange(0, TOGETHER)
    to = sums + (view * BLOCKS + number)[:, None] * 8 + tl.arange(0, 8)[None, :]
    tl.store(to, total, mask=(number < BLOCKS)[:, None] & (tl.arange(0, 8) < 8)[None, :])


@triton.jit
def _scrambled(state, secret):
    return (state ^ ((state >> 47) & 0x1FFFF) ^ secret) * 0x9E3779B1


@triton.jit(do_not_specialize=["num"])
def chain_blocks(
    views, secret, sums, digests, num,
    BYTES: tl.constexpr, BLOCKS: tl.constexpr, STRIPES: tl.constexpr, VIEWS: tl.constexpr, UNROLLED: tl.constexpr,
):  # fmt: skip
    """The sums in turn, the last STRIPES, and the digest of each view."""
    view = tl.program_id(0).to(tl.int64) * VIEWS + tl.arange(0, VIEWS)
    there = (view < num)[:, None] & (tl.arange(0, 8) < 8)[None, :]
    lane = tl.arange(0, 8)[None, :]
    state = tl.load(secret + 40 + lane) + tl.zeros((VIEWS, 8), tl.int64)
    scramble = tl.load(secret + 16 + lane)
    own = sums + view[:, None] * (BLOCKS * 8) + lane
    for group in range(0, BLOCKS // UNROLLED):  # so that many loads are under way at once
        for step in tl.static_range(0, UNROLLED):
            added = tl.load(own + (group * UNROLLED + step) * 8, mask=there, other=0)
            state = _scrambled(state + added, scramble)
    for block in range(BLOCKS // UNROLLED * UNROLLED, BLOCKS):
        state = _scrambled(state + tl.load(own + block * 8, mask=there, other=0), scramble)
    at = views + view[:, None] * (BYTES // 8) + BLOCKS * 128
    for stripe in range(0, STRIPES):
        word = tl.load(at + stripe * 8 + lane, mask=there, other=0)
        other = tl.load(at + stripe * 8 + (lane ^ 1), mask=there, other=0)
        state += _accumulated(word, other, tl.load(secret + stripe + lane))
    last = views + view[:, None] * (BYTES // 8) + (BYTES // 8 - 8)
    word = tl.load(last + lane, mask=there, other=0)
    other = tl.load(last + (lane ^ 1), mask=there, other=0)
    state += _accumulated(word, other, tl.load(secret + 24 + lane))
    a, b = tl.split(tl.reshape(state ^ tl.load(secret + 32 + lane), (VIEWS, 4, 2)))
    length = tl.full((VIEWS,), BYTES, tl.int64) * -7046029288634856825  # 0x9E3779B185EBCA87
    digest = length + tl.sum((a * b) ^ high_word(a, b), axis=1)
    digest ^= (digest >> 37) & 0x7FFFFFF
    digest *= 0x165667919E3779F9
    digest ^= (digest >> 32) & 0xFFFFFFFF
    tl.store(digests + view, digest, mask=view < num)
