"""Whether a device renders as the CPU does, found out before anything relies on it: a made-up block goes the whole way,
through memory that processes share, streams, kernels, rows and digests, and is compared with the CPU's."""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from teacher_cache.device import RecycledMemory
from teacher_cache.errors import DeviceError
from teacher_cache.processes.shared import SharedMemory
from teacher_cache.rendering.choice import first_line
from teacher_cache.rendering.device_streams import DeviceStreams, Part, is_done_within, pin, unpin
from teacher_cache.replay.block import Block, DecodedBlock, ReplayedBlock, draw_blocks, mix_of, replay_view
from teacher_cache.replay.gpu.handing import hand_over, least_room
from teacher_cache.replay.params import NONE
from teacher_cache.replay.policy import Policy

ANSWER_S = 30.0  # a device that computes a few views for so long hangs
SEED = 0
CHOSEN_FROM = 64  # views, of which so many are rendered that all is done that is done in any
_READ_FOR_EVER: list[Tensor] = []  # memory that a device which hangs may still read


@functools.lru_cache(maxsize=8)
def device_fault(policy: Policy, device: torch.device) -> str | None:
    """Why a device cannot render a policy's views, on one line; None where it makes the CPU's bytes. Kernels that are
    compiled for it serve whoever renders later. Raises DeviceError where the device does not answer any more at all."""
    try:
        return _difference(policy, device)
    except Exception as error:  # compilers, drivers and torch each raise their own
        fault = first_line(error)
    if not _answers(device):
        raise DeviceError(f"{device} does not answer after trying to render ({fault}): start again with --render cpu")
    return fault


class MadeUpBlock(DecodedBlock):
    """Of pictures that nobody has encoded: larger, smaller, longer and wider than the views, one of them grey."""

    def __init__(self, size: tuple[int, int]) -> None:
        height, width = size
        shapes = [(3 * height // 2, 2 * width), (height // 2 + 1, width), (5, 7), (2 * height, width // 3 + 1)]
        keys, classes = tuple(map(str, range(len(shapes)))), np.arange(len(shapes), dtype=np.int32)
        super().__init__(Block("made-up.tar", 0, keys, classes, (b"",) * len(shapes)), 0)
        self._pictures = [_picture(number, *shape) for number, shape in enumerate(shapes)]
        self._pictures[1][:] = self._pictures[1][:, :, :1]

    def image(self, position: int) -> np.ndarray:
        return self._pictures[position]

    def image_size(self, position: int) -> tuple[int, int]:
        height, width, _ = self._pictures[position].shape
        return height, width

    @property
    def num_bytes(self) -> int:
        """Of all pictures, each from a place on that is a multiple of 16."""
        return sum(-(-pixels.nbytes // 16) * 16 for pixels in self._pictures)


def _picture(number: int, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: slopes, edges and noise."""
    y, x = np.indices((height, width))
    slopes = np.stack([7 * x + 3 * y, 5 * y + 2 * x, (x // 5 + y // 3) % 2 * 90 + x], axis=2)
    noise = np.random.default_rng(number).integers(0, 24, slopes.shape)
    found: np.ndarray = ((slopes // 4 + noise + 40 * number) % 256).astype(np.uint8)
    return found


def telling_views(policy: Policy, decoded: DecodedBlock) -> list[int]:
    """Few of the first views, in which is done whatever is done in any of them."""
    drawn, num = draw_blocks(policy, SEED, [decoded], range(CHOSEN_FROM)), decoded.num_samples
    done = []
    for view in range(CHOSEN_FROM):
        rows, mix = slice(view * num, view * num + num), mix_of(policy, SEED, decoded, view)
        operations, boxes = drawn.operations[rows], drawn.erased[rows]
        found = {("operation", number) for number in np.unique(operations[operations != NONE]).tolist()}
        found |= {("flip", flip) for flip in drawn.flips[rows].tolist()}
        found |= {("erased", place) for place in np.flatnonzero(boxes[:, :, 2].any(axis=0)).tolist()}
        mixed = mix.partners != np.arange(num)
        found |= {("pasted", int(pasted)) for pasted in (mix.boxes[mixed, 2] > 0).tolist()}
        done.append(found)
    chosen, left = list[int](), set().union(*done)
    while left or not chosen:
        chosen.append(max(range(CHOSEN_FROM), key=lambda view: len(done[view] & left)))
        left -= done[chosen[-1]]
    return chosen


def _difference(policy: Policy, device: torch.device) -> str | None:
    """What a device makes otherwise than the CPU."""
    decoded = MadeUpBlock(policy.size)
    views = telling_views(policy, decoded)
    with _shared(max(least_room(decoded.num_samples, policy.size), decoded.num_bytes), device) as memory:
        found, pixels = _rendered(policy, device, decoded, views, memory)
    for number, view in enumerate(views):
        expected = replay_view(policy, SEED, decoded, view)
        differing = (pixels[number] != expected.pixels).any(axis=(1, 2, 3))
        if differing.any():
            return f"it makes other pixels than the CPU of {differing.sum()} of {len(differing)} made-up pictures"
        if found[number].digest != expected.digest:
            return "it gives another digest than the CPU to the same pixels"
    return None


def _rendered(
    policy: Policy, device: torch.device, decoded: DecodedBlock, views: Sequence[int], memory: Tensor
) -> tuple[list[ReplayedBlock], np.ndarray]:
    """Views as a pool renders them, and their pixels, (views, n, H, W, 3) uint8: by way of rows, in reverse."""
    (handed,) = hand_over(policy, SEED, decoded, views, itertools.repeat(memory.numpy()))
    rows = np.arange(len(views) * decoded.num_samples)[::-1].reshape(len(views), -1).copy()
    streams = DeviceStreams(policy, device, num_rows=rows.size)
    begun = streams.begin([Part(handed, memory, rows)])
    _wait(begun.rendered)
    (found,) = streams.finish(begun)
    gathered = streams.gather(rows.reshape(-1), RecycledMemory())
    _wait(None if device.type == "cpu" else torch.cuda.current_stream(device).record_event())
    return [block for block, _ in found], gathered.cpu().numpy().reshape(*rows.shape, *policy.size, 3)


def _wait(event: "torch.cuda.Event | None") -> None:
    if not is_done_within(event, ANSWER_S):
        raise TimeoutError(f"it renders nothing within {ANSWER_S:g} s")


@contextlib.contextmanager
def _shared(num_bytes: int, device: torch.device) -> Iterator[Tensor]:
    """Memory in which workers hand views over."""
    shared = SharedMemory(num_bytes)
    memory = torch.from_numpy(shared.bytes)
    shared.close()
    pin(memory, device)
    try:
        yield memory
    except TimeoutError:
        _READ_FOR_EVER.append(memory)
        raise
    except Exception:
        with contextlib.suppress(RuntimeError):  # after an error of the device's this is another
            unpin(memory, device)
        raise
    unpin(memory, device)


def _answers(device: torch.device) -> bool:
    """Whether a device still computes. What went wrong before may be told by the first that asks next."""
    if device.type != "cuda":
        return True
    for _ in range(2):
        with contextlib.suppress(RuntimeError):
            stream = torch.cuda.Stream(device)
            with torch.cuda.stream(stream):
                torch.ones(1, device=device).add_(1)
            return is_done_within(stream.record_event(), ANSWER_S)
    return False
