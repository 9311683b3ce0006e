"""Two hosts, each with a network of its own: what a training says and does when one of them is cut off."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.support.forked import TORCHRUN, Command, Forks
from tests.support.hosts import Host, two_hosts, unable
from tests.support.running import descendants, running, wait_until
from tests.support.small_runs import SMALL, filled_store, student

REASON = unable()


def torchrun(forks: Forks, hosts: tuple[Host, Host], port: int, words: list[str]) -> list[Command]:
    """A rank on each host; the first holds the rendezvous."""
    place = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "job"]
    place += ["--rdzv-endpoint", f"{hosts[0].address}:{port}"]
    return [
        host.start(
            forks, TORCHRUN, [*place, "--rdzv-conf", f"is_host={int(first)}", "--local-addr", host.address, *words]
        )
        for host, first in zip(hosts, (True, False), strict=True)
    ]


@pytest.mark.skipif(REASON is not None, reason=f"no two hosts here: {REASON}")
def test_a_training_whose_host_is_cut_off_says_so_and_goes_on_from_its_checkpoint(tmp_path: Path, forks: Forks) -> None:
    store, out = filled_store(tmp_path), tmp_path / "out"
    settings = [word for setting in (student("plain"), "epochs=100000") for word in ("--set", setting)]
    words = ["-m", "student", "train", str(store.path), "--recipe", SMALL, "--out", str(out), "--workers", "0"]
    words += ["--device", "cpu", "--checkpoint-every", "0.01", "--rank-timeout", "3", *settings]
    started: list[Command] = []
    try:
        with two_hosts() as hosts:
            started += torchrun(forks, hosts, 29500, words)
            wait_until(lambda: "images/s" in started[0].output)
            hosts[1].cable("down")
            assert started[0].wait() == 1
            hosts[1].cable("up")
            assert started[1].wait() == 1
            for command in started:
                assert "error: the ranks did not come together at " in command.output
            started[:] = torchrun(forks, hosts, 29501, words)
            wait_until(
                lambda: re.search(rf"going on from {out}: epoch \d+, step \d+\n(.*\n)+epoch ", started[0].output)
            )
            for command in started:
                os.kill(command.id, signal.SIGTERM)
            for command in started:
                command.wait()
            for command in started:
                assert re.search(r"stopped at epoch \d+, step \d+; the same command goes on", command.output)
    finally:
        for command in started:
            for process in running({command.id, *descendants(command.id)}):
                os.kill(process, signal.SIGKILL)
