"""What changes the weights: timm's optimiser of a recipe, and its state from a checkpoint."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import timm.optim
import torch
from torch import Tensor, nn

from student.recipe import Recipe
from student.schedule import scaled_lr
from teacher_cache.errors import ModelError

WAYS = ("foreach", "fused", "capturable")  # of taking a step: the device's, and not a checkpoint's


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """timm's optimiser of that name; what the model spares from weight decay, biases and norms are spared. ModelError
    where there is nothing to train.

    On CUDA its step is one kernel for many parameters; on the CPU the plain one.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(
            f"model: {recipe.model} has no parameter that takes a gradient (requires_grad), so there is nothing to "
            "train: leave its head's free"
        )
    # to timm "sgd" is Nesterov's, which torch refuses without momentum, and "momentum" is not
    name = "momentum" if recipe.optimizer == "sgd" and not recipe.momentum else recipe.optimizer
    own_list: Callable[[], Iterable[str]] = getattr(model, "no_weight_decay", tuple)
    spared = set(own_list()) - ({"dist_token"} if recipe.decay_dist_token else set())
    groups = timm.optim.param_groups_weight_decay(model, recipe.weight_decay, no_weight_decay_list=spared)
    return timm.optim.create_optimizer_v2(
        groups,
        opt=name,
        lr=scaled_lr(recipe),
        momentum=recipe.momentum,
        fused=True if next(model.parameters()).is_cuda else None,
    )


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Take up a saved state, which another kind of device may have written: in this one's order in memory, for this
    one's way of taking a step."""
    own = [{way: group[way] for way in WAYS if way in group} for group in optimizer.param_groups]
    groups = [{**group, **ways} for group, ways in zip(saved["param_groups"], own, strict=True)]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)  # a fused step wants one order of all
