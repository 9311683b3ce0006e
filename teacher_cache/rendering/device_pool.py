"""Views rendered on a device: processes decode and draw, what the crops need travels once for all views, and the device
does the rest. It has the interface of workers.RenderPool, and gives the same bytes."""

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from teacher_cache.device import RecycledMemory
from teacher_cache.errors import RenderError
from teacher_cache.processes.memory import memory_lacking
from teacher_cache.processes.shared import SharedMemory
from teacher_cache.rendering.blocks import BlockReader
from teacher_cache.rendering.crew import AT_ONCE_BYTES, Crew, PoolSettings, RenderTask, Sent
from teacher_cache.rendering.decoding import serve
from teacher_cache.rendering.device_streams import Begun, DeviceStreams, Part, pin, unpin
from teacher_cache.rendering.workers import BlockView
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.replay.block import DecodedBlock
from teacher_cache.replay.gpu.handing import HandedViews, hand_over, least_room

SLOTS_PER_WORKER = 2  # one being written, one on its way to the device
SLOT_BYTES = 48 << 20  # a block of photographs takes 30 MB; of larger ones the worker renders some itself
WORTH_BYTES = 32 << 20  # of views, the rendering of which takes ten times as long as its launches
AHEAD, AHEAD_IN_ROWS = 4, 16  # parts on the device, beyond AT_ONCE_BYTES: of views with memory of their own, or rows


@dataclass(frozen=True, eq=False)
class _Waiting:
    """What a worker, or the calling process, has handed over for one task. sent: whose slot it is in."""

    task: RenderTask
    part: Part
    sent: Sent | None

    @property
    def num_bytes(self) -> int:
        """Of its views."""
        plan = self.part.handed.batch.plan
        return 3 * plan.num_views * plan.size[0] * plan.size[1]


@dataclass(eq=False)
class _Given:
    """What the device has been given. lent: whether the workers' slots are still read."""

    waiting: Sequence[_Waiting]
    begun: Begun
    lent: bool = True

    @property
    def num_bytes(self) -> int:
        return sum(each.num_bytes for each in self.waiting)


class DeviceRenderPool(contextlib.AbstractContextManager["DeviceRenderPool"]):
    """submit() tasks, get() views until `pending` is 0, as of a RenderPool, with the same order and errors.

    A view's pixels are a tensor on the device, in BlockView.pixels. Where tasks name rows, `rows`, (num_rows, H, W, 3)
    uint8 on rows_device (the device, or memory), holds them; gather() reads it. With workers=0 the calling process
    decodes. Where the device has no room for what it is given, it gets less at a time; views for which it has none at
    all are rendered by the calling process, of which warn hears once.
    """

    def __init__(
        self,
        settings: PoolSettings,
        device: torch.device,
        warn: Callable[[str], None],
        *,
        rows_device: torch.device | None = None,
        slot_bytes: int = SLOT_BYTES,
    ) -> None:
        policy, num_rows = settings.policy, settings.num_rows
        self.device = device
        self._num_workers = settings.workers
        self.wait_s = 0.0  # time that get() has waited for pixels
        self.pending = 0  # (block, view)s submitted and not yet got
        self._streams = DeviceStreams(policy, device, num_rows, rows_device)
        self._settings = settings
        self._blocks = BlockReader(settings)
        self._ahead = AHEAD if num_rows is None else AHEAD_IN_ROWS
        self._at_once_bytes = AT_ONCE_BYTES  # less where the device has no room for so much
        self._waiting: deque[_Waiting] = deque()  # to be rendered
        self._given: deque[_Given] = deque()  # on the device
        self._arrived: deque[BlockView] = deque()
        self._warn, self._warned = warn, set[str]()
        self._decoded: tuple[RenderTask, DecodedBlock] | None = None  # whose views are rendered here
        self._crew = Crew(settings.timeout_s, settings.tasks_ahead)
        self._shared: list[SharedMemory] = []
        self._pinned: list[Tensor] = []
        self._slots = self._start(max(slot_bytes, least_room(BLOCK_SAMPLES, policy.size)))

    def _start(self, slot_bytes: int) -> list[Tensor]:
        """Start the workers. -> the slots (slots, bytes) uint8 of each; those of the calling process without any."""
        if not self._num_workers:
            return [torch.empty((1, slot_bytes), dtype=torch.uint8, pin_memory=self.device.type == "cuda")]
        num_bytes = SLOTS_PER_WORKER * slot_bytes
        if lacking := memory_lacking(self._num_workers * num_bytes, "what processes hand over"):
            raise RenderError(f"{lacking}: use fewer --workers")
        self._shared = [SharedMemory(num_bytes) for _ in range(self._num_workers)]
        slots = []
        for shared in self._shared:
            self._crew.hire(serve, self._settings, shared.place, SLOTS_PER_WORKER, num_slots=SLOTS_PER_WORKER)
            slots.append(torch.from_numpy(shared.bytes).view(SLOTS_PER_WORKER, slot_bytes))
            self._pin(slots[-1])
        return slots

    def _pin(self, slots: Tensor) -> None:
        try:
            pin(slots, self.device)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            self._warn_once(
                f"{self.device} cannot read what processes hand over beside its work, which is slower ({reason})"
            )
        else:
            self._pinned.append(slots)

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self._warn(f"warning: {message}")

    # -- what is asked for ---------------------------------------------------------------------------------------

    def submit(self, task: RenderTask) -> None:
        """Queue a task; ids of tasks in flight must differ."""
        self.pending += len(task.views)
        self._crew.submit(task)

    def wants_tasks(self) -> bool:
        """Whether more tasks should be submitted, so that nothing waits for them."""
        return self._crew.wants_tasks()

    def get(self) -> BlockView:
        """The next replayed (block, view) of any task."""
        assert self.pending, "get() without a submitted task"
        start = time.perf_counter()
        while not self._arrived:
            self._move_on()
        self.wait_s += time.perf_counter() - start
        self.pending -= 1
        return self._arrived.popleft()

    @property
    def rows(self) -> Tensor:
        return self._streams.rows

    def ready(self) -> bool:
        """Whether get() has something at once; the device is given what has come, if that is much. Never where the
        calling process decodes."""
        if self._crew.workers:
            self._free_slots()
            self._take_parts(wait=False)
            while self._is_worth_launches() and self._takes_more(()):
                self._render(self._next_parts())
        return bool(self._arrived) or bool(self._given and self._given[0].begun.is_rendered())

    def _is_worth_launches(self) -> bool:
        """Whether so much waits that nothing is gained by waiting for more: what a kernel does for small pictures costs
        less than its launch. Where views are waited for they are rendered all the same."""
        if len(self._waiting) >= self._num_workers:  # each has a slot left
            return True
        return sum(each.num_bytes for each in self._waiting) >= WORTH_BYTES

    def gather(self, rows: np.ndarray, memory: RecycledMemory) -> Tensor:
        """The views in some rows: see DeviceStreams.gather. The rows may be given to tasks again at once."""
        return self._streams.gather(rows, memory)

    def close(self) -> None:
        """End the workers; what is in flight is lost."""
        self._crew.close()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._given.clear()
        self._waiting.clear()
        while self._pinned:
            unpin(self._pinned.pop(), self.device)
        while self._shared:
            self._shared.pop().close()

    def __exit__(self, *details: object) -> None:
        self.close()

    # -- on the way ----------------------------------------------------------------------------------------------

    def _move_on(self) -> None:
        """Take what has been handed over, give the device its next views, or wait for whichever comes first."""
        self._free_slots()
        self._take_parts(wait=not self._waiting and not self._given)
        if self._waiting and self._takes_more(()):
            self._render(self._next_parts())
        elif self._given:
            self._finish()

    def _take_parts(self, *, wait: bool) -> None:
        if (task := self._crew.take()) is not None:
            for following in self._crew.upcoming():
                self._blocks.expect(following)
            self._decode_here(task)
        while self._crew.workers and (wait or self._crew.is_ready()):
            for sent in self._crew.receive():
                memory = self._slots[sent.worker.child.number][sent.slot]
                self._waiting.append(_Waiting(sent.task, _part(sent.task, sent.content, memory), sent))
            wait = False

    def _decode_here(self, task: RenderTask) -> None:
        """A task's views; they have left the memory that they are handed over in before it is needed again."""
        (slot,) = self._slots[0]
        decoded, rooms = self._blocks.decode(task), itertools.repeat(slot.numpy())
        for handed in hand_over(self._settings.policy, self._settings.store_seed, decoded, task.views, rooms):
            self._render([_Waiting(task, _part(task, handed, slot), None)])
            if self._given:
                self._given[-1].begun.wait_uploaded()

    def _next_parts(self) -> list[_Waiting]:
        """Of what waits as much as the device is given together: kernels are launched once for all of it."""
        together = [self._waiting.popleft()]
        while self._waiting and self._takes_more(together):
            together.append(self._waiting.popleft())
        return together

    def _takes_more(self, together: Sequence[_Waiting]) -> bool:
        """Whether the device takes the next part, with those that it is to get together."""
        num_bytes = self._waiting[0].num_bytes + sum(each.num_bytes for each in together)
        if together and num_bytes > self._at_once_bytes:
            return False
        given = sum(len(each.waiting) for each in self._given) + len(together)
        return given < self._ahead or num_bytes + sum(each.num_bytes for each in self._given) <= self._at_once_bytes

    def _render(self, together: Sequence[_Waiting]) -> None:
        """Give views to the device; where it has no room, once all before are finished, and as many as it has room
        for. Later ones are given less together then."""
        with contextlib.suppress(torch.OutOfMemoryError):  # what it holds is free once it is forgotten
            self._begin(together)
            return
        self._at_once_bytes = sum(each.num_bytes for each in together) // 2
        while self._given:
            self._finish()
        self._render_sparingly(together)
        self._decoded = None

    def _begin(self, together: Sequence[_Waiting]) -> None:
        self._given.append(_Given(together, self._streams.begin([each.part for each in together])))

    def _render_sparingly(self, together: Sequence[_Waiting]) -> None:
        """While the device has nothing else: all, else part by part, else fewer views of it, else here."""
        with contextlib.suppress(torch.OutOfMemoryError):
            self._begin(together)
        if self._given:
            self._finish()
        elif len(together) > 1:
            for each in together:
                self._render_sparingly([each])
        elif len(together[0].part.handed.views) > 1:
            for half in together[0].part.halves():
                self._render_sparingly([replace(together[0], part=half, sent=None)])
            self._release(together)
        else:
            self._render_here(together[0])
            self._release(together)

    def _render_here(self, waiting: _Waiting) -> None:
        """Render a view in this process, as the device has no room; its block is read again."""
        task, part = waiting.task, waiting.part
        self._warn_once(
            f"{self.device} has no room for rendering beside the model, so views are rendered on the CPU, which is "
            "slower: lower the batch, or give --render cpu"
        )
        if self._decoded is None or self._decoded[0] is not task:
            self._decoded = task, self._blocks.decode(task)
        block = self._settings.render(self._decoded[1], part.handed.views[0])
        if part.rows is not None:
            self._streams.put(block.pixels, part.rows[0])
            block = replace(block, pixels=block.pixels[:0])
        self._arrived.append(BlockView(task, block))

    def _finish(self) -> None:
        """Wait for the first views on the device; they have arrived."""
        given = self._given[0]
        given.begun.wait()
        self._free_slots()
        self._given.popleft()
        for waiting, found in zip(given.waiting, self._streams.finish(given.begun), strict=True):
            self._arrived += [BlockView(waiting.task, block, device_pixels=pixels) for block, pixels in found]

    def _free_slots(self) -> None:
        """Give slots back to workers once they have been read."""
        for given in self._given:
            if given.lent and given.begun.is_uploaded():
                given.lent = False
                self._release(given.waiting)

    def _release(self, read: Sequence[_Waiting]) -> None:
        for waiting in read:
            if waiting.sent is not None:
                self._crew.release(waiting.sent.worker, waiting.sent.slot)


def _part(task: RenderTask, handed: HandedViews, memory: Tensor) -> Part:
    """Views that were handed over for a task."""
    if task.rows is None:
        return Part(handed, memory)
    return Part(handed, memory, task.rows[[task.views.index(view) for view in handed.views]])
