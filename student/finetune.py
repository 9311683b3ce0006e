"""Fine-tuning: a trained model brought to another resolution, or to another data set's classes."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from student.model import build_model, patch_grid, resize_positions
from student.recipe import Recipe
from student.trained import TrainedModel
from teacher_cache.errors import CheckpointError
from teacher_cache.messages.shown import counted
from teacher_cache.store.store import Store
from teacher_cache.teacher.state_dict import background_class, check_distilled, copy_state, load_state

INTERPOLATIONS: tuple[Literal["bicubic", "bilinear"], ...] = ("bicubic", "bilinear")


@dataclass(frozen=True)
class Start:
    """Where fine-tuning starts: the recipe with its model, all weights, and what was done to them, for people."""

    recipe: Recipe
    state: dict[str, Tensor]
    notes: list[str]


def adapt(trained: TrainedModel, recipe: Recipe, store: Store, *, reset_heads: bool = False) -> Start:
    """Bring a trained model to the store's views and classes.

    The model is the recipe's, or else the checkpoint's. Its position embedding is resized to the new grid of patches.
    Its heads are drawn anew where the classes are others, or with reset_heads. Raises CheckpointError where anything
    else does not fit: weights of a distilled model for a plain one, and the reverse, for instance.
    """
    recipe = with_model_of(trained, recipe)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe, store.num_classes, store.policy.size)
    own, name = model.state_dict(), str(recipe.model)
    state, notes = copy_state(trained.state), []
    check_distilled(state, own, trained.source, name)
    if note := fit_positions(state, model, trained, recipe):
        notes.append(note)
    if reason := "asked for" if reset_heads else other_classes(trained, store):
        state |= {head: own[head] for head in head_names(model, recipe, store)}
        notes.append(f"heads drawn anew: {reason}")
    if warning := other_normalisation(trained, store):
        notes.append(warning)
    advice = "only patch grid and classes may differ: check model and model_args"
    load_state(model, state, trained.source, name, advice)
    return Start(recipe, model.state_dict(), notes)


def with_model_of(trained: TrainedModel, recipe: Recipe) -> Recipe:
    """The recipe with the checkpoint's model, unless it names one. No token is drawn: all weights are there. A recipe's
    drop_path holds against one among the checkpoint's arguments."""
    if recipe.model is not None:
        return recipe.model_copy(update={"token_init_std": None})
    own = set() if recipe.drop_path is None else {"drop_path_rate"}
    theirs = {name: value for name, value in trained.model_args.items() if name not in own}
    model_args = {**theirs, **recipe.model_args}
    return recipe.model_copy(update={"model": trained.model, "model_args": model_args, "token_init_std": None})


def fit_positions(state: dict[str, Tensor], model: nn.Module, trained: TrainedModel, recipe: Recipe) -> str | None:
    """Bring state["pos_embed"] to the model's grid of patches, in place; what was done, None where nothing was."""
    grid = patch_grid(model)
    if grid is None or "pos_embed" not in state:
        return None
    before = state["pos_embed"]
    prefix = model.state_dict()["pos_embed"].shape[1] - grid[0] * grid[1]
    old_grid = _grid_of(before.shape[1] - prefix, trained)
    if old_grid == grid:
        return None
    resized = {
        kind: resize_positions(before, old_grid, grid, interpolation=kind, antialias=recipe.pos_embed_antialias)
        for kind in INTERPOLATIONS
    }
    state["pos_embed"] = resized[recipe.pos_embed_interpolation]
    norms = ", ".join(f"{_mean_norm(after, prefix):.4f} after {kind}" for kind, after in resized.items())
    return (
        f"position embedding resized from {old_grid[0]} x {old_grid[1]} to {grid[0]} x {grid[1]} patches, "
        f"{recipe.pos_embed_interpolation}; mean norm of a patch's vector: {_mean_norm(before, prefix):.4f} before, "
        f"{norms}"
    )


def other_classes(trained: TrainedModel, store: Store) -> str | None:
    """Why the checkpoint's heads cannot stay; None where they can. Classes without names are told by their number."""
    if trained.num_classes != store.num_classes:
        found = f"{counted(trained.num_classes, 'class')} in {trained.source}, {store.num_classes} in {store.path}"
        return found + background_class(trained.num_classes, store.num_classes)
    names = trained.class_names or store.class_names
    for number, (theirs, ours) in enumerate(zip(names, store.class_names, strict=True)):
        if theirs != ours:
            return f"class {number} is {theirs} in {trained.source}, {ours} in {store.path}"
    return None


def other_normalisation(trained: TrainedModel, store: Store) -> str | None:
    """A warning where the checkpoint has seen pixels of another mean or deviation than it will now."""
    seen, views = trained.preprocessing, store.policy
    if (seen.mean, seen.std) == (views.mean, views.std):
        return None
    return (
        f"warning: {trained.source} was trained with mean {list(seen.mean)} and std {list(seen.std)}, views of "
        f"{store.path} are normalised with {list(views.mean)} and {list(views.std)}: index a store with "
        "--set mean=... and --set std=... to keep the checkpoint's"
    )


def head_names(model: nn.Module, recipe: Recipe, store: Store) -> set[str]:
    """Weights whose shapes depend on the number of classes: those of the heads."""
    other = build_model(recipe, store.num_classes + 1, store.policy.size).state_dict()
    return {name for name, value in model.state_dict().items() if value.shape != other[name].shape}


def _grid_of(num_patches: int, trained: TrainedModel) -> tuple[int, int]:
    """Rows and columns of a checkpoint's patches: those of its size, else a square. Raises CheckpointError."""
    height, width = trained.preprocessing.size
    weight = trained.state.get("patch_embed.proj.weight")
    if weight is not None:
        rows, columns = height // weight.shape[-2], width // weight.shape[-1]
        if rows * columns == num_patches:
            return rows, columns
    side = round(num_patches**0.5) if num_patches > 0 else 0
    if side * side != num_patches or not num_patches:
        raise CheckpointError(
            f"{trained.source} has positions for {counted(num_patches, 'patch')}, which its size of {height} x {width} "
            "does not explain: is it a checkpoint of this model?"
        )
    return side, side


def _mean_norm(embedding: Tensor, prefix: int) -> float:
    return float(embedding[0, prefix:].float().norm(dim=1).mean())
