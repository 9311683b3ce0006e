"""Students: timm's DeiT with both heads, any other timm model, or a function of one's own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.layers import resample_abs_pos_embed, trunc_normal_
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from student.faults import refuse
from student.preflight import model_faults
from student.recipe import Recipe
from teacher_cache.errors import ModelError
from teacher_cache.messages.shown import counted
from teacher_cache.teacher.models import ModelSpec, build_module, size_argument
from teacher_cache.teacher.weights import first_line

Fusion = Literal["softmax_sum", "logit_mean"]  # of both heads


@dataclass(frozen=True)
class Heads:
    """Logits (B, num_classes) of the class head, and of the distillation head where there is one."""

    class_logits: Tensor
    distill_logits: Tensor | None


def build_model(recipe: Recipe, num_classes: int, size: tuple[int, int]) -> nn.Module:
    """Build the recipe's model, with fresh weights, for views of size (H, W) pixels; see build_student. Raises
    RecipeError where the recipe names none, ModelError."""
    refuse(model_faults(recipe))
    assert recipe.model is not None
    spec = student_spec(recipe.model, recipe.model_args, recipe.drop_path, size, "model")
    return build_student(spec, num_classes, size, token_init_std=recipe.token_init_std)


def student_spec(
    name: str, model_args: Mapping[str, Any], drop_path: float | None, size: tuple[int, int], named_by: str
) -> ModelSpec:
    """A student for views of size (H, W): drop_path_rate, img_size where its input size is fixed, and model_args."""
    drop_paths = {} if drop_path is None else {"drop_path_rate": drop_path}
    return ModelSpec(name, {**size_argument(name, size), **drop_paths, **model_args}, named_by)


def build_student(
    spec: ModelSpec,
    num_classes: int,
    size: tuple[int, int],
    *,
    token_init_std: float | None = None,
    draw: bool = True,
) -> nn.Module:
    """Build a student with fresh weights. A function's model has a distillation head when it returns a pair of logits,
    in training and in evaluation mode. State dicts are the model's own: nothing is wrapped. Raises ModelError, also for
    outputs of another shape, and for other heads in evaluation than in training. token_init_std: of class and
    distillation token, which are drawn anew. draw: see build_module.
    """
    model = build_module(spec, num_classes, size, draw=draw)
    if isinstance(model, VisionTransformerDistilled):
        model.set_distilled_training(True)  # else it averages its heads in training, too
    if token_init_std is not None:
        _draw_tokens(model, spec, token_init_std)
    _check_outputs(model, spec, num_classes, size)
    return model


def heads(model: nn.Module, images: Tensor) -> Heads:
    """Run a model that build_model made, or DDP or torch.compile around it, on images (B, 3, H, W).

    Each head's own logits, whether the model trains or not: timm's distilled models average them in evaluation. Raises
    ModelError where it gives neither logits nor a pair of them, or normalises over a batch and is given one view.
    """
    if not model.training and isinstance(inner := _unwrapped(model), VisionTransformerDistilled):
        tokens = inner.forward_features(images)
        return Heads(inner.head(inner.head_drop(tokens[:, 0])), inner.head_dist(inner.head_drop(tokens[:, 1])))
    with _views_enough():
        outputs = model(images)
    return _as_heads(outputs)


def set_train_mode(model: nn.Module, training: bool) -> None:
    """Let a student be in training mode, or in evaluation mode while it is trained: there a distilled model of timm's
    stays in training mode as a whole, without its parts, to give both heads when it is called."""
    model.train(training)
    if isinstance(model, VisionTransformerDistilled):
        model.training = True


@contextmanager
def _views_enough() -> Iterator[None]:
    """ModelError where batch normalisation has one value to train on."""
    try:
        yield
    except ValueError as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise
        raise ModelError(
            "the model normalises over a batch, and cannot train on one view at once: raise batch_size or micro_batch, "
            "or train on fewer ranks"
        ) from None


def _as_heads(outputs: Any) -> Heads:
    """What a model gives, by head."""
    if isinstance(outputs, Tensor):
        return Heads(outputs, None)
    if isinstance(outputs, tuple) and len(outputs) == 2 and all(isinstance(logits, Tensor) for logits in outputs):
        return Heads(*outputs)
    found = f"a {type(outputs).__name__}"
    if isinstance(outputs, tuple | list):
        found += f" of {counted(len(outputs), 'item')}"
    raise ModelError(
        f"the model gives {found}: return one tensor of logits (views, classes), or a tuple of two where it has a "
        "distillation head"
    )


def fused(outputs: Heads, fusion: Fusion = "softmax_sum") -> Tensor:
    """What both heads say together, (B, num_classes) float32; without a distillation head what the class head says.

    softmax_sum: the sum of both softmaxes (arXiv 2012.12877, section 4). logit_mean: the mean of both heads' logits
    (the released DeiT code).
    """
    both = [logits.float() for logits in (outputs.class_logits, outputs.distill_logits) if logits is not None]
    if fusion == "softmax_sum":
        both = [logits.softmax(dim=1) for logits in both]
    total = both[0] if len(both) == 1 else both[0] + both[1]
    return total / len(both) if fusion == "logit_mean" else total


def token_blocks(model: nn.Module) -> list[nn.Module]:
    """Blocks after which class and distillation token can be compared; none of a model that has not both."""
    return list(model.blocks.children()) if isinstance(model, VisionTransformerDistilled) else []


def patch_grid(model: nn.Module) -> tuple[int, int] | None:
    """Rows and columns of patches that have a position embedding; None for a model without one, a convnet."""
    patches = getattr(model, "patch_embed", None)
    if not isinstance(getattr(model, "pos_embed", None), Tensor) or not hasattr(patches, "grid_size"):
        return None
    rows, columns = patches.grid_size  # type: ignore[union-attr]
    return int(rows), int(columns)


def resize_positions(
    pos_embed: Tensor,
    grid: tuple[int, int],
    new_grid: tuple[int, int],
    *,
    interpolation: Literal["bicubic", "bilinear"],
    antialias: bool,
) -> Tensor:
    """Position embedding (1, prefix + patches, C) for another grid of patches; the tokens' positions are kept.

    DeiT's released way is bicubic without antialiasing (arXiv 2012.12877, sections 3 and 6).
    """
    prefix = pos_embed.shape[1] - grid[0] * grid[1]
    return resample_abs_pos_embed(
        pos_embed, list(new_grid), list(grid), prefix, interpolation=interpolation, antialias=antialias
    )


@torch.no_grad()
def _draw_tokens(model: nn.Module, spec: ModelSpec, std: float) -> None:
    """Class and distillation token anew, from a normal distribution that is cut off at two."""
    tokens = [getattr(model, name, None) for name in ("cls_token", "dist_token")]
    if not isinstance(tokens[0], nn.Parameter):
        raise spec.error(f"{spec.name} has no class token to draw: set token_init_std=none")
    for token in tokens:
        if isinstance(token, nn.Parameter):
            trunc_normal_(token, std=std)


@torch.no_grad()
def _check_outputs(model: nn.Module, spec: ModelSpec, num_classes: int, size: tuple[int, int]) -> None:
    """Refuse, with ModelError, what is no student in one of the modes. Nothing is changed; it is left in training."""
    views = torch.zeros(2, 3, *size)  # two: batch normalisation trains on no single value
    try:
        given = [heads(model.eval(), views), _trained_heads(model.train(), views)]
    except ModelError as error:
        raise spec.error(f"{spec.name}: {error}") from error
    except Exception as error:
        raise spec.error(
            f"{spec.name} does not take views of {size[0]} x {size[1]} ({first_line(error)}): "
            "check model_args, or use a store of another size"
        ) from error
    for logits in (logits for outputs in given for logits in (outputs.class_logits, outputs.distill_logits)):
        if logits is not None and tuple(logits.shape) != (2, num_classes):
            raise spec.error(
                f"{spec.name} gives an output of shape {tuple(logits.shape)} for two views, "
                f"(2, {num_classes}) is expected: the store has {counted(num_classes, 'class')}"
            )
    evaluated, trained = (1 if outputs.distill_logits is None else 2 for outputs in given)
    if evaluated != trained:
        raise spec.error(
            f"{spec.name} has {counted(trained, 'head')} in training and {evaluated} in evaluation: return "
            "the same in both modes, each head's own logits, which are fused here"
        )


def _trained_heads(model: nn.Module, views: Tensor) -> Heads:
    """What a model says in training mode, on the CPU; it is as before then."""
    with unchanged(model, torch.device("cpu")):
        return _as_heads(model(views))


@contextmanager
def unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Let a model run and be as before, whatever it raises: its buffers (batch statistics), also those that it assigns
    anew, and the state of torch's random numbers."""
    before = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for held, buffers in before:
                held.clear()
                held.update(buffers)
            for buffer, value in values:
                buffer.copy_(value)


def _unwrapped(model: nn.Module) -> nn.Module:
    while isinstance(inner := getattr(model, "_orig_mod", getattr(model, "module", None)), nn.Module):
        model = inner
    return model
