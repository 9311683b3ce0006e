"""Leases on units: who has which, whose run out, and any number of jobs on one store, killed and stopped at will."""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import xxhash

from teacher_cache import claims as module
from teacher_cache.claims import Claims, open_claims, sweep_claims
from teacher_cache.errors import StorageError
from teacher_cache.storage.local import LocalStorage
from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.place import Place, Url
from teacher_cache.storage.storage import Storage
from teacher_cache.store.store import Store
from teacher_cache.store.unit import Unit
from tests.support.bright_shards import bright_store
from tests.support.filled_store import commit, files, make_store
from tests.support.filling import fill_store, fill_words
from tests.support.forked import Command, Forks
from tests.support.memory_storage import MemoryStorage, bucket_in_memory
from tests.support.running import wait_until

UNITS = [Unit(0, 0, 0), Unit(0, 1, 0), Unit(3, 0, 1)]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "s.claims")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims are made as if by processes of different machines."""
    monkeypatch.setattr(module, "_machine", lambda: os.urandom(8).hex())


def names(storage: Storage) -> list[str]:
    return [entry.name for entry in storage.list()]


# -- one claim -------------------------------------------------------------------------------------------------------


def test_a_unit_is_claimed_by_one_and_free_when_it_is_given_up(storage: Storage) -> None:
    one, two = Claims(storage), Claims(storage)
    assert next(one.take(UNITS)) == UNITS[0]
    assert list(two.take(UNITS)) == UNITS[1:]
    assert list(one.take(UNITS)) == []
    assert names(storage) == ["0-0-0/0", "0-1-0/0", "3-0-1/0"]
    two.release(UNITS[1])
    assert not two.holds(UNITS[1])
    assert two.holds(UNITS[2])
    assert list(one.take(UNITS)) == [UNITS[1]]
    one.release_all()
    two.release_all()
    assert names(storage) == []
    assert not Path(storage.place).exists()


def test_a_claim_that_changes_is_its_holders_and_one_that_does_not_runs_out(
    storage: Storage, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    holder, other = Claims(storage, lease_s=10, still_s=100), Claims(storage, lease_s=10, still_s=100)
    assert list(holder.take(UNITS[:1])) == UNITS[:1]
    for _ in range(5):
        now += 9
        assert list(other.take(UNITS[:1])) == []
        holder.beat()
    now += 9.5  # the last beat was seen by nobody yet
    assert list(other.take(UNITS[:1])) == []
    now += 9.5
    assert list(other.take(UNITS[:1])) == []
    now += 1
    assert list(other.take(UNITS[:1])) == UNITS[:1]
    assert names(storage) == ["0-0-0/0", "0-0-0/1"]
    assert not holder.holds(UNITS[0])
    holder.beat()
    assert other.holds(UNITS[0])
    assert names(storage) == ["0-0-0/0", "0-0-0/1"]
    other.release(UNITS[0])
    assert names(storage) == []


def test_a_worker_that_hangs_changes_its_claims_no_more(
    storage: Storage, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    hanging = Claims(storage, lease_s=10, still_s=100)
    assert list(hanging.take(UNITS[:1])) == UNITS[:1]
    stamps = []
    for _ in range(4):
        now += 40
        hanging.beat()
        stamps.append(storage.list()[0].stamp)
    assert stamps[0] != stamps[1] == stamps[2] == stamps[3]
    hanging.moved()
    hanging.beat()
    assert storage.list()[0].stamp != stamps[3]


def test_others_are_seen_to_work_while_their_claims_change(storage: Storage, elsewhere: None) -> None:
    one, other = Claims(storage), Claims(storage)
    assert list(one.take(UNITS[:1])) == UNITS[:1]
    one.beat()
    assert one.changes == 0  # its own are not others'
    seen = []
    for beats in (1, 0, 1, 0, 0):
        for _ in range(beats):
            one.beat()
        assert list(other.take(UNITS[:1])) == []
        seen.append(other.changes)
    assert seen == [1, 1, 2, 2, 2]


def test_what_is_no_claim_is_passed_over(tmp_path: Path) -> None:
    """Nor are claims on units that the store has not, of views that were added meanwhile."""
    store = make_store(tmp_path / "s", views=2)
    strays = ["notes", "0-0-0/notes", "0-0/0", "x-0-0/0", f"{'9' * 30}-0-0/0", "0-0-1/0", "9-0-0/0"]
    strays += [f"0-0-0/{'9' * 18}", "\u0660-0-0/0"]  # which nobody counts up to; digits of another script
    storage = open_storage(tmp_path / "s.claims")
    for name in strays:
        storage.put(name, b"{}")
    storage.put("0-0-0/0", b"{}")
    commit(store, Unit(0, 0, 0))
    sweep_claims(store)
    assert names(storage) == sorted(strays)
    assert list(Claims(storage).take([Unit(0, 1, 0)])) == [Unit(0, 1, 0)]


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[" * 100_000, b'{"pid": 1e999, "started": "1", "machine": %s}', b'{"pid": -1}', b"[]"]
)
def test_a_claim_that_says_nothing_runs_out_as_any(
    content: bytes, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    storage.put("0-0-0/0", content.replace(b"%s", json.dumps(module._machine()).encode()))
    claims = Claims(storage, lease_s=10)
    assert list(claims.take(UNITS[:1])) == []
    now += 11
    assert list(claims.take(UNITS[:1])) == UNITS[:1]
    assert names(storage) == ["0-0-0/0", "0-0-0/1"]


def test_a_holder_of_this_machine_that_has_ended_is_known_at_once(storage: Storage) -> None:
    pid = os.fork()
    if not pid:
        list(Claims(storage).take(UNITS[:2]))
        os._exit(0)
    os.waitpid(pid, 0)
    assert names(storage) == ["0-0-0/0", "0-1-0/0"]
    assert list(Claims(storage).take(UNITS)) == UNITS
    said = json.loads(storage.get("0-0-0/1") or b"")
    assert (said["pid"], said["machine"]) == (os.getpid(), module._machine())


def test_a_claim_that_was_given_up_is_whose_it_is_now(storage: Storage) -> None:
    """Though the one that had it, at the same generation, is known to have ended since."""
    given_up, told = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        first = Claims(storage)
        list(first.take(UNITS[:1]))
        os.write(told[1], b".")
        os.read(given_up[0], 1)
        first.release_all()
        os._exit(0)
    os.read(told[0], 1)
    watching, second = Claims(storage), Claims(storage)
    assert list(watching.take(UNITS[:1])) == []
    os.write(given_up[1], b".")
    os.waitpid(pid, 0)
    for end in (*given_up, *told):
        os.close(end)
    assert list(second.take(UNITS[:1])) == UNITS[:1]
    assert names(storage) == ["0-0-0/0"]
    assert list(watching.take(UNITS[:1])) == []
    assert second.holds(UNITS[0])


def test_only_claims_on_committed_units_are_swept(tmp_path: Path, storage: Storage) -> None:
    store = make_store(tmp_path / "s")
    commit(store, UNITS[0])
    list(Claims(storage).take(UNITS[:2]))
    sweep_claims(store)
    assert names(storage) == ["0-1-0/0"]


def test_claims_beat_until_they_are_closed(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    storage = open_storage(tmp_path / "s.claims")
    with open_claims(store, lease_s=0.2) as claims:
        assert next(claims.take(UNITS)) == UNITS[0]
        (first,) = storage.list()
        wait_until(lambda: storage.list()[0].stamp != first.stamp)
    assert names(storage) == []


def test_all_that_is_held_is_given_up_at_once_where_a_request_takes_its_time() -> None:
    """A network that does not answer would keep a worker that is stopped waiting for each of them in turn."""
    with bucket_in_memory() as bucket:
        place = Url("s3://bucket/s.claims")
        met = threading.Barrier(len(UNITS), timeout=60)

        class Slow(MemoryStorage):
            def delete(self, name: str) -> None:
                met.wait()
                super().delete(name)

        claims = Claims(Slow(bucket, place))
        assert list(claims.take(UNITS)) == UNITS
        claims.release_all()
        assert not met.broken
        assert not bucket.objects


def test_of_claims_that_cannot_be_given_up_the_others_are(storage: Storage) -> None:
    class Failing(LocalStorage):
        def delete(self, name: str) -> None:
            if name.startswith("0-0-0"):
                raise StorageError(f"{name} gave no answer")
            super().delete(name)

    claims = Claims(Failing(Path(storage.place)))
    assert list(claims.take(UNITS)) == UNITS
    claims.release_all()
    assert names(storage) == ["0-0-0/0"]
    assert not claims.holds(UNITS[1])


def test_a_long_lease_beats_as_often_as_the_usual_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others see by it that somebody works: ranks that wait for another job's unit would give up before the next."""
    monkeypatch.setattr(module, "LEASE_S", 0.2)
    store = make_store(tmp_path / "s")
    storage = open_storage(tmp_path / "s.claims")
    with open_claims(store, lease_s=7 * 24 * 3600) as claims:
        assert list(claims.take(UNITS[:1])) == UNITS[:1]
        first = storage.list()[0].stamp
        wait_until(lambda: storage.list()[0].stamp != first)


def test_of_many_at_once_each_unit_is_one_workers(storage: Storage) -> None:
    """Workers of several processes, which start at the same moment; none ends before the last has taken its own, as
    what it holds would be free then."""
    units = [Unit(0, 0, number) for number in range(40)]
    start, said, end = os.pipe(), os.pipe(), os.pipe()
    workers = []
    for _ in range(4):
        if not (pid := os.fork()):
            os.close(start[1])
            os.close(end[1])
            os.read(start[0], 1)  # until the other end is closed
            taken = [unit.group for unit in Claims(storage).take(units)]
            os.write(said[1], f"{json.dumps(taken)}\n".encode())
            os.read(end[0], 1)
            os._exit(0)
        workers.append(pid)
    os.close(start[1])
    os.close(said[1])
    with os.fdopen(said[0]) as lines:
        taken = [group for _ in workers for group in json.loads(lines.readline())]
    os.close(end[1])
    for pid in workers:
        os.waitpid(pid, 0)
    os.close(start[0])
    os.close(end[0])
    assert sorted(taken) == list(range(40))


# -- jobs ------------------------------------------------------------------------------------------------------------


def start(forks: Forks, store: Place, *words: object) -> Command:
    return forks.start("teacher_cache", fill_words(store, "--claim", "--lease", "2s", *words))


def whole_store(folder: Path, **options: int) -> dict[str, str]:
    """The files of an uninterrupted store over the same shards, but for what names the build."""
    store = bright_store(folder, name="whole", **options)
    fill_store(store)
    return files(store.path)


def test_two_jobs_share_the_units_of_a_store(tmp_path: Path, forks: Forks) -> None:
    store = bright_store(tmp_path, views=8)
    jobs = [start(forks, store.path) for _ in range(2)]
    assert [job.wait() for job in jobs] == [0, 0], [job.output for job in jobs]
    assert files(store.path) == whole_store(tmp_path, views=8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards", "store", "whole"]


def disturb(forks: Forks, store: Place, rounds: int, seed: int, workers: int = 4) -> list[Command]:
    """Jobs on a store, of which one is killed, or stopped for a while, again and again; then they are left alone."""
    draw = random.Random(seed)
    jobs = [start(forks, store) for _ in range(workers)]
    stopped: dict[int, float] = {}
    for _ in range(rounds):
        time.sleep(draw.uniform(0.05, 0.4))
        for number, until in list(stopped.items()):
            if time.monotonic() >= until:
                os.kill(jobs[number].id, signal.SIGCONT)
                del stopped[number]
        number = draw.randrange(workers)
        if not jobs[number].running():
            continue
        if draw.random() < 0.5:
            os.kill(jobs[number].id, signal.SIGKILL)
            stopped.pop(number, None)
            jobs[number].wait()
            jobs[number] = start(forks, store)
        elif number not in stopped:
            os.kill(jobs[number].id, signal.SIGSTOP)
            stopped[number] = time.monotonic() + draw.uniform(0.1, 4)
    for number in stopped:
        with suppress(ProcessLookupError):
            os.kill(jobs[number].id, signal.SIGCONT)
    return jobs


@pytest.mark.parametrize(("place", "units"), [("folder", 40), ("s3", 20), ("az", 20)])
def test_jobs_killed_and_stopped_at_random_fill_a_store_once(
    tmp_path: Path, forks: Forks, request: pytest.FixtureRequest, new_bucket: Callable[..., Url], place: str, units: int
) -> None:
    """More often and on more units where CLAIMS_ROUNDS and CLAIMS_UNITS say so."""
    repeats, units = int(os.environ.get("CLAIMS_ROUNDS", "1")), int(os.environ.get("CLAIMS_UNITS", units))
    shape = {"counts": (320,) * (units // 20), "views": 8}
    whole = whole_store(tmp_path, **shape)
    for number in range(repeats):
        if place != "folder":
            url = new_bucket(request.getfixturevalue(place)) / "store"
            local = bright_store(tmp_path, name=f"made{number}", **shape)
            store = Store.create(url, local.index, local.policy, views=8, seed=3, group=2, unit_samples=64)
        else:
            store = bright_store(tmp_path, name=f"store{number}", **shape)
        jobs = disturb(forks, store.path, rounds=max(10, units // 4), seed=number)
        assert [job.wait() for job in jobs] == [0] * 4, [job.output for job in jobs]
        assert contents(store.storage) == whole
        assert not open_storage(f"{store.path}.claims").list()
        assert not open_storage(f"{store.path}.pending").list()


def contents(storage: Storage) -> dict[str, str]:
    """As `files`, of any storage."""
    return {entry.name: xxhash.xxh3_64_hexdigest(storage.get(entry.name) or b"") for entry in storage.list()}
