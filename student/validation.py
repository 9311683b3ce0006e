"""Validation shards as batches of views, and how a model wants to see them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from student.preflight import other_classes
from teacher_cache.errors import ShardError
from teacher_cache.messages.shown import counted, listed
from teacher_cache.processes.timeouts import TIMEOUT_S
from teacher_cache.rendering.choice import ON_CPU, Rendering, open_render_pool, render_all
from teacher_cache.rendering.crew import PoolSettings, RenderTask
from teacher_cache.rendering.workers import BlockView
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.replay.policy import Crop, Interpolation, Policy
from teacher_cache.shards.classes import class_rule
from teacher_cache.shards.find import expand_shards
from teacher_cache.shards.index import Index
from teacher_cache.shards.indexing import index_shards
from teacher_cache.storage.cache import NodeCache
from teacher_cache.teacher.state_dict import background_class


@dataclass(frozen=True)
class Preprocessing:
    """How a model sees an image at evaluation: resize so that the crop is crop_pct of it, centre crop, normalise."""

    size: tuple[int, int]  # (H, W) pixels
    crop_pct: float
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def policy(self) -> Policy:
        crop = Crop(kind="center", crop_pct=self.crop_pct, interpolation=self.interpolation)
        return Policy(name="validation", size=self.size, mean=self.mean, std=self.std, crop=crop)


@dataclass(frozen=True)
class Batch:
    """views (B, H, W, 3) uint8, in memory or on the device that rendered them; classes and samples (B,) int64, the
    samples' numbers in the index."""

    views: Tensor
    classes: Tensor
    samples: Tensor


class ValidationSet(AbstractContextManager["ValidationSet"]):
    """Validation shards, indexed in memory and rendered by the same code as training views, where `rendering` says. A
    rank reads its part."""

    def __init__(
        self,
        index: Index,
        preprocessing: Preprocessing,
        *,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
        worker_timeout_s: float = TIMEOUT_S,
        cache: NodeCache | None = None,
        rendering: Rendering = ON_CPU,
        warn: Callable[[str], None] = print,
    ) -> None:
        self.index = index
        self.preprocessing = preprocessing
        policy = preprocessing.policy()
        settings = PoolSettings(policy, 0, workers=workers, timeout_s=worker_timeout_s, cache=cache)
        self._pool = open_render_pool(rendering, settings, warn)
        self._device = torch.device("cpu") if rendering.device is None else rendering.device
        blocks = [(shard, block) for shard in range(index.num_shards) for block in range(index.num_blocks(shard))]
        self._mine = blocks[rank::world_size]

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """This rank's samples, each once, in batches of up to batch_size views, at least a block."""
        waiting: list[Batch] = []
        tasks = [
            RenderTask(number, self.index.place(shard, block), (0,)) for number, (shard, block) in enumerate(self._mine)
        ]
        for rendered in render_all(self._pool, tasks):
            waiting.append(self._batch(rendered))
            if (len(waiting) + 1) * BLOCK_SAMPLES > batch_size:
                yield _join(waiting)
                waiting = []
        if waiting:
            yield _join(waiting)

    def where(self, sample: int) -> str:
        """A sample of the index, as messages name it."""
        return f"shard {self.index.shards[self.index.shard_of(sample)].name}, key {self.index.key(sample)}"

    def _batch(self, rendered: BlockView) -> Batch:
        shard, block = self._mine[rendered.task.id]
        samples = torch.tensor(self.index.block_samples(shard, block))
        classes = torch.from_numpy(rendered.block.class_pairs[:, 0]).long()
        return Batch(rendered.pixels.to(self._device, copy=True), classes, samples)

    def close(self) -> None:
        self._pool.close()

    def __exit__(self, *details: object) -> None:
        self.close()


def index_validation(
    patterns: Sequence[str],
    class_names: Sequence[str] | None,
    class_from: str | None = None,
    *,
    image_from: str | None = None,
    num_classes: int | None = None,
    cache: NodeCache | None = None,
) -> Index:
    """Index validation shards in memory. class_from ("cls", "json:FIELD") and image_from: where the training shards
    have class and image. cache: where what shards far away hold is kept, so that they are walked once a machine.

    ShardError when their classes are not the model's, in the same order. A model that does not name its classes takes
    the shards', which must be num_classes.
    """
    paths = expand_shards(patterns)
    known = num_classes if class_names is None else len(class_names)
    rule = class_rule(paths, class_from or "cls", image_from=image_from)
    try:
        index = index_shards(paths, rule, num_classes=known, scratch=cache)
    except ShardError as error:
        image = f", image from {image_from}" if image_from is not None else ""
        raise ShardError(
            f"{error} (validation shards are read as training's: class from {rule.source}{image})"
        ) from None
    if not index.num_samples:
        raise ShardError(f"validation shards {listed(patterns, limit=None)} hold no samples: name shards that do")
    numbered = tuple(str(number) for number in range(len(index.class_names)))
    if class_names is None:
        found, background = len(index.class_names), background_class(num_classes or 0, len(index.class_names))
        # without names the highest class may be absent here
        lower = index.class_names == numbered and num_classes is not None and found < num_classes
        if found == num_classes or (lower and not background):
            return index
        raise ShardError(
            f"validation shards {listed(patterns, limit=None)} have {counted(found, 'class')}, the model "
            f"has {num_classes or 0:,}: name the shards of its data, with its classes.json beside them{background}"
        )
    if index.class_names == tuple(class_names):
        return index
    if index.class_names == numbered and tuple(class_names[: len(numbered)]) == numbered:
        return index  # no names on either side, and the highest class may be absent here
    raise ShardError(str(other_classes(patterns, index.class_names, class_names)))


def _join(batches: list[Batch]) -> Batch:
    return Batch(
        torch.cat([batch.views for batch in batches]),
        torch.cat([batch.classes for batch in batches]),
        torch.cat([batch.samples for batch in batches]),
    )
