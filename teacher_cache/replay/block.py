"""Block + view -> ReplayedBlock: the one path by which both stages get their pixels."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xxhash

from teacher_cache.errors import ImageError, PolicyError
from teacher_cache.replay.decode import decode_and_judge, decode_part, restarts_of
from teacher_cache.replay.geometry import cut, spanned
from teacher_cache.replay.header import MAX_PIXELS
from teacher_cache.replay.jpeg_parts import JpegPart, Restarts
from teacher_cache.replay.mix import MixPlan, class_pairs
from teacher_cache.replay.native.draws import draw_mix, draw_views
from teacher_cache.replay.native.views import mix_views, native_views
from teacher_cache.replay.params import Box, DrawnViews, ViewParams
from teacher_cache.replay.policy import Policy
from teacher_cache.replay.render import render_pixels
from teacher_cache.replay.seeds import derive, derive_all

DECODED_BYTES = 256 << 20  # of decoded images that a block may hold
MOST_IN_PARTS = 4  # views: the crops of more take so much of a picture that decoding a part saves nothing
_DIGESTED = np.dtype([("pair", "<i4", 2), ("lambda", "<u4"), ("pixels", "<u8")])  # of a sample, without gaps


@dataclass(frozen=True)
class Block:
    """Up to BLOCK_SAMPLES consecutive samples of a shard, as read. skipped: positions in the block."""

    shard: str  # file name
    number: int
    keys: tuple[str, ...]
    classes: np.ndarray  # (n,) int32
    images: tuple[bytes, ...]
    skipped: frozenset[int] = frozenset()


@dataclass(frozen=True)
class ReplayedBlock:
    """One block at one view. A skipped sample has zeros for pixels, the class pair (-2, -2) and no part in the digest's
    pixels. damaged: positions whose file libjpeg warned of, though it made a picture of it, and what it said."""

    view: int
    pixels: np.ndarray  # (n, H, W, 3) uint8; (0, H, W, 3) where they were written into rows that the caller has
    class_pairs: np.ndarray  # (n, 2) int32
    lambdas: np.ndarray  # (n,) uint32, in units of 1 / LAMBDA_ONE
    digest: int  # uint64
    skipped: frozenset[int]
    damaged: tuple[tuple[int, str], ...]


class DecodedBlock:
    """A block and its decoded images, held up to a number of bytes; the others are decoded anew for each view. Where a
    part of an image can be decoded alone, it may hold that (see decode_parts).

    max_pixels: of a picture, height x width; a larger one is an ImageError before it is decoded.
    """

    def __init__(self, block: Block, decoded_bytes: int, *, max_pixels: int = MAX_PIXELS) -> None:
        self.block = block
        self.max_pixels = max_pixels
        self.skipped = block.skipped
        self._damaged: dict[int, str] = {}
        self._sizes: dict[int, tuple[int, int]] = {}
        self._decoded: dict[int, np.ndarray] = {}
        self._parts: dict[int, JpegPart] = {}
        self._memory = np.empty(0, np.uint8)  # for copies of parts, one after the other: fresh memory takes longer
        self._bytes_left = decoded_bytes

    @property
    def num_samples(self) -> int:
        return len(self.block.keys)

    @property
    def present(self) -> list[int]:
        """The positions that are not skipped."""
        return [position for position in range(self.num_samples) if position not in self.skipped]

    @property
    def damaged(self) -> tuple[tuple[int, str], ...]:
        """Of the images decoded until now, as in ReplayedBlock."""
        return tuple(sorted(self._damaged.items()))

    def image(self, position: int) -> np.ndarray:
        """The decoded image, or the part of it that is held, (H, W, 3) uint8: read only. Raises ImageError, which names
        shard and key."""
        held = self._decoded.get(position)
        if held is None:
            held = self._decode(position)
            if held.nbytes <= self._bytes_left:
                self._bytes_left -= held.nbytes
                self._decoded[position] = held
        return held

    def cut(self, position: int, box: Box) -> np.ndarray:
        """The image's pixels in a box, which lies in what is held of it. Raises as `image`."""
        pixels, (top, left) = self.image(position), self._corner(position)
        return cut(pixels, box._replace(top=box.top - top, left=box.left - left))

    def placed(self, drawn: DrawnViews) -> DrawnViews:
        """Views of the samples that are not skipped, in the order view, position, with their crops as they lie in what
        `image` gives."""
        if not self._parts:
            return drawn
        corners = np.array([self._corner(position) for position in self.present])
        crops = drawn.crops.reshape(-1, len(corners), 4).copy()
        crops[:, :, :2] -= corners
        return replace(drawn, crops=crops.reshape(-1, 4))

    def image_size(self, position: int) -> tuple[int, int]:
        """Height and width of the decoded image. Raises ImageError, which names shard and key."""
        if position not in self._sizes:
            self.image(position)
        return self._sizes[position]

    def find_restarts(self) -> dict[int, Restarts]:
        """Of the images whose parts can be decoded alone, by position. Raises ImageError, as `image`."""
        found = dict[int, Restarts]()
        for position in self.present:
            with self._named(position):
                restarts = restarts_of(self.block.images[position], self.max_pixels)
            if restarts is not None:
                found[position], self._sizes[position] = restarts, restarts.size
        return found

    def want_part(self, position: int, part: JpegPart) -> None:
        """Decode a part in place of the whole, where libjpeg has no word to say of it."""
        self._parts[position] = part

    def _corner(self, position: int) -> tuple[int, int]:
        """Where what is held of an image begins in it."""
        part = self._parts.get(position)
        return (part.top, part.left) if part is not None else (0, 0)

    def _decode(self, position: int) -> np.ndarray:
        part = self._parts.get(position)
        if part is not None:
            if part.num_bytes > len(self._memory):
                self._memory = np.empty(2 * part.num_bytes, np.uint8)
            pixels = decode_part(part, self._memory)
            if pixels is not None:
                return pixels
            del self._parts[position]
        with self._named(position):
            decoded, damage = decode_and_judge(self.block.images[position], self.max_pixels)
        if damage is not None:
            self._damaged[position] = damage
        self._sizes[position] = (decoded.shape[0], decoded.shape[1])
        return decoded

    @contextlib.contextmanager
    def _named(self, position: int) -> Iterator[None]:
        try:
            yield
        except ImageError as error:
            raise ImageError(
                f"shard {self.block.shard}, key {self.block.keys[position]}: {error}; "
                "restore the shard if this image was labelled, else make it again, or fill with --skip-bad"
            ) from error


def decode_block(
    block: Block, *, skip_bad: bool = False, decoded_bytes: int = DECODED_BYTES, max_pixels: int = MAX_PIXELS
) -> DecodedBlock:
    """Decode every image once, to know now which cannot be. Raises ImageError, which names shard and key; with skip_bad
    such an image joins `skipped` instead."""
    decoded = DecodedBlock(block, decoded_bytes, max_pixels=max_pixels)
    for position in range(decoded.num_samples):
        if position in decoded.skipped:
            continue
        try:
            decoded.image(position)
        except ImageError:
            if not skip_bad:
                raise
            decoded.skipped |= {position}
    return decoded


def decode_parts(
    policy: Policy, store_seed: int, block: Block, views: Sequence[int], *, max_pixels: int = MAX_PIXELS
) -> DecodedBlock:
    """Decode of every image once what the crops of a few views need, where its restart markers let that be decoded
    alone, else the whole: pixels of these views are the same, and of no others.

    For those who compare the views with digests that they have: whether the whole of an image can be decoded is not
    known afterwards, and no damage of it where no crop is. Raises ImageError, which names shard and key.
    """
    decoded = DecodedBlock(block, DECODED_BYTES, max_pixels=max_pixels)
    restarts = decoded.find_restarts() if len(set(views)) <= MOST_IN_PARTS else {}
    if restarts:
        crops = draw_blocks(policy, store_seed, [decoded], views).crops
        boxes = spanned(crops.reshape(len(views), -1, 4)).tolist()
        for position, (top, left, height, width) in zip(decoded.present, boxes, strict=True):
            if position in restarts:
                part = restarts[position].part((top, left, height, width))
                if part is not None:
                    decoded.want_part(position, part)
    for position in decoded.present:
        decoded.image(position)
    return decoded


def view_params(
    policy: Policy, store_seed: int, shard: str, key: str, view: int, image_size: tuple[int, int]
) -> ViewParams:
    """The view parameters of one sample's view. image_size: height and width of the decoded image."""
    seed, noise = (derive(store_seed, purpose, shard, key, view) for purpose in ("view", "noise"))
    return draw_views(policy, [seed], np.array([image_size]), lambda _: noise)[0]


def draw_blocks(policy: Policy, store_seed: int, blocks: Sequence[DecodedBlock], views: Sequence[int]) -> DrawnViews:
    """The view parameters of blocks at some views: of the samples that are not skipped, in the order block, view,
    position. Raises ImageError, as DecodedBlock.image."""
    ids, sizes = list[tuple[str, str, int]](), list[tuple[int, int]]()
    for decoded in blocks:
        shard, keys = decoded.block.shard, [decoded.block.keys[position] for position in decoded.present]
        ids += [(shard, key, view) for view in views for key in keys]
        sizes += [decoded.image_size(position) for position in decoded.present] * len(views)
    return draw_samples(policy, store_seed, ids, np.array(sizes, np.int64).reshape(-1, 2))


def draw_samples(
    policy: Policy, store_seed: int, ids: Sequence[tuple[str, str, int]], image_sizes: np.ndarray
) -> DrawnViews:
    """The view parameters of views, each by its shard, key and view. image_sizes: (n, 2), height and width."""
    seeds = derive_all(store_seed, "view", ids)
    return draw_views(policy, seeds, image_sizes, lambda number: derive(store_seed, "noise", *ids[number]))


def view_mix(
    policy: Policy, store_seed: int, *, shard: str, block: int, num_samples: int, skipped: frozenset[int], view: int
) -> MixPlan:
    """Who is mixed with whom in a view of a shard's block."""
    return draw_mix(policy, derive(store_seed, "mix", shard, block, view), num_samples, skipped)


def mix_of(policy: Policy, store_seed: int, decoded: DecodedBlock, view: int) -> MixPlan:
    """How the samples of a decoded block are mixed at one view: see `view_mix`."""
    return view_mix(
        policy,
        store_seed,
        shard=decoded.block.shard,
        block=decoded.block.number,
        num_samples=decoded.num_samples,
        skipped=decoded.skipped,
        view=view,
    )


def replay_view(
    policy: Policy,
    store_seed: int,
    decoded: DecodedBlock,
    view: int,
    out: np.ndarray | Sequence[np.ndarray] | None = None,
) -> ReplayedBlock:
    """Render, mix and digest one view of a block; the pixels are written into out when given: an array (n, H, W, 3)
    uint8, or n arrays (H, W, 3) that lie anywhere.

    Raises ImageError, and PolicyError where one of the policy's own operations is missing or fails.
    """
    block, own = decoded.block, policy.own_functions
    pixels = np.empty((decoded.num_samples, *policy.size, 3), dtype=np.uint8) if out is None else out
    assert len(pixels) == decoded.num_samples
    drawn = decoded.placed(draw_blocks(policy, store_seed, [decoded], [view]))
    native = native_views(drawn)
    numbers = iter(range(len(drawn)))
    for position, key in enumerate(block.keys):
        row = pixels[position]
        assert (row.shape, row.dtype, row.flags.c_contiguous) == ((*policy.size, 3), np.uint8, True)
        if position in decoded.skipped:
            row[:] = 0
            continue
        image, number = decoded.image(position), next(numbers)
        if native is not None and not native.is_own(number):
            native.render(number, image, row)
            continue
        try:
            row[:] = render_pixels(image, drawn[number], own)
        except PolicyError as error:
            raise PolicyError(
                f"shard {block.shard}, key {key}, view {view}: {error}; correct it and index a new store"
            ) from error
    plan = mix_of(policy, store_seed, decoded, view)
    mix_views(pixels, plan)
    pairs = class_pairs(block.classes, plan, decoded.skipped)
    digests = [0 if position in decoded.skipped else sample_digest(row) for position, row in enumerate(pixels)]
    return ReplayedBlock(
        view=view,
        pixels=pixels if isinstance(pixels, np.ndarray) else np.empty((0, *policy.size, 3), np.uint8),
        class_pairs=pairs,
        lambdas=plan.lambdas,
        digest=block_digest(pairs, plan.lambdas, digests, decoded.skipped),
        skipped=decoded.skipped,
        damaged=decoded.damaged,
    )


def replay(
    policy: Policy,
    store_seed: int,
    block: Block,
    views: Sequence[int],
    *,
    skip_bad: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[ReplayedBlock]:
    """Decode a block once and replay views of it, in the order given."""
    decoded = decode_block(block, skip_bad=skip_bad, max_pixels=max_pixels)
    for view in views:
        yield replay_view(policy, store_seed, decoded, view)


def block_digest(
    pairs: np.ndarray, lambdas: np.ndarray, sample_digests: Sequence[int] | np.ndarray, skipped: frozenset[int]
) -> int:
    """xxh3_64 of one block at one view: over the samples in order class pair, lambda and the digest of the sample's
    pixels (see `sample_digest`); of a skipped one the pair (-2, -2) alone. pairs (n, 2), lambdas (n,); a skipped
    sample's digest is not looked at."""
    entries = np.empty(len(pairs), _DIGESTED)
    entries["pair"], entries["lambda"], entries["pixels"] = pairs, lambdas, sample_digests
    if not skipped:
        return xxhash.xxh3_64_intdigest(entries.data.cast("B"))
    hasher = xxhash.xxh3_64()
    for position, entry in enumerate(entries):
        hasher.update((entry["pair"] if position in skipped else entry).tobytes())
    return hasher.intdigest()


def sample_digest(pixels: np.ndarray) -> int:
    """xxh3_64 of one view's RGB bytes. pixels (H, W, 3) uint8, contiguous."""
    return xxhash.xxh3_64_intdigest(pixels.data)
