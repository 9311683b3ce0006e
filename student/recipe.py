"""A training recipe's settings, and the recipes that ship with the program (recipes/*.toml).

A setting is on or absent. Augmentation is no part of it: that is the policy of the store, whose name a recipe gives.
A recipe may name another one as its `base` and say only what differs; "none" makes a setting of the base absent. In a
file, what stands behind a setting as its comment is its source, which `student recipes show` prints.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from student.faults import Fault
from teacher_cache.errors import RecipeError
from teacher_cache.messages.shown import counted, shown
from teacher_cache.replay.policy import Zoom
from teacher_cache.settings import (
    LARGEST,
    SMALLEST,
    below_one,
    in_float32,
    parse_override,
    parse_overrides,
    put_setting,
    read_settings_text,
    shipped,
    validated,
)
from teacher_cache.teacher.names import GivenModel, check_usable, is_usable


def _none_word(value: Any) -> Any:
    return "none" if value is None else value  # `distill=none` means the word, not an absent setting


def _keep_given(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    return value if isinstance(value, GivenModel) else check(value)  # pydantic makes plain strings of all strings


MOST_RATE = LARGEST / 16  # AdamW divides its first rate by 1 - 0.9

# strict: neither true nor "0.5" is a number
Count = Annotated[int, Field(strict=True, ge=1, le=2**20)]
CountOrZero = Annotated[int, Field(strict=True, ge=0, le=2**20)]
Seed = Annotated[int, Field(strict=True, ge=0, le=2**62)]  # a rank's number is added to it
Positive = Annotated[float, Field(strict=True, gt=0), AfterValidator(in_float32)]
NonNegative = Annotated[float, Field(strict=True, ge=0), AfterValidator(in_float32)]
Fraction = Annotated[float, Field(strict=True, ge=0, lt=1), AfterValidator(in_float32), AfterValidator(below_one)]
Share = Annotated[float, Field(strict=True, ge=0, le=1), AfterValidator(in_float32)]
Temperature = Annotated[float, Field(strict=True, ge=1e-4, le=1e4)]  # the loss is multiplied by its square
Switch = Annotated[bool, Field(strict=True)]
Name = Annotated[str, Field(min_length=1)]


class Recipe(BaseModel):
    """One training run, but for its data."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Name
    policy: Name | None = None  # the store's; None: any

    # timm name, path/file.py:function or package.module:function; None: the checkpoint's, when fine-tuning. Code is
    # imported only where the name is a GivenModel
    model: Annotated[Name | None, WrapValidator(_keep_given)] = None
    model_args: dict[str, Any] = {}
    drop_path: Fraction | None = None
    token_init_std: Positive | None = None  # of class and distillation token, truncated normal; None: the model's own
    # how fine-tuning brings a position embedding to another grid
    pos_embed_interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    pos_embed_antialias: Switch = False

    # through the distillation token where the model has one, else by the class head
    distill: Annotated[Literal["hard", "soft", "none"], BeforeValidator(_none_word)]
    distill_alpha: Share = 0.5  # the teacher's share of the loss
    distill_tau: Temperature = 1.0  # soft: temperature of both distributions
    soft_mean: Literal["views", "elements"] = "views"  # soft: the divergence is a mean over views, or views x classes
    # hard, without a distillation token: (1 - alpha) truth + alpha teacher, or the teacher alone
    hard_without_token: Literal["both", "teacher"] = "both"
    label_smoothing: Fraction = 0.1  # of the ground truth; teacher labels are never smoothed
    fusion: Literal["softmax_sum", "logit_mean"] = "softmax_sum"  # of both heads, in evaluation

    epochs: Count
    batch_size: Count  # views, over all ranks
    # views of one rank that go through the model at once; the same training otherwise, but batch normalisation sees
    # no more
    micro_batch: Count | None = None
    repeats: Count = 1  # views of a sample in an epoch, R
    repeats_order: Literal["apart", "together"] = "apart"
    pool_batches: Count = 12  # global batches in the shuffle pool

    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: Fraction = 0.9  # of SGD, Nesterov's; 0: none
    lr: Positive
    lr_batch: Count | None = None  # lr is for this global batch and grows with batch_size; None: lr as it is
    weight_decay: NonNegative  # not of biases, norms, position embedding and tokens
    decay_dist_token: Switch = False  # but of the distillation token
    min_lr: NonNegative = 1e-5
    warmup_epochs: CountOrZero = 0
    warmup_lr: NonNegative = 1e-6
    schedule_step: Literal["epoch", "step"] = "epoch"
    schedule_lag: Switch = False  # each epoch at the rate of the one before it
    clip_grad: Positive | None = None
    # decay of the weights' moving average
    ema: Annotated[float, Field(strict=True, gt=0, lt=1), AfterValidator(below_one)] | None = None
    train_mode: Switch = True  # False: the model in evaluation mode: no stochastic depth, dropout or batch statistics

    amp: Annotated[Literal["bf16", "fp16", "none"], BeforeValidator(_none_word)] = "bf16"  # on CUDA only
    compile: Switch = False
    crop_pct: Zoom = 0.875  # of validation images
    val_interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    seed: Seed = 0

    @model_validator(mode="after")
    def _possible(self, info: ValidationInfo) -> Self:
        if info.context != _LOOSE and (faults := list(relation_faults(self))):
            raise ValueError("; ".join(map(str, faults)))
        return self

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Recipe":
        """Raises RecipeError: an unknown or impossible setting."""
        where = f"recipe {shown(str(values.get('name', '?')))}"
        return validated(cls, values, where, RecipeError, listing=_LISTING)


def defaults_taken(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of today that a stored recipe, as Recipe.from_json reads it, does not say, with the value they get."""
    return {
        name: field.get_default(call_default_factory=True)
        for name, field in Recipe.model_fields.items()
        if name not in values and not field.is_required()
    }


def relation_faults(recipe: Recipe) -> Iterator[Fault]:
    """Settings that are possible alone and not together."""
    if recipe.warmup_epochs >= recipe.epochs:
        found = f"warmup_epochs is {recipe.warmup_epochs}, training has {counted(recipe.epochs, 'epoch')}"
        yield Fault(RecipeError, found, ("--set", f"warmup_epochs={recipe.epochs // 5}"))
    if recipe.micro_batch is not None and recipe.batch_size % recipe.micro_batch:
        found = f"micro_batch is {recipe.micro_batch}, which does not divide the batch_size of {recipe.batch_size}"
        divisor = next(n for n in range(recipe.micro_batch, 0, -1) if recipe.batch_size % n == 0)
        yield Fault(RecipeError, found, ("--set", f"micro_batch={divisor}"))
    peak = recipe.lr if recipe.lr_batch is None else recipe.lr * recipe.batch_size / recipe.lr_batch
    scaled = f"lr {recipe.lr:g}" + ("" if recipe.lr_batch is None else f" x batch_size / {recipe.lr_batch}")
    if peak > MOST_RATE:
        found = f"the rate is {peak:g} ({scaled}), with which no step can be computed in float32"
        yield Fault(RecipeError, found, advice="lower lr")
    if recipe.warmup_lr > MOST_RATE and recipe.warmup_epochs:
        found = f"warmup_lr is {recipe.warmup_lr:g}, with which no step can be computed in float32"
        yield Fault(RecipeError, found, advice="lower warmup_lr")
    if recipe.min_lr > peak:
        found = f"min_lr {recipe.min_lr:g} is above {peak:g} ({scaled})"
        lower = peak / 100 if peak / 100 >= SMALLEST else 0.0
        yield Fault(RecipeError, found, ("--set", f"min_lr={lower:g}"), "raise lr")


def shipped_recipes() -> list[str]:
    return shipped(_FOLDER)


def load_recipe(
    name_or_path: str,
    overrides: Sequence[str] = (),
    *,
    model: str | None = None,
    code: str | None = None,
    loose: bool = False,
) -> Recipe:
    """Read a shipped recipe, or a TOML file, and put `key=value` settings over it.

    Keys may be dotted (`model_args.depth=6`), values are TOML, or a bare word; `none` makes a setting absent. model
    takes the place of the recipe's. code does where the file, or a base of it, names code, which only the command line
    may. loose: settings that do not fit each other pass, for relation_faults to tell. Raises RecipeError, which names
    the setting, or the option that consents to the code.
    """
    recipe = _read_recipe(name_or_path, _read_bases(name_or_path), overrides, _LOOSE if loose else None)
    if model is not None:
        return recipe.model_copy(update={"model": GivenModel(model)})
    if recipe.model is None or is_usable(recipe.model):
        return recipe
    if code is not None:
        return recipe.model_copy(update={"model": GivenModel(code)})
    check_usable(recipe.model, f"recipe {name_or_path}", "--model", RecipeError)
    return recipe


def _read_recipe(
    name_or_path: str, files: Sequence["_File"], overrides: Sequence[str], context: str | None = None
) -> Recipe:
    values: dict[str, Any] = {}
    for file in files:
        values |= file.values
    for key, value in parse_overrides(overrides, RecipeError):
        given = key == "model" and isinstance(value, str)
        put_setting(values, key, GivenModel(value) if given else value, RecipeError)
    return validated(Recipe, values, f"recipe {name_or_path}", RecipeError, listing=_LISTING, context=context)


class Source(NamedTuple):
    """Where a setting comes from: the comment on its line, and the recipe, option or program that sets it."""

    comment: str
    place: str


@dataclass(frozen=True)
class SourcedRecipe:
    """A recipe, what its file says of itself, and where each of its settings comes from."""

    recipe: Recipe
    header: str
    sources: dict[str, Source]


def load_sourced_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> SourcedRecipe:
    """Read a recipe with the source of every setting, to be shown: its model may be code. Raises RecipeError."""
    files = _read_bases(name_or_path)
    sources = dict.fromkeys(Recipe.model_fields, Source("", "default"))
    for file in files:
        sources |= {name: Source(file.comments.get(name, ""), file.name) for name in file.values}
    for override in overrides:
        name = parse_override(override, RecipeError)[0].partition(".")[0]
        sources[name] = Source("", "--set")
    return SourcedRecipe(_read_recipe(name_or_path, files, overrides), files[-1].header, sources)


def describe_recipe(sourced: SourcedRecipe) -> str:
    """The whole recipe as a TOML file that load_recipe reads, each setting with its source as its comment."""
    from student.plan import num_views_read  # and NumPy, which to say that there is no such recipe takes none

    recipe = sourced.recipe
    views = num_views_read(recipe.epochs, recipe.repeats)
    lines = [f"# {line}".rstrip() for line in sourced.header.splitlines()]
    passes = f"{counted(recipe.epochs, 'epoch')}, {counted(recipe.repeats, 'view')} in each pass"
    lines += ["#", f"# {counted(views, 'view')} of each sample: {passes}.", ""]
    for name, value in recipe.to_json().items():
        comment, place = sourced.sources[name]
        lines.append(f"{name} = {_toml(value)}  # {f'{comment} ({place})' if comment else place}")
    return "\n".join(lines)


def read_header(name_or_path: str) -> str:
    """What a recipe's file says of itself at its top."""
    return _read_bases(name_or_path)[-1].header


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + " }" if value else "{}"
    if isinstance(value, float):
        return repr(value)
    return json.dumps("none" if value is None else value)


@dataclass(frozen=True)
class _File:
    name: str
    values: dict[str, Any]  # "none" read as None
    comments: Mapping[str, str]  # what stands behind a setting on its line
    header: str


def _read_bases(name_or_path: str) -> list[_File]:
    """A recipe's file after the one that it names as its base, and so on; the last one is its own."""
    files: list[_File] = []
    wanted: str | None = name_or_path
    while wanted is not None:
        values, text = read_settings_text(wanted, _FOLDER, "recipe", RecipeError, "`student recipes` lists them all")
        base = values.pop("base", None)
        if not isinstance(base, str | None):
            raise RecipeError(f"recipe {wanted}: base is the name of a recipe, not {shown(repr(base))}")
        values = {name: None if value == "none" else value for name, value in values.items()}
        files.append(_File(wanted, values, dict(_COMMENT.findall(text)), _header(text)))
        if base in [file.name for file in files]:
            raise RecipeError(f"recipe {wanted}: its base {base} is based on itself: name another base")
        wanted = base
    return files[::-1]


_COMMENT = re.compile(r"^(\w+) = .*?  # (.+)$", re.MULTILINE)


def _header(text: str) -> str:
    """The comment at a file's top, without its marks."""
    lines = text.splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[:end])


_FOLDER = Path(__file__).with_name("recipes")
_LOOSE = "settings need not fit each other"  # told to the validators
_LISTING = "`student recipes show NAME` has them all"
