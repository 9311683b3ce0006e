"""The ranks of one job, and what they tell each other through its key-value store. No collectives.

Under torchrun the store is torchrun's; alone, a dictionary in memory with the same methods.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from teacher_cache.errors import RankError
from teacher_cache.processes import RANK_TIMEOUT_S, follow_launcher

POLL_S = 0.2
LOOK_FOR = (
    "look for a rank that hangs, or has ended and says why, end the job and run the same command again; if ranks are "
    "only slow, raise --rank-timeout"
)


@dataclass(frozen=True)
class Job:
    """rank of world_size processes; local_rank counts those on this machine.

    All methods raise RankError where the store is gone, as it is when its process has died.
    """

    rank: int
    world_size: int
    local_rank: int
    store: Any  # torch.distributed.Store
    timeout_s: float = RANK_TIMEOUT_S

    def publish(self, key: str, value: Any) -> None:
        """Let every rank read a JSON value under a key."""
        with _store_is_there():
            self.store.set(key, json.dumps(value))

    def read(self, key: str, *, moving: Sequence[str] = ()) -> Any:
        """Wait until the key is published, and read it. RankError when no counter in `moving` moves for timeout_s."""
        with _store_is_there():
            self._wait(
                lambda: bool(self.store.check([key])), moving, lambda: f"rank 0 has not published the list of {key}"
            )
            return json.loads(self.store.get(key))

    def add(self, counter: str, amount: int) -> int:
        """Add to a counter that all ranks share; the new sum."""
        with _store_is_there():
            return int(self.store.add(counter, amount))

    def draw(self, counter: str, num_items: int) -> Iterator[int]:
        """Numbers below num_items, each drawn by one rank only, until none is left."""
        while (number := self.add(counter, 1) - 1) < num_items:
            yield number

    def wait_for_all(
        self, counter: str, *, moving: Sequence[str] = (), meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Wait until every rank has come here, calling `meanwhile` now and then.

        RankError when no rank comes, and no counter in `moving` moves, for timeout_s.
        """
        self.add(counter, 1)

        def all_arrived() -> bool:
            arrived = self.add(counter, 0) >= self.world_size
            if not arrived:
                meanwhile()
            return arrived

        def lacking() -> str:
            return f"{self.world_size - self.add(counter, 0)} of {self.world_size} ranks have not {counter}"

        self._wait(all_arrived, (*moving, counter), lacking)

    def _wait(self, done: Callable[[], bool], moving: Sequence[str], lacking: Callable[[], str]) -> None:
        """Wait for `done`. Time in which this rank itself was stopped does not count."""
        still_s, seen = 0.0, None
        while not done():
            now = [self.add(counter, 0) for counter in moving]
            still_s, seen = (still_s, seen) if now == seen else (0.0, now)
            if still_s >= self.timeout_s:
                raise RankError(f"{lacking()}, and no rank has done anything for {self.timeout_s:g} s: {LOOK_FOR}")
            time.sleep(POLL_S)
            still_s += POLL_S


def join_job(timeout_s: float = RANK_TIMEOUT_S) -> Job:
    """The job that torchrun's environment names, or one of this process alone. Raises RankError."""
    if "RANK" not in os.environ:
        return Job(rank=0, world_size=1, local_rank=0, store=dist.HashStore(), timeout_s=timeout_s)
    follow_launcher()
    patience = timedelta(seconds=timeout_s)
    with _store_is_there():
        store, rank, world_size = next(iter(dist.rendezvous("env://", timeout=patience)))
        store.set_timeout(patience)
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    return Job(rank, world_size, local_rank, dist.PrefixStore("teacher-cache", store), timeout_s)


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
