"""What a store says of its teacher, its devices and its builds, as far as a file can be wrong about it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from teacher_cache.errors import StoreError
from teacher_cache.settings import validated

Count = Annotated[int, Field(strict=True, ge=0, le=2**31)]
Triple = tuple[float, float, float]


class _Said(BaseModel):
    """What later versions say besides is passed over."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class _Teacher(_Said):
    name: str
    spec: str | None = None
    weights_sha256: str | None = None
    num_classes: Count | None = None
    mean: Triple | None = None
    std: Triple | None = None
    input_size: Annotated[int, Field(strict=True, ge=1, le=2**16)] | None = None
    batch_size: Annotated[int, Field(strict=True, ge=1, le=2**24)] | None = None
    dtype: Literal["fp32", "bf16", "fp16"] | None = None
    compile: bool | None = None
    topk: Count = 0
    tau: Annotated[float, Field(gt=0)] | None = None
    device: str | None = None
    torch: str | None = None
    libraries: dict[str, str] = {}


class _Device(_Said):
    device: str


class _Build(_Said):
    torch: str
    cuda: str | None
    cudnn: int | None
    driver: str | None
    device: str
    threads: Count
    libraries: dict[str, str]
    logits: str


_KINDS: Mapping[str, type[_Said]] = {"teacher": _Teacher, "device": _Device, "build": _Build}


def check_said(kind: Literal["teacher", "device", "build"], attributes: dict[str, Any], where: str) -> dict[str, Any]:
    """The attributes of such a group, which `where` names. StoreError where they lack something or make no sense."""
    validated(_KINDS[kind], attributes, where, StoreError)
    return attributes
