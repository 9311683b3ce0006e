"""Views on their way through a device: what their crops need travels on one stream, and views are rendered on another,
beside whatever else the device computes. On Triton's interpreter the device is the CPU, and all is done at once."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from teacher_cache.device import RecycledMemory
from teacher_cache.replay.block import ReplayedBlock
from teacher_cache.replay.gpu.handing import HandedViews
from teacher_cache.replay.gpu.joined import Piece, join_plans
from teacher_cache.replay.gpu.render import Renderer
from teacher_cache.replay.gpu.sent import sent
from teacher_cache.replay.policy import Policy

POLL_S = 0.0005


@dataclass(frozen=True, eq=False)
class Part:
    """Views of a block that were handed over. memory: uint8, from its beginning on their pictures. rows: (views, n)
    int64, the row of each position at each view, -1 where it is not wanted; None where there are no rows."""

    handed: HandedViews
    memory: Tensor
    rows: np.ndarray | None = None

    def halves(self) -> tuple["Part", "Part"]:
        """Its first views, and the others; of one there are none."""
        num = len(self.handed.views)
        cuts = (range(num // 2), range(num // 2, num))
        first, others = (
            replace(self, handed=self.handed.some(cut), rows=None if self.rows is None else self.rows[cut])
            for cut in cuts
        )
        return first, others


@dataclass(frozen=True, eq=False)
class Begun:
    """Parts that the device has been given together."""

    parts: Sequence[Part]
    uploaded: "torch.cuda.Event | None"
    rendered: "torch.cuda.Event | None"
    views: Tensor | None  # (n, H, W, 3) uint8, on the device, or in memory where the rows are; None: in their rows
    digests: Tensor  # (n,) int64, in memory

    def is_uploaded(self) -> bool:
        """Whether what was handed over has been read."""
        return _is_done(self.uploaded)

    def is_rendered(self) -> bool:
        return _is_done(self.rendered)

    def wait_uploaded(self) -> None:
        if self.uploaded is not None:
            self.uploaded.synchronize()

    def wait(self) -> None:
        """Until the views and their digests are there."""
        if self.rendered is not None:
            self.rendered.synchronize()


class DeviceStreams:
    """Where a policy's views are rendered on a device. Raises torch.OutOfMemoryError where it has no room.

    rows: (num_rows, H, W, 3) uint8 on rows_device (the device, or memory); without num_rows there are none.
    """

    def __init__(
        self,
        policy: Policy,
        device: torch.device,
        num_rows: int | None = None,
        rows_device: torch.device | None = None,
    ) -> None:
        self.device = device
        self._renderer = Renderer(policy, device)
        self._nowhere = np.empty((0, *policy.size, 3), np.uint8)
        self._uploading, self._rendering = _stream(device), _stream(device)
        with _on(self._rendering):
            self.rows = torch.empty((num_rows or 0, *policy.size, 3), dtype=torch.uint8, device=rows_device or device)

    def begin(self, parts: Sequence[Part]) -> Begun:
        """Give parts to the device, as one batch."""
        pieces, num_bytes = list[Piece](), 0
        for part in parts:
            plan = part.handed.batch.plan
            pieces.append(Piece(plan, range(plan.num_views), num_bytes))
            num_bytes += part.handed.num_bytes
        plan = join_plans(pieces)
        with _on(self._uploading):
            pictures = torch.empty(num_bytes, dtype=torch.uint8, device=self.device)
            for part, piece in zip(parts, pieces, strict=True):
                place, size = piece.pictures, part.handed.num_bytes
                pictures[place : place + size].copy_(part.memory[:size], non_blocking=True)
            uploaded = _event(self._uploading)
        with _on(self._rendering):
            if self._rendering is not None and uploaded is not None:
                self._rendering.wait_event(uploaded)
                pictures.record_stream(self._rendering)
            views = self._renderer.render(plan, pictures, self._renderer.send(plan))
            digests = _in_memory(self._renderer.digests(views))
            left: Tensor | None = views
            if len(self.rows):
                left = self._keep(parts, views)
            return Begun(parts, uploaded, _event(self._rendering), left, digests)

    def finish(self, begun: Begun) -> list[list[tuple[ReplayedBlock, Tensor | None]]]:
        """Wait for what was begun: of each part each view, its pixels where they are not in rows. What the device is
        given from now on may use them."""
        begun.wait()
        views = begun.views
        if len(self.rows):
            if views is not None:
                self._put(begun.parts, views)
                views = None
        elif views is not None and self._rendering is not None:
            views.record_stream(torch.cuda.current_stream(self.device))
        digests, first = begun.digests.numpy().view(np.uint64), 0
        found = []
        for part in begun.parts:
            num = part.handed.batch.plan.num_views
            own = None if views is None else views[first : first + num]
            found.append(self._replayed(part.handed, digests[first : first + num], own))
            first += num
        return found

    def put(self, pixels: np.ndarray, rows: np.ndarray) -> None:
        """Write views that were rendered elsewhere, (n, H, W, 3) uint8, into their rows, (n,) int64; -1: into none."""
        with _on(self._rendering):
            for row, view in zip(rows.tolist(), torch.from_numpy(pixels), strict=True):
                if row >= 0:
                    self.rows[row].copy_(view)  # one by one, as the device may have no room for more

    def gather(self, rows: np.ndarray, memory: RecycledMemory) -> Tensor:
        """The views in some rows, (n,) int64 -> (n, H, W, 3) uint8 where the rows are: in host memory in a piece of
        `memory`. What is begun later may have the rows at once."""
        if self._rendering is None or self.rows.device.type == "cpu":
            views = memory.empty((len(rows), *self.rows.shape[1:]), torch.uint8)
            np.take(self.rows.numpy(), rows, axis=0, out=views.numpy(), mode="clip")
            return views
        with _on(self._rendering):  # after what was rendered into these rows, and before what comes
            views = self.rows.index_select(0, sent(rows, self.device))
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._rendering)
        views.record_stream(computing)
        return views

    def _keep(self, parts: Sequence[Part], views: Tensor) -> Tensor | None:
        """Put views into their rows; where those are in memory it is done when the views have come there."""
        if self.rows.device.type != views.device.type:
            return _in_memory(views)
        self._put(parts, views)
        return None

    def _put(self, parts: Sequence[Part], views: Tensor) -> None:
        rows = np.concatenate([part.rows.reshape(-1) for part in parts if part.rows is not None])
        wanted = np.flatnonzero(rows >= 0)
        chosen = views if len(wanted) == len(rows) else views[sent(wanted, views.device)]
        self.rows.index_copy_(0, sent(rows[wanted], self.rows.device), chosen)

    def _replayed(
        self, handed: HandedViews, own: np.ndarray, views: Tensor | None
    ) -> list[tuple[ReplayedBlock, Tensor | None]]:
        """own: (n,) uint64, the digest of each view's pixels."""
        batch, found = handed.batch, []
        for view, run, digest in zip(handed.views, batch.runs, batch.digests(own).tolist(), strict=True):
            rows = slice(run.first, run.first + run.num)
            block = ReplayedBlock(
                view=view,
                pixels=self._nowhere,
                class_pairs=batch.class_pairs[rows],
                lambdas=batch.lambdas[rows],
                digest=digest,
                skipped=handed.skipped,
                damaged=handed.damaged,
            )
            found.append((block, None if views is None else views[rows]))
        return found


def is_done_within(event: "torch.cuda.Event | None", timeout_s: float) -> bool:
    """Whether the device passes an event in time; it is asked, and not waited for, as it may never answer."""
    deadline = time.monotonic() + timeout_s
    while not _is_done(event):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def pin(memory: Tensor, device: torch.device) -> None:
    """Let a CUDA device read memory that several processes see beside its work. RuntimeError where it may not."""
    if device.type != "cuda":
        return
    with torch.cuda.device(device):
        try:
            torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))
        except RuntimeError:
            with contextlib.suppress(RuntimeError):  # CUDA tells the same to whoever asks next
                torch.ones(1, device=device).add_(1)
            raise


def unpin(memory: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(memory.data_ptr()))


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


def _in_memory(tensor: Tensor) -> Tensor:
    """The tensor in pinned memory, once its stream has come so far; itself where it is in memory."""
    if tensor.device.type == "cpu":
        return tensor
    copied = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return copied.copy_(tensor, non_blocking=True)
