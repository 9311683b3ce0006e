"""The blocks of a process's tasks, read and decoded; those of shards far away are on their way before their turn."""

from functools import partial
from typing import TYPE_CHECKING

from teacher_cache.replay.block import Block, DecodedBlock, decode_block, decode_parts
from teacher_cache.shards.read import read_block
from teacher_cache.storage.ahead import Ahead
from teacher_cache.storage.place import is_url

if TYPE_CHECKING:
    from teacher_cache.rendering.crew import PoolSettings, RenderTask


class BlockReader:
    """What one process reads for its tasks, of which it may be told before their turn."""

    def __init__(self, settings: "PoolSettings") -> None:
        self._settings = settings
        self._coming: dict[int, Ahead[Block]] = {}  # by the task's id

    def expect(self, task: "RenderTask") -> None:
        """Let the task's block come while something else is rendered, if it does not come yet; a local one is read in
        its turn, as nothing is gained by a thread."""
        if task.id not in self._coming and is_url(task.place.path):
            self._coming[task.id] = Ahead(partial(read_block, task.place, self._settings.cache))

    def decode(self, task: "RenderTask") -> DecodedBlock:
        """Read the task's block and decode what its views need. Raises ShardError and ImageError."""
        coming = self._coming.pop(task.id, None)
        block = read_block(task.place, self._settings.cache) if coming is None else coming.result()
        settings = self._settings
        if task.has_digests:
            return decode_parts(settings.policy, settings.store_seed, block, task.views, max_pixels=settings.max_pixels)
        return decode_block(block, skip_bad=settings.skip_bad, max_pixels=settings.max_pixels)
