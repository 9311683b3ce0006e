"""What lies between pixels in memory and a model, in both stages: which device, memory that serves again, copies to the
device beside its work, and normalisation."""

import importlib.util
import math
import os
import re
import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from teacher_cache.errors import DeviceError
from teacher_cache.messages.shown import counted

KEPT = 3  # pieces of memory that wait for their next use
PIECE = 1 << 19  # elements that are normalised at a time on the CPU: 2 MB of float32, which stay in a cache
BATCHES_AHEAD = 1  # of the device's work, for copies to it


def use_device(asked: str | torch.device | None) -> torch.device:
    """The device of this rank, made the current one, with the global switches that both stages run under.

    asked: as choose_device has it, or what an earlier call gave. Raises DeviceError.
    """
    device = choose_device(asked)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    make_numerics_repeatable()
    return device


def choose_device(asked: str | torch.device | None) -> torch.device:
    """ "cpu", "cuda" (this rank's own GPU, numbered by LOCAL_RANK), "cuda:N" (for a rank that is alone on its machine);
    of torch's devices each, a CUDA device without a number is the current one; None: a GPU if there is one. A CUDA
    device always has an index. Raises DeviceError.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked is None:
        asked = "cuda" if num_gpus else "cpu"
    named = asked.type if isinstance(asked, torch.device) and asked.type == "cpu" else str(asked)
    given = re.fullmatch(r"(cpu)|cuda(?::([0-9]{1,4}))?", named)
    if given is None:
        raise DeviceError(f"--device {asked} is not a device that is served: give cpu, cuda, or cuda:N for one GPU")
    if given[1]:
        return torch.device("cpu")
    if not num_gpus:
        raise DeviceError(
            f"--device {asked}, but torch {torch.__version__} finds no GPU here: leave --device out to use the CPU, or "
            "check `nvidia-smi`, CUDA_VISIBLE_DEVICES and that torch is built for CUDA"
        )
    if isinstance(asked, torch.device):  # whoever made it knows which of a machine's it is
        return _numbered(torch.cuda.current_device() if asked.index is None else asked.index, asked, num_gpus)
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE") or "1")
    if given[2] is None:
        number = int(os.environ.get("LOCAL_RANK") or "0")
        if number >= num_gpus:
            raise DeviceError(
                f"rank {number} of this machine has no GPU of its own, it has {num_gpus}: start "
                f"{counted(num_gpus, 'rank')} here (torchrun --nproc-per-node), or give --device cpu"
            )
        return torch.device("cuda", number)
    if ranks_here > 1:
        raise DeviceError(
            f"--device {asked} would be the one GPU of {ranks_here} ranks: give --device cuda, each rank takes its own"
        )
    return _numbered(int(given[2]), asked, num_gpus)


def _numbered(number: int, asked: str | torch.device, num_gpus: int) -> torch.device:
    if number >= num_gpus:
        raise DeviceError(
            f"--device {asked}, but this machine's GPUs are cuda:0 to cuda:{num_gpus - 1}: give one of them"
        )
    return torch.device("cuda", number)


def make_numerics_repeatable() -> None:
    """Choose kernels that are the same tomorrow: no TF32, no autotuning."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def memory_format(device: torch.device) -> torch.memory_format:
    """The order in memory of weights: on a GPU channels last, as images are, so that convolutions turn neither."""
    return torch.channels_last if device.type == "cuda" else torch.preserve_format


class RecycledMemory:
    """Memory for tensors that are made again and again: what nobody holds any more serves once more.

    Fresh memory is cleared by the kernel, page by page as it is touched, which can take longer than what is done in it.
    """

    def __init__(self, *, pin: bool = False) -> None:
        self._pin = pin
        self._free: list[np.ndarray] = []

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor; its memory is its own until the last tensor or array over it is gone."""
        if self._pin:  # torch recycles pinned memory itself, and waits until copies from it are through
            return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)
        num_bytes = math.prod(shape) * dtype.itemsize
        fitting = [number for number, memory in enumerate(self._free) if memory.nbytes == num_bytes]
        memory = self._free.pop(fitting[0]) if fitting else _aligned(num_bytes)
        lent = memory[:]  # the tensor's storage holds this array, and it alone
        weakref.finalize(lent, _give_back, self._free, memory).atexit = False
        return torch.from_numpy(lent).view(dtype).view(tuple(shape))


def _aligned(num_bytes: int) -> np.ndarray:
    """Fresh bytes that start where torch's own do. NumPy asks for huge pages, a first touch of which costs less."""
    memory = np.empty(num_bytes + 64, np.uint8)
    return memory[-memory.ctypes.data % 64 :][:num_bytes]


def _give_back(free: list[np.ndarray], memory: np.ndarray) -> None:
    free.append(memory)
    del free[:-KEPT]


class Upload:
    """Tensors to the device. On CUDA pinned ones travel on a stream of their own while the device computes what came
    before, and the calling process gets at most a batch ahead of it. On the CPU nothing is copied."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._given: deque[torch.cuda.Event] = deque()  # each after all that the device was given before an upload

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors on the device; what the device is given from now on may use them."""
        if self._stream is None:
            return [tensor.to(self._device) for tensor in tensors]
        computing = torch.cuda.current_stream(self._device)
        self._given.append(computing.record_event())
        if len(self._given) > BATCHES_AHEAD:
            self._given.popleft().synchronize()
        with torch.cuda.stream(self._stream):
            moved = [tensor.to(self._device, non_blocking=True) for tensor in tensors]
        computing.wait_stream(self._stream)
        for tensor in moved:
            tensor.record_stream(computing)  # its memory is the other stream's, which must not use it again too soon
        return moved


class Normalise:
    """uint8 (B, H, W, 3) on the device -> (B, 3, H, W) of a dtype, channels last in memory: (value / 255 - mean) / std.

    Written as (level - 255 mean) x (1 / (255 std)) in float32, each operation rounded by itself, then rounded to dtype:
    the same bits on every device, whoever rendered the view. Levels between the 256, float32 (B, H, W, 3), will do.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        shift, scale = 255 * torch.tensor(mean), 1 / (255 * torch.tensor(std))
        levels = torch.arange(256, dtype=torch.float32)
        self._shift, self._scale = shift.to(device), scale.to(device)
        self._dtype = dtype
        self._memory = RecycledMemory()
        self.values = ((levels[:, None] - shift) * scale).T.to(dtype).contiguous().to(device)  # (3, 256), by level
        self._by_kernel = device.type == "cuda" and _kernel_gives(self.values)

    def __call__(self, views: Tensor) -> Tensor:
        if self._by_kernel and views.dtype is torch.uint8:  # one pass: bytes are read, what the model takes is written
            from teacher_cache.replay.gpu.normalise import normalised

            return normalised(views, self.values)
        if views.device.type != "cpu":
            images = (views.float() - self._shift).mul_(self._scale)
        else:
            images = self._on_the_cpu(views)
        return images.to(self._dtype).permute(0, 3, 1, 2)

    def _on_the_cpu(self, views: Tensor) -> Tensor:
        """float32 (B, H, W, 3), piece by piece."""
        num_views, height, width, _ = views.shape
        images = self._memory.empty(views.shape, torch.float32)
        lines, pixels = images.view(-1, 3 * width), views.reshape(-1, 3 * width)
        # of whole lines, as runs of three values are slow
        shift, scale = self._shift.repeat(width), self._scale.repeat(width)
        step = max(1, PIECE // (3 * width))
        for start in range(0, num_views * height, step):
            piece = lines[start : start + step]
            piece.copy_(pixels[start : start + step]).sub_(shift).mul_(scale)
        return images


def _kernel_gives(values: Tensor) -> bool:
    """Whether Triton is there, and its kernel gives these values. Else torch does, of the same bits."""
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        from teacher_cache.replay.gpu.normalise import is_exact  # for a device alone
    except Exception:  # a Triton that does not start raises what it likes
        return False
    return is_exact(values)
