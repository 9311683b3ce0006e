"""How much memory there is: what a pool of pixels is compared with before it is made."""

from collections.abc import Iterator
from pathlib import Path

from teacher_cache.messages.shown import counted
from teacher_cache.processes.ties import ranks_here

CONTROL_GROUPS = Path("sys/fs/cgroup")
# limit, use, and of the statistics what is given back when memory is short: a file's pages
_VERSION_2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))


def memory_lacking(num_bytes: int, what: str, *, in_each_rank: bool = True) -> str | None:
    """What to say where so many bytes are not available; None where they are, or nobody knows.

    in_each_rank: whether every rank of the job that runs on this machine is yet to take as many.
    """
    available, ranks = available_memory(), ranks_here() if in_each_rank else 1
    if available is None or ranks * num_bytes <= available:
        return None
    need, there = f"{num_bytes / 1e9:.1f}", f"{available / 1e9:.1f}"
    if ranks == 1:
        return f"{what} needs {need} GB of memory in this rank, {there} GB are available"
    here = f"each of {counted(ranks, 'rank')} here"
    return f"{what} needs {need} GB of memory in {here}, {there} GB are available to all of them"


def is_of_memory(error: Exception) -> bool:
    """Whether there was too little of it; torch tells of a device's, and of the machine's, in errors of its own."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that a process may take without others being swapped out, or its container or job being killed; None where
    the system does not say. root: of the system's files."""
    meminfo = root / "proc/meminfo"
    if not meminfo.exists():
        return None
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return min([int(fields["MemAvailable"].split()[0]) * 1024, *_left_to_groups(root)])


def _left_to_groups(root: Path) -> Iterator[int]:
    """What this process's control groups leave, which limit containers and a scheduler's jobs: its own and those above.

    In a container its own may be called as the host calls it, where there is no such folder: its limit is at the top.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / CONTROL_GROUPS / ("memory" if controllers else "")
        names = _VERSION_1 if controllers else _VERSION_2
        folder = top / own.lstrip("/")
        for each in (folder, *folder.parents):
            if (left := _left(each, *names)) is not None:
                yield left
            if each == top:
                break


def _left(folder: Path, limit_name: str, used_name: str, returned: tuple[str, ...]) -> int | None:
    """What one group leaves; None where it has no limit, or there is no such group. Statistics may be fewer."""
    try:
        limit, used = (folder / limit_name).read_text().strip(), int((folder / used_name).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    if limit == "max":
        return None
    return max(0, int(limit) - used + sum(int(statistics.get(name, 0)) for name in returned))
