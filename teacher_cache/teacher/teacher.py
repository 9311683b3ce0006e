"""Any model as a frozen labelling function with an identity: opened, and run at one batch shape."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from teacher_cache.device import Normalise, RecycledMemory, Upload, use_device
from teacher_cache.errors import TeacherError
from teacher_cache.messages.shown import MESSAGE, counted, shown
from teacher_cache.processes.memory import is_of_memory
from teacher_cache.replay.libraries import pixel_libraries
from teacher_cache.storage.place import to_place
from teacher_cache.teacher.identity import TeacherIdentity
from teacher_cache.teacher.models import ModelSpec, adapting_advice, images_dtype, load_module, pretrained_classes
from teacher_cache.teacher.names import GivenModel, check_usable, without_folder
from teacher_cache.teacher.settings import TeacherSettings, check_settings, settle
from teacher_cache.teacher.state_dict import background_class
from teacher_cache.teacher.weights import first_line, read_normalisation, state_sha256

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

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
        self.model = torch.compile(model) if identity.compile else model
        given = images_dtype(identity.spec, self._dtype, device)
        self._normalise = Normalise(identity.mean, identity.std, device, given)
        self._upload = Upload(device)

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def on_cuda(self) -> bool:
        """Whether submit() comes back before the logits are there."""
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
        logits = self.submit(torch.from_numpy(views)).result()
        self.check_finite(logits, where)
        return logits

    def submit(self, views: Tensor) -> "PendingLogits":
        """Give views (n, H, W, 3) uint8, n <= batch_size, to the model. On CUDA the logits come later, and
        pinned views must stay as they are until they are there. check_finite has not looked at them."""
        assert len(views) <= self.batch_size
        with torch.inference_mode():
            logits = self._run(*self._upload([views]))
            if not self.on_cuda:
                return PendingLogits(logits.cpu())
            copied = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True)
            copied.copy_(logits, non_blocking=True)
            return PendingLogits(copied, torch.cuda.current_stream(self._device).record_event())

    def logits_on_device(self, views: Tensor) -> Tensor:
        """logits() for any number of views, on any device -> (n, classes) float32 on the teacher's device, which is not
        waited for. Nobody has looked whether they are finite."""
        with torch.inference_mode():
            logits = torch.cat([self._run(batch) for batch in views.split(self.batch_size)])
        return logits.clone()  # an ordinary tensor, which a loss may keep for its gradient

    def check_finite(self, logits: np.ndarray, where: Where) -> None:
        """Refuse, with TeacherError that names the first row by `where`, logits (n, ...) that are not finite."""
        rows = np.flatnonzero(~np.isfinite(logits).all(axis=tuple(range(1, logits.ndim))))
        if len(rows):
            raise self.not_finite(where(int(rows[0])))

    def not_finite(self, where: str) -> TeacherError:
        """What to raise of a view, as messages name it, whose logits are not finite."""
        return TeacherError(
            f"{where}: teacher {self.identity.name} gives logits that are not finite at {self.identity.dtype}: use "
            "--dtype fp32 or bf16, or another checkpoint"
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
            logits = self.model(images)
        if not isinstance(logits, Tensor):
            raise TeacherError(
                f"teacher {self.identity.name} gives a {type(logits).__name__}, one tensor of logits (views, classes) "
                "is expected: let its function return such a model"
            )
        return logits[: len(views)].float()


@dataclass(frozen=True)
class PendingLogits:
    """Logits (n, classes) float32 in memory, which are right once the device has passed the event; None: at once."""

    logits: Tensor
    event: torch.cuda.Event | None = None

    def result(self) -> np.ndarray:
        """Wait for them -> (n, classes) float32, finite or not."""
        if self.event is not None:
            self.event.synchronize()
        return self.logits.numpy()


# -- many views ------------------------------------------------------------------------------------------------------


def classify_views(
    teacher: Teacher, views: Iterable[tuple[Tag, np.ndarray | Tensor]], where: Callable[[Tag, int], str]
) -> Iterator[tuple[Tag, np.ndarray]]:
    """Run a teacher over views in full batches: (tag, (n, H, W, 3) uint8)s -> (tag, (n, classes) float32)s, in order.
    Views may lie in memory or on the teacher's device.

    where names a tag's row in the TeacherError for logits that are not finite.

    Pixels are used or copied before the next item is asked for, so their memory may be used again then.
    """
    batches = _Batches(teacher)
    waiting: deque[tuple[Tag, int]] = deque()  # items whose logits are not all there, with their number of rows

    def finished() -> Iterator[tuple[Tag, np.ndarray]]:
        while waiting and waiting[0][1] <= batches.rows_done:
            tag, rows = waiting.popleft()
            logits = batches.take(rows)
            teacher.check_finite(logits, partial(where, tag))
            yield tag, logits

    for tag, pixels in views:
        waiting.append((tag, len(pixels)))
        batches.put(pixels)
        yield from finished()
    batches.finish()
    yield from finished()


class _Batches:
    """Rows on their way through a teacher: gathered into full batches, their logits handed out in the same order.

    On CUDA a batch is put together while the device works on the one before, whose logits are waited for once it has
    the next.
    """

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._ahead = 1 if teacher.on_cuda else 0
        self._memory = RecycledMemory(pin=teacher.on_cuda)
        self._batch: Tensor | None = None  # which is being put together, and how many rows it has
        self._filled = 0
        self._pending: deque[PendingLogits] = deque()
        self._done = np.empty((0, teacher.num_classes), np.float32)

    @property
    def rows_done(self) -> int:
        """How many rows' logits wait to be taken."""
        return len(self._done)

    def put(self, pixels: np.ndarray | Tensor) -> None:
        """Use or copy more rows, (n, H, W, 3) uint8."""
        pixels = torch.as_tensor(pixels)
        taken = 0
        while taken < len(pixels):
            rows = min(len(pixels) - taken, self._teacher.batch_size - self._filled)
            self._add(pixels[taken : taken + rows])
            taken += rows

    def finish(self) -> None:
        """Run what is left, and wait for all."""
        if self._batch is not None:
            self._submit(self._batch[: self._filled])
        while self._pending:
            self._collect()

    def take(self, rows: int) -> np.ndarray:
        """The next rows' logits."""
        taken, self._done = self._done[:rows], self._done[rows:]
        return taken

    def _add(self, rows: Tensor) -> None:
        """Rows that the batch has room for."""
        size = self._teacher.batch_size
        on_device = rows.device.type != "cpu"
        if len(rows) == size and (on_device or not self._teacher.on_cuda):
            self._submit(rows)  # where they lie
            return
        if self._batch is None:
            shape = (size, *rows.shape[1:])
            self._batch = rows.new_empty(shape) if on_device else self._memory.empty(shape, torch.uint8)
        self._batch[self._filled : self._filled + len(rows)] = rows
        self._filled += len(rows)
        if self._filled == size:
            whole, self._batch, self._filled = self._batch, None, 0
            self._submit(whole)

    def _submit(self, batch: Tensor) -> None:
        self._pending.append(self._teacher.submit(batch))
        if len(self._pending) > self._ahead:
            self._collect()

    def _collect(self) -> None:
        logits = self._pending.popleft().result()
        self._done = np.concatenate([self._done, logits]) if len(self._done) else logits


# -- opening ---------------------------------------------------------------------------------------------------------


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
    Raises ModelError or CheckpointError where it cannot be loaded, TeacherError where it has another number of classes
    than the store.
    """
    check_settings(settings, stored, num_classes)
    spec = ModelSpec(_name(settings, stored))
    device = use_device(settings.device)
    normalisation = read_normalisation(settings.checkpoint) if settings.checkpoint else {}
    advice = adapting_advice(spec.name, settings.checkpoint)
    if settings.checkpoint is None and (known := pretrained_classes(spec)) not in (None, num_classes):
        raise TeacherError(_other_classes(spec.name, known, num_classes, advice))  # before its weights are fetched
    model = load_module(spec, num_classes, view_size, settings.checkpoint, note)
    own = {**(getattr(model, "pretrained_cfg", None) or {}), **normalisation}
    identity = TeacherIdentity(
        name=without_folder(spec.name) + (f" ({to_place(settings.checkpoint).name})" if settings.checkpoint else ""),
        spec=spec.name,
        weights_sha256=state_sha256(model.state_dict()),
        num_classes=num_classes,
        **settle(settings, stored, own, on_cuda=device.type == "cuda"),
        device=device_name(device),
        torch=torch.__version__,
        cuda=torch.version.cuda if device.type == "cuda" else None,
        libraries=pixel_libraries(),
    )
    model = model.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    teacher = Teacher(model, identity, device)
    _check_num_classes(teacher, view_size, advice)
    return teacher


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
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)", text)
    return found[1] if found else None


def _name(settings: TeacherSettings, stored: TeacherIdentity | None) -> str:
    """The teacher that is asked for, or else the store's, which may name no code."""
    if settings.spec is not None:
        return GivenModel(settings.spec)
    assert stored is not None
    return check_usable(str(stored.spec), "the store's teacher (teacher/zarr.json)", "--teacher", TeacherError)


def _check_num_classes(teacher: Teacher, view_size: tuple[int, int], advice: str) -> None:
    """Refuse, with TeacherError, a teacher that does not take views of this size or gives other classes."""
    name, num_classes = teacher.identity.name, teacher.num_classes
    try:
        logits = teacher.logits(np.zeros((1, *view_size, 3), np.uint8), lambda row: "a black view")
    except TeacherError:
        raise
    except Exception as error:  # a model's own, of any kind
        if is_of_memory(error):
            raise
        said = shown(first_line(error), MESSAGE)
        raise TeacherError(
            f"teacher {name} does not take views of {view_size[0]} x {view_size[1]}: {said}: give --input-size, or "
            "correct the model"
        ) from error
    if logits.ndim != 2:
        shape = tuple(logits.shape)
        raise TeacherError(f"teacher {name} gives an output of shape {shape}, the store has {num_classes}: {advice}")
    if logits.shape[1] != num_classes:
        raise TeacherError(_other_classes(name, logits.shape[1], num_classes, advice))


def _other_classes(name: str, found: int, num_classes: int, advice: str) -> str:
    told = f"teacher {name} gives {counted(found, 'class')}, the store has {num_classes}: {advice}"
    return told + background_class(found, num_classes)
