"""Memory without a name, which another process finds at its parent's."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from teacher_cache.errors import RenderError
from teacher_cache.processes import shared
from teacher_cache.processes.shared import SharedMemory

ROOT = Path(__file__).parents[2]
CHILD = """
import sys
from teacher_cache.processes.shared import SharedPlace
memory = SharedPlace(*map(int, sys.argv[1:])).open()
assert memory[:3].tolist() == [1, 2, 3] and len(memory) == 5000, memory
memory[4:] = 9
"""


def test_another_process_reads_and_writes_it() -> None:
    memory = SharedMemory(5000)
    assert not memory.bytes.any()
    memory.bytes[:3] = (1, 2, 3)
    place = memory.place
    words = [str(number) for number in (place.process, place.descriptor, place.num_bytes)]
    subprocess.run([sys.executable, "-c", CHILD, *words], cwd=ROOT, check=True)
    assert memory.bytes[:5].tolist() == [1, 2, 3, 0, 9]
    assert np.count_nonzero(memory.bytes) == 4999
    memory.close()
    assert memory.bytes[4] == 9  # who has it keeps it
    with pytest.raises(OSError, match="No such file"):
        place.open()


def write_nines(place: shared.SharedPlace) -> None:
    place.open()[4:] = 9


def test_where_there_is_no_proc_a_child_is_handed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS: an unnamed file, whose descriptor a child is started with."""
    monkeypatch.setattr(shared.sys, "platform", "darwin")
    memory = SharedMemory(5000)
    child = multiprocessing.get_context("spawn").Process(target=write_nines, args=(memory.place,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert np.count_nonzero(memory.bytes == 9) == 4996
    memory.close()


def test_what_the_system_does_not_give_is_one_line() -> None:
    with pytest.raises(RenderError, match=r"no shared memory of .* MB \(.*\): use --workers 0"):
        SharedMemory(1 << 62)


@pytest.mark.parametrize("failing", ["ftruncate", "mmap"])
def test_what_the_system_does_not_give_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    def full(*words: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "ftruncate") if failing == "ftruncate" else (shared.mmap, "mmap")), full)
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(RenderError, match="No space left on device"):
            SharedMemory(5000)
    assert os.listdir("/proc/self/fd") == before
