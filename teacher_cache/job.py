"""The ranks of one job, and what they tell each other through its key-value store. No collectives.

Under torchrun the store is torchrun's; alone, a dictionary in memory with the same methods.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

PATIENCE = timedelta(days=7)  # a first unit may take hours; a rank that dies is torchrun's to notice


@dataclass(frozen=True)
class Job:
    """rank of world_size processes; local_rank counts those on this machine."""

    rank: int
    world_size: int
    local_rank: int
    store: Any  # torch.distributed.Store

    def publish(self, key: str, value: Any) -> None:
        """Let every rank read a JSON value under a key."""
        self.store.set(key, json.dumps(value))

    def read(self, key: str) -> Any:
        """Wait until the key is published, and read it."""
        self.store.wait([key], PATIENCE)
        return json.loads(self.store.get(key))

    def add(self, counter: str, amount: int) -> int:
        """Add to a counter that all ranks share; the new sum."""
        return int(self.store.add(counter, amount))

    def draw(self, counter: str, num_items: int) -> Iterator[int]:
        """Numbers below num_items, each drawn by one rank only, until none is left."""
        while (number := self.add(counter, 1) - 1) < num_items:
            yield number

    def wait_for_all(self, counter: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until every rank has come here, calling `meanwhile` now and then."""
        arrived = self.add(counter, 1)
        while arrived < self.world_size:
            time.sleep(0.2)
            meanwhile()
            arrived = self.add(counter, 0)


def join_job() -> Job:
    """The job that torchrun's environment names, or one of this process alone."""
    if "RANK" not in os.environ:
        return Job(rank=0, world_size=1, local_rank=0, store=dist.HashStore())
    store, rank, world_size = next(iter(dist.rendezvous("env://")))
    return Job(rank, world_size, int(os.environ.get("LOCAL_RANK", "0")), dist.PrefixStore("teacher-cache", store))
