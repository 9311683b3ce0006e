"""Accuracy of a checkpoint on validation shards: class head, distillation head, fused."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from student.model import build_model, fused, heads
from student.recipe import Recipe
from teacher_cache.errors import CheckpointError, ShardError
from teacher_cache.replay.block import BLOCK_SAMPLES
from teacher_cache.replay.policy import Crop, Policy
from teacher_cache.shards import Index, class_rule, expand_shards, index_shards
from teacher_cache.teacher import read_checkpoint, state_of
from teacher_cache.workers import RenderPool, RenderTask, render_all

Accuracy = dict[str, dict[str, float]]  # head -> {"top1", "top5"} in [0, 1]
HEADS = ("class", "distillation", "fused")


@dataclass(frozen=True)
class Preprocessing:
    """How a model sees an image at evaluation: resize so that the crop is crop_pct of it, centre crop, normalise."""

    size: tuple[int, int]  # (H, W) pixels
    crop_pct: float
    interpolation: Literal["bicubic", "bilinear"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def policy(self) -> Policy:
        crop = Crop(kind="center", crop_pct=self.crop_pct, interpolation=self.interpolation)
        return Policy(name="validation", size=self.size, mean=self.mean, std=self.std, crop=crop)


@dataclass(frozen=True)
class Batch:
    """views (B, H, W, 3) uint8, classes (B,) int64."""

    views: Tensor
    classes: Tensor


class ValidationSet(AbstractContextManager["ValidationSet"]):
    """Validation shards, indexed in memory and rendered by the same code as training views. A rank reads its part."""

    def __init__(
        self, index: Index, preprocessing: Preprocessing, *, workers: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self._index = index
        self.preprocessing = preprocessing
        self._pool = RenderPool(preprocessing.policy(), 0, workers=workers)
        blocks = [(shard, block) for shard in range(index.num_shards) for block in range(index.num_blocks(shard))]
        self._mine = blocks[rank::world_size]

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """This rank's samples, each once, in batches of up to batch_size views."""
        views: list[np.ndarray] = []
        classes: list[np.ndarray] = []
        tasks = [
            RenderTask(number, self._index.place(shard, block), (0,))
            for number, (shard, block) in enumerate(self._mine)
        ]
        for rendered in render_all(self._pool, tasks):
            views.append(rendered.block.pixels.copy())
            classes.append(rendered.block.class_pairs[:, 0])
            if (len(views) + 1) * BLOCK_SAMPLES > batch_size:
                yield _join(views, classes)
                views, classes = [], []
        if views:
            yield _join(views, classes)

    def close(self) -> None:
        self._pool.close()

    def __exit__(self, *details: object) -> None:
        self.close()


def index_validation(patterns: Sequence[str], class_names: Sequence[str], class_from: str = "cls") -> Index:
    """Index validation shards in memory. class_from ("cls", "json:FIELD"): where the training shards have the class.

    ShardError when their classes are not the model's, in the same order.
    """
    paths = expand_shards(patterns)
    index = index_shards(paths, class_rule(paths, class_from))
    if not index.num_samples:
        raise ShardError(f"validation shards {', '.join(patterns)} hold no samples: name shards that do")
    if index.class_names == tuple(class_names):
        return index
    numbered = tuple(str(number) for number in range(len(index.class_names)))
    if index.class_names == numbered and tuple(class_names[: len(numbered)]) == numbered:
        return index  # no names on either side, and the highest class may be absent here
    differing = next(
        (
            f"class {number} is {theirs} there and {ours} here"
            for number, (theirs, ours) in enumerate(zip(index.class_names, class_names, strict=False))
            if theirs != ours
        ),
        f"{len(index.class_names)} classes there and {len(class_names)} here",
    )
    raise ShardError(
        f"validation shards {', '.join(patterns)} have other classes than the model ({differing}): "
        "put the training shards' classes.json beside them"
    )


@torch.inference_mode()
def evaluate(model: nn.Module, validation: ValidationSet, device: torch.device, *, batch_size: int = 256) -> Accuracy:
    """Top-1 and top-5 over all ranks' samples, by head; a model without a distillation head has only "class".

    The model is left in the mode it was in.
    """
    was_training = model.training
    model.eval()
    normalise = Normalise(validation.preprocessing.mean, validation.preprocessing.std, device)
    # of every head: right at first, right among five, samples seen; a rank without samples knows no heads, and adds up
    counts = torch.zeros((len(HEADS), 3), dtype=torch.int64)
    for batch in validation.batches(batch_size):
        outputs = heads(model, normalise(batch.views.to(device)))
        logits = {"class": outputs.class_logits.float()}
        if outputs.distill_logits is not None:
            logits["distillation"] = outputs.distill_logits.float()
            logits["fused"] = fused(outputs)
        for head, values in logits.items():
            top = values.topk(min(5, values.shape[1]), dim=1).indices.cpu() == batch.classes[:, None]
            counts[HEADS.index(head)] += torch.tensor([top[:, 0].sum(), top.sum(), len(top)])
    model.train(was_training)
    if dist.is_initialized():
        counts = counts.to(device)
        dist.all_reduce(counts)
    return {
        head: {"top1": top1 / seen, "top5": top5 / seen}
        for head, (top1, top5, seen) in zip(HEADS, counts.tolist(), strict=True)
        if seen
    }


class Normalise:
    """uint8 (B, H, W, 3) on the device -> float (B, 3, H, W), channels last in memory."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self._shift = 255 * torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._scale = 255 * torch.tensor(std, device=device).view(1, 3, 1, 1)

    def __call__(self, views: Tensor) -> Tensor:
        return (views.permute(0, 3, 1, 2).float() - self._shift) / self._scale


def open_checkpoint(path: str, *, ema: bool = False) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a training checkpoint's model, with its weights or their moving average. -> model, checkpoint."""
    checkpoint = read_checkpoint(path)
    if "recipe" not in checkpoint:
        raise CheckpointError(f"{path} is not a checkpoint of `student train`: it has no recipe in it")
    if ema and "model_ema" not in checkpoint:
        raise CheckpointError(f"{path} has no EMA weights: leave out --ema, or train with --set ema=0.9999")
    model = build_model(
        Recipe.from_json(checkpoint["recipe"]), len(checkpoint["class_names"]), tuple(checkpoint["size"])
    )
    model.load_state_dict(state_of(checkpoint, prefer=["model_ema" if ema else "model"]), strict=True)
    return model, checkpoint


def preprocessing_of(checkpoint: dict[str, Any]) -> Preprocessing:
    """The preprocessing that a checkpoint carries."""
    height, width = checkpoint["size"]
    return Preprocessing(
        (height, width),
        checkpoint["crop_pct"],
        checkpoint["interpolation"],
        tuple(checkpoint["mean"]),
        tuple(checkpoint["std"]),
    )


def _join(views: list[np.ndarray], classes: list[np.ndarray]) -> Batch:
    return Batch(torch.from_numpy(np.concatenate(views)), torch.from_numpy(np.concatenate(classes)).long())
