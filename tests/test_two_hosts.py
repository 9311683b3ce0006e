"""Two hosts, each with a network of its own: what a job says and does when one of them is cut off."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from student.loader import ViewLoader
from teacher_cache.device import Normalise
from teacher_cache.store.store import Store
from tests.support.bright_shards import bright_store
from tests.support.filled_store import files
from tests.support.filling import fill_store, fill_words
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


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    if REASON is not None:
        pytest.skip(f"no two hosts here: {REASON}")
    with two_hosts() as joined:
        yield joined


@pytest.fixture
def started(hosts: tuple[Host, Host]) -> Iterator[list[Command]]:
    """What is in it at the end is killed, with all that it has started."""
    commands: list[Command] = []
    yield commands
    kill(commands)


def kill(commands: list[Command]) -> None:
    for command in commands:
        for process in running({command.id, *descendants(command.id)}):
            os.kill(process, signal.SIGKILL)


def test_a_training_whose_host_is_cut_off_says_so_and_goes_on_from_its_checkpoint(
    tmp_path: Path, forks: Forks, hosts: tuple[Host, Host], started: list[Command]
) -> None:
    """And on more ranks from an epoch's end. An epoch is the same views on one, two and four ranks."""
    store, out, notes = filled_store(tmp_path, counts=(66, 30)), tmp_path / "out", tmp_path / "notes"
    notes.mkdir()
    settings = [student("noting"), f"model_args.notes={notes}", "epochs=100000"]
    words = ["-m", "student", "train", str(store.path), "--recipe", SMALL, "--out", str(out), "--workers", "0"]
    words += ["--device", "cpu", "--checkpoint-every", "0.01", "--rank-timeout", "3"]
    words += [word for setting in settings for word in ("--set", setting)]
    started += torchrun(forks, hosts, 29500, 1, words)
    wait_until(lambda: "images/s" in started[0].output)
    hosts[1].cable("down")
    assert started[0].wait() == 1
    hosts[1].cable("up")
    assert started[1].wait() == 1
    for command in started:
        assert "error: the ranks did not come together at " in command.output
    started[:] = torchrun(forks, hosts, 29501, 1, words)
    wait_until(lambda: re.search(rf"going on from {out}: epoch \d+, step \d+\n(.*\n)+epoch ", started[0].output))
    for command in started:
        os.kill(command.id, signal.SIGTERM)
    for command in started:
        command.wait()
    for command in started:
        assert re.search(r"stopped at epoch \d+, step \d+; the same command goes on", command.output)
    started[:] = torchrun(forks, hosts, 29502, 2, words)
    wait_until(lambda: "images/s" in started[0].output)
    kill(started)
    (went_on,) = re.findall(rf"going on from {out}: epoch (\d+), step 0\n", started[0].output)
    for world_size, epoch in ((2, 0), (4, int(went_on) - 1)):
        views = planned(store, epoch)
        assert trained(notes, world_size, len(views)) == views


@pytest.mark.skipif("TWO_HOSTS_FILL" not in os.environ, reason="by hand: TWO_HOSTS_FILL=1")
def test_a_fill_whose_host_is_cut_off_for_good_says_so_and_the_same_command_labels_the_rest(
    tmp_path: Path, forks: Forks, hosts: tuple[Host, Host], started: list[Command]
) -> None:
    store = bright_store(tmp_path, counts=(320,) * 4, views=16)
    words = ["-m", "teacher_cache", *fill_words(store.path, "--rank-timeout", "5")]
    started += torchrun(forks, hosts, 29500, 1, words)
    wait_until(lambda: store.committed().sum() > 2)
    hosts[1].cable("down")
    assert started[0].wait() == 1
    wait_until(lambda: "error: " in started[1].output)
    errors = [[line for line in command.output.splitlines() if "error: " in line] for command in started]
    assert len(errors[0]) == len(errors[1]) == 1
    assert "and no rank has done anything for 5 s: look for a rank that hangs" in errors[0][0]
    assert "the ranks' key-value store does not answer (nothing has come from it for 5 s)" in errors[1][0]
    kill(started)  # its torchrun waits for the first host's
    hosts[1].cable("up")
    started[:] = torchrun(forks, hosts, 29501, 1, words)
    assert [command.wait() for command in started] == [0, 0], [command.output for command in started]
    fill_store(bright_store(tmp_path, views=16, name="whole"))
    assert files(store.path) == files(tmp_path / "whole")
