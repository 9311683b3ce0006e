"""The ranks of one job, in both stages: how this process joins them, what they tell each other, how it leaves.

Stage one shares lists and counters through a key-value store, without collectives, so that no rank waits for a slower
one; stage two trains in step, through a process group. Under torchrun the store is torchrun's; alone, a dictionary in
memory with the same methods.
"""

import io
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import IO, Any

import torch
import torch.distributed as dist
from torch import Tensor

from teacher_cache.device import use_device
from teacher_cache.errors import RankError, TeacherCacheError
from teacher_cache.messages.shown import counted
from teacher_cache.processes.threads import share_cores
from teacher_cache.processes.ties import follow_launcher
from teacher_cache.processes.timeouts import RANK_TIMEOUT_S
from teacher_cache.storage.ahead import Ahead

POLL_S = 0.2
LOOK_S = 5.0  # at most between two looks at what other ranks do
LET_GO_S = 0.1
LOOK_FOR = (
    "look for a rank that hangs, or has ended and says why, end the job and run the same command again; if ranks are "
    "only slow, raise --rank-timeout"
)


@dataclass(frozen=True)
class Job:
    """rank of world_size processes, and this one's device.

    All methods raise RankError where another rank, or the process that holds the store, is gone or too late. Those of
    the process group are for a job that was joined with one; every rank must call them.
    """

    rank: int
    world_size: int
    device: torch.device
    store: Any = field(default_factory=dist.HashStore)  # torch.distributed.Store
    timeout_s: float = RANK_TIMEOUT_S

    @property
    def first(self) -> bool:
        return self.rank == 0

    # -- through the key-value store -----------------------------------------------------------------------------

    def add(self, counter: str, amount: int) -> int:
        """Add to a counter that all ranks share; the new sum."""
        with _store_is_there():
            return int(self.store.add(counter, amount))

    def wait_for_all(
        self, counter: str, *, moving: Sequence[str] = (), meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Wait until every rank has come here, calling `meanwhile` now and then.

        RankError when no rank comes, and no counter in `moving` moves, for timeout_s.
        """
        self.add(counter, 1)

        def lacking() -> str:
            late = self.world_size - self.add(counter, 0)
            return f"{counted(late, 'rank', 'has', of=self.world_size)} not {counter}"

        patience = self.patience((*moving, counter))
        while self.add(counter, 0) < self.world_size:
            meanwhile()
            patience.check(lacking)
            time.sleep(POLL_S)

    def is_worse_off(self, choice: str, worse: int) -> bool:
        """Whether this rank has chosen worse than the first, for whose choice it waits; 0: nothing is better. Every
        rank calls it, once."""
        if self.first:
            self.add(choice, 1 + worse)
            return False
        patience = self.patience((choice,))
        while worse and not self.add(choice, 0):
            patience.check(lambda: f"the first rank has chosen no {choice}")
            time.sleep(POLL_S)
        return bool(worse) and 1 + worse > self.add(choice, 0)

    def patience(self, moving: Sequence[str]) -> "Patience":
        """With the other ranks, while one of these counters moves."""
        return Patience(self, moving)

    # -- through the process group -------------------------------------------------------------------------------

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Which of these hold on any rank; all ranks get the same, at the same step."""
        if self.world_size == 1:
            return list(flags)
        found = torch.tensor(flags, dtype=torch.int32)
        with meeting("a step's end"):
            dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return [bool(flag) for flag in found.tolist()]

    def gather(self, value: Any, where: str = "a checkpoint") -> list[Any]:
        """Every rank's value, in order of rank; all ranks get them. where: what they do there, for messages."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        with meeting(where):
            dist.all_gather_object(gathered, value)
        return gathered

    def share(self, value: Any, where: str = "the start") -> Any:
        """The first rank's value, on every rank. Tensors in it, of the CPU, are sent one by one: a checkpoint that is
        pickled whole would lie in memory three times."""
        if self.world_size == 1:
            return value
        with meeting(where):
            content, tensors = _taken_apart(value if self.first else None)
            said: list[Any] = [content, [(each.shape, each.dtype) for each in tensors]]
            dist.broadcast_object_list(said, 0)
            if not self.first:
                tensors = [torch.empty(shape, dtype=dtype) for shape, dtype in said[1]]
            for each in tensors:
                if each.numel():
                    dist.broadcast(each.view(-1).view(torch.uint8), 0)
        return value if self.first else _put_together(said[0], tensors)

    @contextmanager
    def told_to_all(self, where: str) -> Iterator[None]:
        """Raise on every rank what the block raises on one, the first of those, so that none waits for another. Every
        rank must come here, and comes back when all have."""
        problem: TeacherCacheError | None = None
        try:
            yield
        except TeacherCacheError as error:
            problem = error
        for found in self.gather(problem, where):
            if found is not None:
                raise found


class _TakingApart(pickle.Pickler):
    """Pickles plain data; tensors in it stay in `tensors`, in their order."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.tensors: list[Tensor] = []

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, Tensor):
            return None
        self.tensors.append(obj.detach().contiguous())
        return len(self.tensors) - 1


class _PuttingTogether(pickle.Unpickler):
    def __init__(self, file: IO[bytes], tensors: Sequence[Tensor]) -> None:
        super().__init__(file)
        self._tensors = tensors

    def persistent_load(self, pid: Any) -> Tensor:
        return self._tensors[pid]


def _taken_apart(value: Any) -> tuple[bytes, list[Tensor]]:
    pickler = _TakingApart(file := io.BytesIO())
    pickler.dump(value)
    return file.getvalue(), pickler.tensors


def _put_together(content: bytes, tensors: Sequence[Tensor]) -> Any:
    return _PuttingTogether(io.BytesIO(content), tensors).load()


class Patience:
    """How long a rank of several waits for the others."""

    def __init__(self, job: Job, moving: Sequence[str]) -> None:
        self._job, self._moving = job, moving
        self._seen: list[object] = []
        self._still_s, self._looked_at = 0.0, time.monotonic()

    def check(self, lacking: Callable[[], str], *also: object) -> None:
        """RankError, with what is lacking, where no counter has moved, nor `also`, for the job's timeout_s, as far as
        calls of this tell: of the time between two no more than LOOK_S counts, lest this rank itself was stopped."""
        now = [*also, *(self._job.add(counter, 0) for counter in self._moving)]
        passed_s = min(LOOK_S, time.monotonic() - self._looked_at)
        self._looked_at = time.monotonic()
        self._still_s = self._still_s + passed_s if now == self._seen else 0.0
        self._seen = now
        if self._still_s >= self._job.timeout_s and self._job.world_size > 1:
            raise RankError(f"{lacking()}, and no rank has done anything for {self._job.timeout_s:g} s: {LOOK_FOR}")


class AnsweringStore:
    """A key-value store that is asked in another thread, so that it is waited for no longer than timeout_s.

    torch waits in its own code, where no signal is heard: of a store whose host is cut off for as long as the system
    takes the connection to be alive, a quarter of an hour.
    """

    def __init__(self, store: Any, timeout_s: float) -> None:
        self._store, self._timeout_s = store, timeout_s

    def add(self, counter: str, amount: int) -> int:
        """The new sum. Raises torch's DistError, also where nothing comes; time in which this process was stopped does
        not count."""
        asked = Ahead(lambda: int(self._store.add(counter, amount)))
        for _ in range(1 + int(self._timeout_s / POLL_S)):
            if asked.wait(POLL_S):
                return asked.result()
        raise dist.DistNetworkError(f"nothing has come from it for {self._timeout_s:g} s")


@contextmanager
def join_job(
    device: str | torch.device | None = None,
    *,
    workers: int = 0,
    timeout_s: float = RANK_TIMEOUT_S,
    group: bool = False,
) -> Iterator[Job]:
    """This process in the job that torchrun's environment names, or in one of its own; it is left in the end.

    Its device (see use_device) is the current one; torch's threads share the cores with so many rendering processes.
    With group there is a process group inside, if there are several ranks. Raises DeviceError; RankError where the
    others do not come within timeout_s.
    """
    chosen = use_device(device)
    share_cores(workers)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Job(0, 1, chosen, timeout_s=timeout_s)
        return
    follow_launcher()
    patience = timedelta(seconds=timeout_s)
    with meeting("the start"):
        store, rank, world_size = next(iter(dist.rendezvous("env://", timeout=patience)))
        store.set_timeout(patience)
        if group:
            # gloo beside nccl: what the ranks agree on between steps must not wait for the device
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo",
                store=dist.PrefixStore("group", store),
                rank=rank,
                world_size=world_size,
                timeout=patience,
            )
    try:
        shared = AnsweringStore(dist.PrefixStore("teacher-cache", store), timeout_s)
        yield Job(rank, world_size, chosen, shared, timeout_s)
    finally:
        if group:
            # before torch 2.8 this holds Python's lock while it waits for gloo's threads, one of which may yet need the
            # lock to let go of what was gathered last
            time.sleep(LET_GO_S)
            dist.destroy_process_group()


@contextmanager
def meeting(where: str) -> Iterator[None]:
    """Around what ranks do together: RankError where another one is gone or too late."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        # torch's own class where it comes from nccl or the store, none where it comes from gloo
        if not isinstance(error, dist.DistError) and "gloo" not in reason:
            raise
        raise RankError(f"the ranks did not come together at {where} ({reason}): {LOOK_FOR}") from None


@contextmanager
def _store_is_there() -> Iterator[None]:
    try:
        yield
    except dist.DistError as error:
        reason = str(error).strip().partition("\n")[0]
        raise RankError(
            f"the ranks' key-value store does not answer ({reason}): torchrun or the first rank's machine is gone; "
            "run the same command again"
        ) from None
