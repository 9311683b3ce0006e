"""Processes that decode: blocks in, drawn views out, with the parts of pictures that they need in shared memory.

A device renders them (see device_pool). Nothing here imports torch, which takes each process seconds and memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from teacher_cache.processes.pool import Connection, sendable
from teacher_cache.processes.shared import SharedPlace
from teacher_cache.processes.ties import GONE
from teacher_cache.rendering.crew import Desk, RenderTask
from teacher_cache.replay.block import DecodedBlock, ReplayedBlock, decode_block, replay_view
from teacher_cache.replay.gpu.handing import HandedViews, hand_over
from teacher_cache.replay.policy import Policy
from teacher_cache.shards.read import read_block


@dataclass(frozen=True)
class Decoding:
    """What turns a task into drawn views and parts of pictures, beside the task."""

    policy: Policy
    store_seed: int
    skip_bad: bool
    max_pixels: int

    def decode(self, task: RenderTask) -> DecodedBlock:
        """Read and decode a task's block. Raises ShardError and ImageError."""
        return decode_block(read_block(task.place), skip_bad=self.skip_bad, max_pixels=self.max_pixels)

    def hand_over(self, task: RenderTask, rooms: Iterator[np.ndarray]) -> Iterator[HandedViews]:
        """Decode a task's block, and hand over its views; see handing.hand_over."""
        return hand_over(self.policy, self.store_seed, self.decode(task), task.views, rooms)

    def render(self, decoded: DecodedBlock, view: int) -> ReplayedBlock:
        """Render a view here, after all. Raises ImageError and PolicyError, as replay_view."""
        return replay_view(self.policy, self.store_seed, decoded, view)


def serve(connection: Connection, decoding: Decoding, place: SharedPlace, num_slots: int) -> None:
    """A worker's life: decode tasks into free slots until the parent closes the pipe. The first error that it meets is
    its last message. place: of its slots, one after the other."""
    desk = Desk(connection, num_slots)
    slots, taken = place.open().reshape(num_slots, -1), [0]

    def rooms() -> Iterator[np.ndarray]:
        while True:
            taken[0] = desk.take_slot()
            yield slots[taken[0]]

    try:
        while True:
            task = desk.next_task()
            for handed in decoding.hand_over(task, rooms()):
                desk.empty_pipe()
                desk.send(taken[0], len(handed.views), handed)
    except GONE:
        raise
    except Exception as error:
        connection.send(sendable(error))
