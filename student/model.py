"""Students: timm's DeiT with both heads, any other timm model, or a function of one's own."""

import inspect
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from student.recipe import Recipe
from teacher_cache.errors import RecipeError, TeacherError
from teacher_cache.teacher import check_timm_name, import_function


@dataclass(frozen=True)
class Heads:
    """Logits (B, num_classes) of the class head, and of the distillation head where there is one."""

    class_logits: Tensor
    distill_logits: Tensor | None


def build_model(recipe: Recipe, num_classes: int, size: tuple[int, int]) -> nn.Module:
    """Build the recipe's model, with fresh weights, for views of size (H, W) pixels.

    A timm model gets num_classes, drop_path_rate, img_size where its input size is fixed, and model_args. A function
    gets those of num_classes, image_size, drop_path_rate that it names, and model_args; a model of its own has a
    distillation head when it returns a pair of logits, in training and in evaluation mode. State dicts are the model's
    own: nothing is wrapped. Raises RecipeError.
    """
    if ":" in recipe.model:
        model = _build_from_function(recipe, num_classes, size)
    else:
        model = _build_from_timm(recipe, num_classes, size)
    if isinstance(model, VisionTransformerDistilled):
        model.set_distilled_training(True)  # else it averages its heads in training, too
    _check_outputs(model, recipe, num_classes, size)
    return model


def heads(model: nn.Module, images: Tensor) -> Heads:
    """Run a model that build_model made, or DDP or torch.compile around it, on images (B, 3, H, W).

    Each head's own logits, whether the model trains or not: timm's distilled models average them in evaluation.
    """
    if not model.training and isinstance(inner := _unwrapped(model), VisionTransformerDistilled):
        tokens = inner.forward_features(images)
        return Heads(inner.head(inner.head_drop(tokens[:, 0])), inner.head_dist(inner.head_drop(tokens[:, 1])))
    outputs = model(images)
    return Heads(*outputs) if isinstance(outputs, tuple) else Heads(outputs, None)


def fused(outputs: Heads) -> Tensor:
    """Sum of both heads' softmaxes (arXiv 2012.12877, section 5), or the class head's; (B, num_classes) float32."""
    scores = outputs.class_logits.float().softmax(dim=1)
    return scores if outputs.distill_logits is None else scores + outputs.distill_logits.float().softmax(dim=1)


def _build_from_timm(recipe: Recipe, num_classes: int, size: tuple[int, int]) -> nn.Module:
    name = recipe.model
    try:
        check_timm_name(name)
    except TeacherError as error:
        raise RecipeError(f"model: {error}") from error
    settings: dict[str, Any] = {"num_classes": num_classes}
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        settings["img_size"] = size
    if recipe.drop_path is not None:
        settings["drop_path_rate"] = recipe.drop_path
    try:
        return timm.create_model(name, pretrained=False, **{**settings, **recipe.model_args})
    except TypeError as error:
        raise RecipeError(
            f"model: timm's {name} does not take one of drop_path, model_args ({error}): set drop_path=none where it "
            "has no stochastic depth, and check model_args"
        ) from error


def _build_from_function(recipe: Recipe, num_classes: int, size: tuple[int, int]) -> nn.Module:
    try:
        function = import_function(recipe.model)
    except TeacherError as error:
        raise RecipeError(f"model: {error}") from error
    parameters = inspect.signature(function).parameters
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    offered: dict[str, Any] = {"num_classes": num_classes, "image_size": size}
    demanded = dict(recipe.model_args)
    if recipe.drop_path is not None:
        demanded["drop_path_rate"] = recipe.drop_path
    unknown = [] if takes_all else [name for name in demanded if name not in parameters]
    if unknown:
        raise RecipeError(f"model: {recipe.model} takes no {', '.join(unknown)}: leave it out of the recipe")
    taken = {name: value for name, value in offered.items() if takes_all or name in parameters}
    model = function(**{**taken, **demanded})
    if not isinstance(model, nn.Module):
        raise RecipeError(f"model: {recipe.model} returned a {type(model).__name__}, a torch.nn.Module is expected")
    return model


@torch.no_grad()
def _check_outputs(model: nn.Module, recipe: Recipe, num_classes: int, size: tuple[int, int]) -> None:
    model.eval()
    try:
        outputs = heads(model, torch.zeros(1, 3, *size))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(
            f"model: {recipe.model} does not take views of {size[0]} x {size[1]} ({reason}): "
            "check model_args, or use a store of another size"
        ) from error
    finally:
        model.train()
    for logits in (outputs.class_logits, outputs.distill_logits):
        if logits is not None and tuple(logits.shape) != (1, num_classes):
            raise RecipeError(
                f"model: {recipe.model} gives an output of shape {tuple(logits.shape)} for one view, "
                f"(1, {num_classes}) is expected: the store has {num_classes} classes"
            )
    if recipe.distill == "hard" and outputs.distill_logits is None:
        raise RecipeError(
            f'model: {recipe.model} has no distillation head, which distill = "hard" trains: use a model that has '
            "one (deit_tiny_distilled_patch16_224 for instance), or set distill=none"
        )


def _unwrapped(model: nn.Module) -> nn.Module:
    while isinstance(inner := getattr(model, "_orig_mod", getattr(model, "module", None)), nn.Module):
        model = inner
    return model
