"""How much memory there is: what a pool of pixels is compared with before it is made."""

from pathlib import Path


def memory_lacking(num_bytes: int, what: str) -> str | None:
    """What to say where so many bytes are not available; None where they are, or nobody knows."""
    available = available_memory()
    if available is None or num_bytes <= available:
        return None
    return f"{what} needs {num_bytes / 1e9:.1f} GB of memory in this rank, {available / 1e9:.1f} GB are available"


def available_memory() -> int | None:
    """Bytes that a process may take without others being swapped out; None where the system does not say."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024
