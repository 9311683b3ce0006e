"""Processes that replay: blocks in, replayed views out, their pixels in shared memory.

Nothing here imports torch, which takes each process seconds and memory; NumPy's implementation does where it is used.
"""

from dataclasses import replace

import numpy as np

from teacher_cache.processes.pool import Connection, sendable
from teacher_cache.processes.shared import SharedPlace
from teacher_cache.processes.threads import use_one_thread
from teacher_cache.processes.ties import GONE
from teacher_cache.rendering.blocks import BlockReader
from teacher_cache.rendering.crew import Desk, PoolSettings, RenderTask
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.replay.policy import Policy


def serve(connection: Connection, settings: PoolSettings, place: SharedPlace, num_slots: int | None) -> None:
    """A worker's life: render tasks into free slots, or into their rows, until the parent closes the pipe. The first
    error that it meets is its last message. place: of its slots, (num_slots, BLOCK_SAMPLES, H, W, 3), or of the rows of
    all workers, (rows, H, W, 3), where num_slots is None."""
    use_one_thread()
    try:
        renderer = _Renderer(connection, settings, place.open(), num_slots)
        while True:
            renderer.render_next()
    except GONE:
        raise
    except Exception as error:
        connection.send(sendable(error))


class _Renderer:
    """What a worker renders with. memory: (bytes,) uint8 of its slots or all rows."""

    def __init__(
        self, connection: Connection, settings: PoolSettings, memory: np.ndarray, num_slots: int | None
    ) -> None:
        view = (*settings.policy.size, 3)
        self._settings = settings
        self._slots = None if num_slots is None else memory.reshape(num_slots, BLOCK_SAMPLES, *view)
        self._rows = memory.reshape(-1, *view) if num_slots is None else None
        self._blocks = BlockReader(settings)
        self._desk = Desk(connection, num_slots or 0, self._blocks.expect)
        self._scratch = scratch(settings.policy)

    def render_next(self) -> None:
        """Wait for a task, and send its views."""
        task = self._desk.next_task()
        decoded = self._blocks.decode(task)
        for number, view in enumerate(task.views):
            self._desk.empty_pipe()
            slot, out = self._room(task, number)
            block = self._settings.render(decoded, view, out)
            self._desk.send(slot, 1, replace(block, pixels=np.empty(0, np.uint8)))

    def _room(self, task: RenderTask, number: int) -> tuple[int, np.ndarray | list[np.ndarray]]:
        """Where the task's view of this number goes, and the slot that this is, if it is one."""
        if self._rows is not None and task.rows is not None:
            return 0, destinations(self._rows, task.rows[number], self._scratch)
        assert self._slots is not None, "a pool of rows was given a task without any"
        slot = self._desk.take_slot()
        return slot, self._slots[slot, : len(task.place.keys)]


def scratch(policy: Policy) -> np.ndarray:
    """Room for a block's views that no row is for; it takes memory only where it is written."""
    return np.empty((BLOCK_SAMPLES, *policy.size, 3), np.uint8)


def destinations(rows: np.ndarray, assigned: np.ndarray, scratch: np.ndarray) -> list[np.ndarray]:
    """Where a block's positions are rendered: in their rows; what is not wanted but for its partner in scratch."""
    return [scratch[position] if row < 0 else rows[row] for position, row in enumerate(assigned.tolist())]
