"""How torch's threads wait for each other. Nothing here imports torch, whose OpenMP reads the environment once."""

import os


def wait_asleep() -> None:
    """Before torch is imported: let its threads sleep while they wait, as rendering processes can use their cores."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def threads_spin() -> bool:
    """Whether torch's threads wait by spinning, which is OpenMP's way if nobody asks for another."""
    return os.environ.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE"
