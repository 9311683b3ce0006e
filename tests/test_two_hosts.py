"""Two hosts, each with a network of its own: what a training says and does when one of them is cut off."""

import os
import re
import signal
from pathlib import Path

import pytest
import torch

from student.loader import ViewLoader
from teacher_cache.device import Normalise
from teacher_cache.store.store import Store
from tests.support.forked import TORCHRUN, Command, Forks
from tests.support.hosts import Host, two_hosts, unable
from tests.support.running import descendants, running, wait_until
from tests.support.small_runs import SMALL, filled_store, small_recipe, student
from tests.support.students import image_names

REASON = unable()


def torchrun(forks: Forks, hosts: tuple[Host, Host], port: int, ranks: int, words: list[str]) -> list[Command]:
    """So many ranks on each host; the first holds the rendezvous."""
    place = ["--nnodes", "2", "--nproc-per-node", str(ranks), "--rdzv-backend", "c10d", "--rdzv-id", "job"]
    place += ["--rdzv-endpoint", f"{hosts[0].address}:{port}"]
    return [
        host.start(
            forks, TORCHRUN, [*place, "--rdzv-conf", f"is_host={int(first)}", "--local-addr", host.address, *words]
        )
        for host, first in zip(hosts, (True, False), strict=True)
    ]


def planned(store: Store, epoch: int) -> list[str]:
    """The images of an epoch that one rank alone would train on, as image_names has them, in order of these."""
    recipe, policy = small_recipe(), store.policy
    normalise = Normalise(policy.mean, policy.std, torch.device("cpu"))
    settings = {"repeats": recipe.repeats, "seed": recipe.seed, "epochs": epoch + 1, "start": (epoch, 0)}
    with ViewLoader(store, recipe.batch_size, workers=0, **settings) as batches:
        return sorted(name for batch in batches for name in image_names(normalise(batch.views)))


def trained(notes: Path, world_size: int, num_images: int) -> list[str]:
    """As `planned`: the first images that the ranks of a job have noted, all together so many."""
    ranks = [Path(notes, f"{rank} of {world_size}").read_text().splitlines() for rank in range(world_size)]
    return sorted(name for noted in ranks for name in noted[: num_images // world_size])


@pytest.mark.skipif(REASON is not None, reason=f"no two hosts here: {REASON}")
def test_a_training_whose_host_is_cut_off_says_so_and_goes_on_from_its_checkpoint(tmp_path: Path, forks: Forks) -> None:
    """And on more ranks from an epoch's end. An epoch is the same views on one, two and four ranks."""
    store, out, notes = filled_store(tmp_path), tmp_path / "out", tmp_path / "notes"
    notes.mkdir()
    settings = [student("noting"), f"model_args.notes={notes}", "epochs=100000"]
    words = ["-m", "student", "train", str(store.path), "--recipe", SMALL, "--out", str(out), "--workers", "0"]
    words += ["--device", "cpu", "--checkpoint-every", "0.01", "--rank-timeout", "3"]
    words += [word for setting in settings for word in ("--set", setting)]
    started: list[Command] = []
    try:
        with two_hosts() as hosts:
            started += torchrun(forks, hosts, 29500, 1, words)
            wait_until(lambda: "images/s" in started[0].output)
            hosts[1].cable("down")
            assert started[0].wait() == 1
            hosts[1].cable("up")
            assert started[1].wait() == 1
            for command in started:
                assert "error: the ranks did not come together at " in command.output
            started[:] = torchrun(forks, hosts, 29501, 1, words)
            wait_until(
                lambda: re.search(rf"going on from {out}: epoch \d+, step \d+\n(.*\n)+epoch ", started[0].output)
            )
            for command in started:
                os.kill(command.id, signal.SIGTERM)
            for command in started:
                command.wait()
            for command in started:
                assert re.search(r"stopped at epoch \d+, step \d+; the same command goes on", command.output)
            started[:] = torchrun(forks, hosts, 29502, 2, words)
            wait_until(lambda: "images/s" in started[0].output)
            (went_on,) = re.findall(rf"going on from {out}: epoch (\d+), step 0\n", started[0].output)
            for world_size, epoch in ((2, 0), (4, int(went_on) - 1)):
                views = planned(store, epoch)
                assert trained(notes, world_size, len(views)) == views
    finally:
        for command in started:
            for process in running({command.id, *descendants(command.id)}):
                os.kill(process, signal.SIGKILL)
