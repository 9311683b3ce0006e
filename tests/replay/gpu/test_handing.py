"""What a device needs of pictures: all of it, no more than fits, and nothing that the CPU would draw otherwise."""

import itertools

import numpy as np
import pytest

from teacher_cache.replay.block import Block, DecodedBlock, decode_block, view_params
from teacher_cache.replay.geometry import cut
from teacher_cache.replay.gpu.handing import HandedViews, Handing, least_room, spanned
from teacher_cache.replay.params import Box
from teacher_cache.replay.policy import load_policy
from teacher_cache.replay.render import render_pixels
from tests.support.images import picture, png

SEED = 3
POLICY = load_policy("deit", ["size=[8,12]"])
VIEWS = (0, 2, 3, 5, 6)


@pytest.fixture(scope="module")
def decoded() -> DecodedBlock:
    pictures = [picture(number, *size) for number, size in enumerate([(90, 70), (20, 30), (300, 200), (9, 8)])]
    keys, images = tuple("abcd"), tuple(map(png, pictures))
    return decode_block(Block("train-0000.tar", 4, keys, np.arange(4, dtype=np.int32), images, frozenset({3})))


def handed(decoded: DecodedBlock, room: int) -> list[tuple[HandedViews, np.ndarray]]:
    handing, found = Handing(POLICY, SEED, decoded, VIEWS), []
    for run in handing.runs(room):
        memory = np.full(room, 77, np.uint8)
        found.append((handing.pack(run, memory), memory))
    return found


@pytest.mark.parametrize("room", [1 << 20, 20_000, 4_000, least_room(4, POLICY.size)])
def test_rendering_what_is_handed_over_gives_the_view(decoded: DecodedBlock, room: int) -> None:
    runs = handed(decoded, room)
    assert tuple(itertools.chain(*(views.views for views, _ in runs))) == VIEWS
    for views, memory in runs:
        assert views.num_bytes <= room
        assert (memory[views.num_bytes :] == 77).all()
        assert views.skipped == {3}
        for number, (view, position) in enumerate(itertools.product(views.views, range(4))):
            planned = views.planned[number]
            if position == 3:
                assert planned.source is planned.params is None
                continue
            assert planned.source is not None
            assert planned.params is not None
            (top, left, height, width), offset = planned.source.part, planned.source.offset
            pixels = memory[offset : offset + 3 * height * width].reshape(height, width, 3)
            crop = planned.params.crop
            within = cut(pixels, Box(crop.top - top, crop.left - left, crop.height, crop.width))
            assert within.shape[:2] == (crop.height, crop.width)
            here = Box(0, 0, *within.shape[:2])
            found = render_pixels(within, _at(planned.params, here))
            image = decoded.image(position)
            drawn = view_params(POLICY, SEED, "train-0000.tar", "abcd"[position], view, image.shape[:2])
            assert np.array_equal(found, render_pixels(image, drawn))


def _at(params, crop: Box):
    import dataclasses

    return dataclasses.replace(params, crop=crop)


def test_the_largest_pictures_are_rendered_first_and_then_views_come_in_runs(decoded: DecodedBlock) -> None:
    def rendered(views: HandedViews) -> list[int]:
        return [at for at in range(3) if views.planned[at].source.part == Box(0, 0, *POLICY.size)]

    large, small = handed(decoded, 1 << 20), handed(decoded, 40_000)
    assert [rendered(views) for views, _ in large] == [[]]
    assert [rendered(views) for views, _ in small] == [[2]]
    runs = handed(decoded, least_room(4, POLICY.size))
    assert len(runs) > 1
    assert all(2 in rendered(views) for views, _ in runs)


def test_a_large_picture_does_not_travel_whole() -> None:
    """Views of a small crop each: what lies around all of them stays."""
    policy = load_policy("deit", ["size=8", "crop.scale=[0.01,0.02]"])
    block = Block("a.tar", 0, ("k",), np.zeros(1, np.int32), (png(picture(0, 600, 800)),), frozenset())
    handing = Handing(policy, SEED, decode_block(block), (0,))
    (run,) = handing.runs(1 << 20)
    views = handing.pack(run, np.empty(1 << 20, np.uint8))
    assert views.num_bytes <= 3 * 600 * 800 * 0.025


def test_the_span_of_boxes_holds_them_all() -> None:
    assert spanned([Box(3, 4, 5, 6), Box(1, 8, 3, 1)]) == Box(1, 4, 7, 6)
    assert spanned([Box(3, 4, 5, 6)]) == Box(3, 4, 5, 6)
