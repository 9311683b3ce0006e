"""A name and a checkpoint -> a module: timm's models, and functions of one's own. Both stages build all theirs here."""

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import timm
import torch
from timm.models import build_model_with_cfg
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from teacher_cache.errors import ModelError
from teacher_cache.messages.nearest import did_you_mean
from teacher_cache.messages.shown import as_word
from teacher_cache.storage.place import as_place
from teacher_cache.teacher.names import OWN_MODELS, TIMM_HUBS, GivenModel, is_usable
from teacher_cache.teacher.state_dict import load_weights
from teacher_cache.teacher.timm_names import no_model
from teacher_cache.teacher.weights import first_line

# arguments of timm.create_model, and of what it calls, that are no settings of the model itself
NOT_THE_MODELS = frozenset(
    {
        *inspect.signature(timm.create_model).parameters,
        *inspect.signature(build_model_with_cfg).parameters,
        *("features_only", "feature_cls", "out_indices", "pruned", "num_classes", "device", "dtype"),
    }
) - {"kwargs"}

DRAWING = frozenset({Tensor.uniform_, Tensor.normal_, nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_})
SCALING = frozenset({Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_})  # what was drawn: a truncated normal


@dataclass(frozen=True)
class ModelSpec:
    """Which model, and who names it."""

    name: str  # timm name | path/file.py:function | package.module:function; code and timm's hubs: a GivenModel
    arguments: Mapping[str, Any] = field(default_factory=dict)  # timm.create_model's, or the function's
    named_by: str = ""  # what stands before a message: the setting, the file that names the model

    @property
    def is_function(self) -> bool:
        return ":" in self.name and not self.name.startswith(TIMM_HUBS)

    def error(self, found: str) -> ModelError:
        return ModelError(f"{self.named_by}: {found}" if self.named_by else found)


def build_module(spec: ModelSpec, num_classes: int, image_size: tuple[int, int], *, draw: bool = True) -> nn.Module:
    """The model with fresh weights. image_size: (H, W) pixels. Raises ModelError.

    timm.create_model gets num_classes and the arguments; a function gets those of num_classes and image_size that it
    names, and all the arguments. An error in a user's own function is raised as it is. Without draw, for who loads
    others into all of them, the weights of a timm model are not drawn.
    """
    if spec.is_function:
        return _build_from_function(spec, {"num_classes": num_classes, "image_size": image_size})
    _check_given(spec)
    if not spec.name.startswith(TIMM_HUBS):
        check_timm_name(spec)
    _check_arguments(spec)
    try:
        with nullcontext() if draw else Undrawn():
            return timm.create_model(spec.name, pretrained=False, **{"num_classes": num_classes, **spec.arguments})
    except TypeError as error:
        raise spec.error(
            f"timm's {spec.name} does not take one of drop_path, model_args ({first_line(error)}): set drop_path=none "
            "where it has no stochastic depth, and check model_args"
        ) from error
    except Exception as error:  # arguments may come from a stranger's file: any value, any size
        raise spec.error(f"timm cannot build {spec.name} ({first_line(error)}): check model_args") from error


def load_module(
    spec: ModelSpec,
    num_classes: int,
    image_size: tuple[int, int],
    checkpoint: str | None,
    note: Callable[[str], None] = lambda message: None,
) -> nn.Module:
    """The model with a checkpoint's weights; without one timm's pretrained weights, or those a function gives it.

    note hears what was done to the checkpoint's names. Raises ModelError, or CheckpointError where it does not fit.
    """
    if checkpoint is None and not spec.is_function:
        return pretrained_module(spec, "or give --checkpoint")
    model = build_module(spec, num_classes, image_size, draw=checkpoint is None)
    if checkpoint is not None:
        advice = f"if it has other classes, {adapting_advice(spec.name, checkpoint)}"
        for done in load_weights(model, checkpoint, spec.name, advice):
            note(done)
    return model


def pretrained_classes(spec: ModelSpec) -> int | None:
    """How many classes timm's weights of a model are of, as timm lists it; None where it does not."""
    listed = None
    if not spec.is_function and timm.is_model(spec.name.partition(".")[0]):
        with suppress(RuntimeError):  # weights of a tag that it does not have, which is told where they are loaded
            listed = timm.get_pretrained_cfg(spec.name)
    return None if listed is None else int(listed.num_classes)


def pretrained_module(spec: ModelSpec, otherwise: str) -> nn.Module:
    """timm's model with timm's weights, of their classes. otherwise: what helps where there is no network.

    Raises ModelError.
    """
    _check_given(spec)
    if not spec.name.startswith(TIMM_HUBS):
        check_timm_name(spec)
    _check_arguments(spec)
    try:
        return timm.create_model(spec.name, pretrained=True, **spec.arguments)
    except Exception as error:
        raise spec.error(
            f"timm could not load pretrained weights of {spec.name} ({first_line(error)}): download them on a machine "
            f"with a network, {otherwise}"
        ) from error


def images_dtype(name: str | None, autocast: torch.dtype, device: torch.device) -> torch.dtype:
    """In which dtype a model takes its images under autocast on a device.

    timm's models and ours begin with a convolution, or what is one, which casts to it first thing: on CUDA they are
    written so. What a function of one's own does first is not known, and the CPU keeps to float32.
    """
    known = name is not None and (name in OWN_MODELS or not ModelSpec(name).is_function)
    return autocast if known and device.type == "cuda" else torch.float32


def adapting_advice(name: str, checkpoint: str | None) -> str:
    """What to do about a teacher of other classes."""
    return (
        f"bring it to the store's classes first, `student finetune {as_place(checkpoint or name)} STORE "
        f"--recipe finetune_teacher --out TEACHER`, then fill with `--teacher {as_word(name)} --checkpoint "
        "TEACHER/checkpoint.pt`; or index the shards with the teacher's classes.json"
    )


# -- timm ------------------------------------------------------------------------------------------------------------


def check_timm_name(spec: ModelSpec, otherwise: str = "") -> None:
    """Raise ModelError, with names that are close, for a model, or weights of it, that timm does not have.

    otherwise: what else may have been meant, for the message's end.
    """
    name = spec.name
    model, _, tag = name.partition(".")
    if not timm.is_model(name):
        raise spec.error(no_model(name, timm.list_models(), otherwise))
    there = timm.list_pretrained(f"{model}.*") if tag else []
    if there and name not in there:
        advice = did_you_mean(name, there, f"it has {len(there)} of {model}")
        raise spec.error(f"timm has no {name}: {advice}{otherwise}")


def timm_config(spec: ModelSpec, otherwise: str = "") -> dict[str, Any]:
    """What timm says of a model's preprocessing and head. Raises ModelError, as check_timm_name does."""
    check_timm_name(spec, otherwise)
    try:
        config = timm.get_pretrained_cfg(spec.name, allow_unregistered=False)
    except RuntimeError as error:
        raise spec.error(
            f"timm has no configuration of {spec.name}: {first_line(error)} Check what stands after a dot"
        ) from error
    assert config is not None
    return config.to_dict()


def size_argument(name: str, image_size: tuple[int, int]) -> dict[str, Any]:
    """The argument that tells a timm model of fixed input size, a transformer, for which images (H, W) it is built."""
    if ":" in name or not timm.is_model(name):
        return {}
    config = timm.get_pretrained_cfg(name)
    return {"img_size": image_size} if config is not None and config.fixed_input_size else {}


def timm_tensors(name: str) -> dict[str, Tensor]:
    """The tensors of timm's model of two classes by name, without memory for them."""
    with torch.device("meta"), Undrawn():
        tensors: dict[str, Tensor] = timm.create_model(name, num_classes=2).state_dict()
    return tensors


class Undrawn(TorchFunctionMode):
    """Parameters that would be drawn while a model is built are zeros: to draw them takes most of that time, 2 s for
    DeiT-B."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        tensor = args[0] if args else given.get("tensor")  # as torch.nn.init's functions name it
        if isinstance(tensor, nn.Parameter):
            if function in DRAWING:
                return nn.init.zeros_(tensor)
            if function in SCALING:
                return tensor
        return function(*args, **given)


def _check_arguments(spec: ModelSpec) -> None:
    """Refuse what tells timm.create_model to read files or to build no classifier.

    checkpoint_path, for one, runs code: timm loads it as any pickle.
    """
    if refused := sorted(spec.arguments.keys() & NOT_THE_MODELS):
        raise spec.error(
            f"model_args {', '.join(refused)} would make timm read other files or build another kind of model: leave "
            "them out, model_args are for the model's own arguments"
        )


# -- functions -------------------------------------------------------------------------------------------------------


def import_function(spec: ModelSpec) -> Callable[..., Any]:
    """The function of path/file.py:function or package.module:function.

    ModelError where there is none, and for any name but a GivenModel or one of OWN_MODELS: it may stand in a file.
    """
    _check_given(spec)
    place, _, name = spec.name.rpartition(":")
    try:
        module = _import_file(spec, place) if place.endswith(".py") else _import_module(place)
    except ImportError as error:
        raise spec.error(f"{spec.name} cannot be imported: {error}{_advice(error, place, name)}") from error
    except SystemExit as error:
        guard = 'put what it does as a program behind `if __name__ == "__main__":`'
        raise spec.error(f"{spec.name} cannot be imported: it ends the program (exit {error.code}): {guard}") from error
    function = getattr(module, name, None)
    if not callable(function):
        there = [each for each, value in vars(module).items() if inspect.isfunction(value) and each[0] != "_"]
        advice = did_you_mean(name, there, f"check what stands after the colon in {spec.name}")
        raise spec.error(f"{place} has no function {name}: {advice}")
    return function


def _advice(error: ImportError, place: str, name: str) -> str:
    """What to do where Python does not find the module itself: a command looks for none in the folder it is run in."""
    if error.name is None or not f"{place}.".startswith(f"{error.name}."):
        return ""
    for file in (f"{place}.py", f"{place.replace('.', '/')}.py"):
        if Path(file).is_file():
            return f"; a file is named by its path, {as_word(f'{file}:{name}')}"
    return f": install it, name its folder in PYTHONPATH, or its file, path/file.py:{name}"


def _import_module(place: str) -> ModuleType:
    if place.startswith(".") or not place:  # which import_module takes for an error of its caller
        raise ModuleNotFoundError(f"No module named {place!r}", name=place)
    return importlib.import_module(place)


class _AsItIs(SourceFileLoader):
    """Runs a file as it is now: bytecode of Python's is taken for current by second and size, so a teacher that was
    edited could label as before. None is written either."""

    def path_stats(self, path: str) -> NoReturn:
        raise OSError(f"bytecode of {path} is not looked for")


def _import_file(spec: ModelSpec, path: str) -> ModuleType:
    if not Path(path).is_file():
        raise spec.error(f"model file {path} is absent: check the path before the colon in {spec.name}")
    name = f"own_model_{hashlib.sha256(os.path.abspath(path).encode()).hexdigest()[:16]}"  # which is nobody else's
    found = importlib.util.spec_from_file_location(name, path, loader=_AsItIs(name, path))
    assert found is not None
    assert found.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(found)  # where dataclasses look a class's module up
    found.loader.exec_module(module)
    return module


def _build_from_function(spec: ModelSpec, offered: Mapping[str, Any]) -> nn.Module:
    function = import_function(spec)
    parameters = inspect.signature(function).parameters
    takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    unknown = [] if takes_all else [name for name in spec.arguments if name not in parameters]
    if unknown:
        raise spec.error(
            f"{spec.name} takes no {', '.join(unknown)}: {_without(unknown, spec)}, or let the function take "
            f"{'it' if len(unknown) == 1 else 'them'}"
        )
    taken = {name: value for name, value in offered.items() if takes_all or name in parameters} | {**spec.arguments}
    if lacking := [name for name, each in parameters.items() if _is_demanded(each) and name not in taken]:
        raise spec.error(
            f"{spec.name} demands {', '.join(lacking)}, which nothing gives it: give a default, or a student's "
            f"model_args, --set model_args.{lacking[0]}=VALUE"
        )
    model = _call(function, spec, taken)
    if not isinstance(model, nn.Module):
        raise spec.error(f"{spec.name} returned a {type(model).__name__}, a torch.nn.Module is expected")
    return model


def _without(unknown: list[str], spec: ModelSpec) -> str:
    """How a recipe, which alone has arguments for a function, does not give these."""
    of_recipe = {"drop_path_rate"}  # by a setting of its own
    ways = ["--set drop_path=none"] if of_recipe & set(unknown) else []
    if others := [name for name in unknown if name not in of_recipe]:
        left = spec.arguments.keys() - {*unknown, *of_recipe}
        ways.append(f"leave {', '.join(others)} out of model_args" if left else "--set model_args={}")
    return " ".join(ways) if all(way.startswith("--") for way in ways) else " and ".join(ways)


def _is_demanded(parameter: inspect.Parameter) -> bool:
    """Whether a function cannot be called without."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return parameter.kind in named and parameter.default is inspect.Parameter.empty


def _call(function: Callable[..., Any], spec: ModelSpec, arguments: dict[str, Any]) -> Any:
    """What the function gives. An error in a user's own shows where it is, our own models get what a file says."""
    try:
        return function(**arguments)
    except SystemExit as error:
        raise spec.error(
            f"{spec.name} ends the program (exit {error.code}): let it return a model, or raise what is wrong"
        ) from error
    except Exception as error:
        if isinstance(spec.name, GivenModel):
            raise
        raise spec.error(f"{spec.name} cannot be built ({first_line(error)}): check model_args") from error


def _check_given(spec: ModelSpec) -> None:
    if not is_usable(spec.name):
        raise spec.error(
            f"{spec.name} is code, or a place to fetch from: only who runs the program names such, on the command "
            f"line, or in Python as teacher_cache.teacher.names.GivenModel({spec.name!r})"
        )
