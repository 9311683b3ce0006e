"""A training recipe's settings, and the recipes that ship with the program (recipes/*.toml).

A setting is on or absent. Augmentation is no part of it: that is the policy of the store, whose name a recipe gives.
"""

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from teacher_cache.errors import RecipeError


def _none_word(value: Any) -> Any:
    return "none" if value is None else value  # `distill=none` means the word, not an absent setting


# strict: neither true nor "0.5" is a number
Count = Annotated[int, Field(strict=True, ge=1)]
CountOrZero = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[float, Field(strict=True, gt=0)]
NonNegative = Annotated[float, Field(strict=True, ge=0)]
Fraction = Annotated[float, Field(strict=True, ge=0, lt=1)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Switch = Annotated[bool, Field(strict=True)]
Name = Annotated[str, Field(min_length=1)]


class Recipe(BaseModel):
    """One training run, but for its data."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Name
    policy: Name | None = None  # the store's; None: any

    model: Name  # timm name, path/file.py:function or package.module:function
    model_args: dict[str, Any] = {}
    drop_path: Fraction | None = None

    distill: Annotated[Literal["hard", "none"], BeforeValidator(_none_word)]
    distill_alpha: Share = 0.5  # the distillation head's share of the loss
    label_smoothing: Fraction = 0.1  # of the ground truth; teacher labels are never smoothed

    epochs: Count
    batch_size: Count  # views, over all ranks
    micro_batch: Count | None = None  # views of one rank that go through the model at once; the same training otherwise
    repeats: Count = 1  # views of a sample in an epoch, R
    repeats_order: Literal["apart", "together"] = "apart"
    pool_batches: Count = 12  # global batches in the shuffle pool

    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Positive
    lr_batch: Count | None = None  # lr is for this global batch and grows with batch_size; None: lr as it is
    weight_decay: NonNegative
    min_lr: NonNegative = 1e-5
    warmup_epochs: CountOrZero = 0
    warmup_lr: NonNegative = 1e-6
    schedule_step: Literal["epoch", "step"] = "epoch"
    clip_grad: Positive | None = None
    ema: Annotated[float, Field(strict=True, gt=0, lt=1)] | None = None  # decay of the weights' moving average

    amp: Annotated[Literal["bf16", "fp16", "none"], BeforeValidator(_none_word)] = "bf16"  # on CUDA only
    compile: Switch = False
    crop_pct: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.875  # of validation images
    val_interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    seed: CountOrZero = 0

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}, training has {self.epochs} epochs: lower it")
        if self.micro_batch is not None and self.batch_size % self.micro_batch:
            raise ValueError(
                f"micro_batch is {self.micro_batch}, which does not divide the batch_size of {self.batch_size}"
            )
        peak = self.lr if self.lr_batch is None else self.lr * self.batch_size / self.lr_batch
        if self.min_lr > peak:
            scaled = f"lr {self.lr:g}" if self.lr_batch is None else f"lr {self.lr:g} x batch_size / {self.lr_batch}"
            raise ValueError(f"min_lr {self.min_lr:g} is above {peak:g} ({scaled}): lower min_lr, or raise lr")
        return self

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Recipe":
        """Raises RecipeError: an unknown or impossible setting."""
        return _validated(values, f"recipe {values.get('name', '?')}")


def shipped_recipes() -> list[str]:
    return sorted(path.stem for path in _shipped_folder().glob("*.toml"))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe, or a TOML file, and put `key=value` settings over it.

    Keys may be dotted (`model_args.depth=6`), values are TOML, or a bare word; `none` makes a setting absent. Raises
    RecipeError, which names the setting.
    """
    values = _read(name_or_path)
    for override in overrides:
        _put(values, override)
    return _validated(values, f"recipe {name_or_path}")


def _shipped_folder() -> Path:
    return Path(__file__).with_name("recipes")


def _read(name_or_path: str) -> dict[str, Any]:
    path = _shipped_folder() / f"{name_or_path}.toml" if name_or_path in shipped_recipes() else Path(name_or_path)
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise RecipeError(
            f"no recipe {name_or_path!r}: neither a file nor one of {', '.join(shipped_recipes())}"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"recipe {name_or_path} cannot be read: {error}") from error
    values.setdefault("name", path.stem)
    return values


def _put(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise RecipeError(f"setting {override!r} is not of the form key=value")
    *sections, name = key.split(".")
    section = values
    for part in sections:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise RecipeError(f"setting {key}: {part} is not a section")
    section[name] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    if text.lower() == "none":
        return None
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def _validated(values: dict[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{where}: {'; '.join(_problems(error))}") from error


def _problems(error: ValidationError) -> Iterable[str]:
    for problem in error.errors(include_url=False):
        place = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            yield f"unknown setting {place}"
        elif problem["type"] == "missing":
            yield f"{place} is missing"
        elif not place:
            yield message
        else:
            yield f"{place}: {message[0].lower()}{message[1:]} (got {problem['input']!r})"
