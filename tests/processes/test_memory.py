"""How much memory there is, and what lacks."""

import os
from pathlib import Path

import pytest

from teacher_cache.processes import memory
from teacher_cache.processes.memory import available_memory, memory_lacking


def test_the_system_says_how_much_there_is() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = available_memory()
    assert available is not None
    assert 0 < available <= total


def test_lacking_is_one_more_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2_000_000_000)
    assert memory_lacking(2_000_000_000, "the pool") is None
    said = "the pool needs 2.5 GB of memory in this rank, 2.0 GB are available"
    assert memory_lacking(2_500_000_000, "the pool") == said


def test_nothing_lacks_where_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert memory_lacking(10**18, "the pool") is None
