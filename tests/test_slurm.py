"""The batch scripts of docs/examples, run by bash as Slurm runs them: with its variables, an `srun` and a `scontrol`.

Of Slurm there is here what the scripts see of it. `srun` starts a task a node and hands SIGTERM on; `scontrol requeue`
notes whom it was asked to queue again, and `show hostnames` names this machine.
"""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from teacher_cache.store.store import Store
from tests.support import forked_client
from tests.support.bright_shards import bright_store
from tests.support.filled_store import files
from tests.support.filling import TEACHERS, fill_store
from tests.support.forked import TORCHRUN, Forks
from tests.support.running import descendants, running, wait_until
from tests.support.small_runs import SMALL, filled_store, student

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
SRUN = """#!{python}
import os, signal, subprocess, sys
words = [word for word in sys.argv[1:] if not word.startswith("--kill-on-bad-exit")]
nodes = range(int(os.environ["SLURM_NNODES"]))
tasks = [subprocess.Popen(words, env=os.environ | {{"SLURM_PROCID": str(task)}}) for task in nodes]
signal.signal(signal.SIGTERM, lambda *_: [task.send_signal(signal.SIGTERM) for task in tasks])
sys.exit(max([task.wait() for task in tasks]))
"""
SCONTROL = """#!/bin/sh
case "$1" in
    show) echo 127.0.0.1 ;;
    requeue) echo "$2" >> "$REQUEUED" ;;
    *) exit 1 ;;
esac
"""


class Cluster:
    """A folder of programs that come first on PATH; forks start the commands."""

    def __init__(self, folder: Path, forks: Forks) -> None:
        self.folder, self.requeued = folder, folder / "requeued"
        client = f"exec {sys.executable} {forked_client.__file__} {forks.socket}"
        programs = {
            "srun": SRUN.format(python=sys.executable),
            "scontrol": SCONTROL,
            "torchrun": f'#!/bin/sh\n{client} -m {TORCHRUN} "$@"\n',
            "teacher-cache": f'#!/bin/sh\n{client} -m teacher_cache "$@"\n',
        }
        for name, text in programs.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    @contextmanager
    def batch(self, script: str, job: int, **environment: object) -> Iterator["Batch"]:
        """A job; whatever still runs of it in the end is killed."""
        given = {"SLURM_NNODES": "2"} | {name: str(value) for name, value in environment.items()}
        given |= {"PATH": f"{self.folder}:{os.environ['PATH']}", "REQUEUED": str(self.requeued)}
        given |= {"SLURM_JOB_ID": str(job), "SLURM_JOB_NODELIST": "node[1-2]"}
        log = self.folder / f"{job}.log"
        with log.open("a") as file:
            process = subprocess.Popen(
                ["bash", EXAMPLES / script], env=os.environ | given, stdout=file, stderr=file, start_new_session=True
            )
        try:
            yield Batch(process, log)
        finally:
            for child in running({process.pid, *descendants(process.pid)}):
                os.kill(child, signal.SIGKILL)
            process.wait()


class Batch:
    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    @property
    def output(self) -> str:
        return self.log.read_text()

    def end_of_time(self) -> None:
        """What --signal=B:TERM@180 does: the batch script alone is told."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        return self.process.wait(timeout=120)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def cluster(tmp_path: Path, forks: Forks) -> Cluster:
    (tmp_path / "bin").mkdir()
    return Cluster(tmp_path / "bin", forks)


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.sbatch")))
def test_slurm_is_asked_to_tell_the_script_and_to_queue_it_again(script: str) -> None:
    text = (EXAMPLES / script).read_text()
    directives = re.findall(r"^#SBATCH (\S+)$", text, re.MULTILINE)
    assert {"--requeue", "--signal=B:TERM@180", "--open-mode=append"} <= set(directives)
    first_command = next(line for line in text.splitlines() if line and not line.startswith("#"))
    assert text.index(first_command) > text.rindex("#SBATCH"), "Slurm reads no directive after the first command"
    assert subprocess.run(["bash", "-n", EXAMPLES / script], check=False).returncode == 0


def test_a_job_whose_hosts_slurm_does_not_name_ends_with_a_line(tmp_path: Path, cluster: Cluster) -> None:
    (cluster.folder / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    with cluster.batch("train.sbatch", 1, STORE=tmp_path / "store", OUT=tmp_path / "run") as batch:
        assert batch.wait() == 1
    assert batch.output == "error: scontrol names no host of this job\n"


def test_jobs_of_an_array_fill_a_store_and_one_that_is_stopped_is_queued_again(
    tmp_path: Path, cluster: Cluster
) -> None:
    store = bright_store(tmp_path, counts=(16,) * 30, views=6, group=1)
    given = {"STORE": store.path, "TEACHER": f"{TEACHERS}:brightness", "WORKERS": 0}
    given["FILL_OPTIONS"] = "--device cpu --batch-size 32"
    with cluster.batch("slurm-array.sbatch", 1, **given) as stopped:
        wait_until(lambda: store.committed().sum() > 6)  # by this job: there is no other yet
        with cluster.batch("slurm-array.sbatch", 2, **given) as other:
            stopped.end_of_time()
            assert stopped.wait() == 130, stopped.output
            assert store.missing_units(), "nothing is left for the other job"
            assert other.wait() == 0, other.output
    assert cluster.requeued.read_text() == "1\n"
    with cluster.batch("slurm-array.sbatch", 1, **given) as again:
        assert again.wait() == 0, again.output
    assert cluster.requeued.read_text() == "1\n"
    whole = Store.create(tmp_path / "whole", store.index, store.policy, views=6, group=1, seed=store.seed)
    fill_store(whole)
    for name in ("labels", "digests", "records"):
        assert files(store.path / name) == files(whole.path / name)


def test_a_job_that_is_stopped_before_it_has_begun_is_queued_again(tmp_path: Path, cluster: Cluster) -> None:
    (cluster.folder / "teacher-cache").write_text("#!/bin/sh\necho importing\nexec sleep 60\n")
    (tmp_path / "slow").write_text('trap() { sleep 0.5; builtin trap "$@"; }\n')  # what bash reads before a script
    given = {"STORE": "store", "TEACHER": "resnet18", "BASH_ENV": tmp_path / "slow"}
    with cluster.batch("slurm-array.sbatch", 3, **given) as stopped:
        wait_until(lambda: "importing" in stopped.output)
        stopped.end_of_time()
        assert stopped.wait() == 143, stopped.output
    assert cluster.requeued.read_text() == "3\n"


def test_a_training_that_is_stopped_before_it_is_started_is_queued_again(tmp_path: Path, cluster: Cluster) -> None:
    (cluster.folder / "scontrol").write_text(SCONTROL.replace("show)", "show) echo asked >&2; sleep 0.5;"))
    with cluster.batch("train.sbatch", 9, STORE=tmp_path / "none", OUT=tmp_path / "out", GPUS=1) as stopped:
        wait_until(lambda: "asked" in stopped.output)
        stopped.end_of_time()
        assert stopped.wait() == 75, stopped.output
    assert cluster.requeued.read_text() == "9\n"
    assert "error" not in stopped.output, "it was started and then looked for a store, not stopped"


def test_a_training_is_queued_again_until_it_has_trained_through(tmp_path: Path, cluster: Cluster) -> None:
    """Two nodes of one rank each, over torchrun's rendezvous; the second time it goes on from the checkpoint."""
    store, out = filled_store(tmp_path), tmp_path / "out"
    given = {"STORE": store.path, "RECIPE": SMALL, "OUT": out, "GPUS": 1, "PORT": free_port(), "WORKERS": 0}
    settings = f"--device cpu --set {student('plain')} --set epochs="
    with cluster.batch("train.sbatch", 7, **given, TRAIN_OPTIONS=f"{settings}100000") as stopped:
        wait_until(lambda: "images/s" in stopped.output)
        stopped.end_of_time()
        assert stopped.wait() == 75, stopped.output
    position = torch.load(out / "checkpoint.pt")["position"]
    place = f"epoch {position['epoch'] + 1}, step {position['step']}"
    assert stopped.output.count(f"stopped at {place}; the same command goes on") == 2
    assert cluster.requeued.read_text() == "7\n"
    with cluster.batch("train.sbatch", 7, **given, TRAIN_OPTIONS=f"{settings}100000", SLURM_RESTART_COUNT=1) as again:
        wait_until(lambda: f"going on from {out}: {place}" in again.output)
        again.end_of_time()
        assert again.wait() == 75, again.output


def test_a_training_that_fails_is_not_queued_again(tmp_path: Path, cluster: Cluster) -> None:
    given = {"STORE": tmp_path / "none", "OUT": tmp_path / "out", "GPUS": 1, "PORT": free_port()}
    with cluster.batch("train.sbatch", 8, **given, SLURM_NNODES=1) as failed:
        assert failed.wait() == 1
    assert "error: there is no store at " in failed.output
    assert not cluster.requeued.exists()
