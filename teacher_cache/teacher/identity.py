"""Who a teacher is, as a store keeps it: read once, and compared field by field with who comes to add to its labels."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from teacher_cache.errors import StoreError, TeacherError
from teacher_cache.settings import validated

Count = Annotated[int, Field(strict=True, ge=0, le=2**31)]
Triple = tuple[float, float, float]

SOFT_FIELDS = ("topk", "tau")  # what is stored besides labels
# two teachers that are equal in these give the same labels and probabilities
DECIDING_FIELDS = (
    *("weights_sha256", "mean", "std", "input_size", "batch_size", "dtype", "compile"),
    *SOFT_FIELDS,
    "device",
)


@dataclass(frozen=True)
class TeacherIdentity:
    """What a teacher's answers depend on, and its name for people. The defaults are of a teacher that is simulated.

    A store keeps it as teacher/'s attributes; what later versions write there besides is passed over.
    """

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)

    name: str
    spec: str | None = None  # timm name | path/file.py:function | package.module:function
    weights_sha256: str = "none"
    num_classes: Count = 0
    mean: Triple = (0.0, 0.0, 0.0)  # of R, G, B in 0..1
    std: Triple = (1.0, 1.0, 1.0)
    input_size: Annotated[int, Field(strict=True, ge=1, le=2**16)] | None = None  # pixels; None: the view's own size
    batch_size: Annotated[int, Field(strict=True, ge=1, le=2**24)] = 1  # the one shape at which it runs
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    topk: Count = 0  # of how many classes the probabilities are stored besides the label
    tau: Annotated[float, Field(gt=0)] | None = None  # the temperature of these probabilities
    device: str = "none"  # what decides a kernel's last bits
    torch: str = "none"
    cuda: str | None = None
    libraries: dict[str, str] = field(default_factory=dict)  # of the pixels that it saw, name -> version

    def to_json(self) -> dict[str, Any]:
        """Plain values by field, as a store keeps them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def read_identity(attributes: dict[str, Any], where: str) -> TeacherIdentity:
    """The identity in the attributes of a folder, which `where` names. StoreError where they lack something or make no
    sense."""
    return validated(TeacherIdentity, attributes, where, StoreError)


def check_same_teacher(stored: TeacherIdentity, teacher: TeacherIdentity, *, may_differ: Collection[str] = ()) -> None:
    """Refuse, with one TeacherError for all, a teacher that would not answer as the store's teacher does.

    may_differ: fields ("device", "dtype") that need not be equal.
    """
    check_same_fields(stored, {name: getattr(teacher, name) for name in DECIDING_FIELDS if name not in may_differ})


def check_same_fields(stored: TeacherIdentity, given: Mapping[str, Any]) -> None:
    """Refuse, with one TeacherError for all, fields that are not those of the store's teacher."""
    if found := "; ".join(_differing(stored, given)):
        raise TeacherError(found)


def _differing(stored: TeacherIdentity, given: Mapping[str, Any]) -> Iterator[str]:
    for name, value in given.items():
        if (kept := getattr(stored, name)) == value:
            continue
        advice = (
            "make the store with `teacher-cache index --devices any` to mix devices"
            if name == "device"
            else "one store holds one teacher's labels: use its settings, or fill another store"
        )
        if name in SOFT_FIELDS:
            advice += ", made with `teacher-cache index --like`"
        yield (
            f"the store was filled by {stored.name}, whose {name} is {_short(name, kept)}; "
            f"this teacher's {name} is {_short(name, value)}: {advice}"
        )


def _short(name: str, value: Any) -> Any:
    return value[:12] if name == "weights_sha256" and isinstance(value, str) else value


# -- what is kept beside it ------------------------------------------------------------------------------------------


class _Group(BaseModel):
    """What later versions write besides is passed over."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class _Device(_Group):
    device: str


class _Build(_Group):
    torch: str
    cuda: str | None
    cudnn: int | None
    driver: str | None
    device: str
    threads: Count
    libraries: dict[str, str]
    logits: str


def check_attributes(kind: Literal["device", "build"], attributes: dict[str, Any], where: str) -> dict[str, Any]:
    """The attributes of such a folder, which `where` names. StoreError where they lack something or make no sense."""
    kinds: dict[str, type[_Group]] = {"device": _Device, "build": _Build}
    validated(kinds[kind], attributes, where, StoreError)
    return attributes
