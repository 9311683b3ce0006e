"""What a CUDA device is given, it is given beside its work: the calling process waits for nothing."""

import importlib.util
import itertools

import numpy as np
import pytest
import torch

from teacher_cache.device import RecycledMemory
from teacher_cache.replay.policy import load_policy
from tests.support.unwaited import not_waited_for

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or importlib.util.find_spec("triton") is None,
        reason="needs a CUDA device and Triton",
    ),
]
CYCLES = 1 << 30  # of a device's clock: half a second or more
VIEWS = (0, 1, 2)


def test_views_are_given_and_gathered_while_the_device_is_busy() -> None:
    """The third of six positions is of no row: rows are chosen on the device."""
    from teacher_cache.rendering.device_proof import MadeUpBlock
    from teacher_cache.rendering.device_streams import DeviceStreams, Part
    from teacher_cache.replay.gpu.handing import hand_over

    policy, device = load_policy("deit", ["size=32"]), torch.device("cuda", torch.cuda.current_device())
    decoded = MadeUpBlock(policy.size)
    memory = torch.empty(1 << 20, dtype=torch.uint8, pin_memory=True)
    (handed,) = hand_over(policy, 0, decoded, VIEWS, itertools.repeat(memory.numpy()))
    rows = np.arange(len(VIEWS) * decoded.num_samples).reshape(len(VIEWS), -1)
    rows[:, 2] = -1
    streams = DeviceStreams(policy, device, num_rows=rows.size)
    warm = streams.begin([Part(handed, memory, rows)])  # kernels are compiled, weights are sent
    streams.finish(warm)
    expected = streams.gather(rows[rows >= 0], RecycledMemory()).cpu()
    streams.rows.zero_()
    torch.cuda.synchronize(device)
    with torch.cuda.stream(streams._rendering):
        torch.cuda._sleep(CYCLES)
    with not_waited_for():
        begun = streams.begin([Part(handed, memory, rows)])
        found = streams.gather(rows[rows >= 0], RecycledMemory())
        assert not begun.is_rendered()
    assert torch.equal(found.cpu(), expected)
    streams.finish(begun)
