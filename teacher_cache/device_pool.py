"""Views rendered on a device: processes decode and draw, what the crops need travels once for all views, and the device
does the rest. It has the interface of workers.RenderPool, and gives the same bytes.

On CUDA pictures travel on a stream of their own and views are rendered on another, beside whatever else the device
computes. On Triton's interpreter the device is the CPU, and everything is done when it is asked for.
"""

import contextlib
import itertools
import time
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from teacher_cache.crew import TASKS_PER_WORKER, Crew, RenderTask, Sent
from teacher_cache.decoding import Decoding, serve
from teacher_cache.device import Recycled
from teacher_cache.errors import RenderError
from teacher_cache.memory import memory_lacking
from teacher_cache.processes import TIMEOUT_S
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.replay.block import ReplayedBlock
from teacher_cache.replay.gpu.handing import HandedViews, least_room
from teacher_cache.replay.gpu.render import Renderer
from teacher_cache.replay.header import MAX_PIXELS
from teacher_cache.replay.policy import Policy
from teacher_cache.shared import SharedMemory
from teacher_cache.workers import BlockView

SLOTS_PER_WORKER = 2  # one being written, one on its way to the device
SLOT_BYTES = 48 << 20  # a block of photographs takes 30 MB; of larger ones the worker renders some itself
AHEAD, AHEAD_IN_ROWS = 4, 16  # blocks on the device: whose views take memory of their own, or are put into rows


@dataclass(frozen=True)
class _Part:
    """Views that a worker, or the calling process, has handed over for one task. sent: whose slot they are in."""

    task: RenderTask
    handed: HandedViews
    memory: Tensor  # uint8, from the slot's beginning
    sent: Sent | None

    def rows(self) -> np.ndarray:
        """The pool's row of each view, as in RenderTask."""
        assert self.task.rows is not None
        numbers = [self.task.views.index(view) for view in self.handed.views]
        found: np.ndarray = self.task.rows[numbers].reshape(-1)
        return found


@dataclass(eq=False)
class _Rendering:
    """Views on their way through the device."""

    part: _Part
    uploaded: "torch.cuda.Event | None"
    rendered: "torch.cuda.Event | None"
    views: Tensor | None  # (n, H, W, 3) uint8, on the device, or in memory where the rows are; None: in their rows
    digests: Tensor  # (n,) int64, in memory
    lent: bool = True  # whether the worker's slot is still read


class DeviceRenderPool(contextlib.AbstractContextManager["DeviceRenderPool"]):
    """submit() tasks, get() views until `pending` is 0, as of a RenderPool, with the same order and errors.

    A view's pixels are a tensor on the device, in BlockView.pixels. Where tasks name rows, `rows`, (num_rows, H, W, 3)
    uint8 on rows_device (the device, or memory), holds them; gather() reads it. With workers=0 the calling process
    decodes. Raises RenderError also where the device has no room.
    """

    def __init__(
        self,
        policy: Policy,
        store_seed: int,
        *,
        device: torch.device,
        workers: int,
        skip_bad: bool = False,
        max_pixels: int = MAX_PIXELS,
        num_rows: int | None = None,
        rows_device: torch.device | None = None,
        tasks_ahead: int = TASKS_PER_WORKER,
        timeout_s: float = TIMEOUT_S,
        slot_bytes: int = SLOT_BYTES,
    ) -> None:
        self.device = device
        self.num_workers = workers
        self.wait_s = 0.0  # time that get() has waited for pixels
        self.pending = 0  # (block, view)s submitted and not yet got
        self._policy = policy
        self._renderer = Renderer(policy, device)
        self._decoding = Decoding(policy, store_seed, skip_bad, max_pixels)
        self._uploading, self._rendering = _stream(device), _stream(device)
        with _on(self._rendering):
            self.rows = torch.empty((num_rows or 0, *policy.size, 3), dtype=torch.uint8, device=rows_device or device)
        self._ahead = AHEAD if num_rows is None else AHEAD_IN_ROWS
        self._queue: deque[RenderTask] = deque()  # for the calling process
        self._parts: deque[_Part] = deque()  # to be rendered
        self._renderings: deque[_Rendering] = deque()  # on the device
        self._arrived: deque[BlockView] = deque()
        self._crew = Crew(timeout_s, tasks_ahead)
        self._shared: list[SharedMemory] = []
        self._slots = self._start(max(slot_bytes, least_room(BLOCK_SAMPLES, policy.size)))

    def _start(self, slot_bytes: int) -> list[Tensor]:
        """Start the workers. -> the slots (slots, bytes) uint8 of each; those of the calling process without any."""
        if not self.num_workers:
            return [torch.empty((1, slot_bytes), dtype=torch.uint8, pin_memory=self.device.type == "cuda")]
        num_bytes = SLOTS_PER_WORKER * slot_bytes
        if lacking := memory_lacking(self.num_workers * num_bytes, "what processes hand over"):
            raise RenderError(f"{lacking}: use fewer --workers")
        self._shared = [SharedMemory(num_bytes) for _ in range(self.num_workers)]
        slots = []
        for shared in self._shared:
            self._crew.hire(serve, self._decoding, shared.place, SLOTS_PER_WORKER, num_slots=SLOTS_PER_WORKER)
            slots.append(torch.from_numpy(shared.bytes).view(SLOTS_PER_WORKER, slot_bytes))
            _pin(slots[-1], self.device)
        return slots

    # -- what is asked for ---------------------------------------------------------------------------------------

    def submit(self, task: RenderTask) -> None:
        """Queue a task; ids of tasks in flight must differ."""
        self.pending += len(task.views)
        if self._crew.workers:
            self._crew.submit(task)
        else:
            self._queue.append(task)

    def get(self) -> BlockView:
        """The next replayed (block, view) of any task."""
        assert self.pending, "get() without a submitted task"
        start = time.perf_counter()
        while not self._arrived:
            self._move_on()
        self.wait_s += time.perf_counter() - start
        self.pending -= 1
        return self._arrived.popleft()

    def ready(self) -> bool:
        """Whether get() has something at once; the device is given what has come. Never where the calling process
        decodes."""
        if self._crew.workers:
            self._free_slots()
            self._take_parts(wait=False)
            while self._parts and len(self._renderings) < self._ahead:
                self._render(self._parts.popleft())
        return bool(self._arrived) or bool(self._renderings and _is_done(self._renderings[0].rendered))

    def gather(self, rows: np.ndarray, memory: Recycled) -> Tensor:
        """The views in some rows, (n,) int64 -> (n, H, W, 3) uint8 where the rows are: in host memory in a piece of
        `memory`. The rows may be given to tasks again at once."""
        if self._rendering is None or self.rows.device.type == "cpu":
            views = memory.empty((len(rows), *self.rows.shape[1:]), torch.uint8)
            np.take(self.rows.numpy(), rows, axis=0, out=views.numpy(), mode="clip")
            return views
        with _on(self._rendering):  # after what was rendered into these rows, and before what comes
            views = self.rows.index_select(0, torch.from_numpy(rows).to(self.device, non_blocking=True))
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._rendering)
        views.record_stream(computing)
        return views

    def close(self) -> None:
        """End the workers; what is in flight is lost."""
        self._crew.close()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._renderings.clear()
        self._parts.clear()
        for slots, shared in zip(self._slots, self._shared, strict=False):
            _unpin(slots, self.device)
            shared.close()
        self._shared = []

    def __exit__(self, *details: object) -> None:
        self.close()

    # -- on the way ----------------------------------------------------------------------------------------------

    def _move_on(self) -> None:
        """Take what has been handed over, give the device its next views, or wait for whichever comes first."""
        self._free_slots()
        self._take_parts(wait=not self._parts and not self._renderings)
        if self._parts and len(self._renderings) < self._ahead:
            self._render(self._parts.popleft())
        elif self._renderings:
            self._finish()

    def _take_parts(self, *, wait: bool) -> None:
        if self._queue:
            self._decode_here()
        while self._crew.workers and (wait or self._crew.is_ready()):
            for sent in self._crew.receive():
                memory = self._slots[sent.worker.child.number][sent.slot]
                self._parts.append(_Part(sent.task, sent.content, memory, sent))
            wait = False

    def _decode_here(self) -> None:
        """A task's views; they have left the memory that they are handed over in before it is needed again."""
        task, (slot,) = self._queue.popleft(), self._slots[0]
        for handed in self._decoding.hand_over(task, itertools.repeat(slot.numpy())):
            self._render(_Part(task, handed, slot, None))
            _wait_for(self._renderings[-1].uploaded)

    def _render(self, part: _Part) -> None:
        """Give views to the device; where it has no room, once all before are finished."""
        try:
            self._renderings.append(self._given(part))
        except torch.OutOfMemoryError as error:
            if not self._renderings:
                raise RenderError(
                    f"{part.task.where}: {self.device} has no room for rendering beside the model: give --render cpu, "
                    "or lower the batch"
                ) from error
            while self._renderings:
                self._finish()
            self._render(part)

    def _given(self, part: _Part) -> _Rendering:
        batch, num_bytes = part.handed.batch, part.handed.num_bytes
        with _on(self._uploading):
            pictures = torch.empty(num_bytes, dtype=torch.uint8, device=self.device)
            pictures.copy_(part.memory[:num_bytes], non_blocking=True)
            uploaded = _event(self._uploading)
        with _on(self._rendering):
            if self._rendering is not None and uploaded is not None:
                self._rendering.wait_event(uploaded)
                pictures.record_stream(self._rendering)
            views = self._renderer.render(batch.plan, pictures, self._renderer.send(batch.plan))
            digests = _in_memory(self._renderer.digests(views))
            left = self._keep(part, views) if len(self.rows) else views
            return _Rendering(part, uploaded, _event(self._rendering), left, digests)

    def _keep(self, part: _Part, views: Tensor) -> Tensor | None:
        """Put views into their rows; where those are in memory it is done when the views have come there."""
        if self.rows.device.type != views.device.type:
            return _in_memory(views)
        self._put(part, views)
        return None

    def _put(self, part: _Part, views: Tensor) -> None:
        rows = part.rows()
        wanted = np.flatnonzero(rows >= 0)
        chosen = views if len(wanted) == len(rows) else views[torch.from_numpy(wanted).to(views.device)]
        self.rows.index_copy_(0, torch.from_numpy(rows[wanted]).to(self.rows.device), chosen)

    def _finish(self) -> None:
        """Wait for the first views on the device; they have arrived."""
        rendering = self._renderings[0]
        _wait_for(rendering.rendered)
        self._free_slots()
        self._renderings.popleft()
        part, views = rendering.part, rendering.views
        if len(self.rows) and views is not None:
            self._put(part, views)
        elif views is not None and self._rendering is not None:
            views.record_stream(torch.cuda.current_stream(self.device))
        batch, nowhere = part.handed.batch, np.empty((0, *self._policy.size, 3), np.uint8)
        digests = batch.digests(rendering.digests.numpy().view(np.uint64)).tolist()
        for view, run, digest in zip(part.handed.views, batch.runs, digests, strict=True):
            rows = slice(run.first, run.first + run.num)
            block = ReplayedBlock(
                view=view,
                pixels=nowhere,
                class_pairs=batch.class_pairs[rows],
                lambdas=batch.lambdas[rows],
                digest=digest,
                skipped=part.handed.skipped,
                damaged=part.handed.damaged,
            )
            pixels = None if len(self.rows) or views is None else views[rows]
            self._arrived.append(BlockView(part.task, block, device_pixels=pixels))

    def _free_slots(self) -> None:
        """Give slots back to workers once they have been read."""
        for rendering in self._renderings:
            if rendering.lent and _is_done(rendering.uploaded):
                rendering.lent = False
                if (sent := rendering.part.sent) is not None:
                    self._crew.release(sent.worker, sent.slot)


# -- streams: none where the device is the CPU -------------------------------------------------------------------------


def _stream(device: torch.device) -> "torch.cuda.Stream | None":
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def _on(stream: "torch.cuda.Stream | None") -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if stream is None else torch.cuda.stream(stream)


def _event(stream: "torch.cuda.Stream | None") -> "torch.cuda.Event | None":
    """What is done when all is done that the stream has now."""
    return None if stream is None else stream.record_event()


def _is_done(event: "torch.cuda.Event | None") -> bool:
    return event is None or event.query()


def _wait_for(event: "torch.cuda.Event | None") -> None:
    if event is not None:
        event.synchronize()


def _in_memory(tensor: Tensor) -> Tensor:
    """The tensor in pinned memory, once its stream has come so far; itself where it is in memory."""
    if tensor.device.type == "cpu":
        return tensor
    copied = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return copied.copy_(tensor, non_blocking=True)


def _pin(memory: Tensor, device: torch.device) -> None:
    """Let a CUDA device read memory that several processes see beside its work."""
    if device.type == "cuda":
        torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))


def _unpin(memory: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(memory.data_ptr()))
