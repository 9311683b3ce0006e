"""Where views are rendered, by processes on the CPU or on a device, and where the rows of a pool lie. The bytes are the
same, so nothing that is stored knows of it, and the ranks of a job may differ. torch is imported when it is needed."""

import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from teacher_cache.errors import DeviceError
from teacher_cache.processes.memory import available_memory
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.replay.native.library import lacking

if TYPE_CHECKING:  # what the command line asks of this module is its default alone
    import torch

    from teacher_cache.job import Job
    from teacher_cache.rendering.crew import PoolSettings, RenderTask
    from teacher_cache.rendering.device_pool import DeviceRenderPool
    from teacher_cache.rendering.workers import BlockView, RenderPool
    from teacher_cache.replay.block import DecodedBlock, ReplayedBlock
    from teacher_cache.replay.policy import Policy

    AnyPool: TypeAlias = RenderPool | DeviceRenderPool

Render = Literal["auto", "cpu", "gpu"]
RENDER_DEFAULT: Render = "auto"
ROOM = 8  # times the bytes of a view while it is rendered: its crop, what is made of it, and it itself
POOL_SHARE = 0.25  # of a device's memory, for a shuffle pool, where nobody says otherwise
DEVICE_FILES = ("/dev/nvidiactl", "/dev/dxg")  # Linux's, and that of Linux under Windows


@dataclass(frozen=True)
class Rendering:
    """device: None where processes render on the CPU. said: what people are told; None where nothing is worth it."""

    device: "torch.device | None"
    said: str | None = None

    def tell(self, job: "Job", say: Callable[[str], None]) -> None:
        """Say where views are rendered, once for all ranks, and on a rank that is worse off than the first. Every rank
        calls it."""
        worse = job.is_worse_off("rendering", int(self.said is not None and self.device is None))
        if self.said is not None and (job.first or worse):
            say(self.said if job.first else f"rank {job.rank}: {self.said}")


ON_CPU = Rendering(None)


def choose_rendering(asked: Render, policy: "Policy", device: "torch.device") -> Rendering:
    """What renders a policy's views for work on a device.

    "auto": the device, where it is a CUDA device, Triton is there, it has room, and a made-up block came out of it as
    it does of the CPU. "gpu": DeviceError where there is no such device, or it renders otherwise or not at all;
    Triton's interpreter, asked for by TRITON_INTERPRET=1, makes one of the CPU. Operations of the user's own, and what
    the device has no room for, are always rendered on the CPU. DeviceError for any other word.
    """
    _check_word(asked)
    if asked == "cpu" or (asked == "auto" and device.type != "cuda"):
        return Rendering(None, lacking())
    if policy.own_operations is not None:
        own = ", ".join(policy.own_operations.names)
        return _on_cpu(f"policy {policy.name} has operations of its own ({own})")
    if why := _unable(device):
        if asked == "gpu":
            raise DeviceError(f"--render gpu, but {why}: leave --render out to use what there is")
        return _on_cpu(why)
    if why := room_lacking(policy, device):
        return _on_cpu(why)
    if fault := _fault(policy, device):
        if asked == "gpu":
            raise DeviceError(f"--render gpu, but {describe(device)} cannot: {fault}: give --render cpu")
        return _on_cpu(f"{describe(device)} cannot: {fault}")
    return Rendering(device, f"views are rendered on {describe(device)}")


def room_lacking(policy: "Policy", device: "torch.device") -> str | None:
    """What to say where a device has no room for one block's views; None where it has."""
    least, free = ROOM * BLOCK_SAMPLES * _view_bytes(policy), free_bytes(device)
    if free >= least:
        return None
    return f"{describe(device)} has {free / 1e9:.1f} GB free beside the model, {least / 1e9:.1f} are needed"


def place_rows(
    rendering: Rendering, policy: "Policy", num_rows: int, budget_gb: float | None
) -> tuple["torch.device", str | None]:
    """Where so many views of a pool lie, the device or host memory, and what to say of it.

    budget_gb: what they may take of the device, in 10**9 bytes; None: a quarter of its memory. DeviceError where it is
    no such number.
    """
    if budget_gb is not None and not 0 <= budget_gb < math.inf:  # nan is no budget either, and would be the largest
        raise DeviceError(f"device_pool_gb is {budget_gb:g}: give the GB of a device that the shuffle pool may take")
    import torch

    from teacher_cache.rendering.crew import AT_ONCE_BYTES

    host = torch.device("cpu")
    if rendering.device is None:
        return host, None
    num_bytes, device = num_rows * _view_bytes(policy), rendering.device
    budget = POOL_SHARE * total_bytes(device) if budget_gb is None else 1e9 * budget_gb
    where = f"the shuffle pool of {num_bytes / 1e9:.2f} GB lies"
    if num_bytes > budget:
        return host, f"{where} in host memory: it may take {budget / 1e9:.2f} GB of {device} (--device-pool)"
    free = free_bytes(device) - ROOM * min(AT_ONCE_BYTES, num_bytes)
    if num_bytes > free:
        return host, f"{where} in host memory: {device} has {max(free, 0) / 1e9:.2f} GB for it beside all else"
    return device, f"{where} on {device}"


def open_render_pool(
    rendering: Rendering,
    settings: "PoolSettings",
    warn: Callable[[str], None],
    *,
    rows_device: "torch.device | None" = None,
) -> "AnyPool":
    """The pool that renders as was chosen. rows_device: of place_rows. warn hears where the device has less room than
    it had."""
    if rendering.device is None:
        from teacher_cache.rendering.workers import RenderPool

        return RenderPool(settings)
    from teacher_cache.rendering.device_pool import DeviceRenderPool  # and Triton, which not all have

    return DeviceRenderPool(settings, rendering.device, warn, rows_device=rows_device)


def render_all(pool: "AnyPool", tasks: Sequence["RenderTask"]) -> Iterator["BlockView"]:
    """Submit all tasks and yield every (block, view), each released when the next is asked for."""
    for task in tasks:
        pool.submit(task)
    while pool.pending:
        found = pool.get()
        yield found
        found.release()


def open_replay(
    render: Render,
    policy: "Policy",
    store_seed: int,
    device: "str | torch.device | None" = None,
    say: Callable[[str], None] = lambda message: None,
) -> "Callable[[DecodedBlock, int], ReplayedBlock]":
    """Replay views of blocks one by one in this process: as replay_view, or on a device, by a choice as above. say
    hears of it where one was asked for. DeviceError as there, and for a device that is not there, whatever renders."""
    from teacher_cache.replay.block import ReplayedBlock, replay_view

    _check_word(render)
    if device is None and not may_use_device(render):
        return partial(replay_view, policy, store_seed)
    from teacher_cache.device import choose_device  # torch, which takes seconds to import

    rendering = choose_rendering(render, policy, choose_device(device))
    if render != "cpu" and rendering.said is not None:
        say(rendering.said)
    if (chosen := rendering.device) is None:
        return partial(replay_view, policy, store_seed)
    from teacher_cache.replay.gpu.render import Renderer, render_blocks

    renderer = Renderer(policy, chosen)

    def replay(decoded: "DecodedBlock", view: int) -> ReplayedBlock:
        found = render_blocks(renderer, store_seed, [decoded], [view])
        return ReplayedBlock(
            view=view,
            pixels=found.pixels.cpu().numpy(),
            class_pairs=found.class_pairs,
            lambdas=found.lambdas,
            digest=int(found.digests[0, 0]),
            skipped=decoded.skipped,
            damaged=decoded.damaged,
        )

    return replay


def may_use_device(asked: Render) -> bool:
    """Whether a device may come to render here, as far as is known without torch."""
    return asked == "gpu" or (asked == "auto" and any(Path(name).exists() for name in DEVICE_FILES))


def describe(device: "torch.device") -> str:
    """A device as messages name it."""
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "Triton's interpreter"


def free_bytes(device: "torch.device") -> int:
    """What this process may still take of a device's memory."""
    import torch

    if device.type != "cuda":
        return _memory()
    free: int = torch.cuda.mem_get_info(device)[0]
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def total_bytes(device: "torch.device") -> int:
    """A device's memory."""
    import torch

    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else _memory()


def _on_cpu(why: str) -> Rendering:
    return Rendering(None, f"views are rendered on the CPU: {why}")


def _unable(device: "torch.device") -> str | None:
    """Why a device cannot render; None where it can."""
    import torch

    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        if torch.cuda.is_available():
            return "the work is on the CPU (--device cpu)"
        return "torch finds no CUDA device here"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed, which comes with torch for CUDA"
    return None


def _fault(policy: "Policy", device: "torch.device") -> str | None:
    """Why a device does not render as the CPU does; None where it does."""
    try:
        from teacher_cache.rendering.device_proof import device_fault  # and Triton, which not all have
    except Exception as error:  # of another release, or built for another machine, it raises what it likes
        return first_line(error)
    return device_fault(policy, device)


def first_line(error: BaseException) -> str:
    """An error of others as messages name it."""
    said = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _check_word(asked: Render) -> None:
    """DeviceError for what is no way of rendering: it would be taken for one."""
    if asked not in get_args(Render):
        raise DeviceError(f"render is {asked!r}: give {' or '.join(map(repr, get_args(Render)))}")


def _memory() -> int:
    return available_memory() or 1 << 62


def _view_bytes(policy: "Policy") -> int:
    return 3 * math.prod(policy.size)
