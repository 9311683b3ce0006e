"""Any convnet as a frozen labelling function with an identity."""

import importlib
import importlib.util
import inspect
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import timm
import torch
from timm.models import build_model_with_cfg
from torch import Tensor, nn
from torch.nn import functional

from teacher_cache.device import Normalise, Recycled, Upload, use_device
from teacher_cache.errors import TeacherError
from teacher_cache.messages.nearest import did_you_mean
from teacher_cache.replay.libraries import pixel_libraries
from teacher_cache.teacher.identity import TeacherIdentity
from teacher_cache.teacher.names import TIMM_HUBS, GivenModel, check_usable, is_usable
from teacher_cache.teacher.settings import TeacherSettings as TeacherSettings
from teacher_cache.teacher.settings import check_settings
from teacher_cache.teacher.state_dict import background_class, load_weights
from teacher_cache.teacher.weights import first_line, read_normalisation, state_sha256

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# arguments of timm.create_model, and of what it calls, that are no settings of the model itself
NOT_THE_MODELS = frozenset(
    {
        *inspect.signature(timm.create_model).parameters,
        *inspect.signature(build_model_with_cfg).parameters,
        *("features_only", "feature_cls", "out_indices", "pruned", "num_classes", "device", "dtype"),
    }
) - {"kwargs"}

Tag = TypeVar("Tag")
Where = Callable[[int], str]  # the row of a batch, as messages name it


def row_of_a_batch(row: int) -> str:
    """A view that nothing more is known of."""
    return f"view {row} of a batch"


class Teacher:
    """A frozen model that labels views. Always run at one batch shape, so that a label depends on its view alone.

    With the same shape, device and build a row's logits are bit-equal whatever its neighbours; with another
    batch size the last bits change.
    """

    def __init__(self, model: nn.Module, identity: TeacherIdentity, device: torch.device) -> None:
        self.identity = identity
        self.batch_size = identity.batch_size
        self.num_classes = identity.num_classes
        self._device = device
        self._dtype = DTYPES[identity.dtype]
        self._input_size = identity.input_size
        self._model = torch.compile(model) if identity.compile else model
        self._normalise = Normalise(identity.mean, identity.std, device)
        self._upload = Upload(device)

    @property
    def on_cuda(self) -> bool:
        """Whether ask() comes back before the answer is there."""
        return self._device.type == "cuda"

    def build(self) -> dict[str, Any]:
        """What may move a logit's last bits besides the settings: libraries, device, driver, CPU threads; as of now."""
        cuda = self.on_cuda
        return {
            "torch": torch.__version__,
            "cuda": torch.version.cuda if cuda else None,
            "cudnn": torch.backends.cudnn.version() if cuda else None,
            "driver": driver_version() if cuda else None,
            "device": self.identity.device,
            "threads": torch.get_num_threads(),
            "libraries": self.identity.libraries,
        }

    def logits(self, views: np.ndarray, where: Where = row_of_a_batch) -> np.ndarray:
        """The model's outputs. views (n, H, W, 3) uint8, n <= batch_size -> (n, classes) float32.

        where names a row in the TeacherError for outputs that are not finite.
        """
        logits = self.fetch(self.ask(torch.from_numpy(views)))
        self.check_finite(logits, where)
        return logits

    def ask(self, views: Tensor) -> "Asked":
        """Give views (n, H, W, 3) uint8, n <= batch_size, to the model. On CUDA the answer comes later, and
        pinned views must stay as they are until it is there."""
        assert len(views) <= self.batch_size
        with torch.inference_mode():
            logits = self._run(*self._upload([views]))
            if not self.on_cuda:
                return Asked(logits.cpu(), None)
            copied = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True)
            copied.copy_(logits, non_blocking=True)
            return Asked(copied, torch.cuda.current_stream(self._device).record_event())

    def fetch(self, asked: "Asked") -> np.ndarray:
        """The answer, (n, classes) float32, whatever it is: check_finite looks at it."""
        if asked.there is not None:
            asked.there.synchronize()
        return asked.logits.numpy()

    def answer(self, views: Tensor, where: Where = row_of_a_batch) -> Tensor:
        """logits() for any number of views, on any device -> (n, classes) float32 on the teacher's device."""
        with torch.inference_mode():
            logits = torch.cat([self._run(batch) for batch in views.split(self.batch_size)])
        if not bool(torch.isfinite(logits).all()):
            self.check_finite(logits.cpu().numpy(), where)
        return logits.clone()  # an ordinary tensor, which a loss may keep for its gradient

    def check_finite(self, logits: np.ndarray, where: Where) -> None:
        """Refuse, with TeacherError that names the first row by `where`, logits (n, ...) that are not finite."""
        rows = np.flatnonzero(~np.isfinite(logits).all(axis=tuple(range(1, logits.ndim))))
        if len(rows):
            raise TeacherError(
                f"{where(int(rows[0]))}: teacher {self.identity.name} gives logits that are not finite at "
                f"{self.identity.dtype}: use --dtype fp32 or bf16, or another checkpoint"
            )

    def _run(self, views: Tensor) -> Tensor:
        batch = views.to(self._device, non_blocking=True)
        if len(views) < self.batch_size:
            batch = torch.cat([batch, batch.new_zeros((self.batch_size - len(views), *views.shape[1:]))])
        size = self._input_size
        if size is not None and batch.shape[1:3] != (size, size):
            images = functional.interpolate(
                batch.permute(0, 3, 1, 2).float(), (size, size), mode="bicubic", antialias=True
            )
            images = self._normalise(images.clamp_(0, 255).permute(0, 2, 3, 1))
        else:
            images = self._normalise(batch)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            logits: Tensor = self._model(images)
        return logits[: len(views)].float()


@dataclass(frozen=True)
class Asked:
    """Logits (n, classes) float32 in memory, which are there after the event; None: at once."""

    logits: Tensor
    there: torch.cuda.Event | None


def classify_views(
    teacher: Teacher, views: Iterable[tuple[Tag, np.ndarray]], where: Callable[[Tag, int], str]
) -> Iterator[tuple[Tag, np.ndarray]]:
    """Run a teacher over views in full batches: (tag, (n, H, W, 3) uint8)s -> (tag, (n, classes) float32)s, in order.

    where names a tag's row in the TeacherError for logits that are not finite.

    Pixels are used or copied before the next item is asked for, so their memory may be used again then. On CUDA a
    batch is put together while the device works on the one before, whose logits are fetched once it has the next.
    """
    ahead = 1 if teacher.on_cuda else 0
    memory = Recycled(pin=teacher.on_cuda)
    batch: Tensor | None = None
    filled = 0
    asked: deque[Asked] = deque()
    waiting: deque[tuple[Tag, int]] = deque()  # items not yet handed over, with their number of rows
    done = np.empty((0, teacher.num_classes), np.float32)  # logits of batches, not yet handed over

    def ask(whole: Tensor) -> None:
        asked.append(teacher.ask(whole))
        if len(asked) > ahead:
            fetch()

    def fetch() -> None:
        nonlocal done
        logits = teacher.fetch(asked.popleft())
        done = np.concatenate([done, logits]) if len(done) else logits

    def hand_over() -> Iterator[tuple[Tag, np.ndarray]]:
        nonlocal done
        while waiting and waiting[0][1] <= len(done):
            tag, rows = waiting.popleft()
            teacher.check_finite(done[:rows], partial(where, tag))
            yield tag, done[:rows]
            done = done[rows:]

    for tag, pixels in views:
        waiting.append((tag, len(pixels)))
        taken = 0
        while taken < len(pixels):
            rows = min(len(pixels) - taken, teacher.batch_size - filled)
            some = torch.from_numpy(pixels[taken : taken + rows])
            taken += rows
            if rows == teacher.batch_size and not teacher.on_cuda:
                ask(some)  # where it lies
                continue
            if batch is None:
                batch = memory.empty((teacher.batch_size, *pixels.shape[1:]), torch.uint8)
            batch[filled : filled + rows] = some
            filled += rows
            if filled == teacher.batch_size:
                ask(batch)
                batch, filled = None, 0
        yield from hand_over()
    if batch is not None:
        ask(batch[:filled])
    while asked:
        fetch()
    yield from hand_over()


def open_teacher(
    settings: TeacherSettings,
    *,
    num_classes: int,
    view_size: tuple[int, int],
    stored: TeacherIdentity | None,
    note: Callable[[str], None] = lambda message: None,
) -> Teacher:
    """Build the teacher that the settings ask for; what they leave open is taken from the store's teacher.

    stored is the identity of the teacher that has filled the store, or None. view_size is (H, W) in pixels. note hears
    what was done to a checkpoint's names.
    Raises TeacherError where it cannot be loaded or has another number of classes than the store.
    """
    check_settings(settings, stored, num_classes)
    spec = _spec(settings, stored)
    device = use_device(settings.device)
    checkpoint = read_normalisation(settings.checkpoint) if settings.checkpoint else {}
    model = load_model(spec, num_classes=num_classes, image_size=view_size, checkpoint=settings.checkpoint, note=note)
    config = getattr(model, "pretrained_cfg", None) or {}
    identity = TeacherIdentity(
        name=spec if settings.checkpoint is None else f"{spec} ({Path(settings.checkpoint).name})",
        spec=spec,
        weights_sha256=state_sha256(model.state_dict()),
        num_classes=num_classes,
        **_settled(settings, stored, {**config, **checkpoint}, on_cuda=device.type == "cuda"),
        device=device_name(device),
        torch=torch.__version__,
        cuda=torch.version.cuda if device.type == "cuda" else None,
        libraries=pixel_libraries(),
    )
    for name, numbers in (("mean", identity.mean), ("std", identity.std)):
        if len(numbers) != 3:
            raise TeacherError(f"--{name} has {len(numbers)} numbers, one for each of R, G, B is expected")
    model = model.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    teacher = Teacher(model, identity, device)
    _check_num_classes(teacher, num_classes, view_size, adapting_advice(spec, settings.checkpoint))
    return teacher


def load_model(
    spec: str,
    *,
    num_classes: int,
    image_size: tuple[int, int],
    checkpoint: str | None,
    note: Callable[[str], None] = lambda message: None,
    **model_args: Any,
) -> nn.Module:
    """Build a model and load its weights.

    spec is a timm name, path/file.py:function or package.module:function. The function gets those of
    num_classes, image_size and model_args that it names. A timm model without a checkpoint gets its pretrained
    weights. Code, and timm's hubs, must be a GivenModel. Raises TeacherError, or CheckpointError when the checkpoint
    does not fit.
    """
    if ":" in spec and not spec.startswith(TIMM_HUBS):
        model = build_from_function(spec, num_classes=num_classes, image_size=image_size, **model_args)
    else:
        model = _build_from_timm(spec, num_classes, model_args, pretrained=checkpoint is None)
    if checkpoint is not None:
        advice = f"if it has other classes, {adapting_advice(spec, checkpoint)}"
        for done in load_weights(model, checkpoint, spec, advice):
            note(done)
    return model


def build_from_function(spec: str, **offered: Any) -> nn.Module:
    """Call path/file.py:function or package.module:function with those of `offered` that its signature names."""
    function = import_function(spec)
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    model = function(**{name: value for name, value in offered.items() if takes_all or name in parameters})
    if not isinstance(model, nn.Module):
        raise TeacherError(f"{spec} returned a {type(model).__name__}, a torch.nn.Module is expected")
    return model


def device_name(device: torch.device) -> str:
    """What decides a kernel's last bits: the GPU's name, or the CPU's with torch's vector capability."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = "cpu"
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model} ({torch.backends.cpu.get_cpu_capability()})"


def driver_version() -> str | None:
    """NVIDIA's kernel driver, as it says itself; None where there is none to ask."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = re.search(r"Kernel Module\D*?\s(\d+(?:\.\d+)+)", text)
    return found[1] if found else None


def check_timm_name(name: str) -> None:
    """Raise TeacherError, with names that are close, for a model, or weights of it, that timm does not have."""
    model, _, tag = name.partition(".")
    if not timm.is_model(name):
        listing = "`python -c 'import timm; print(*timm.list_models())'` lists them all"
        raise TeacherError(f"timm has no model {name}: {did_you_mean(model, timm.list_models(), listing)}")
    there = timm.list_pretrained(f"{model}.*") if tag else []
    if there and name not in there:
        raise TeacherError(f"timm has no {name}: {did_you_mean(name, there, f'it has {len(there)} of {model}')}")


def check_model_args(model_args: Mapping[str, Any]) -> None:
    """Refuse, with TeacherError, what tells timm.create_model to read files or to build no classifier.

    checkpoint_path, for one, runs code: timm loads it as any pickle.
    """
    if refused := sorted(model_args.keys() & NOT_THE_MODELS):
        raise TeacherError(
            f"model_args {', '.join(refused)} would make timm read other files or build another kind of model: leave "
            "them out, model_args are for the model's own arguments"
        )


def _build_from_timm(name: str, num_classes: int, model_args: Mapping[str, Any], *, pretrained: bool) -> nn.Module:
    _check_given(name)
    if not name.startswith(TIMM_HUBS):
        check_timm_name(name)
    check_model_args(model_args)
    if not pretrained:
        return timm.create_model(name, num_classes=num_classes, **model_args)
    try:
        return timm.create_model(name, pretrained=True, **model_args)
    except Exception as error:
        raise TeacherError(
            f"timm could not load pretrained weights of {name} ({first_line(error)}): "
            "download them on a machine with a network, or give --checkpoint"
        ) from error


def _check_given(spec: str) -> None:
    if not is_usable(spec):
        raise TeacherError(
            f"{spec} is code, or a place to fetch from: only who runs the program names such, on the command line, or "
            f"in Python as teacher_cache.teacher.names.GivenModel({spec!r})"
        )


def import_function(spec: str) -> Callable[..., Any]:
    """The function of path/file.py:function or package.module:function.

    TeacherError where there is none, and for any spec but a GivenModel or one of OWN_MODELS: it may stand in a file.
    """
    _check_given(spec)
    place, _, name = spec.rpartition(":")
    try:
        if place.endswith(".py"):
            if not Path(place).is_file():
                raise TeacherError(f"model file {place} is absent: check the path before the colon in {spec}")
            module_spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            assert module_spec is not None
            assert module_spec.loader is not None
            module = importlib.util.module_from_spec(module_spec)
            module_spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except ImportError as error:
        raise TeacherError(f"{spec} cannot be imported: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        there = [each for each, value in vars(module).items() if inspect.isfunction(value) and each[0] != "_"]
        advice = did_you_mean(name, there, f"check what stands after the colon in {spec}")
        raise TeacherError(f"{place} has no function {name}: {advice}")
    return function


def adapting_advice(spec: str, checkpoint: str | None) -> str:
    """What to do about a teacher of other classes."""
    return (
        f"bring it to the store's classes first, `student finetune {checkpoint or spec} STORE "
        f"--recipe finetune_teacher --out TEACHER`, then fill with `--teacher {spec} --checkpoint "
        "TEACHER/checkpoint.pt`; or index the shards with the teacher's classes.json"
    )


def _spec(settings: TeacherSettings, stored: TeacherIdentity | None) -> str:
    """The teacher that is asked for, or else the store's, which may name no code."""
    if settings.spec is not None:
        return GivenModel(settings.spec)
    assert stored is not None
    return check_usable(str(stored.spec), "the store's teacher (teacher/zarr.json)", "--teacher", TeacherError)


def _settled(
    settings: TeacherSettings, stored: TeacherIdentity | None, own: Mapping[str, Any], *, on_cuda: bool
) -> dict[str, Any]:
    """What an identity says of how the teacher runs: as asked, else as the store's, else as the model's own says."""
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
    settled = {
        name: _first(getattr(settings, name), getattr(stored, name, None), default)
        for name, default in defaults.items()
    }
    settled["tau"] = float(settled["tau"]) if settled["topk"] else None
    return settled | {name: tuple(settled[name]) for name in ("mean", "std")}


def _check_num_classes(teacher: Teacher, num_classes: int, view_size: tuple[int, int], advice: str) -> None:
    try:
        logits = teacher.logits(np.zeros((1, *view_size, 3), np.uint8), lambda row: "a black view")
    except (RuntimeError, AssertionError) as error:
        raise TeacherError(
            f"teacher {teacher.identity.name} does not take views of {view_size[0]} x {view_size[1]}: "
            f"{str(error).strip().splitlines()[0]}: give --input-size"
        ) from error
    if logits.ndim != 2 or logits.shape[1] != num_classes:
        found = logits.shape[1] if logits.ndim == 2 else f"an output of shape {logits.shape}"
        raise TeacherError(
            f"teacher {teacher.identity.name} gives {found} classes, the store has {num_classes}: {advice}"
            + (background_class(found, num_classes) if isinstance(found, int) else "")
        )


def _first(*candidates: Any) -> Any:
    return next((candidate for candidate in candidates if candidate is not None), None)
