"""Trained models, wherever they come from: our checkpoints and exports, DeiT's released files, timm's weights."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from huggingface_hub import try_to_load_from_cache
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from student.checkpoint import FORMAT
from student.model import build_student, student_spec
from student.recipe import Recipe, defaults_taken
from student.validation import Preprocessing
from teacher_cache.errors import CheckpointError, RecipeError
from teacher_cache.messages.shown import counted, shown
from teacher_cache.replay.policy import Interpolation, Positive, Probability, Share, Side
from teacher_cache.settings import parse_json, validated
from teacher_cache.teacher.models import ModelSpec, pretrained_module, size_argument, timm_config, timm_tensors
from teacher_cache.teacher.names import TIMM_HUBS, GivenModel, check_usable, is_timm_name
from teacher_cache.teacher.state_dict import (
    EMA_KEYS,
    RAW_KEYS,
    check_tensors,
    find_state,
    fit_names,
    load_state,
    state_key,
)
from teacher_cache.teacher.timm_names import OR_A_FILE
from teacher_cache.teacher.weights import read_checkpoint, read_metadata

MARK = "deit_teacher_cache"  # the metadata key by which our own exports are known; its value is the layout's number
LAYOUT = "1"
HUB_WEIGHTS = "model.safetensors"  # in a folder that timm loads, here or at the Hub
TEXTS = ("model", "weights", "class_from", "image_from", "interpolation")  # metadata as it is, the others are JSON
DEIT_CROP = {"crop_pct": 0.875, "interpolation": "bicubic"}  # of files that say nothing of it: DeiT's evaluation
NUMBERS = ("model_args", "num_classes", "class_names", "size", "crop_pct", "mean", "std", "recipe", "identity")
MOST_CLASSES = 2**24

Weights = Literal["raw", "ema"]  # as the last step left them, or their moving average


@dataclass(frozen=True)
class TrainedModel:
    """A trained model before it is built: what a checkpoint, or timm, says of it."""

    source: str  # as given
    model: str  # timm name, path/file.py:function or package.module:function
    state: dict[str, Tensor]
    num_classes: int
    preprocessing: Preprocessing
    weights: Weights = "raw"  # what `state` holds, whoever asked for it
    model_args: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe | None = None  # of our own checkpoints and exports
    class_names: tuple[str, ...] | None = None
    class_from: str | None = None  # where the training shards have the class: "cls", "json:FIELD"
    notes: tuple[str, ...] = ()  # what was done to the file's names, or is worth to know, for people
    image_from: str | None = None  # the extension of the training shards' images, where one was chosen
    # of our own checkpoints and exports: what the checkpoint says of "store" and "weights"
    identity: Mapping[str, dict[str, Any]] = field(default_factory=dict)


class _PreprocessingFields(BaseModel):
    """What a file says of preprocessing. Values may be a stranger's: nothing else is let through."""

    model_config = ConfigDict(allow_inf_nan=False)

    size: tuple[Side, Side]
    crop_pct: Share
    interpolation: Interpolation
    mean: tuple[Probability, Probability, Probability]
    std: tuple[Positive, Positive, Positive]


class _CheckpointFields(_PreprocessingFields):
    """What our own checkpoints and exports say beside the weights."""

    model: str | None = None
    weights: Weights = "raw"  # of exports: a checkpoint has both
    model_args: dict[str, Any] = {}
    num_classes: Annotated[int, Field(strict=True, ge=1, le=MOST_CLASSES)]
    class_names: tuple[str, ...] | None = None
    class_from: str | None = None
    image_from: str | None = None
    recipe: dict[str, Any] | None = None
    identity: dict[str, dict[str, Any]] = {}


def read_trained(source: str, *, model: str | None = None, ema: bool = False) -> TrainedModel:
    """Read a trained model. Raises CheckpointError, and ModelError for a name that is none of timm's.

    source is a file, or a timm name for timm's pretrained weights. A checkpoint of `student train` and a safetensors
    file of `student export` say everything themselves; `model` overrides what they say, and must be given where they
    name code. It is a caller's consent to run it: no file's word may become it.
    Any other file, with a state dict bare or under "model" or "state_dict" (the released DeiT files, timm's,
    Lightning's), needs `model`, a timm name: mean and std are what timm's configuration of that name says, the crop is
    DeiT's, the number of classes that of the head in the file, the size that of its position embedding; its names are
    brought to the model's (fit_names). ema takes the moving average of the weights. A folder or repository that
    `student export` wrote says everything, too, where timm's name for it is given.
    """
    if is_timm_name(source):
        return _from_timm(source, model, ema)
    given = None if model is None else GivenModel(model)
    content = read_checkpoint(source)
    metadata = read_metadata(source)
    if MARK in metadata:
        return _from_export(source, content, metadata, given, ema)
    if isinstance(content.get("recipe"), Mapping) and "class_names" in content:
        return _from_checkpoint(source, content, given, ema)
    return _from_foreign(source, content, given, ema)


def build_trained(trained: TrainedModel) -> nn.Module:
    """The model with its weights, in evaluation mode; both heads where it has them. Raises ModelError,
    CheckpointError."""
    size = trained.preprocessing.size
    drop_path = trained.recipe.drop_path if trained.recipe else None  # which a function may demand
    spec = student_spec(trained.model, trained.model_args, drop_path, size, f"{trained.source}: model")
    model = build_student(spec, trained.num_classes, size, draw=False)
    load_state(model, trained.state, trained.source, trained.model)
    return model.eval()


def describe_trained(trained: TrainedModel) -> dict[str, str]:
    """What an exported file carries beside the weights, as strings: read_trained reads it back.

    Values that are no strings are JSON.
    """
    preprocessing = trained.preprocessing
    values: dict[str, Any] = {
        MARK: LAYOUT,
        "model": trained.model,
        "model_args": trained.model_args,
        "weights": trained.weights,
        "num_classes": trained.num_classes,
        "class_names": trained.class_names,
        "class_from": trained.class_from,
        "image_from": trained.image_from,
        "size": preprocessing.size,
        "crop_pct": preprocessing.crop_pct,
        "interpolation": preprocessing.interpolation,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "recipe": None if trained.recipe is None else trained.recipe.to_json(),
        "identity": trained.identity or None,
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
        if value is not None
    }


def _from_checkpoint(source: str, content: dict[str, Any], model: GivenModel | None, ema: bool) -> TrainedModel:
    written = content.get("format", FORMAT)
    if type(written) is not int or written > FORMAT:  # what is read here is the same in earlier ones
        raise CheckpointError(
            f"{source} has format {shown(repr(written))}, this program reads up to {FORMAT}: use the version that "
            "wrote it"
        )
    if ema and "model_ema" not in content:
        raise CheckpointError(f"{source} has no EMA weights: leave out --ema, or train with --set ema=0.9999")
    names = content["class_names"]
    # under "model" and "weights" a checkpoint has other things
    said = _CheckpointFields.model_fields.keys() & content.keys() - {"model", "weights"}
    told = {part: content[part] for part in ("store", "weights") if isinstance(content.get(part), dict)}
    values: dict[str, Any] = {name: content[name] for name in said}
    values |= {"weights": "ema" if ema else "raw", "identity": told}
    fields = _fields(source, values | {"num_classes": len(names) if isinstance(names, list | tuple) else 0})
    recipe = _recipe(source, fields.recipe)
    assert recipe is not None
    state = find_state(content, source, ["model_ema" if ema else "model"])
    return _ours(source, fields, recipe, _model_name(source, recipe.model, model), recipe.model_args, state)


def _from_export(
    source: str, state: dict[str, Any], metadata: Mapping[str, str], model: GivenModel | None, ema: bool
) -> TrainedModel:
    if metadata[MARK] != LAYOUT:
        raise CheckpointError(
            f"{source} has layout {metadata[MARK]}, this program reads {LAYOUT}: use the version that wrote it"
        )
    values: dict[str, Any] = {name: metadata[name] for name in TEXTS if name in metadata}
    advice = "export it again"
    values |= {
        name: parse_json(metadata[name], f"{source}: {name} in its header", CheckpointError, advice)
        for name in NUMBERS
        if name in metadata
    }
    fields = _fields(source, values)
    if ema and fields.weights != "ema":
        raise CheckpointError(f"{source} holds the weights without averaging: leave out --ema, or export with it")
    recipe = _recipe(source, fields.recipe)
    name = _model_name(source, fields.model, model)
    return _ours(source, fields, recipe, name, fields.model_args, check_tensors(state, source))


def _ours(
    source: str,
    fields: _CheckpointFields,
    recipe: Recipe | None,
    model: str,
    model_args: dict[str, Any],
    state: dict[str, Tensor],
) -> TrainedModel:
    return TrainedModel(
        source=source,
        recipe=recipe,
        model=model,
        model_args=model_args,
        state=state,
        weights=fields.weights,
        num_classes=fields.num_classes,
        class_names=fields.class_names,
        class_from=fields.class_from,
        preprocessing=_preprocessing(fields),
        notes=_recipe_notes(source, fields.recipe),
        image_from=fields.image_from,
        identity=fields.identity,
    )


def _from_foreign(source: str, content: dict[str, Any], model: GivenModel | None, ema: bool) -> TrainedModel:
    if model is None:
        raise CheckpointError(
            f"{source} does not say which model it is (no checkpoint of `student train` or `student export`): "
            "name it with --model, a timm name"
        )
    config = timm_config(ModelSpec(model))
    if ema and state_key(content, EMA_KEYS) is None:
        raise CheckpointError(
            f"{source} has no EMA weights ({', '.join(EMA_KEYS[:-1])} or {EMA_KEYS[-1]}): leave out --ema"
        )
    keys = EMA_KEYS if ema else RAW_KEYS + EMA_KEYS
    found = find_state(content, source, keys)
    fitted = fit_names(found, timm_tensors(model), source)
    state = fitted.state
    return TrainedModel(
        source=source,
        model=model,
        state=state,
        weights="ema" if state_key(content, keys) in EMA_KEYS else "raw",
        num_classes=_num_classes(source, state, model, config),
        preprocessing=_timm_preprocessing(source, config | DEIT_CROP, _size(state, config)),
        notes=tuple(fitted.notes),
    )


def _from_timm(name: str, model: str | None, ema: bool) -> TrainedModel:
    if model is not None or (ema and not name.startswith(TIMM_HUBS)):
        raise CheckpointError(f"{name} is no file: --model and --ema are for files")
    spec = ModelSpec(GivenModel(name))
    if not name.startswith(TIMM_HUBS):
        timm_config(spec, OR_A_FILE)
    built: Any = pretrained_module(spec, "and give the file with --model")
    if (path := _hub_weights(name)) is not None and MARK in (metadata := read_metadata(path)):
        return _from_export(name, read_checkpoint(path), metadata, None, ema)
    if ema:
        raise CheckpointError(f"{name} does not say whether its weights are an average: leave out --ema")
    config: Mapping[str, Any] = built.pretrained_cfg
    plain = name if not name.startswith(TIMM_HUBS) else config["architecture"]
    size = tuple(config["input_size"][1:])
    told = {"num_classes", *size_argument(plain, size)}  # by whoever builds the model, for other data too
    return TrainedModel(
        source=name,
        model=plain,
        model_args={name: value for name, value in built.pretrained_model_args.items() if name not in told},
        state=built.state_dict(),
        num_classes=built.num_classes,
        preprocessing=_timm_preprocessing(name, config, size),
    )


def _hub_weights(name: str) -> str | None:
    """The file of a folder's weights, or of a repository's, which timm has fetched; None where timm found others."""
    place = name.partition(":")[2]
    if name.startswith("local-dir:"):
        return path if os.path.isfile(path := os.path.join(place, HUB_WEIGHTS)) else None
    repo, _, revision = place.partition("@")
    fetched = try_to_load_from_cache(repo, HUB_WEIGHTS, revision=revision or None) if repo else None
    return fetched if isinstance(fetched, str) else None


def _num_classes(source: str, state: Mapping[str, Tensor], model: str, config: Mapping[str, Any]) -> int:
    head = config["classifier"]
    head = head if isinstance(head, str) or head is None else head[0]
    if f"{head}.weight" not in state:
        raise CheckpointError(
            f"{source} holds no {head}.weight, from which the number of classes of {model} is read: "
            f"check --model; it holds {', '.join(sorted(state)[:3])} and others"
        )
    return len(state[f"{head}.weight"])


def _size(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[int, int]:
    """(H, W) pixels: the configuration's, or where a position embedding has another square grid of patches, that."""
    height, width = config["input_size"][1:]
    if "pos_embed" not in state or "patch_embed.proj.weight" not in state or state["pos_embed"].ndim != 3:
        return height, width
    patch_height, patch_width = state["patch_embed.proj.weight"].shape[-2:]
    length = state["pos_embed"].shape[1]
    prefix = sum(state[name].shape[1] for name in ("cls_token", "dist_token", "reg_token") if name in state)
    grids = (length - prefix, length)  # some models, DeiT III for one, have no positions of their tokens
    if (height // patch_height) * (width // patch_width) in grids:
        return height, width
    for grid in grids:
        side = round(grid**0.5) if grid > 0 else 0
        if side and side * side == grid:
            return side * patch_height, side * patch_width
    return height, width


def _timm_preprocessing(source: str, config: Mapping[str, Any], size: Sequence[int]) -> Preprocessing:
    """The preprocessing that timm's configuration tells."""
    values = {name: config.get(name) for name in _PreprocessingFields.model_fields} | {"size": size}
    _check_known(source, values)
    return _preprocessing(validated(_PreprocessingFields, values, source, CheckpointError))


def _fields(source: str, values: dict[str, Any]) -> _CheckpointFields:
    _check_known(source, values)
    return validated(_CheckpointFields, values, source, CheckpointError)


def _check_known(source: str, values: Mapping[str, Any]) -> None:
    """Refuse what models may want and this program cannot give."""
    wanted, mean = values.get("interpolation"), values.get("mean")
    if isinstance(wanted, str) and wanted not in ("bicubic", "bilinear"):
        raise CheckpointError(f"{source} wants images resized by {shown(wanted)}: bicubic and bilinear are known here")
    if isinstance(mean, list | tuple) and len(mean) != 3:
        raise CheckpointError(f"{source} is for {counted(len(mean), 'channel')}: images have three here")


def _preprocessing(fields: _PreprocessingFields) -> Preprocessing:
    return Preprocessing(fields.size, fields.crop_pct, fields.interpolation, fields.mean, fields.std)


def _model_name(source: str, found: str | None, given: GivenModel | None) -> str:
    """The model's name: the given one, else what the file says, if a file may say it."""
    if given is not None:
        return given
    if not found:
        raise CheckpointError(f"{source} does not say which model it is: name it with --model")
    return check_usable(found, source, "--model", CheckpointError)


def _recipe_notes(source: str, values: Mapping[str, Any] | None) -> tuple[str, ...]:
    """One line where a recipe is older than some of today's settings."""
    taken = {} if values is None else defaults_taken(values)
    if not taken:
        return ()
    settings = ", ".join(f"{name} = {shown(str(value))}" for name, value in taken.items())
    return (f"{source}: its recipe lacks settings of today, which are taken at their defaults: {settings}",)


def _recipe(source: str, values: dict[str, Any] | None) -> Recipe | None:
    if values is None:
        return None
    try:
        return Recipe.from_json(values)
    except RecipeError as error:
        raise CheckpointError(f"{source}: {error}: use the version that wrote it") from error
