import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Training and filling set torch's threads from the cores unless this says otherwise; the models are tiny, more threads
# than free cores make them slower, and another number of threads changes the last bits.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

from teacher_cache.storage.place import Url
from tests.support.azurite import ABSENT, AzureServer, Containers, find_azurite
from tests.support.forked import Forks, ForkServer
from tests.support.making import environment
from tests.support.object_server import Buckets, GoogleBuckets, ObjectServer

torch.set_num_threads(1)

SHARED = pytest.StashKey[tuple[ForkServer, ObjectServer]]()

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


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """The processes in which tests run share one server of a kind: what each imports takes seconds."""
    config = node.config
    if SHARED not in config.stash:
        forks, objects = config.stash[SHARED] = ForkServer(), ObjectServer()
        config.add_cleanup(forks.close)
        config.add_cleanup(objects.close)
    forks, objects = config.stash[SHARED]
    node.workerinput["servers"] = forks.socket, objects.port


def shared(config: pytest.Config) -> tuple[str, int] | None:
    """Where servers are that test processes share; None where this is the only one."""
    return getattr(config, "workerinput", {}).get("servers")


@pytest.fixture(scope="session")
def forks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Where programs are started that need a process of their own, but not one that imports anew."""
    logs = tmp_path_factory.mktemp("logs")
    if (servers := shared(request.config)) is not None:
        yield Forks(logs, servers[0])
        return
    with ForkServer() as server:
        yield Forks(logs, server.socket)


@pytest.fixture(scope="session")
def s3(request: pytest.FixtureRequest) -> Iterator[Buckets]:
    """An S3 on this machine."""
    if (servers := shared(request.config)) is not None:
        yield Buckets(servers[1])
        return
    with ObjectServer() as server:
        yield Buckets(server.port)


@pytest.fixture(scope="session")
def gs(s3: Buckets) -> Buckets:
    """What stands in for Google's."""
    return GoogleBuckets(s3.port)


@pytest.fixture(scope="session")
def az() -> Iterator[Containers]:
    """Azure's blobs on this machine."""
    program = find_azurite()
    if program is None:
        pytest.skip(ABSENT)
    with AzureServer(program) as server:
        yield Containers(server.port)


@pytest.fixture
def object_server(request: pytest.FixtureRequest) -> Buckets | Containers:
    """The server of the kind that a test names, of tests.support.object_server.KINDS; else an S3."""
    return request.getfixturevalue(getattr(request, "param", "s3"))


@pytest.fixture
def new_bucket(monkeypatch: pytest.MonkeyPatch) -> Callable[[Buckets | Containers], Url]:
    """What makes a folder in a bucket of a server, and puts what lets it in in the environment."""

    def make(server: Buckets | Containers) -> Url:
        for name, value in server.credentials(server.url).items():
            monkeypatch.setenv(name, value)
        return Url(server.new_place()) / "some/folder"

    return make


@pytest.fixture
def bucket(object_server: Buckets | Containers, new_bucket: Callable[[Buckets | Containers], Url]) -> Url:
    """A folder in a bucket of a test's own, with what lets it in in the environment."""
    return new_bucket(object_server)


@pytest.fixture
def called(tmp_path: Path) -> tuple[list[str], Path]:
    """Variables for an environment whose programs note their arguments in this file and do nothing."""
    notes = tmp_path / "notes"
    script = f'for word in "$0" "$@"; do printf "%s\\t" "$word"; done >>{notes}; echo >>{notes}'
    return [f"VENV={environment(tmp_path / 'venv', script)}"], notes
