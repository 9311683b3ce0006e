"""Views rendered on a device: processes decode and draw, what the crops need travels once for all views, and the device
does the rest. It has the interface of workers.RenderPool, and gives the same bytes.

On CUDA pictures travel on a stream of their own and views are rendered on another, beside whatever else the device
computes. On Triton's interpreter the device is the CPU, and everything is done when it is asked for.
"""

import contextlib
import math
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
from teacher_cache.rendering import AT_ONCE_BYTES
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.replay.block import ReplayedBlock, block_digest
from teacher_cache.replay.gpu.handing import HandedViews, least_room
from teacher_cache.replay.gpu.plan import ALIGNED, PlannedView
from teacher_cache.replay.gpu.render import Renderer
from teacher_cache.replay.header import MAX_PIXELS
from teacher_cache.replay.mix import MixPlan
from teacher_cache.replay.policy import Policy
from teacher_cache.shared import SharedMemory
from teacher_cache.workers import BlockView

SLOTS_PER_WORKER = 2  # one being written, one on its way to the device
SLOT_BYTES = 48 << 20  # a block of photographs takes 30 MB; of larger ones the worker renders some itself
MOST_VIEWS = 2048  # that are rendered at once
AHEAD = 2  # batches on the device


@dataclass(frozen=True)
class _Part:
    """Views that a worker, or the calling process, has handed over for one task. sent: whose slot they are in."""

    task: RenderTask
    handed: HandedViews
    memory: Tensor  # uint8, from the slot's beginning
    sent: Sent | None

    def rows(self) -> np.ndarray | None:
        """The pool's row of each view, as in RenderTask; None where the task names none."""
        if self.task.rows is None:
            return None
        numbers = [self.task.views.index(view) for view in self.handed.views]
        return self.task.rows[numbers].reshape(-1)


@dataclass(eq=False)
class _Rendering:
    """A batch on its way through the device."""

    parts: list[_Part]
    uploaded: "torch.cuda.Event | None"
    rendered: "torch.cuda.Event | None"
    views: Tensor | None  # (n, H, W, 3) uint8, on the device, or in memory where the rows are; None: in their rows
    digests: Tensor  # (n,) int64, in memory
    lent: bool = True  # whether the workers' slots are still read


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
        self._queue: deque[RenderTask] = deque()  # for the calling process
        self._parts: deque[_Part] = deque()  # to be rendered
        self._batches: deque[_Rendering] = deque()  # on the device
        self._arrived: deque[BlockView] = deque()
        self._crew = Crew(timeout_s, tasks_ahead)
        self._shared: list[SharedMemory] = []
        self._slots = self._start(max(slot_bytes, least_room(BLOCK_SAMPLES, policy.size)))
        self._most_views = min(MOST_VIEWS, AT_ONCE_BYTES // (3 * math.prod(policy.size)))

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
        """Whether get() would have something soon; never where the calling process decodes."""
        if self._arrived or self._parts or self._crew.is_ready():
            return True
        return bool(self._batches) and _is_done(self._batches[0].rendered)

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
        self._batches.clear()
        self._parts.clear()
        for slots, shared in zip(self._slots, self._shared, strict=False):
            _unpin(slots, self.device)
            shared.close()
        self._shared = []

    def __exit__(self, *details: object) -> None:
        self.close()

    # -- on the way ----------------------------------------------------------------------------------------------

    def _move_on(self) -> None:
        """Take what has been handed over, give the device its next batch, or wait for whichever comes first."""
        self._free_slots()
        self._take_parts(wait=not self._parts and not self._batches)
        if self._parts and len(self._batches) < AHEAD:
            self._render(self._next_parts())
        elif self._batches:
            self._finish(self._batches.popleft())

    def _take_parts(self, *, wait: bool) -> None:
        if self._queue:
            self._decode_here()
        while self._crew.workers and (wait or self._crew.is_ready()):
            for sent in self._crew.receive():
                memory = self._slots[sent.worker.child.number][sent.slot]
                self._parts.append(_Part(sent.task, sent.content, memory, sent))
            wait = False

    def _decode_here(self) -> None:
        """A task's views, each run of which is given to the device before its memory is needed again."""
        task, (slot,) = self._queue.popleft(), self._slots[0]
        for handed in self._decoding.hand_over(task, slot.numpy()):
            self._render([_Part(task, handed, slot, None)])
            _wait_for(self._batches[-1].uploaded)

    def _next_parts(self) -> list[_Part]:
        """As many as are rendered at once, one at least."""
        found = [self._parts.popleft()]
        num_views = len(found[0].handed.planned)
        while self._parts and num_views + len(self._parts[0].handed.planned) <= self._most_views:
            found.append(self._parts.popleft())
            num_views += len(found[-1].handed.planned)
        return found

    def _render(self, parts: list[_Part]) -> None:
        """Give a batch to the device; in halves where it has no room for the whole."""
        try:
            self._batches.append(self._given(parts))
        except torch.OutOfMemoryError as error:
            if len(parts) == 1:
                raise RenderError(
                    f"{parts[0].task.where}: {self.device} has no room for rendering beside the model: give --render "
                    "cpu, or lower the batch"
                ) from error
            middle = len(parts) // 2
            self._render(parts[:middle])
            self._render(parts[middle:])

    def _given(self, parts: list[_Part]) -> _Rendering:
        planned: list[PlannedView] = []
        mixes: list[tuple[int, MixPlan]] = []
        places = [0]
        for part in parts:
            handed = part.handed
            samples = len(handed.planned) // len(handed.views)
            mixes += [(len(planned) + number * samples, mix) for number, mix in enumerate(handed.mixes)]
            planned += handed.planned_from(places[-1])
            places.append(places[-1] + handed.num_bytes)
        with _on(self._uploading):
            pictures = torch.empty(max(places[-1], ALIGNED), dtype=torch.uint8, device=self.device)
            for part, place in zip(parts, places, strict=False):
                num_bytes = part.handed.num_bytes
                pictures[place : place + num_bytes].copy_(part.memory[:num_bytes], non_blocking=True)
            uploaded = _event(self._uploading)
        with _on(self._rendering):
            if self._rendering is not None and uploaded is not None:
                self._rendering.wait_event(uploaded)
                pictures.record_stream(self._rendering)
            plan = self._renderer.plan(planned, mixes)
            views = self._renderer.render(plan, pictures, self._renderer.send(plan))
            digests = _in_memory(self._renderer.digests(views))
            left = views if not len(self.rows) else self._keep(parts, views)
            return _Rendering(parts, uploaded, _event(self._rendering), left, digests)

    def _keep(self, parts: list[_Part], views: Tensor) -> Tensor | None:
        """Put views into their rows; where those are in memory it is done when the views have come there."""
        if self.rows.device.type != views.device.type:
            return _in_memory(views)
        self._put(parts, views)
        return None

    def _put(self, parts: list[_Part], views: Tensor) -> None:
        rows = np.concatenate([part.rows() for part in parts])
        wanted = np.flatnonzero(rows >= 0)
        chosen = views if len(wanted) == len(rows) else views[torch.from_numpy(wanted).to(views.device)]
        self.rows.index_copy_(0, torch.from_numpy(rows[wanted]).to(self.rows.device), chosen)

    def _finish(self, batch: _Rendering) -> None:
        """Wait for a batch; its views have arrived."""
        _wait_for(batch.rendered)
        self._free_slots(batch)
        if len(self.rows) and batch.views is not None:
            self._put(batch.parts, batch.views)
        elif batch.views is not None and self._rendering is not None:
            batch.views.record_stream(torch.cuda.current_stream(self.device))
        own, first = batch.digests.numpy().view(np.uint64).tolist(), 0
        nowhere = np.empty((0, *self._policy.size, 3), np.uint8)
        for part in batch.parts:
            handed = part.handed
            for view, mix, pairs in zip(handed.views, handed.mixes, handed.class_pairs, strict=True):
                rows = slice(first, first + len(pairs))
                first = rows.stop
                block = ReplayedBlock(
                    view=view,
                    pixels=nowhere,
                    class_pairs=pairs,
                    lambdas=mix.lambdas,
                    digest=block_digest(pairs, mix.lambdas, own[rows], handed.skipped),
                    skipped=handed.skipped,
                    damaged=handed.damaged,
                )
                pixels = None if len(self.rows) or batch.views is None else batch.views[rows]
                self._arrived.append(BlockView(part.task, block, device_pixels=pixels))

    def _free_slots(self, finished: _Rendering | None = None) -> None:
        """Give slots back to workers once they have been read."""
        for batch in (*self._batches, *([finished] if finished is not None else [])):
            if batch.lent and _is_done(batch.uploaded):
                batch.lent = False
                for part in batch.parts:
                    if part.sent is not None:
                        self._crew.release(part.sent.worker, part.sent.slot)


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
