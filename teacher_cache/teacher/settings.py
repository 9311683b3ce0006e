"""How a teacher shall be built and run, and what can be known to be wrong with that before torch is imported."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from teacher_cache.errors import TeacherError
from teacher_cache.messages.recognise import no_checkpoint
from teacher_cache.messages.shown import counted
from teacher_cache.storage.place import to_place
from teacher_cache.teacher.identity import TeacherIdentity, check_same_fields
from teacher_cache.teacher.timm_names import no_teacher

if TYPE_CHECKING:
    import torch

SMALLEST_STD, LARGEST_PIXEL = 1e-4, 255.0  # what divides and what is subtracted from pixels of 0 to 1
SMALLEST_TAU = 1e-6
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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


def check_settings(settings: TeacherSettings, stored: TeacherIdentity | None, num_classes: int) -> None:
    """Refuse, with one TeacherError for all, settings that make no teacher. stored: the store's teacher, if any."""
    if found := "; ".join(_faults(settings, stored, num_classes)):
        raise TeacherError(found)


def check_as_stored(settings: TeacherSettings, stored: TeacherIdentity | None) -> None:
    """Refuse, with one TeacherError for all, settings that are given and not those of the teacher that filled the
    store, if any did. What is not given is taken from there, but for the device, which has its own rules."""
    if stored is None:
        return
    names = ("mean", "std", "input_size", "batch_size", "dtype", "compile", "topk", "tau")
    given = {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}
    if given.get("topk") == 0:
        given["tau"] = None
    check_same_fields(stored, given)


def settle(
    settings: TeacherSettings, stored: TeacherIdentity | None, own: Mapping[str, Any], *, on_cuda: bool
) -> dict[str, Any]:
    """What a TeacherIdentity says of how the teacher runs: as asked, else as the store's teacher, else as own says.

    own: "mean" and "std" where the checkpoint, or the model, says them.
    """
    defaults = {
        "mean": own.get("mean") or IMAGENET_MEAN,
        "std": own.get("std") or IMAGENET_STD,
        "input_size": None,
        "batch_size": 256 if on_cuda else 64,
        "dtype": "bf16" if on_cuda else "fp32",
        "compile": False,
        "topk": 0,
        "tau": 1.0,
    }
    settled = {name: _first(getattr(settings, name), getattr(stored, name, None), defaults[name]) for name in defaults}
    settled["tau"] = float(settled["tau"]) if settled["topk"] else None
    for name in ("mean", "std"):
        settled[name] = tuple(settled[name])
        if len(settled[name]) != 3:
            raise TeacherError(
                f"--{name} has {counted(len(settled[name]), 'number')}, one for each of R, G, B is expected"
            )
    return settled


def name_faults(settings: TeacherSettings) -> Iterator[str]:
    """What settings name that is not there: a model of timm's, as far as its source tells, and a file of weights."""
    if settings.spec is not None and (fault := no_teacher(settings.spec)):
        yield fault
    if settings.checkpoint is not None and (fault := no_checkpoint(to_place(settings.checkpoint))):
        yield fault


def _first(*candidates: Any) -> Any:
    return next((candidate for candidate in candidates if candidate is not None), None)


def _faults(settings: TeacherSettings, stored: TeacherIdentity | None, num_classes: int) -> Iterator[str]:
    if settings.spec is None and (stored is None or stored.spec is None):
        yield "no teacher: name one with --teacher (a timm name, or path/file.py:function)"
    yield from name_faults(settings)
    for name, low in (("mean", -LARGEST_PIXEL), ("std", SMALLEST_STD)):
        numbers = getattr(settings, name)
        if numbers is not None and len(numbers) != 3:
            yield f"--{name} has {counted(len(numbers), 'number')}, one for each of R, G, B is expected"
        elif numbers is not None and not all(
            low <= number <= LARGEST_PIXEL for number in numbers
        ):  # nan is within nothing
            said = ",".join(f"{number:g}" for number in numbers)
            yield f"--{name} {said} is not within {low:g} and {LARGEST_PIXEL:g}: pixels are of 0 to 1 before it"
    kept = (0, None) if stored is None else (stored.topk, stored.tau)
    topk = kept[0] if settings.topk is None else settings.topk
    tau = kept[1] if settings.tau is None else settings.tau
    if not 0 <= topk <= num_classes:
        yield f"--topk {topk} is not within the store's {counted(num_classes, 'class')}: lower it"
    if not topk and settings.tau is not None:
        yield f"--tau {settings.tau:g} says nothing without probabilities: give --topk K too"
    elif topk and tau is not None and not 0 < tau < math.inf:
        yield f"--tau {float(tau)} is not a positive number: the temperature divides the logits"
    elif topk and tau is not None and not SMALLEST_TAU <= tau <= 1 / SMALLEST_TAU:
        yield f"--tau {float(tau)} is not within {SMALLEST_TAU:g} and {1 / SMALLEST_TAU:g}: it divides the logits"
