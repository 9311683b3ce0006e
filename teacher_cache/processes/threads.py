"""How torch's threads and rendering processes share this machine's cores. torch's OpenMP reads the environment once, so
nothing here imports torch before it is used."""

import os
import sys

from teacher_cache.processes.ties import ranks_here


def wait_asleep() -> None:
    """Before torch is imported: let its threads sleep while they wait, as rendering processes can use their cores."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def threads_spin() -> bool:
    """Whether torch's threads wait by spinning, which is OpenMP's way if nobody asks for another."""
    return os.environ.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE"


def share_cores(workers: int) -> None:
    """Let torch use the cores of this rank, beside its rendering processes; OMP_NUM_THREADS overrules.

    Where torch's threads wait for each other by spinning, rendering processes get cores of their own: with fewer cores
    than threads a step would take ten times as long.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        own = workers if threads_spin() else 0
        torch.set_num_threads(max(1, available_cores() // ranks_here() - own))


def available_cores() -> int:
    """That this process may use; all of them where the system does not say (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_one_thread() -> None:
    """Let torch use one thread in this process, where it is imported or comes to be: that takes seconds."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
