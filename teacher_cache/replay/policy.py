"""The augmentation settings, and the presets that ship with the program (policies/*.toml).

A setting is on or absent: a section that is left out is not done.
"""

import json
import keyword
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from teacher_cache.errors import PolicyError
from teacher_cache.messages.nearest import did_you_mean
from teacher_cache.messages.shown import as_word, shown
from teacher_cache.replay.operations import OperationsFile, OwnOperation
from teacher_cache.settings import in_float32, parse_overrides, put_setting, read_settings, shipped, validated

POLICY_VERSION = 3  # of the pixels too: what a release renders otherwise than the one before has another version

# timm's names (timm.data.auto_augment, the 'increasing' set: rand-...-inc1)
OPERATIONS = (
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
)

# a view's names for them and for the jitter's, and timm's operations that are none of ours: nobody else's names
TAKEN_NAMES = frozenset(OPERATIONS).union(
    ["autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "color", "contrast"],
    ["brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y", "hue"],
    ["Posterize", "PosterizeOriginal", "Solarize", "Color", "Contrast", "Brightness", "Sharpness"],
    ["TranslateX", "TranslateY", "Desaturate", "GaussianBlur", "GaussianBlurRand"],
)

_OPERATIONS_ARE = "`teacher-cache policies deit` has them all; --ops FILE.py:FUNCTION gives more"

Interpolation = Literal["bicubic", "bilinear"]


def _square(size: Any) -> Any:
    return (size, size) if isinstance(size, int) and not isinstance(size, bool) else size


def _not_empty(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("names no operation; leave the section out")
    return names


def _own_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"{name!r} is no name for an operation: letters, digits and _, the first no digit")
        if name in TAKEN_NAMES:
            raise ValueError(f"{name!r} is an operation of timm or of this program already; choose another name")
    if len(set(names)) < len(names):
        raise ValueError("names an operation twice")
    return _not_empty(names)


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"{limits[0]} is above {limits[1]}; give (smallest, largest)")
    return limits


# strict: neither true nor "0.5" is a number
Integer = Annotated[int, Field(strict=True, ge=1, le=1000)]
Side = Annotated[int, Field(strict=True, ge=1, le=4096)]
Probability = Annotated[float, Field(strict=True, ge=0, le=1)]
Share = Annotated[float, Field(strict=True, gt=0, le=1)]
Zoom = Annotated[float, Field(strict=True, ge=0.01, le=1)]  # a centre crop's share of the resized image's sides
Positive = Annotated[float, Field(strict=True, gt=0), AfterValidator(in_float32)]
Shape = Annotated[float, Field(strict=True, ge=0.001, le=1000)]  # of two sides; those drawn lie on a grid
Extent = Annotated[float, Field(strict=True, ge=0, le=4)]
ShareLimits = Annotated[tuple[Share, Share], AfterValidator(_ordered)]
ShapeLimits = Annotated[tuple[Shape, Shape], AfterValidator(_ordered)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Crop(_Section):
    """`random_resized`: torchvision's RandomResizedCrop, with scale and ratio. `center`: timm's evaluation crop, with
    crop_pct: the image is resized to size / crop_pct and its centre kept."""

    kind: Literal["random_resized", "center"]
    interpolation: Interpolation = "bicubic"
    scale: ShareLimits | None = None  # of the image's area
    ratio: ShapeLimits | None = None  # width / height
    crop_pct: Zoom | None = None

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
    magnitude_std: Annotated[float, Field(strict=True, ge=0, le=100)] = 0.5
    probability: Probability = 0.5
    operations: Annotated[tuple[str, ...], AfterValidator(_not_empty)] = OPERATIONS  # and the policy's own
    interpolation: Interpolation = "bicubic"  # of the geometric operations; DeiT's is its crop's


class AutoAugment(_Section):
    """timm's `original`, the policy that arXiv 1805.09501 found for ImageNet: one of 25 pairs of operations, each with
    its own probability and magnitude (replay/auto_augment.py). In RandAugment's place."""

    magnitude_std: Annotated[float, Field(strict=True, ge=0, le=100)] = 0.0
    interpolation: Interpolation = "bicubic"  # of the geometric operations


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
    aspect: ShapeLimits = (0.3, 1 / 0.3)  # height / width


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


class OwnOperations(_Section):
    """Operations of a user's own file, which RandAugment may name: see teacher_cache.replay.operations."""

    function: Annotated[str, Field(min_length=1)]  # the file's, that gives them
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # of the file
    names: Annotated[tuple[str, ...], AfterValidator(_own_names)]


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
    auto_augment: AutoAugment | None = None
    jitter: Jitter | None = None
    erase: Erase | None = None
    mix: Mix | None = None
    own_operations: OwnOperations | None = None

    _operations_file: OperationsFile | None = PrivateAttr(default=None)  # where this machine has it

    @model_validator(mode="after")
    def _one_augmentation(self) -> Self:
        if self.rand_augment is not None and self.auto_augment is not None:
            raise ValueError("has both rand_augment and auto_augment; leave one out (--set rand_augment=none)")
        return self

    @model_validator(mode="after")
    def _operations_are_known(self) -> Self:
        own = self.own_operations.names if self.own_operations is not None else ()
        if own and self.rand_augment is None:
            raise ValueError("own_operations are RandAugment's, but there is no section rand_augment; add one")
        known = (*OPERATIONS, *own)
        unknown = [
            f"rand_augment.operations.{number}: no operation {shown(name)!r}: "
            + did_you_mean(name, known, _OPERATIONS_ARE)
            for number, name in enumerate(self.rand_augment.operations if self.rand_augment is not None else ())
            if name not in known
        ]
        if unknown:
            raise ValueError("; ".join(unknown))
        return self

    def __eq__(self, other: object) -> bool:
        """Equal settings; whether the file of own operations is at hand does not matter."""
        return isinstance(other, Policy) and self.__dict__ == other.__dict__

    @property
    def own_functions(self) -> Mapping[str, OwnOperation]:
        """Own operations by name. PolicyError when there are some and their file was not given."""
        if self.own_operations is None:
            return {}
        if self._operations_file is None:
            raise PolicyError(f"policy {self.name} {_describe(self.own_operations)}")
        return self._operations_file.functions

    def to_json(self) -> dict[str, Any]:
        values = self.model_dump(mode="json")
        if self.own_operations is None:
            del values["own_operations"]  # as releases wrote it that did not know this section
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Policy":
        """Raises PolicyError: another version, or an unknown or impossible setting."""
        return _validated(values, f"policy {values.get('name', '?')}")


def shipped_policies() -> list[str]:
    return shipped(_FOLDER)


def load_policy(name_or_path: str, overrides: Sequence[str] = (), operations: OperationsFile | None = None) -> Policy:
    """Read a shipped policy, or a TOML file, and put `key=value` settings over it.

    Keys are dotted (`crop.scale=[0.25,1]`), values are TOML, or a bare word; `mix=none` removes a section. Own
    operations join those of RandAugment, unless its list names some of them already. Raises PolicyError, which names
    the setting.
    """
    listing = "`teacher-cache policies` lists them all"
    values = read_settings(name_or_path, _FOLDER, "policy", PolicyError, listing)
    return _overridden(values, overrides, operations, f"policy {name_or_path}")


def describe_policy(policy: Policy) -> str:
    """The whole policy as a TOML file that load_policy reads; what is absent stands there as a comment."""
    tops, sections = [], []
    for name, value in policy.to_json().items():
        if isinstance(value, dict):
            sections += ["", f"[{name}]", *(_line(below, setting) for below, setting in value.items())]
        else:
            tops.append(_line(name, value))
    return "\n".join(tops + sections)


def _line(name: str, value: Any) -> str:
    return f"# {name} is absent" if value is None else f"{name} = {json.dumps(value)}"


def change_policy(policy: Policy, overrides: Sequence[str], operations: OperationsFile | None, where: str) -> Policy:
    """A policy with `key=value` settings put over it, as load_policy does. where: whose it is, for messages."""
    return _overridden(policy.to_json(), overrides, operations, where)


def _overridden(
    values: dict[str, Any], overrides: Sequence[str], operations: OperationsFile | None, where: str
) -> Policy:
    for key, value in parse_overrides(overrides, PolicyError):
        crop = values.get("crop")
        if key == "crop.kind" and isinstance(crop, dict) and crop.get("kind") != value:
            for foreign in ("scale", "ratio", "crop_pct"):  # the settings of the kind that goes
                crop.pop(foreign, None)
        put_setting(values, key, value, PolicyError)
    if operations is not None:
        _add_operations(values, operations, where)
    return bind_operations(_validated(values, where), operations, where)


def bind_operations(policy: Policy, operations: OperationsFile | None, where: str) -> Policy:
    """The policy with the file of its own operations at hand; as it is where it has none.

    PolicyError when the file is missing, is given in vain, or is not the one that the policy knows. where: whose
    policy it is, for messages.
    """
    own = policy.own_operations
    if own is None:
        if operations is None:
            return policy
        raise PolicyError(
            f"{where} has no operations of its own: leave --ops {operations.path}:{operations.function} out, "
            "or index a new store with it"
        )
    if operations is None:
        raise PolicyError(f"{where} {_describe(own)}")
    given = f"{where}: --ops {operations.path}:{operations.function}"
    if operations.function != own.function:
        raise PolicyError(f"{given}, but the policy's operations are those of function {own.function}: name that one")
    if operations.sha256 != own.sha256:
        raise PolicyError(
            f"{given} has sha256 {operations.sha256[:12]}, the policy's file had {own.sha256[:12]}: give the file as "
            "it was, or index a new store with this one"
        )
    if operations.names != own.names:
        raise PolicyError(
            f"{given} gives {', '.join(operations.names)}, the policy has {', '.join(own.names)}: the function must "
            "give the same operations every time"
        )
    bound = policy.model_copy()
    bound._operations_file = operations
    return bound


def _describe(own: OwnOperations) -> str:
    return (
        f"has operations of its own ({', '.join(own.names)}; function {own.function} of a file with sha256 "
        f"{own.sha256[:12]}): give --ops FILE.py:{own.function}"
    )


def _add_operations(values: dict[str, Any], operations: OperationsFile, where: str) -> None:
    """The section of own operations, in place; a section that names another file stays, to be refused."""
    section = values.get("rand_augment")
    if not isinstance(section, dict):
        raise PolicyError(
            f"{where} has no section rand_augment, to which --ops adds operations: take another policy, or add it "
            "(--set rand_augment.num_ops=2)"
        )
    named = section.get("operations", OPERATIONS)
    if isinstance(named, list | tuple) and not any(name in named for name in operations.names):
        section["operations"] = [*named, *operations.names]
    values.setdefault(
        "own_operations",
        {"function": operations.function, "sha256": operations.sha256, "names": list(operations.names)},
    )


_FOLDER = Path(__file__).with_name("policies")


def _validated(values: dict[str, Any], where: str) -> Policy:
    version = values.get("version", POLICY_VERSION)
    if version != POLICY_VERSION or isinstance(version, bool):
        raise PolicyError(
            f"{where}: version {version!r}, but this program reads {POLICY_VERSION}, whose pixels are others: "
            "use the release that wrote it, or index and fill anew, `teacher-cache index SHARDS --store NEW --policy "
            f"{as_word(values.get('name', 'POLICY'))}`, then `teacher-cache fill NEW`"
        )
    return validated(Policy, values, where, PolicyError, listing="`teacher-cache policies deit` has them all")
