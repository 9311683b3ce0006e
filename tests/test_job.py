"""Ranks that wait for each other, and do not wait for ever."""

import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from teacher_cache import job as job_module
from teacher_cache.errors import RankError, StoreError
from teacher_cache.job import AnsweringStore, Job, join_job, meeting
from teacher_cache.store.store import Store
from teacher_cache.verify import verify
from tests.support.bright_shards import bright_store
from tests.support.filling import fill_store, fill_words
from tests.support.forked import Forks
from tests.support.running import descendants, rank, running, wait_until


class Clock:
    """Time that passes while a rank sleeps; `at` is called each time with what has passed."""

    def __init__(self) -> None:
        self.s = 0.0
        self.at: Callable[[float], object] = lambda now_s: None  # what other ranks do

    def monotonic(self) -> float:
        return self.s

    def sleep(self, seconds: float) -> None:
        self.s += seconds
        self.at(self.s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(job_module, "time", made)
    return made


def two_ranks() -> Job:
    return Job(0, 2, torch.device("cpu"), timeout_s=600)


def test_a_rank_that_does_not_come_is_told_once_nothing_moves(clock: Clock) -> None:
    job = two_ranks()
    clock.at = lambda now_s: job.add("views", 1) if now_s < 3000 else None
    with pytest.raises(RankError, match=r"^1 of 2 ranks has not finished, and no rank has done anything for 600 s: "):
        job.wait_for_all("finished", moving=("views",))
    assert 3590 < clock.s < 3610


SHARING = """
import torch, torch.distributed as dist
from teacher_cache.job import join_job
with join_job("cpu", group=True) as job:
    turned = torch.full((2, 3), 1.5).bfloat16().T
    ours = {"a": [turned, torch.tensor(7)], "b": (torch.empty(0, 2), torch.tensor([True]))}
    found = job.share({**ours, "c": "text"} if job.first else None)
    assert found["c"] == "text"
    for name, tensors in ours.items():
        assert type(found[name]) is type(tensors)
        assert all(one.dtype == other.dtype and torch.equal(one, other) for one, other in zip(found[name], tensors))
"""


def test_what_the_first_rank_shares_all_have(forks: Forks) -> None:
    """Tensors of any type, shape and order among plain data."""
    ranks = forks.start_ranks("-c", [SHARING], 3)
    assert [rank.wait() for rank in ranks] == [0, 0, 0], ranks[1].output


def test_ranks_that_get_on_are_waited_for(clock: Clock) -> None:
    """What moves is counted, or is fewer units that are not committed."""
    job = two_ranks()
    patience = job.patience(("views",))
    clock.at = lambda now_s: job.add("views", 64) if round(now_s, 1) % 500 == 0 and now_s < 9800 else None

    def wait_until(until_s: float, left: int) -> None:
        while clock.s < until_s:
            patience.check(lambda: "some are missing", left)
            clock.sleep(0.2)

    wait_until(10_000, left=3)
    wait_until(10_500, left=2)
    clock.s += 5000  # in which this rank was stopped itself
    message = r"^some are missing, and no rank has done anything for 600 s: .*--rank-timeout$"
    with pytest.raises(RankError, match=message):
        wait_until(20_000, left=2)
    assert 15_590 < clock.s < 15_600


def test_one_rank_alone_is_patient(clock: Clock) -> None:
    patience = Job(0, 1, torch.device("cpu"), timeout_s=600).patience(("views",))
    while clock.s < 2000:
        patience.check(lambda: "some are missing")
        clock.sleep(1)


def test_everybody_arrives(clock: Clock) -> None:
    job, calls = two_ranks(), []
    clock.at = lambda now_s: job.add("finished", 1) if now_s == 0.2 else None
    job.wait_for_all("finished", meanwhile=lambda: calls.append(clock.s))
    assert calls == [0]  # while it waits, and not once all are there
    job.wait_for_all("finished", meanwhile=lambda: calls.append(clock.s))
    assert calls == [0]


class Gone:
    """A key-value store whose process is no more."""

    def add(self, counter: str, amount: int) -> int:
        raise dist.DistNetworkError("Connection was likely closed.\nException raised from ...")


def test_a_store_that_is_gone_is_told() -> None:
    job = Job(1, 2, torch.device("cpu"), Gone())
    message = r"^the ranks' key-value store does not answer \(Connection was likely closed\.\): torchrun or"
    with pytest.raises(RankError, match=message):
        job.add("drawn", 1)


def test_a_store_that_is_cut_off_is_told() -> None:
    """It answers as long as it can; then torch waits, and gives no error either."""

    class CutOff(dist.HashStore):
        def add(self, counter: str, amount: int) -> int:
            if counter == "views":
                threading.Event().wait()
            return super().add(counter, amount)

    job = Job(1, 2, torch.device("cpu"), AnsweringStore(CutOff(), timeout_s=0.3))
    assert [job.add("units", 3), job.add("units", 2)] == [3, 5]
    message = r"^the ranks' key-value store does not answer \(nothing has come from it for 0\.3 s\): torchrun or"
    with pytest.raises(RankError, match=message):
        job.add("views", 1)
    gone = Job(1, 2, torch.device("cpu"), AnsweringStore(Gone(), timeout_s=60))
    with pytest.raises(RankError, match="Connection was likely closed"):
        gone.add("units", 1)


@pytest.mark.parametrize("group", [False, True])
def test_a_rank_whose_others_never_come_is_told(monkeypatch: pytest.MonkeyPatch, group: bool) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "9")):
        monkeypatch.setenv(name, value)
    message = r"^the ranks did not come together at the start \("
    with pytest.raises(RankError, match=message), join_job("cpu", timeout_s=1, group=group):
        raise AssertionError
    assert not dist.is_initialized()


def test_errors_that_are_not_the_ranks_stay() -> None:
    with pytest.raises(RuntimeError, match="shapes"), meeting("a step's gradients"):
        raise RuntimeError("shapes do not fit")
    message = r"at a step's gradients \(NCCL watchdog\): look for"
    with pytest.raises(RankError, match=message), meeting("a step's gradients"):
        raise dist.DistBackendError("NCCL watchdog\nand where it was")


def test_one_rank_waits_for_nobody() -> None:
    with join_job("cpu", group=True) as alone:
        assert (alone.first, alone.world_size, alone.device.type) == (True, 1, "cpu")
        assert alone.any([True, False]) == [True, False]
        assert alone.gather("value") == ["value"]
        with alone.told_to_all("a checkpoint"):
            pass
        with pytest.raises(StoreError, match="of its own"), alone.told_to_all("a checkpoint"):
            raise StoreError("of its own")
        assert (alone.add("views", 3), alone.add("views", 0)) == (3, 3)
        alone.wait_for_all("finished")


MANY_UNITS = (16,) * 20  # 160 of them, small as they are: more than ranks commit before they end


def torchrun(store: Store, *options: str) -> tuple[str, list[str]]:
    """A program and its words: two ranks that fill a store."""
    words = ["--standalone", "--nproc-per-node", "2", "-m", "teacher_cache", *fill_words(store.path, *options)]
    return "torch.distributed.run", words


def test_a_rank_that_hangs_while_filling_is_told(tmp_path: Path, forks: Forks) -> None:
    store = bright_store(tmp_path, counts=MANY_UNITS, views=16)
    launcher = forks.start(*torchrun(store, "--workers", "0", "--rank-timeout", "8"))
    try:
        wait_until(lambda: store.committed().sum() > 2)  # more than the first rank labels alone
        stopped = rank(launcher.id, 1)
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        wait_until(lambda: re.search("^error: .*\n", launcher.output, re.MULTILINE))
        (told, *_) = re.findall("^error: .*\n", launcher.output, re.MULTILINE)
        assert re.fullmatch(
            # with a unit of its own, or between two: then the other labels all there is, and waits for it at the end
            "error: (what is missing is with other ranks|1 of 2 ranks has not finished), and no rank has done anything "
            "for 8 s: look for a rank that hangs, or has ended and says why, end the job and run the same command "
            "again; if ranks are only slow, raise --rank-timeout\n",
            told,
        )
        os.kill(stopped, signal.SIGKILL)  # as torchrun does after half a minute
        assert launcher.wait() == 1
    finally:
        for process in running({launcher.id, *descendants(launcher.id)}):
            os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGKILL])
def test_ranks_whose_torchrun_dies_end_and_keep_what_is_committed(
    tmp_path: Path, forks: Forks, number: signal.Signals
) -> None:
    store = bright_store(tmp_path, counts=MANY_UNITS, views=16)
    launcher = forks.start(*torchrun(store, "--workers", "1"))
    left: set[int] = set()
    try:
        wait_until(lambda: store.committed().sum() > 2)
        left = descendants(launcher.id)
        os.kill(launcher.id, number)
        assert launcher.wait() == -number
        wait_until(lambda: not running(left))
    finally:
        for process in running({launcher.id, *left, *descendants(launcher.id)}):
            os.kill(process, signal.SIGKILL)
    kept = store.committed()
    assert 2 < kept.sum() < kept.size
    fill_store(store)
    assert store.committed().all()
    assert verify(store, 1.0, workers=0).exact
