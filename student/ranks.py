"""The ranks of a training job: this process's place among them, and what they tell each other between steps."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Ranks:
    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


@contextmanager
def joined_ranks(device: str | None) -> Iterator[Ranks]:
    """This process's place among torchrun's ranks; the process group is there inside, if there are several."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    on_cuda = torch.cuda.is_available() if device is None else device.startswith("cuda")
    chosen = torch.device(device or (f"cuda:{local_rank}" if on_cuda else "cpu"))
    if on_cuda:
        torch.cuda.set_device(chosen)
    if world_size == 1:
        yield Ranks(0, 1, chosen)
        return
    # gloo beside nccl: what the ranks agree on between steps must not wait for the device
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo")
    try:
        yield Ranks(dist.get_rank(), world_size, chosen)
    finally:
        dist.destroy_process_group()


def said_by_any_rank(said: list[bool], ranks: Ranks) -> list[bool]:
    """Which of these any rank said; all ranks get the same answer, at the same step."""
    if ranks.world_size == 1:
        return said
    flags = torch.tensor(said, dtype=torch.int32)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in flags.tolist()]


def gather(value: Any, ranks: Ranks) -> list[Any]:
    """Every rank's value, in order of rank; all ranks get them."""
    if ranks.world_size == 1:
        return [value]
    gathered: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(gathered, value)
    return gathered
