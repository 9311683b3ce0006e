"""A store's whole life over a network that fails: what comes of it is what a sound one gives."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner

from teacher_cache.cli import main
from teacher_cache.shards import source
from teacher_cache.storage import objects
from teacher_cache.storage.objects import ObjectStorage
from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.place import Url
from teacher_cache.storage.storage import Storage
from teacher_cache.store.store import Store
from tests.support.azurite import Containers
from tests.support.bright_shards import SMALL, bright_store
from tests.support.faulty_proxy import Fault, FaultyProxy
from tests.support.filling import fill_store, fill_words
from tests.support.forked import Forks
from tests.support.object_server import Buckets
from tests.support.running import wait_until
from tests.support.small_runs import train_small

OFTEN = 0.1  # the share of requests that something happens to


class Trouble:
    """Which fault meets which request, by a seed; and what has met those since it was asked last."""

    def __init__(self, network: FaultyProxy, seed: int) -> None:
        self.stalls = True
        self.network = network
        self._random, self._met = Random(seed), set[str]()
        network.trouble = self._trouble

    def _trouble(self, line: str) -> Fault | None:
        kinds = ["lost", "busy"]
        if line.startswith("GET"):
            kinds += ["cut", "stalled"] if self.stalls else ["cut"]
        if self._random.random() >= OFTEN:
            return None
        fault = Fault(self._random.choice(kinds), num_bytes=self._random.randrange(100))
        self._met.add(fault.kind)
        return fault

    def met(self) -> set[str]:
        found, self._met = self._met, set()
        return found


@pytest.fixture
def trouble(object_server: Buckets | Containers, bucket: Url, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trouble]:
    with FaultyProxy(object_server.host, object_server.port) as network:
        for name, value in object_server.credentials(network.url).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(objects, "ObjectStorage", partial(ObjectStorage, stall_s=0.3))
        yield Trouble(network, 0)
    source._folder.cache_clear()


def run(*words: object) -> None:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output


def chunks(storage: Storage) -> dict[str, bytes | None]:
    """What was filled, and the index's arrays; where shards and teacher lie stands elsewhere."""
    return {entry.name: storage.get(entry.name) for entry in storage.list() if "/c/" in entry.name}


@pytest.mark.parametrize("object_server", ["s3", "az"], indirect=True)
def test_each_step_gets_over_a_network_that_fails(tmp_path: Path, bucket: Url, trouble: Trouble, forks: Forks) -> None:
    """index, a fill that is killed, two that share what is left, verify, train, publish, unpack."""
    local, url, published = bright_store(tmp_path, counts=(64, 1)), bucket / "store", bucket / "published"
    fill_store(local)
    for path in (tmp_path / "shards").iterdir():
        open_storage(bucket / "shards").put(path.name, path.read_bytes())
    trouble.met()
    met = list[set[str]]()
    shape = ("--views", 4, "--group", 2, "--unit-samples", 64, "--seed", 3)
    policy = ("--policy", "cifar", *(word for setting in SMALL for word in ("--set", setting)))
    run("index", f"{bucket}/shards/*.tar", "--store", url, *policy, *shape)
    met.append(trouble.met())

    trouble.stalls = False  # what is not in this process waits long for an answer
    killed = forks.start("teacher_cache", fill_words(url, "--claim"))
    wait_until(lambda: any("PUT" in line and "records/c" in line for line in trouble.network.requests))
    os.kill(killed.id, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    met.append(trouble.met())
    jobs = [forks.start("teacher_cache", fill_words(url, "--claim")) for _ in range(2)]
    assert [job.wait() for job in jobs] == [0, 0], [job.output for job in jobs]
    met.append(trouble.met())
    assert not open_storage(f"{url}.claims").list() + open_storage(f"{url}.pending").list()

    trouble.stalls = True
    run("verify", url, "--fraction", 1, "--workers", 0)
    met.append(trouble.met())
    settings = ("epochs=1", "batch_size=16", "pool_batches=2")
    far = train_small(Store.open(url), tmp_path / "far", *settings)
    met.append(trouble.met())
    assert far == train_small(local, tmp_path / "near", *settings)
    run("publish", url, published)
    met.append(trouble.met())
    run("unpack", published, tmp_path / "unpacked")
    met.append(trouble.met())
    assert all(met), met
    assert set.union(*met) == {"lost", "cut", "stalled", "busy"}
    assert chunks(open_storage(url)) == chunks(open_storage(tmp_path / "unpacked")) == chunks(local.storage)
