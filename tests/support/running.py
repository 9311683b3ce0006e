"""Processes as the system lists them: who is whose child, and which still run."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path


def fields(process: int) -> list[str]:
    """What /proc/PID/stat says from the state on; nothing where it is gone, or waits to be buried."""
    try:
        found = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [] if found[0] == "Z" else found


def descendants(process: int) -> set[int]:
    """Children, and theirs."""
    parents = {int(folder.name): fields(int(folder.name)) for folder in Path("/proc").glob("[0-9]*")}
    found: set[int] = set()
    while more := {
        child for child, said in parents.items() if said and child not in found and int(said[1]) in {process, *found}
    }:
        found |= more
    return found


def workers(process: int) -> set[int]:
    """Descendants that were started to work: a server is forked into them."""
    alike = {child for child in descendants(process) if b"begin_server" in _read(child, "cmdline")}
    return {child for child in alike if (found := fields(child)) and int(found[1]) in alike}


def rank(process: int, number: int) -> int | None:
    """The descendant that is the rank of this number, where there is one."""
    wanted = f"rank {number}\n".encode()  # the name that tests/support/forked.py gives it
    return next((child for child in descendants(process) if _read(child, "comm") == wanted), None)


def wait_until(condition: Callable[[], object], limit_s: float = 180) -> None:
    """Look again and again; an AssertionError where it does not come about."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.02)


def running(processes: Iterable[int]) -> set[int]:
    return {process for process in processes if fields(process)}


def _read(process: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{process}/{name}").read_bytes()
    except OSError:
        return b""
