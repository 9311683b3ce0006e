"""Restart markers in entropy-coded data, by the specification and by the native library."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teacher_cache.replay import restarts
from teacher_cache.replay.native import restarts as native
from teacher_cache.replay.native.library import SWITCH, load, workspace
from teacher_cache.replay.native.views import address
from tests.replay.native.test_views import ABSENT

EOI = b"\xff\xd9"
DATA = [b"\x01\xff\x00", b"", b"\x02", b"\xd0", b"\xff\x00\xff\x00", b"\xff\x00\xd9", b"7", b"8", b"9\x00", b"10"]

Finder = Callable[[np.ndarray, int], np.ndarray | None]


@pytest.fixture(params=["off", "native"])
def find_starts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Finder:
    if request.param == "off":
        monkeypatch.setenv(SWITCH, "off")
    elif load() is None:
        pytest.skip(ABSENT)
    else:
        monkeypatch.delenv(SWITCH, raising=False)
    return native.find_starts


def marked(data: list[bytes], end: bytes = EOI) -> bytes:
    """The data of intervals, one after the other, with markers between them."""
    between = [bytes((0xFF, 0xD0 + number % 8)) for number in range(len(data) - 1)]
    return b"".join(part + marker for part, marker in zip(data, [*between, end], strict=True))


def found(find: Finder, data: bytes, num: int) -> list[int] | None:
    starts = find(np.frombuffer(data, np.uint8), num)
    return None if starts is None else starts.tolist()


def test_intervals_begin_after_their_markers(find_starts: Finder) -> None:
    starts = found(find_starts, marked(DATA) + b"\xff\xd8 a second picture", len(DATA))
    assert starts is not None
    assert starts[0] == 0
    ends = [start - 2 for start in starts[1:]]
    assert [marked(DATA)[begin:end] for begin, end in zip(starts, ends, strict=False)] == DATA
    assert marked(DATA)[starts[-1] - 2 :] == EOI


def test_fill_bytes_before_a_marker_belong_to_the_data(find_starts: Finder) -> None:
    assert found(find_starts, b"1\xff\xff\xff\xd02\xff\xff\xd9", 2) == [0, 5, 9]


@pytest.mark.parametrize(
    ("data", "num"),
    {
        "fewer": (marked(DATA[:4]), 5),
        "more": (marked(DATA[:4]), 3),
        "none": (b"1234", 1),
        "no end": (marked(DATA[:4])[:-2], 4),
        "half an end": (marked(DATA[:4])[:-1], 4),
        "another end": (marked(DATA[:4], b"\xff\xda"), 4),
        "out of order": (b"1\xff\xd12\xff\xd03\xff\xd9", 3),
        "one that only old files have": (b"1\xff\x012\xff\xd03\xff\xd9", 2),
        "all that follows is a fill byte": (b"1\xff\xd02\xff", 2),
        "a byte": (b"\xff", 1),
    }.values(),
)
def test_other_markers_than_those_expected(find_starts: Finder, data: bytes, num: int) -> None:
    assert found(find_starts, data, num) is None


def test_some_intervals_of_some_rows_have_markers_of_their_own(find_starts: Finder) -> None:
    rows = 4
    data = np.frombuffer(marked(DATA[:8]), np.uint8)
    starts = find_starts(data, len(DATA[:8]))
    assert starts is not None
    of_rows = np.array([starts[2 * row : 2 * row + 3] for row in range(rows)])
    for first_row, end_row, first, end in [(0, 4, 0, 2), (1, 3, 0, 1), (0, 2, 1, 2), (3, 4, 1, 2)]:
        wanted = [DATA[2 * row + column] for row in range(first_row, end_row) for column in range(first, end)]
        joined = np.empty(len(marked(wanted)), np.uint8)
        native.join_intervals(data, of_rows[first_row:end_row, first : end + 1], joined)
        assert joined.tobytes() == marked(wanted)


@pytest.mark.skipif(load() is None, reason=ABSENT)
@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([b"\xff", b"\x00", b"\xd0", b"\xd1", b"\xd2", b"\xd9", b"x"]), min_size=1, max_size=40),
    st.integers(1, 5),
)
def test_the_library_finds_what_the_specification_finds(parts: list[bytes], num: int) -> None:
    data = b"".join(parts)
    assert found(native.find_starts, data, num) == found(restarts.find_starts, data, num)


@pytest.mark.skipif(load() is None, reason=ABSENT)
@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=8), min_size=12, max_size=12), st.integers(0, 3), st.integers(0, 2))
def test_the_library_joins_as_the_specification(parts: list[bytes], first: int, row: int) -> None:
    data = np.frombuffer(marked([part.replace(b"\xff", b"") for part in parts]), np.uint8)
    starts = restarts.find_starts(data, 12)
    assert starts is not None
    of_rows = np.array([starts[4 * number : 4 * number + 5] for number in range(row, 3)])[:, first:]
    joined = np.zeros((2, int((of_rows[:, -1] - of_rows[:, 0]).sum())), np.uint8)
    native.join_intervals(data, of_rows, joined[0])
    restarts.join_intervals(data, of_rows, joined[1])
    assert joined[0].tobytes() == joined[1].tobytes()


OUT_OF_BOUNDS = (
    *([[-1, 5]], [[0, 99]], [[0, 1]], [[5, 3]], [[0, 5], [3, 2]], [[0]], [[0, 11]], [[0, 5]]),
    *([[5, 3 - 2**63, 2]], [[0, 2**63 - 1, 10]], [[0, 99, 10]]),  # the first is two bytes on, modulo 2**64, each time
)


@pytest.mark.skipif(load() is None, reason=ABSENT)
@pytest.mark.parametrize("starts", OUT_OF_BOUNDS, ids=str)
def test_the_library_refuses_what_is_out_of_bounds(starts: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    held = workspace()
    assert held is not None
    data, given_starts, memory = np.zeros(20, np.uint8), np.array(starts, np.int64), np.full(30, 7, np.uint8)
    joined = memory[10:20]
    with pytest.raises(ValueError, match="intervals of a JPEG are out of bounds"):
        held.join_intervals(address(data), 20, address(given_starts), given_starts.shape, address(joined), 10)
    assert (memory[:10] == 7).all()
    assert (memory[20:] == 7).all()


@pytest.mark.skipif(load() is None, reason=ABSENT)
@pytest.mark.parametrize("num", [0, -1, 1 << 40])
def test_the_library_refuses_numbers_of_intervals_that_no_picture_has(
    num: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    held = workspace()
    assert held is not None
    data, starts = np.frombuffer(marked(DATA), np.uint8), np.full(4, 7, np.int64)
    assert not held.find_restarts(address(data), len(data), num, address(starts))
    assert (starts == 7).all()
