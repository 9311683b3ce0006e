"""State dicts as people save them: found in a checkpoint, named as the model does, loaded strictly, as torch does.

Torch notes the version of every module beside a state dict (`_metadata`), by which it loads files of its earlier
releases: a batch normalisation that is older than its counter of batches begins it at 0. Renaming keeps these notes.
"""

import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Container, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from teacher_cache.errors import CheckpointError
from teacher_cache.messages.shown import counted, listed
from teacher_cache.teacher.weights import first_line, read_checkpoint

MISFIT = "another number of classes, or another variant of the model"
RAW_KEYS = ("model", "state_dict", "model_state_dict")  # where checkpoints keep weights as they were trained
EMA_KEYS = ("model_ema", "state_dict_ema", "ema_state_dict")  # and their moving average: DeiT's and ours; timm's
# parts of a name: of torch.compile, activation checkpointing and FSDP around a part of the model
AROUND_PARTS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
AROUND_MODELS = ("module", "_orig_mod", "model", "net")  # of DDP, torch.compile, Lightning: where two would do, these
COUNTERS = ("total_ops", "total_params", "n_averaged")  # thop's in every module; AveragedModel's
COUNTER = "num_batches_tracked"
TOKEN = "dist_token"  # of distilled models alone
BACKGROUND = (1001, 1000)


@dataclass(frozen=True)
class FittedState:
    """A state dict by the model's names, and what was done to it or is worth to know, for people."""

    state: dict[str, Tensor]
    notes: list[str]


def find_state(content: Mapping[str, Any], path: str, keys: Collection[str] = RAW_KEYS + EMA_KEYS) -> dict[str, Tensor]:
    """The state dict of a checkpoint, bare or under the first of these keys. Raises CheckpointError.

    What else is in the checkpoint is left alone; a state dict holds plain tensors and nothing else.
    """
    key = state_key(content, keys)
    return check_tensors(content if key is None else content[key], path)


def state_key(content: Mapping[str, Any], keys: Collection[str] = RAW_KEYS + EMA_KEYS) -> str | None:
    """Under which of these keys a checkpoint keeps its state dict, the first that there is; None: bare."""
    return next((key for key in keys if isinstance(content.get(key), Mapping)), None)


def check_tensors(state: Mapping[Any, Any], path: str) -> dict[str, Tensor]:
    """The state dict, if it holds plain tensors and nothing else. Raises CheckpointError."""
    others = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        raise CheckpointError(
            f"{path} holds no state dict, bare or under {', '.join(RAW_KEYS[:-1])} or {RAW_KEYS[-1]} (found "
            f"{listed(others) if others else 'nothing'}): check the file"
        )
    for name, value in state.items():
        if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise CheckpointError(f"{path}: {name} is no plain tensor ({value.layout}, {value.device}): save it as one")
    return with_metadata({str(name): value for name, value in state.items()}, getattr(state, "_metadata", None))


def with_metadata(state: Mapping[str, Tensor], metadata: Any) -> dict[str, Tensor]:
    """A state dict with torch's notes about it, as load_state_dict looks for them; None: a file without any."""
    noted = OrderedDict(state)
    if isinstance(metadata, Mapping):
        # a file may not say how it is loaded: assigned tensors would bring their own dtype and memory
        noted._metadata = {  # type: ignore[attr-defined]
            str(module): {name: value for name, value in notes.items() if name != "assign_to_params_buffers"}
            for module, notes in metadata.items()
            if isinstance(notes, Mapping)
        }
    return noted


def copy_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors in another dictionary, with torch's notes about them."""
    return with_metadata(state, getattr(state, "_metadata", None))


def fit_names(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str) -> FittedState:
    """Bring a state dict to a model's own names, without looking at shapes.

    What wraps a model puts its name before all others, in any depth: DDP `module.`, torch.compile `_orig_mod.`, a
    Lightning module `model.` or `net.`. It is taken off where that gives names of the model; what stands beside it is
    left out, and said. So are counters of thop and AveragedModel. A head of another name is renamed where it is the one
    layer that is left over on both sides. Raises CheckpointError where the file holds the model twice.
    """
    notes: list[str] = []
    if state.keys() != own.keys():
        kept = {part for name in own for part in name.split(".")}
        state = _renamed(state, lambda name: _without_parts(name, kept), path)
        state = _without_counters(state, own, notes, path)
        if prefix := _prefix(state, own, path):
            outside = [name for name in state if not name.startswith(prefix)]
            if outside:
                notes.append(
                    f"{path}: the model is what stands under {prefix} there; left out: "
                    f"{counted(len(outside), 'name')} beside it ({listed(outside)})"
                )
            state = _renamed(state, lambda name: name[len(prefix) :] if name.startswith(prefix) else None, path)
        if heads := _other_head(state, own):
            theirs, ours = heads
            notes.append(f"{path}: its head is called {theirs}, the model's {ours}: taken as the same")
            state = _renamed(state, lambda name: re.sub(rf"^{re.escape(theirs)}(?=\.|$)", ours, name), path)
    if note := _other_dtype(state, own, path):
        notes.append(note)
    return FittedState(copy_state(state), notes)


def load_weights(model: nn.Module, path: str, name: str, advice: str = MISFIT) -> list[str]:
    """Load a checkpoint strictly; what was done to its names, for people. Raises CheckpointError.

    name is the model's, advice what to do where shapes do not fit.
    """
    fitted = fit_names(find_state(read_checkpoint(path), path), model.state_dict(), path)
    load_state(model, fitted.state, path, name, advice)
    return fitted.notes


def load_state(model: nn.Module, state: Mapping[str, Tensor], path: str, name: str, advice: str = MISFIT) -> None:
    """Load a state dict strictly, as torch does by the versions that it notes; path is where it was read.

    Raises CheckpointError: what torch names as missing, unexpected or of another shape; a tensor that is not finite.
    """
    own = model.state_dict()
    check_distilled(state, own, path, name)
    for key in [key for key in own if key in state and not _is_counter(key, state[key])]:
        if own[key].is_floating_point() != state[key].is_floating_point():
            raise CheckpointError(
                f"checkpoint {path} does not fit: {key} is {state[key].dtype}, the model's is {own[key].dtype}: "
                "check the file"
            )
    if found := first_not_finite(state, infinite_by_design(model)):
        raise CheckpointError(
            f"checkpoint {path} holds numbers that are not finite, first in {found}: its training went wrong, or a "
            "cast to half precision did: use another checkpoint"
        )
    try:
        model.load_state_dict(state, strict=True)
    except Exception as error:  # torch's RuntimeError, and whatever a stranger's notes of versions bring about
        raise CheckpointError(f"checkpoint {path} {_misfit(model, state, name, advice, error)}") from error


def check_distilled(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str, name: str) -> None:
    """Refuse, with CheckpointError, a distilled model's weights for a plain model, and the reverse."""
    if (TOKEN in state) == (TOKEN in own) or "cls_token" not in state or "cls_token" not in own:
        return
    kinds = ("distilled", "plain") if TOKEN in state else ("plain", "distilled")
    has = f"with a distillation token, {TOKEN}" if TOKEN in state else f"without a distillation token, {TOKEN}"
    parts = ("_distilled_patch", "_patch") if TOKEN in own else ("_patch", "_distilled_patch")
    other = re.sub(rf"^(deit_[a-z]+){parts[0]}", rf"\1{parts[1]}", name)  # as timm names them
    advice = f"name the model {other}" if other != name else f"name the {kinds[0]} model"
    raise CheckpointError(
        f"checkpoint {path} holds the weights of a {kinds[0]} model ({has}), {name} is a {kinds[1]} one: {advice}"
    )


def first_not_finite(values: Any, besides: Container[str] = (), name: str = "") -> str | None:
    """The dotted name of the first number or tensor that is not finite, None where all are.

    values: numbers and tensors in nested dictionaries and lists, as checkpoints are; others say nothing. besides: the
    dotted names of those that need not be finite.
    """
    if isinstance(values, Mapping | list | tuple):
        parts = values.items() if isinstance(values, Mapping) else enumerate(values)
        found = (first_not_finite(value, besides, f"{name}.{key}" if name else str(key)) for key, value in parts)
        return next((place for place in found if place is not None), None)
    if isinstance(values, Tensor):
        is_finite = not values.is_floating_point() or bool(torch.isfinite(values).all())
    else:
        is_finite = not isinstance(values, float) or math.isfinite(values)
    return None if is_finite or name in besides else name


def infinite_by_design(model: nn.Module) -> frozenset[str]:
    """The names of a fresh model's tensors that are not finite, as a mask of -inf is: others' need not be either."""
    state = model.state_dict()
    return frozenset(name for name, own in state.items() if not is_lazy(own) and first_not_finite(own) is not None)


def background_class(found: int, expected: int) -> str:
    """What a model of 1,001 classes for a store or shards of 1,000 probably is, to be put behind a message."""
    if (found, expected) != BACKGROUND:
        return ""
    return (
        "; 1,001 are probably ImageNet's 1,000 behind a background class, as TensorFlow counts them: cut the first row "
        "of its head, weight[1:] and bias[1:], and save it again"
    )


# -- names ---------------------------------------------------------------------------------------------------------


def _renamed(state: Mapping[str, Tensor], new_name: Callable[[str], str | None], path: str) -> dict[str, Tensor]:
    """The state dict under other names, and torch's notes with it. None: left out. new_name also gets "module."."""
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        new = new_name(name)
        if new in renamed:
            raise CheckpointError(f"checkpoint {path} holds {new} twice, once as {name}: save one of the two")
        if new is not None:
            renamed[new] = value
    metadata = getattr(state, "_metadata", None)
    if metadata is None:
        return with_metadata(renamed, None)
    modules = {module: new_name(f"{module}.") for module in metadata}
    return with_metadata(
        renamed, {new.rstrip("."): metadata[module] for module, new in modules.items() if new is not None}
    )


def _without_parts(name: str, kept: Collection[str]) -> str:
    """A name without the parts that wrappers put into its middle."""
    return ".".join(part for part in name.split(".") if part not in AROUND_PARTS or part in kept)


def _without_counters(state: Mapping[str, Tensor], own: Mapping[str, Tensor], notes: list[str], path: str) -> Any:
    """The state dict without counters of others that the model has not."""
    counters = [name for name in state if name not in own and name.rpartition(".")[2] in COUNTERS]
    if not counters:
        return state
    notes.append(f"{path}: left out: {counted(len(counters), 'counter')} beside the weights ({listed(counters)})")
    left = {name: value for name, value in state.items() if name not in set(counters)}
    return with_metadata(left, getattr(state, "_metadata", None))


def _prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str) -> str:
    """What stands before the model's own names in a file, "" where nothing does. Raises CheckpointError."""
    counts: Counter[str] = Counter()
    for name in state:
        starts = [0, *(match.end() for match in re.finditer(r"\.", name))]
        counts.update(name[:start] for start in starts if name[start:] in own)
    wanted = sum(not name.endswith(COUNTER) for name in own)
    most = max(counts.values(), default=0)
    if counts[""] == most or 2 * most < wanted:
        return ""
    best = sorted(prefix for prefix, count in counts.items() if count == most)
    usual = [prefix for prefix in best if prefix.split(".")[-2] in AROUND_MODELS]
    if len(best) > 1 and len(usual) != 1:
        raise CheckpointError(
            f"checkpoint {path} holds the model {len(best)} times, under {listed(best)}: save the wanted one alone"
        )
    return (usual or best)[0]


def _other_head(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """The one linear layer of a file that the model has not, and the one of the model that the file has not, if they
    are alike but for the number of classes."""
    absent = [name for name in own if name not in state and not name.endswith(COUNTER)]
    extra = [name for name in state if name not in own and not name.endswith(COUNTER)]
    ours, theirs = ({name.rpartition(".")[0] for name in names} for names in (absent, extra))
    if len(ours) != 1 or len(theirs) != 1:
        return None
    (our,), (their,) = ours, theirs
    shapes = [
        {name.rpartition(".")[2]: tuple(tensors[name].shape)[1:] for name in names}
        for names, tensors in ((absent, own), (extra, state))
    ]
    linear = shapes[0] == shapes[1] and len(shapes[0].get("weight", ())) == 1
    return (their, our) if our and their and linear else None


def _other_dtype(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str) -> str | None:
    """A note where weights are of another precision than the model that takes them."""
    pairs = {
        (state[name].dtype, own[name].dtype)
        for name in own.keys() & state.keys()
        if own[name].is_floating_point() and state[name].is_floating_point()
    }
    others = sorted(
        f"stored as {_word(stored)}, the model runs in {_word(run)}" for stored, run in pairs if stored != run
    )
    return f"{path}: weights are {'; some are '.join(others)}" if others else None


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# -- misfits -------------------------------------------------------------------------------------------------------


def _misfit(model: nn.Module, state: Mapping[str, Tensor], name: str, advice: str, error: Exception) -> str:
    """What torch finds missing, unexpected and of another shape, in one line."""
    own = model.state_dict()
    shapes = {
        key: f"{key} is {tuple(state[key].shape)}, the model's is {tuple(own[key].shape)}"
        for key in own
        if key in state and not is_lazy(own[key]) and _other_shape(state[key], own[key])
    }
    fitting = with_metadata(
        {key: value for key, value in state.items() if key not in shapes}, getattr(state, "_metadata", None)
    )
    try:
        missing, unexpected = model.load_state_dict(fitting, strict=False)
    except Exception:  # a module's own way to load: what it said first is told
        missing, unexpected = [], []
    missing = [key for key in missing if key not in shapes]
    parts = [
        f"{_names(missing)} missing ({listed(missing)})" if missing else "",
        f"{_names(unexpected)} unexpected ({listed(unexpected)})" if unexpected else "",
        f"{_names(shapes)} of another shape ({listed(shapes.values(), limit=None)})" if shapes else "",
    ]
    if not any(parts):
        return f"cannot be loaded into {name} ({' '.join(str(error).split()) or first_line(error)}): check the file"
    if missing or unexpected:
        advice = f"check the model's name, {name}"
    heads = [key for key in shapes if state[key].ndim and background_class(len(state[key]), len(own[key]))]
    return f"does not fit: {', '.join(filter(None, parts))}: {advice}" + (
        background_class(*BACKGROUND) if heads else ""
    )


def _names(found: Sized) -> str:
    return counted(len(found), "name", "is")


def _other_shape(found: Tensor, own: Tensor) -> bool:
    """Torch takes what was a vector of one in its first releases for a number."""
    return found.shape != own.shape and not (own.ndim == 0 and found.shape == (1,))


def _is_counter(name: str, value: Tensor) -> bool:
    """Whether this counts batches, be it in floating point after a cast of the whole file."""
    return name.endswith(COUNTER) and not value.is_complex()
