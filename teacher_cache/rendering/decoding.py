"""Processes that decode: blocks in, drawn views out, with the parts of pictures that they need in shared memory.

A device renders them (see device_pool). Nothing here imports torch, which takes each process seconds and memory.
"""

from collections.abc import Iterator

import numpy as np

from teacher_cache.processes.pool import Connection, sendable
from teacher_cache.processes.shared import SharedPlace
from teacher_cache.processes.ties import GONE
from teacher_cache.rendering.blocks import BlockReader
from teacher_cache.rendering.crew import Desk, PoolSettings
from teacher_cache.replay.gpu.handing import hand_over


def serve(connection: Connection, settings: PoolSettings, place: SharedPlace, num_slots: int) -> None:
    """A worker's life: decode tasks into free slots until the parent closes the pipe. The first error that it meets is
    its last message. place: of its slots, one after the other."""
    blocks = BlockReader(settings)
    desk = Desk(connection, num_slots, blocks.expect)
    slots, taken = place.open().reshape(num_slots, -1), [0]

    def rooms() -> Iterator[np.ndarray]:
        while True:
            taken[0] = desk.take_slot()
            yield slots[taken[0]]

    try:
        while True:
            task = desk.next_task()
            decoded = blocks.decode(task)
            for handed in hand_over(settings.policy, settings.store_seed, decoded, task.views, rooms()):
                desk.empty_pipe()
                desk.send(taken[0], len(handed.views), handed)
    except GONE:
        raise
    except Exception as error:
        connection.send(sendable(error))
