"""How a teacher shall be built and run, and what can be known to be wrong with that before torch is imported."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teacher_cache.errors import TeacherError
from teacher_cache.messages.recognise import no_checkpoint

if TYPE_CHECKING:
    import torch

DECIDING_FIELDS = (
    *("weights_sha256", "mean", "std", "input_size", "batch_size", "dtype", "compile"),
    *("topk", "tau", "device"),
)
NO_TOPK = {"topk": 0, "tau": None}  # what the identity of a teacher says that gives labels alone


@dataclass(frozen=True)
class TeacherSettings:
    """How a teacher is built and run. None: the store's teacher's setting, else the model's own, else the default."""

    spec: str | None = None  # timm name | path/file.py:function | package.module:function
    checkpoint: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_size: int | None = None  # pixels; None: the view's own size
    device: "str | torch.device | None" = None  # as use_device takes it
    dtype: str | None = None  # a key of DTYPES; bf16 on CUDA, else fp32
    batch_size: int | None = None
    compile: bool | None = None
    topk: int | None = None  # of how many classes the probabilities are stored besides the label; 0: of none
    tau: float | None = None  # the temperature of these probabilities


def check_settings(settings: TeacherSettings, known: Mapping[str, Any], num_classes: int) -> None:
    """Refuse, with one TeacherError for all, settings that make no teacher. known: the store's teacher, or nothing."""
    _refuse(_faults(settings, known, num_classes))


def check_as_stored(settings: TeacherSettings, stored: Mapping[str, Any]) -> None:
    """Refuse, with one TeacherError for all, settings that are given and not those of the teacher that filled the
    store. What is not given is taken from there, but for the device, which has its own rules."""
    names = ("mean", "std", "input_size", "batch_size", "dtype", "compile", "topk", "tau")
    given = {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    if given.get("topk") == 0:
        given |= NO_TOPK
    check_same_fields(stored, given)


def check_same_fields(stored: Mapping[str, Any], given: Mapping[str, Any], may_differ: Collection[str] = ()) -> None:
    """The same of the deciding fields that are given of an identity."""
    _refuse(_differing(stored, given, may_differ))


def _refuse(faults: Iterator[str]) -> None:
    if found := "; ".join(faults):
        raise TeacherError(found)


def _faults(settings: TeacherSettings, known: Mapping[str, Any], num_classes: int) -> Iterator[str]:
    if settings.spec is None and known.get("spec") is None:
        yield "no teacher: name one with --teacher (a timm name, or path/file.py:function)"
    if settings.checkpoint is not None and (fault := no_checkpoint(Path(settings.checkpoint))):
        yield fault
    for name in ("mean", "std"):
        numbers = getattr(settings, name)
        if numbers is not None and len(numbers) != 3:
            yield f"--{name} has {len(numbers)} numbers, one for each of R, G, B is expected"
    topk = known.get("topk", 0) if settings.topk is None else settings.topk
    tau = known.get("tau") if settings.tau is None else settings.tau
    if not 0 <= topk <= num_classes:
        yield f"--topk {topk} is not within the {num_classes} classes of the store: lower it"
    if not topk and settings.tau is not None:
        yield f"--tau {settings.tau:g} says nothing without probabilities: give --topk K too"
    elif topk and tau is not None and not 0 < tau < math.inf:
        yield f"--tau {float(tau)} is not a positive number: the temperature divides the logits"


def _differing(stored: Mapping[str, Any], given: Mapping[str, Any], may_differ: Collection[str]) -> Iterator[str]:
    for field in DECIDING_FIELDS:
        if field not in given or field in may_differ or stored.get(field) == given[field]:
            continue
        advice = (
            "make the store with `teacher-cache index --devices any` to mix devices"
            if field == "device"
            else "one store holds one teacher's labels: use its settings, or fill another store"
        )
        if field in NO_TOPK:
            advice += ", made with `teacher-cache index --like`"
        yield (
            f"the store was filled by {stored['name']}, whose {field} is {_short(field, stored.get(field))}; "
            f"this teacher's {field} is {_short(field, given[field])}: {advice}"
        )


def _short(field: str, value: Any) -> Any:
    return value[:12] if field == "weights_sha256" and isinstance(value, str) else value
