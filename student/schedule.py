"""The learning rate at each step: linear warm-up, then a cosine. Pure functions of the recipe."""

import math

from student.recipe import Recipe


def scaled_lr(recipe: Recipe) -> float:
    """The peak learning rate: lr x batch_size / lr_batch (arXiv 2012.12877, section 6); without lr_batch lr itself."""
    return recipe.lr if recipe.lr_batch is None else recipe.lr * recipe.batch_size / recipe.lr_batch


def learning_rate(recipe: Recipe, epoch: int, step: int, steps_per_epoch: int) -> float:
    """Learning rate of a step (from 0) of an epoch (from 0), constant over an epoch unless schedule_step is "step".

    timm's CosineLRScheduler: the warm-up is cut out of the cosine, not put before it. min_lr and warmup_lr are not
    scaled by the batch. With schedule_lag everything comes an epoch later, as in DeiT's released code, which sets the
    rate of epoch e after epoch e: its first two epochs run at warmup_lr.
    """
    passed = float(epoch) if recipe.schedule_step == "epoch" else epoch + step / steps_per_epoch
    if recipe.schedule_lag:
        passed = max(0.0, passed - 1)
    peak = scaled_lr(recipe)
    if passed < recipe.warmup_epochs:
        return recipe.warmup_lr + passed * (peak - recipe.warmup_lr) / recipe.warmup_epochs
    return recipe.min_lr + 0.5 * (peak - recipe.min_lr) * (1 + math.cos(math.pi * passed / recipe.epochs))
