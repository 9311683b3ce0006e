"""The shuffle pool: which rows of pixels are free, what is known of each, how many there are, and whether they fit."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from student.faults import Fault
from student.plan import PlanSettings
from teacher_cache.errors import PlanError
from teacher_cache.processes.memory import available_memory, memory_lacking
from teacher_cache.processes.ties import ranks_here
from teacher_cache.rendering.crew import AHEAD_TASKS
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.storage.place import is_url
from teacher_cache.store.topk import SoftLabels

if TYPE_CHECKING:
    from teacher_cache.replay.block import ReplayedBlock
    from teacher_cache.store.store import Store

SPARED = 0.9  # of the free memory that a mended pool takes
FAR_BYTES = 64 << 20  # of views that wait for blocks from far away


class PoolMemory:
    """What goes with the rows of pixels that views are rendered into: class pairs, lambdas and topk probabilities (topk
    0: none). A row is taken when its task is given out, and freed when a batch has its view."""

    def __init__(self, capacity: int, topk: int) -> None:
        self.class_pairs = np.empty((capacity, 2), np.int32)
        self.lambdas = np.empty(capacity, np.uint32)
        self._classes = np.empty((capacity, topk), np.int32)
        self._probabilities = np.empty((capacity, topk + 1), np.float32)  # the tail's last
        self._free = np.arange(capacity)[::-1].tolist()

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take(self, number: int) -> np.ndarray:
        """That many rows, as int64: nobody else's until they are freed."""
        return np.array([self._free.pop() for _ in range(number)], np.int64)

    def put(
        self, rows: np.ndarray, block: "ReplayedBlock", positions: np.ndarray, soft: SoftLabels[np.ndarray] | None
    ) -> None:
        """Note what is known of some positions of a replayed block besides their pixels, which are in these rows."""
        self.class_pairs[rows], self.lambdas[rows] = block.class_pairs[positions], block.lambdas[positions]
        if soft is not None:
            self._classes[rows] = soft.classes
            self._probabilities[rows, :-1], self._probabilities[rows, -1] = soft.probabilities, soft.tail

    def soft(self, rows: np.ndarray) -> SoftLabels[np.ndarray]:
        """The soft labels of some rows."""
        parts = self._probabilities[rows]
        return SoftLabels(
            classes=self._classes[rows].astype(np.int64),
            probabilities=np.ascontiguousarray(parts[:, :-1]),
            tail=np.ascontiguousarray(parts[:, -1]),
        )

    def free(self, rows: np.ndarray) -> None:
        self._free += rows.tolist()


def pool_rows(store: "Store", settings: PlanSettings, workers: int) -> int:
    """Views that a rank holds at once: the shuffle pool, the batch being gathered, and what is rendered ahead; where
    blocks come from far away, as many more as can be on their way, of small views."""
    block_views = BLOCK_SAMPLES * settings.repeats
    ahead = (workers + 2) * block_views
    if any(is_url(shard.path) for shard in store.index.shards):
        ahead += min(AHEAD_TASKS * max(1, workers) * block_views, FAR_BYTES // math.prod((*store.policy.size, 3)))
    return settings.pool_batches * settings.local_batch + settings.local_batch + ahead


def pool_faults(
    store: "Store", settings: PlanSettings, workers: int, topk: int, *, on_device: bool = False
) -> Iterator[Fault]:
    """A shuffle pool that does not fit into memory, beside those of the other ranks on this machine. topk: how many
    probabilities of a view it holds beside pixels; on_device: which lie on a device."""
    rows = pool_rows(store, settings, workers)
    pixels = 0 if on_device else math.prod((*store.policy.size, 3))
    row_bytes = pixels + (4 * (2 * topk + 1) if topk else 0)  # 4 bytes each for topk classes, topk + 1 probabilities
    if lacking := memory_lacking(rows * row_bytes, "the shuffle pool"):
        without_pool = pool_rows(store, replace(settings, pool_batches=0), workers)
        own = int(SPARED * (available_memory() or 0)) // ranks_here()
        yield _pool_fault(lacking, settings, own // row_bytes - without_pool)


def _pool_fault(lacking: str, settings: PlanSettings, rows: int) -> Fault:
    """Lower pool_batches to what fits into so many rows; where not even one does, the batch has to be."""
    pool_batches = rows // settings.local_batch
    if pool_batches < 1:
        return Fault(PlanError, lacking, advice="lower batch_size, or --workers")
    return Fault(PlanError, lacking, ("--set", f"pool_batches={pool_batches}"), "use a larger machine")
