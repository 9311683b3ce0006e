"""Ranks of a training that hang or die: the others say where they waited for them."""

import os
import signal
from pathlib import Path

import pytest
import torch

from teacher_cache.publish import publish
from teacher_cache.replay.operations import open_operations
from teacher_cache.replay.policy import load_policy
from teacher_cache.store.store import Store
from tests.support.bright_shards import bright_store
from tests.support.forked import Forks
from tests.support.running import descendants, rank, running, wait_until
from tests.support.small_runs import SMALL, filled_store, student

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return filled_store(tmp_path_factory.mktemp("filled"), counts=(64, 32))


def command(store: Store, folder: Path, *more: str) -> list[str]:
    """A training far longer than the test."""
    settings = [word for setting in (student("plain"), "epochs=100000") for word in ("--set", setting)]
    words = ["train", str(store.path), "--recipe", SMALL, "--out", str(folder / "out"), "--workers", "0"]
    return [*words, "--device", "cpu", "--checkpoint-every", "0.01", *settings, *more]


def torchrun(*words: str) -> tuple[str, list[str]]:
    return "torch.distributed.run", ["--standalone", "--nproc-per-node", "2", "-m", "student", *words]


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_rank_that_hangs_or_dies_is_told_by_the_other(
    tmp_path: Path, store: Store, forks: Forks, number: int
) -> None:
    first, second = forks.start_ranks("student", command(store, tmp_path, "--rank-timeout", "5"), 2)
    wait_until(lambda: (tmp_path / "out" / "checkpoint.pt").exists())
    os.kill(second.id, number)
    try:
        assert first.wait() == 1, first.output
    finally:
        os.kill(second.id, signal.SIGKILL)
        assert second.wait() == -signal.SIGKILL
    (told,) = [line for line in first.output.splitlines() if line.startswith("error: ")]
    assert told.startswith("error: the ranks did not come together at ")
    assert told.endswith(
        "): look for a rank that hangs, or has ended and says why, end the job and run the same command again; if "
        "ranks are only slow, raise --rank-timeout"
    )
    assert "Traceback" not in first.output


def test_a_rank_that_renders_on_the_cpu_where_the_first_need_not_says_why(tmp_path: Path, forks: Forks) -> None:
    """A GPU that has no room beside the model, for instance; here operations of one's own, which no GPU is asked for on
    the first rank."""
    own = f"{ROOT}/tests/support/own_operations.py:operations"
    policy = load_policy("cifar", ["size=8", "crop.scale=[0.5,1.0]"], open_operations(own))
    store = bright_store(tmp_path, counts=(64, 32), policy=policy)
    said = f"views are rendered on the CPU: policy {policy.name} has operations of its own (darken, roll)\n"

    settings = [word for setting in (student("plain"), "epochs=1", "distill=none") for word in ("--set", setting)]
    train = ["train", str(store.path), "--recipe", SMALL, "--workers", "0", "--device", "cpu", "--ops", own, *settings]
    for here, there, told in (("cpu", "gpu", (0, 1)), ("gpu", "gpu", (1, 0)), ("gpu", "cpu", (1, 0))):
        words = [*train, "--out", str(tmp_path / f"{here}-{there}"), "--render"]
        ranks = forks.start_ranks("student", [*words, here], 2, [*words, there])
        assert [each.wait() for each in ranks] == [0, 0], ranks[0].output + ranks[1].output
        assert tuple(each.output.count(said) for each in ranks) == told
        assert (f"rank 1: {said}" in ranks[1].output) == bool(told[1])


def test_what_one_rank_lacks_of_the_shards_all_say(tmp_path: Path, store: Store, forks: Forks) -> None:
    publish(store, str(tmp_path / "published"))
    packed = Store.open(tmp_path / "published" / "store")  # which does not say where its shards are
    ranks = forks.start_ranks("student", command(store, tmp_path), 2, command(packed, tmp_path))
    for each in ranks:
        assert each.wait() == 1, each.output
        (told,) = [line for line in each.output.splitlines() if line.startswith("error: ")]
        assert told.startswith("error: rank 1: 2 of 2 shards are not in this folder, and the store does not say where")


def test_a_rank_that_hangs_under_torchrun_is_told(tmp_path: Path, store: Store, forks: Forks) -> None:
    launcher = forks.start(*torchrun(*command(store, tmp_path, "--rank-timeout", "5")))
    try:
        wait_until(lambda: (tmp_path / "out" / "checkpoint.pt").exists(), limit_s=180)
        stopped = rank(launcher.id, 1)
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        wait_until(lambda: "error: the ranks did not come together at " in launcher.output)
    finally:
        for process in running({launcher.id, *descendants(launcher.id)}):
            os.kill(process, signal.SIGKILL)
        launcher.wait()


def test_ranks_whose_torchrun_dies_stop_with_a_checkpoint(tmp_path: Path, store: Store, forks: Forks) -> None:
    """Also one whose terminal closes, which everybody is told of. The same command goes on each time."""
    program, words = torchrun(*command(store, tmp_path))
    words[words.index("--checkpoint-every") + 1] = "600"
    newest = tmp_path / "out" / "checkpoint.pt"
    went_on = ""
    for number in (signal.SIGUSR1, signal.SIGKILL, signal.SIGHUP):
        launcher = forks.start(program, words, own_session=True)
        try:
            wait_until(lambda launcher=launcher: launcher.output.count("images/s") > 1, limit_s=180)
            assert went_on in launcher.output
            left = descendants(launcher.id)
            (os.killpg if number == signal.SIGHUP else os.kill)(launcher.id, number)
            launcher.wait()
            wait_until(lambda left=left: not running(left))
        finally:
            for process in running({launcher.id, *descendants(launcher.id)}):
                os.kill(process, signal.SIGKILL)
        found = torch.load(newest)["position"]
        stopped = f"stopped at epoch {found['epoch'] + 1}, step {found['step']}; the same command goes on"
        assert launcher.output.count(stopped) == 2, launcher.output
        went_on = f"going on from {tmp_path / 'out'}: epoch {found['epoch'] + 1}, step {found['step']}\n"
