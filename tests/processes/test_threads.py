"""torch's threads beside rendering processes."""

import os

import pytest
import torch

from teacher_cache.processes import threads
from teacher_cache.processes.threads import share_cores


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of threads that torch is told, on eight cores."""
    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # noted, so that it is as it was afterwards
        monkeypatch.delenv(name)
    return told


def test_threads_that_sleep_while_they_wait_use_all_cores(chosen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    share_cores(3)
    assert chosen == [5]  # those that spin leave workers their own
    threads.wait_asleep()
    share_cores(3)
    assert chosen == [5, 8]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    share_cores(3)
    assert chosen == [5, 8, 4]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    share_cores(3)
    assert chosen == [5, 8, 4]


def test_all_cores_count_where_the_system_does_not_say_which(
    chosen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    share_cores(2)
    assert chosen == [4]


def test_a_users_own_way_of_waiting_stays(chosen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    threads.wait_asleep()
    assert threads.threads_spin()
