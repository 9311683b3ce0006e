"""The augmentation settings, and the presets that ship with the program (policies/*.toml).

A setting is on or absent: a section that is left out is not done.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from teacher_cache.errors import PolicyError
from teacher_cache.settings import parse_override, put_setting, read_settings, shipped, validated

POLICY_VERSION = 1

# timm's names (timm.data.auto_augment, the 'increasing' set: rand-...-inc1)
OperationName = Literal[
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "PosterizeIncreasing",
    "SolarizeIncreasing",
    "SolarizeAdd",
    "ColorIncreasing",
    "ContrastIncreasing",
    "BrightnessIncreasing",
    "SharpnessIncreasing",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
]
OPERATIONS: tuple[OperationName, ...] = OperationName.__args__  # type: ignore[attr-defined]

Interpolation = Literal["bicubic", "bilinear"]


def _square(size: Any) -> Any:
    return (size, size) if isinstance(size, int) and not isinstance(size, bool) else size


def _not_empty(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("names no operation; leave the section out")
    return names


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"{limits[0]} is above {limits[1]}; give (smallest, largest)")
    return limits


# strict: neither true nor "0.5" is a number
Integer = Annotated[int, Field(strict=True, ge=1)]
Side = Annotated[int, Field(strict=True, ge=1, le=4096)]
Probability = Annotated[float, Field(strict=True, ge=0, le=1)]
Share = Annotated[float, Field(strict=True, gt=0, le=1)]
Positive = Annotated[float, Field(strict=True, gt=0)]
NonNegative = Annotated[float, Field(strict=True, ge=0)]
Extent = Annotated[float, Field(strict=True, ge=0, le=4)]
ShareLimits = Annotated[tuple[Share, Share], AfterValidator(_ordered)]
PositiveLimits = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Crop(_Section):
    """`random_resized`: torchvision's RandomResizedCrop, with scale and ratio. `center`: timm's evaluation crop, with
    crop_pct: the image is resized to size / crop_pct and its centre kept."""

    kind: Literal["random_resized", "center"]
    interpolation: Interpolation = "bicubic"
    scale: ShareLimits | None = None  # of the image's area
    ratio: PositiveLimits | None = None  # width / height
    crop_pct: Share | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = {name: value for name, value in values.items() if value is not None}
        defaults: dict[str, Any] = {}
        if given.get("kind") == "random_resized":
            defaults = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}
        elif given.get("kind") == "center":
            defaults = {"crop_pct": 1.0}
        return {**defaults, **given}

    @model_validator(mode="after")
    def _belongs_to_kind(self) -> Self:
        foreign = ["crop_pct"] if self.kind == "random_resized" else ["scale", "ratio"]
        for name in foreign:
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is not a setting of kind {self.kind!r}; leave it out")
        return self


class RandAugment(_Section):
    """timm's `rand-m9-mstd0.5-inc1`: num_ops operations, chosen with replacement, each applied with probability."""

    num_ops: Integer = 2
    magnitude: Annotated[float, Field(strict=True, ge=0, le=10)] = 9.0
    magnitude_std: NonNegative = 0.5
    probability: Probability = 0.5
    operations: Annotated[tuple[OperationName, ...], AfterValidator(_not_empty)] = OPERATIONS
    interpolation: Interpolation = "bicubic"  # of the geometric operations; DeiT's is its crop's


class Jitter(_Section):
    """torchvision's ColorJitter: factors uniform in [max(0, 1 - x), 1 + x], hue's shift in [-x, x], in random order."""

    brightness: Extent = 0.0
    contrast: Extent = 0.0
    saturation: Extent = 0.0
    hue: Annotated[float, Field(strict=True, ge=0, le=0.5)] = 0.0

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.brightness or self.contrast or self.saturation or self.hue):
            raise ValueError("jitters nothing; leave the section out")
        return self


class Erase(_Section):
    """timm's RandomErasing. mode `pixel`: normal noise a pixel; `rand`: one normal colour a box; `const`: mean colour.

    count: the most boxes, as in timm; how many is drawn, and the area is shared among them.
    """

    probability: Probability = 0.25
    mode: Literal["pixel", "const", "rand"] = "pixel"
    count: Integer = 1
    area: ShareLimits = (0.02, 1 / 3)
    aspect: PositiveLimits = (0.3, 1 / 0.3)  # height / width


class Mix(_Section):
    """Mixup and CutMix between the two of a pair; where both are on, CutMix with switch_probability."""

    mixup_alpha: Positive | None = None
    cutmix_alpha: Positive | None = None
    probability: Probability = 1.0
    switch_probability: Probability = 0.5

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.mixup_alpha is None and self.cutmix_alpha is None:
            raise ValueError("has neither mixup_alpha nor cutmix_alpha; leave the section out")
        return self


class Policy(_Section):
    """Everything that a view's pixels depend on, besides store seed, sample and view index."""

    version: int = POLICY_VERSION
    name: Annotated[str, Field(min_length=1)]
    size: Annotated[tuple[Side, Side], BeforeValidator(_square)]  # height, width; one number in a file means a square
    mean: tuple[Probability, Probability, Probability] = (0.485, 0.456, 0.406)  # ImageNet's
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    crop: Crop
    flip: Probability | None = None
    rand_augment: RandAugment | None = None
    jitter: Jitter | None = None
    erase: Erase | None = None
    mix: Mix | None = None

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Policy":
        """Raises PolicyError: another version, or an unknown or impossible setting."""
        return _validated(values, f"policy {values.get('name', '?')}")


def shipped_policies() -> list[str]:
    return shipped(_FOLDER)


def load_policy(name_or_path: str, overrides: Sequence[str] = ()) -> Policy:
    """Read a shipped policy, or a TOML file, and put `key=value` settings over it.

    Keys are dotted (`crop.scale=[0.25,1]`), values are TOML, or a bare word; `mix=none` removes a section. Raises
    PolicyError, which names the setting.
    """
    values = read_settings(name_or_path, _FOLDER, "policy", PolicyError)
    for override in overrides:
        key, value = parse_override(override, PolicyError)
        crop = values.get("crop")
        if key == "crop.kind" and isinstance(crop, dict) and crop.get("kind") != value:
            for foreign in ("scale", "ratio", "crop_pct"):  # the settings of the kind that goes
                crop.pop(foreign, None)
        put_setting(values, key, value, PolicyError)
    return _validated(values, f"policy {name_or_path}")


_FOLDER = Path(__file__).with_name("policies")


def _validated(values: dict[str, Any], where: str) -> Policy:
    version = values.get("version", POLICY_VERSION)
    if version != POLICY_VERSION or isinstance(version, bool):
        raise PolicyError(
            f"{where}: version {version!r}, but this program reads {POLICY_VERSION}; use the release that wrote it"
        )
    return validated(Policy, values, where, PolicyError)
