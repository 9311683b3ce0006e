"""What a device needs of pictures: all of it, no more than fits, and nothing that the CPU would draw otherwise."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from teacher_cache.replay.block import Block, DecodedBlock, decode_block, decode_parts, draw_blocks
from teacher_cache.replay.geometry import cut
from teacher_cache.replay.gpu import handing
from teacher_cache.replay.gpu.handing import HandedViews, hand_over, least_room
from teacher_cache.replay.gpu.plan import RenderPlan, Sources
from teacher_cache.replay.mix import MixPlan
from teacher_cache.replay.params import Box, DrawnViews
from teacher_cache.replay.policy import Policy, load_policy
from teacher_cache.replay.render import render_pixels
from tests.support.images import marked_jpeg, picture, png

SEED = 3
POLICY = load_policy("deit", ["size=[8,12]"])
VIEWS = (0, 2, 3, 5, 6)
LEAST = least_room(4, POLICY.size)


@pytest.fixture(scope="module")
def decoded() -> DecodedBlock:
    pictures = [picture(number, *size) for number, size in enumerate([(90, 70), (20, 30), (300, 200), (9, 8)])]
    keys, images = tuple("abcd"), tuple(map(png, pictures))
    return decode_block(Block("train-0000.tar", 4, keys, np.arange(4, dtype=np.int32), images, frozenset({3})))


class Planned(NamedTuple):
    """What plan_views was called with."""

    views: DrawnViews
    numbers: np.ndarray
    sources: Sources
    mixes: Sequence[MixPlan]
    num_views: int


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Planned]:
    """What is planned where not all fits, batch by batch."""
    found, plan = [], handing.plan_views

    def noting(*words: Any) -> RenderPlan:
        found.append(Planned(*words))
        return plan(*words)

    monkeypatch.setattr(handing, "plan_views", noting)
    return found


def handed(
    decoded: DecodedBlock, room: int, policy: Policy = POLICY, views: tuple[int, ...] = VIEWS
) -> list[tuple[HandedViews, np.ndarray]]:
    """Batches, each with its room."""
    rooms: list[np.ndarray] = []

    def new() -> Iterator[np.ndarray]:
        while True:
            rooms.append(np.full(room, 77, np.uint8))
            yield rooms[-1]

    batches = list(hand_over(policy, SEED, decoded, views, new()))
    return list(zip(batches, rooms, strict=True))


@pytest.mark.parametrize("room", [1 << 20, 20_000, 4_000, LEAST])
def test_views_come_in_order_and_stay_in_their_room(decoded: DecodedBlock, room: int) -> None:
    batches = handed(decoded, room)
    assert tuple(itertools.chain(*(each.views for each, _ in batches))) == VIEWS
    assert (len(batches) == 1) == (room > 4_000)
    for each, memory in batches:
        assert 0 < each.num_bytes <= room
        assert (memory[each.num_bytes :] == 77).all()
        assert (each.skipped, each.damaged, each.batch.pictures.size) == ({3}, (), 0)
        assert [(run.first, run.num, run.skipped) for run in each.batch.runs] == [
            (4 * number, 4, {3}) for number in range(len(each.views))
        ]
        assert each.batch.class_pairs.shape == (4 * len(each.views), 2)


@pytest.mark.parametrize("room", [20_000, 4_000, LEAST])
def test_rendering_what_is_handed_over_gives_the_view(decoded: DecodedBlock, planned: list[Planned], room: int) -> None:
    batches = handed(decoded, room)
    assert len(planned) == len(batches)
    for (each, memory), plan in zip(batches, planned, strict=True):
        assert plan.num_views == 4 * len(each.views)
        assert plan.numbers.tolist() == [number for number in range(plan.num_views) if number % 4 != 3]
        assert len(plan.mixes) == len(each.views)
        drawn = iter(draw_blocks(POLICY, SEED, [decoded], each.views))
        offsets, parts = plan.sources.offsets.tolist(), plan.sources.parts.tolist()
        for number, left, offset, part in zip(plan.numbers.tolist(), plan.views, offsets, parts, strict=True):
            top, side, height, width = part
            pixels = memory[offset : offset + 3 * height * width].reshape(height, width, 3)
            crop = left.crop
            within = cut(pixels, Box(crop.top - top, crop.left - side, crop.height, crop.width))
            assert within.shape[:2] == (crop.height, crop.width)
            found = render_pixels(within, dataclasses.replace(left, crop=Box(0, 0, *within.shape[:2])))
            assert np.array_equal(found, render_pixels(decoded.image(number % 4), next(drawn)))


def test_the_largest_pictures_are_rendered_first(decoded: DecodedBlock, planned: list[Planned]) -> None:
    def rendered() -> list[list[int]]:
        found = [np.flatnonzero((each.sources.parts[:3] == (0, 0, *POLICY.size)).all(axis=1)) for each in planned]
        planned.clear()
        return [positions.tolist() for positions in found]

    ((whole, _),) = handed(decoded, 1 << 20)
    handed(decoded, whole.num_bytes)
    assert rendered() == []  # all fit as they are
    handed(decoded, whole.num_bytes - 16)
    assert rendered() == [[2]]
    handed(decoded, 25_000)
    assert rendered() == [[2]]
    handed(decoded, 4_000)
    assert rendered() == [[0, 2], [0, 2]]


def test_a_large_picture_does_not_travel_whole() -> None:
    """A view of a small crop: what lies around it stays."""
    policy = load_policy("deit", ["size=8", "crop.scale=[0.01,0.02]"])
    block = Block("a.tar", 0, ("k",), np.zeros(1, np.int32), (png(picture(0, 600, 800)),), frozenset())
    ((each, _),) = handed(decode_block(block), 1 << 20, policy, (0,))
    assert each.num_bytes <= 3 * 600 * 800 * 0.025


@pytest.mark.parametrize("room", [1 << 20, 20_000, 4_000, LEAST])
def test_of_parts_the_same_is_handed_over(room: int) -> None:
    pictures = [picture(number, *size) for number, size in enumerate([(90, 70), (200, 150), (300, 200), (9, 8)])]
    images = (marked_jpeg(pictures[0]), png(pictures[1]), marked_jpeg(pictures[2]), png(pictures[3]))
    block = Block("train-0000.tar", 4, tuple("abcd"), np.arange(4, dtype=np.int32), images, frozenset({3}))
    policy = load_policy("deit", ["size=[8,12]", "crop.scale=[0.005,0.2]"])
    views = VIEWS[:3]
    parts = decode_parts(policy, SEED, block, views)
    assert parts.image(2).size < 3 * 300 * 200
    found, expected = handed(parts, room, policy, views), handed(decode_block(block), room, policy, views)
    assert len(found) == len(expected)
    for (each, memory), (other, other_memory) in zip(found, expected, strict=True):
        assert each.num_bytes == other.num_bytes
        assert np.array_equal(memory[: each.num_bytes], other_memory[: each.num_bytes])
        assert each.batch.plan.parts[0][1].tobytes() == other.batch.plan.parts[0][1].tobytes()
