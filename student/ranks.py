"""The ranks of a training job: this process's place among them, and what they tell each other between steps."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from teacher_cache.device import use_device
from teacher_cache.errors import RankError, TeacherCacheError
from teacher_cache.job import LOOK_FOR
from teacher_cache.processes import RANK_TIMEOUT_S, follow_launcher


@dataclass(frozen=True)
class Ranks:
    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


@contextmanager
def joined_ranks(device: str | None, timeout_s: float = RANK_TIMEOUT_S) -> Iterator[Ranks]:
    """This process's place among torchrun's ranks; the process group is there inside, if there are several.

    Raises DeviceError; RankError where the others do not come within timeout_s, and so for all that ranks do together.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = use_device(device)
    if world_size == 1:
        yield Ranks(0, 1, chosen)
        return
    follow_launcher()
    # gloo beside nccl: what the ranks agree on between steps must not wait for the device
    with meeting("the start"):
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout_s)
        )
    try:
        yield Ranks(dist.get_rank(), world_size, chosen)
    finally:
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


def said_by_any_rank(said: list[bool], ranks: Ranks) -> list[bool]:
    """Which of these any rank said; all ranks get the same answer, at the same step."""
    if ranks.world_size == 1:
        return said
    flags = torch.tensor(said, dtype=torch.int32)
    with meeting("a step's end"):
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in flags.tolist()]


def gather(value: Any, ranks: Ranks, where: str = "a checkpoint") -> list[Any]:
    """Every rank's value, in order of rank; all ranks get them. where: what they do there, for messages."""
    if ranks.world_size == 1:
        return [value]
    gathered: list[Any] = [None] * ranks.world_size
    with meeting(where):
        dist.all_gather_object(gathered, value)
    return gathered


def raise_on_all(problem: TeacherCacheError | None, ranks: Ranks, where: str) -> None:
    """Raise, on every rank, the first rank's problem that has one. Every rank must call it: none waits for another."""
    for found in gather(problem, ranks, where):
        if found is not None:
            raise found
