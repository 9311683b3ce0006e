import struct

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from teacher_cache.errors import ImageError
from teacher_cache.replay.block import (
    MOST_IN_PARTS,
    Block,
    decode_block,
    decode_parts,
    replay,
    replay_view,
    view_mix,
    view_params,
)
from teacher_cache.replay.mix import LAMBDA_ONE, apply_mix
from teacher_cache.replay.native.library import SWITCH
from teacher_cache.replay.policy import load_policy
from teacher_cache.replay.render import decode, render_pixels
from tests.support.images import ENCODERS, marked_grey_jpeg, marked_jpeg, picture

POLICY = load_policy("deit", ["size=32"])
ENCODED = tuple(
    ENCODERS[name](picture(number, 40 + 3 * number, 50))
    for number, name in enumerate(["jpeg", "png", "grey_jpeg", "cmyk_jpeg", "webp", "palette_png", "jpeg"])
)


def make_block(images: tuple[bytes, ...] = ENCODED, skipped: frozenset[int] = frozenset()) -> Block:
    keys = tuple(f"key-{number}" for number in range(len(images)))
    return Block("train-0000.tar", 3, keys, np.arange(len(images), dtype=np.int32), images, skipped)


DIGESTS = {view.view: view.digest for view in replay(POLICY, 5, make_block(), range(16))}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 15), min_size=1, max_size=16), st.sampled_from([0, 10_000, 256 << 20]))
def test_a_digest_does_not_depend_on_what_else_is_asked_for(asked: list[int], decoded_bytes: int) -> None:
    """Alone, several, any order, repeated; whatever part of the block is held decoded."""
    decoded = decode_block(make_block(), decoded_bytes=decoded_bytes)
    for view in asked:
        assert replay_view(POLICY, 5, decoded, view).digest == DIGESTS[view]


def test_a_block_is_parameters_pixels_and_mix() -> None:
    block = make_block()
    replayed = next(replay(POLICY, 5, block, [2]))
    decoded = [decode(image) for image in block.images]
    views = np.stack(
        [
            render_pixels(image, view_params(POLICY, 5, block.shard, key, 2, image.shape[:2]))
            for key, image in zip(block.keys, decoded, strict=True)
        ]
    )
    plan = view_mix(
        POLICY, 5, shard=block.shard, block=block.number, num_samples=len(block.keys), skipped=frozenset(), view=2
    )
    apply_mix(views, plan)
    assert np.array_equal(replayed.pixels, views)
    assert np.array_equal(replayed.lambdas, plan.lambdas)
    hasher = xxhash.xxh3_64()
    for position in range(len(block.keys)):
        pair, lam = replayed.class_pairs[position].tolist(), int(replayed.lambdas[position])
        own = xxhash.xxh3_64_intdigest(replayed.pixels[position].tobytes())
        hasher.update(struct.pack("<iiIQ", *pair, lam, own))
    assert replayed.digest == hasher.intdigest()


@pytest.mark.parametrize("change", ["seed", "shard", "number", "key", "view", "pixel"])
def test_everything_that_decides_a_view_moves_the_digest(change: str) -> None:
    images = list(ENCODED)
    if change == "pixel":
        pixels = picture(1, 43, 50)
        pixels[20, 20] ^= 255
        images[1] = ENCODERS["png"](pixels)
    block = make_block(tuple(images))
    moved = Block(
        shard="train-0001.tar" if change == "shard" else block.shard,
        number=4 if change == "number" else block.number,
        keys=("other", *block.keys[1:]) if change == "key" else block.keys,
        classes=block.classes,
        images=block.images,
    )
    policy = load_policy("none", ["size=64"]) if change == "pixel" else POLICY
    before = next(replay(policy, 5, make_block(), [0]))
    after = next(replay(policy, 6 if change == "seed" else 5, moved, [1 if change == "view" else 0]))
    assert before.digest != after.digest


def test_pixels_are_written_where_asked() -> None:
    out = np.full((len(ENCODED), 32, 32, 3), 77, dtype=np.uint8)
    replayed = replay_view(POLICY, 5, decode_block(make_block()), 4, out=out)
    assert replayed.pixels is out
    assert replayed.digest == DIGESTS[4]


def test_a_skipped_sample_leaves_the_other_pairs_alone() -> None:
    whole = next(replay(POLICY, 5, make_block(), [0]))
    partners = view_mix(
        POLICY, 5, shard="train-0000.tar", block=3, num_samples=len(ENCODED), skipped=frozenset(), view=0
    ).partners
    left = int(np.flatnonzero(partners != np.arange(len(ENCODED)))[0])
    partner = int(partners[left])
    part = next(replay(POLICY, 5, make_block(skipped=frozenset({left})), [0]))
    assert part.skipped == {left}
    assert part.class_pairs[left].tolist() == [-2, -2]
    assert not part.pixels[left].any()
    assert part.class_pairs[partner].tolist() == [partner, partner]
    assert part.lambdas[partner] == LAMBDA_ONE
    others = [position for position in range(len(ENCODED)) if position not in (left, partner)]
    assert np.array_equal(part.pixels[others], whole.pixels[others])
    assert np.array_equal(part.class_pairs[others], whole.class_pairs[others])
    hasher = xxhash.xxh3_64()
    for position in range(len(ENCODED)):
        hasher.update(part.class_pairs[position].tobytes())
        if position != left:
            own = xxhash.xxh3_64_digest(part.pixels[position].tobytes())[::-1]
            hasher.update(part.lambdas[position].tobytes() + own)
    assert part.digest == hasher.intdigest()


def test_a_bad_image_is_named_or_skipped() -> None:
    images = (*ENCODED[:2], ENCODED[2][:-40], b"", *ENCODED[4:])
    with pytest.raises(ImageError, match=r"shard train-0000.tar, key key-2: .*; restore the shard if .*--skip-bad$"):
        decode_block(make_block(images))
    decoded = decode_block(make_block(images), skip_bad=True)
    assert decoded.skipped == {2, 3}
    marked = decode_block(make_block(images, skipped=frozenset({2, 3})))
    for view in range(3):
        assert replay_view(POLICY, 5, decoded, view).digest == replay_view(POLICY, 5, marked, view).digest


def test_damaged_images_are_listed_and_rendered() -> None:
    """Those of which nothing is held decoded too; once each; not in the digest."""
    cut_short = ENCODED[0][: len(ENCODED[0]) * 9 // 10] + b"\xff\xd9"
    ink = ENCODED[3][: len(ENCODED[3]) * 9 // 10] + b"\xff\xd9"
    images = (cut_short, *ENCODED[1:3], ink, b"", *ENCODED[5:])
    told = "Corrupt JPEG data: premature end of data segment"
    for decoded_bytes in (0, 1 << 30):
        decoded = decode_block(make_block(images), skip_bad=True, decoded_bytes=decoded_bytes)
        for view in (0, 1):
            replayed = replay_view(POLICY, 5, decoded, view)
            assert replayed.damaged == ((0, told), (3, told))
            assert replayed.skipped == {4}
            assert replayed.pixels[0].any()
    assert next(replay(POLICY, 5, make_block(), [0])).damaged == ()


def test_no_image_of_a_block_is_larger_than_allowed() -> None:
    largest = max(decode(image).size // 3 for image in ENCODED)
    blocks = replay(POLICY, 5, make_block(), range(3), max_pixels=largest)
    assert [view.digest for view in blocks] == [DIGESTS[view] for view in range(3)]
    with pytest.raises(
        ImageError,
        match=rf"^shard train-0000\.tar, key key-6: the image is 58 x 50 .* the {largest - 1} that .*--skip-bad$",
    ):
        next(replay(POLICY, 5, make_block(), [0], max_pixels=largest - 1))
    assert decode_block(make_block(), skip_bad=True, max_pixels=largest - 1).skipped == {6}


def test_a_block_of_one_and_a_block_of_nothing_but_skips() -> None:
    alone = next(replay(POLICY, 5, make_block(ENCODED[:1]), [0]))
    assert alone.class_pairs.tolist() == [[0, 0]]
    assert alone.lambdas.tolist() == [LAMBDA_ONE]
    skipped = next(replay(POLICY, 5, make_block(ENCODED[:2], frozenset({0, 1})), [0]))
    assert skipped.class_pairs.tolist() == [[-2, -2]] * 2
    assert not skipped.pixels.any()


# -- parts of images -----------------------------------------------------------------------------------------------

MARKED = (
    marked_jpeg(picture(1, 150, 200)),
    ENCODERS["png"](picture(2, 60, 50)),
    marked_jpeg(picture(3, 220, 90), "4:4:4"),
    marked_grey_jpeg(picture(4, 130, 131)),
    ENCODERS["jpeg"](picture(5, 90, 80)),
)
CROPS = load_policy("deit", ["size=24", "crop.scale=[0.02,0.2]"])


@pytest.mark.parametrize("native", ["off", ""], ids=["numpy", "native"])
@pytest.mark.parametrize("name", ["deit", "none", "cifar"])
def test_views_of_parts_are_views_of_the_whole(name: str, native: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, native)
    policy = CROPS if name == "deit" else load_policy(name, ["size=24"])
    for skipped in (frozenset[int](), frozenset({1, 2})):
        block = make_block(MARKED, skipped)
        expected = {view.view: view for view in replay(policy, 5, block, range(6))}
        for views in ([4], [0, 1, 2], [5, 3, 5]):
            decoded = decode_parts(policy, 5, block, views)
            for view in views:
                found = replay_view(policy, 5, decoded, view)
                assert found.digest == expected[view].digest
                assert np.array_equal(found.pixels, expected[view].pixels)
    assert decoded.skipped == {1, 2}


def test_parts_are_smaller_where_an_image_has_restart_markers() -> None:
    whole, part = decode_block(make_block(MARKED)), decode_parts(CROPS, 5, make_block(MARKED), [3])
    smaller = [part.image(position).size < whole.image(position).size for position in range(len(MARKED))]
    assert smaller == [True, False, True, True, False]
    assert [part.image_size(position) for position in range(len(MARKED))] == [
        whole.image_size(position) for position in range(len(MARKED))
    ]
    sizes = [decode_parts(CROPS, 5, make_block(MARKED[:1]), range(3, 3 + num)).image(0).size for num in range(1, 7)]
    assert sizes == sorted(sizes)
    assert sizes[0] == part.image(0).size
    assert sizes[MOST_IN_PARTS:] == [whole.image(0).size] * 2


def test_an_image_that_is_damaged_in_its_part_is_decoded_whole() -> None:
    image = MARKED[0]
    scan = image.index(b"\xff\xda")
    damaged = image
    for number in range(8):  # the first interval after each such marker is empty
        begin = damaged.index(bytes((0xFF, 0xD0 + number)), scan)
        end = damaged.index(bytes((0xFF, 0xD0 + (number + 1) % 8)), begin)
        damaged = damaged[: begin + 2] + damaged[end:]
    block = make_block((damaged, MARKED[1]))
    views = range(40)
    expected = {view.view: view for view in replay(CROPS, 5, block, views)}
    outcomes = set()
    for view in views:
        found = replay_view(CROPS, 5, decode_parts(CROPS, 5, block, [view]), view)
        assert found.digest == expected[view].digest
        outcomes.add(len(found.damaged))
    assert outcomes == {0, 1}  # nobody is told of damage where no crop is


def test_images_that_cannot_be_decoded_in_parts_are_named() -> None:
    images = (*MARKED[:2], MARKED[2][:-40], *MARKED[3:])
    with pytest.raises(ImageError, match=r"shard train-0000.tar, key key-2: the image cannot be decoded"):
        decode_parts(CROPS, 5, make_block(images), [0])
    with pytest.raises(ImageError, match=r"key key-0: the image is 150 x 200 pixels large, more than the 29999 that"):
        decode_parts(CROPS, 5, make_block(MARKED), [0], max_pixels=29_999)
    skipped = make_block(images, frozenset({2}))
    assert replay_view(CROPS, 5, decode_parts(CROPS, 5, skipped, [0]), 0).skipped == {2}
    nothing = make_block(MARKED, frozenset(range(len(MARKED))))
    assert not replay_view(CROPS, 5, decode_parts(CROPS, 5, nothing, [0]), 0).pixels.any()
