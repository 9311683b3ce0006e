"""A training recipe's settings, and the recipes that ship with the program (recipes/*.toml).

A setting is on or absent. Augmentation is no part of it: that is the policy of the store, whose name a recipe gives.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from teacher_cache.errors import RecipeError
from teacher_cache.settings import parse_override, put_setting, read_settings, shipped, validated


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
        return validated(cls, values, f"recipe {values.get('name', '?')}", RecipeError)


def shipped_recipes() -> list[str]:
    return shipped(_FOLDER)


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe, or a TOML file, and put `key=value` settings over it.

    Keys may be dotted (`model_args.depth=6`), values are TOML, or a bare word; `none` makes a setting absent. Raises
    RecipeError, which names the setting.
    """
    values = read_settings(name_or_path, _FOLDER, "recipe", RecipeError)
    for override in overrides:
        put_setting(values, *parse_override(override, RecipeError), RecipeError)
    return validated(Recipe, values, f"recipe {name_or_path}", RecipeError)


_FOLDER = Path(__file__).with_name("recipes")
