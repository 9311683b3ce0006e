"""Which worker labels which unit: leases that workers on any machines take beside a store that all of them see.

A claim is the object UNIT/GEN, which only one worker can create; its holder changes it now and then. Another makes
UNIT/GEN+1 once it has seen no change for the lease's length on its own clock, or the holder was a process of its own
machine that has ended. A holder that sees that discards its unit. Leases only save work: two that label the same unit
all the same cannot mix what they write (see store/commit.py).
"""

import json
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from teacher_cache.errors import DiskError, StorageError
from teacher_cache.processes.timeouts import LEASE_S, TIMEOUT_S
from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.place import beside
from teacher_cache.storage.storage import Stamp, Storage, ask_each
from teacher_cache.store.store import Store
from teacher_cache.store.unit import Unit

_CLAIM = re.compile(r"(?P<unit>\d{1,18}-\d{1,18}-\d{1,18})/(?P<generation>\d{1,4})", re.ASCII)
BEATS = 4  # changes of a claim in the time of a lease, or in LEASE_S of a longer one
POLL_S = 2.0  # between looks at what others hold, where nothing is free


@dataclass(frozen=True)
class _Seen:
    """What was seen of a claim: its newest generation, and since when on this clock it has not changed."""

    generation: int
    stamp: Stamp
    since: float


class Claims:
    """The claims of one worker on the units of a store. Use `open_claims`.

    lease_s must be the same for all who work on a store at a time; a shorter one takes units from those that live. A
    worker that has not moved for still_s is taken to hang: its claims are changed no more.
    """

    def __init__(self, storage: Storage, lease_s: float = LEASE_S, still_s: float = TIMEOUT_S) -> None:
        self.lease_s, self.still_s = lease_s, still_s
        self.changes = 0  # of others' claims that were seen: they work, as one that hangs changes none
        self._moved_at = time.monotonic()
        self._storage = storage
        self._token = secrets.token_hex(16)
        self._held: dict[str, int] = {}  # generations, by name
        self._seen: dict[str, _Seen] = {}
        self._holders: dict[tuple[str, int], tuple[int, str] | None] = {}  # of claims, as _read_holder has them
        self._beats = 0
        self._lock = threading.RLock()  # a listing that is older than a claim must not be taken for news of it

    def moved(self) -> None:
        """Say that the worker gets on with its work."""
        self._moved_at = time.monotonic()

    def take(self, units: Sequence[Unit]) -> Iterator[Unit]:
        """Claim the first of these units that nobody holds, then the next as the caller wants one, until there is none.

        Who takes a unit looks first whether it is committed: another may have done so since the caller listed them.
        """
        self._look()
        for unit in units:
            name = _name(unit)
            if name not in self._held and self._claim(name):
                yield unit

    def holds(self, unit: Unit) -> bool:
        """Whether the unit is still this worker's."""
        self._look()
        return _name(unit) in self._held

    def release(self, unit: Unit) -> None:
        """Give a unit up, or be done with it."""
        name = _name(unit)
        with self._lock:
            self._remove(name, self._held.pop(name, -1))

    def release_all(self) -> None:
        """Give up what is held, all at once, as a network that fails lets each wait; where it does the leases run
        out."""

        def give_up(claim: tuple[str, int]) -> None:
            with suppress(DiskError, StorageError):
                self._remove(*claim)

        with self._lock:
            held, self._held = self._held, {}
            for _ in ask_each(self._storage, give_up, held.items()):
                pass

    def beat(self) -> None:
        """Change what is held, so that others see that its holder lives; and see who has taken what."""
        if time.monotonic() - self._moved_at > self.still_s:
            return
        with self._lock:
            self._look()
            self._beats += 1
            for name, generation in self._held.items():
                self._storage.put(f"{name}/{generation}", self._content())

    def _remove(self, name: str, generation: int) -> None:
        for number in range(generation, -1, -1):
            self._storage.delete(f"{name}/{number}")

    # -- one claim -----------------------------------------------------------------------------------------------

    def _claim(self, name: str) -> bool:
        seen = self._seen.get(name)
        if seen is not None and time.monotonic() - seen.since < self.lease_s and not self._has_ended(name, seen):
            return False
        generation = 0 if seen is None else seen.generation + 1
        with self._lock:
            if not self._storage.put_if_absent(f"{name}/{generation}", self._content()):
                self._look()  # others are at it: see how far they are
                return False
            self._held[name] = generation
        return True

    def _content(self) -> bytes:
        """What a claim says: whose it is, different each time, as storages tell a change by the bytes."""
        return json.dumps({"holder": self._token, "beat": self._beats, **_process()}).encode()

    def _has_ended(self, name: str, seen: _Seen) -> bool:
        """Whether a claim's holder was a process of this machine that is no more; of others nothing is known. One that
        is gone may have given the claim up before: then it is another's by now."""
        claim = name, seen.generation
        if claim in self._holders and not _is_gone(self._holders[claim]):
            return False
        self._holders[claim] = _read_holder(self._storage.get(f"{name}/{seen.generation}"))
        return _is_gone(self._holders[claim])

    def _look(self) -> None:
        """See by one listing who has claimed what, and what has changed."""
        with self._lock:
            now, newest = time.monotonic(), dict[str, tuple[int, Stamp]]()
            for path, _, stamp in self._storage.list():
                claim = _CLAIM.fullmatch(path)
                if claim is not None and int(claim["generation"]) >= newest.get(claim["unit"], (-1, ()))[0]:
                    newest[claim["unit"]] = (int(claim["generation"]), stamp)
            before, self._seen = self._seen, {}
            for name, (number, stamp) in newest.items():
                was = before.get(name)
                same = was is not None and (was.generation, was.stamp) == (number, stamp)
                self.changes += not same and name not in self._held
                self._seen[name] = _Seen(number, stamp, was.since if was is not None and same else now)
            for name, generation_held in list(self._held.items()):
                if newest.get(name, (-1, ()))[0] != generation_held:  # another has taken it, or swept it as done
                    del self._held[name]


@contextmanager
def open_claims(store: Store, lease_s: float = LEASE_S, still_s: float = TIMEOUT_S) -> Iterator[Claims]:
    """Claims on a store's units, which beat until they are closed; then all that is held is given up."""
    claims = Claims(_storage(store), lease_s, still_s)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(min(lease_s, LEASE_S) / BEATS):
            with suppress(DiskError, StorageError, OSError):  # the next one may succeed; a lease lasts a few
                claims.beat()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield claims
    finally:
        ended.set()
        thread.join()
        claims.release_all()


def sweep_claims(store: Store) -> None:
    """Remove claims on units that are committed: of workers that were killed, or gave way. Those on units that were
    added meanwhile, and what is no claim, are left."""
    storage, committed = _storage(store), store.committed()
    for entry in storage.list():
        claim = _CLAIM.fullmatch(entry.name)
        if claim is not None and (unit := _unit(claim["unit"])) in store.layout and committed[unit]:
            storage.delete(entry.name)


def _storage(store: Store) -> Storage:
    return open_storage(beside(store.path, ".claims"))


def _name(unit: Unit) -> str:
    return f"{unit.shard}-{unit.unit}-{unit.group}"


def _unit(name: str) -> Unit:
    return Unit(*map(int, name.split("-")))


def _read_holder(content: bytes | None) -> tuple[int, str] | None:
    """A claim's process and when it was started; None where it is none of this machine."""
    try:
        said = json.loads(content or b"{}")
        return (int(said["pid"]), str(said["started"])) if said["machine"] == _machine() else None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _is_gone(holder: tuple[int, str] | None) -> bool:
    return holder is not None and _start_time(holder[0]) != holder[1]


def _process() -> dict[str, str | int]:
    return {"machine": _machine(), "pid": os.getpid(), "started": _start_time(os.getpid())}


def _machine() -> str:
    """What is the same for processes that see each other: this boot, and the numbers of processes that are one's own.
    A start of the machine that is told nowhere else: it says nothing of the machine's name or address."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return secrets.token_hex(16)


def _start_time(pid: int) -> str:
    """When a process was started, in ticks since the boot; "" where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
