import os
from collections.abc import Iterator
from pathlib import Path

# Training and filling set torch's threads from the cores unless this says otherwise; the models are tiny, more threads
# than free cores make them slower, and another number of threads changes the last bits.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

from teacher_cache.storage.place import Url
from tests.support.forked import Forks
from tests.support.making import environment
from tests.support.object_server import ObjectServer, credentials

torch.set_num_threads(1)

# The files that take longest, those that compute beside those that wait. They come first: at the end none works alone.
LONGEST = (
    "tests/rendering/test_choice.py",
    "tests/processes/test_pool.py",
    "tests/replay/gpu/test_gpu.py",
    "tests/test_job.py",
    "tests/replay/native/test_kernels.py",
    "tests/student/test_ranks.py",
    "tests/student/test_train.py",
    "tests/test_two_hosts.py",
    "tests/audit/test_report.py",
    "tests/test_slurm.py",
    "tests/tools/test_evidence_run.py",
    "tests/test_fill.py",
    "tests/test_makefile.py",
    "tests/test_claims.py",
    "tests/replay/native/test_views.py",
    "tests/tools/test_benchmark.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    assert all((Path(__file__).parents[1] / file).is_file() for file in LONGEST)
    places = {file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(LONGEST)))


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Where programs are started that need a process of their own, but not one that imports anew."""
    with Forks(tmp_path_factory.mktemp("logs")) as started:
        yield started


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    """An S3 on this machine, started where a test first asks for it."""
    with ObjectServer() as server:
        yield server


@pytest.fixture
def bucket(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Url:
    """A folder in a bucket of a test's own, with what lets it in in the environment."""
    for name, value in credentials(object_server.url).items():
        monkeypatch.setenv(name, value)
    return Url(f"s3://{object_server.new_bucket()}/some/folder")


@pytest.fixture
def called(tmp_path: Path) -> tuple[list[str], Path]:
    """Variables for an environment whose programs note their arguments in this file and do nothing."""
    notes = tmp_path / "notes"
    script = f'for word in "$0" "$@"; do printf "%s\\t" "$word"; done >>{notes}; echo >>{notes}'
    return [f"VENV={environment(tmp_path / 'venv', script)}"], notes
