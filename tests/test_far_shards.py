"""Shards in a bucket of an S3: the same store, labels, batches and accuracy as of the same local files."""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from student.loader import Batch, ViewLoader
from student.validation import index_validation
from teacher_cache.cli import main
from teacher_cache.errors import ShardError
from teacher_cache.rendering.choice import ON_CPU, open_render_pool
from teacher_cache.rendering.crew import PoolSettings, RenderTask
from teacher_cache.rendering.workers import SLOTS_PER_WORKER
from teacher_cache.shards import source, walk
from teacher_cache.shards.classes import class_rule
from teacher_cache.shards.find import expand_shards
from teacher_cache.shards.indexing import index_shards
from teacher_cache.storage import objects
from teacher_cache.storage.cache import NodeCache
from teacher_cache.storage.objects import ObjectStorage
from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.place import Url
from teacher_cache.store.store import Store
from teacher_cache.verify import verify
from tests.support.azurite import Containers
from tests.support.bright_shards import bright_store, small_policy, write_bright_shards
from tests.support.faulty_proxy import Fault, FaultyProxy
from tests.support.filling import fill_store
from tests.support.object_server import KINDS, Buckets
from tests.support.running import wait_until
from tests.support.small_runs import train_small, validation_shard

of_each_kind = pytest.mark.parametrize("object_server", KINDS, indirect=True)
COUNTS = (130, 64, 1, 65)


@dataclass(frozen=True)
class Far:
    """Shards in folder/shards and under a URL, and what is asked of the server from now on."""

    folder: Path
    url: Url
    network: FaultyProxy

    def upload(self, folder: Path) -> None:
        storage = open_storage(self.url)
        for path in folder.iterdir():
            storage.put(path.name, path.read_bytes())

    def asked(self) -> Counter[str]:
        """How many requests of which method came since this was asked last."""
        found = Counter(line.split()[0] for line in self.network.requests)
        self.network.requests.clear()
        return found


@pytest.fixture
def far(
    bucket: Url, object_server: Buckets | Containers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Far]:
    with FaultyProxy(object_server.host, object_server.port) as network:
        for name, value in object_server.credentials(network.url).items():
            monkeypatch.setenv(name, value)
        found = Far(tmp_path, bucket, network)
        write_bright_shards(tmp_path / "shards", COUNTS)
        found.upload(tmp_path / "shards")
        yield found
    source._folder.cache_clear()


def far_store(far: Far) -> Store:
    """bright_store over the shards in the bucket."""
    paths = expand_shards([f"{far.url}/*.tar"])
    index = index_shards(paths, class_rule(paths))
    return Store.create(far.folder / "far", index, small_policy(), views=4, seed=3, group=2, unit_samples=64)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def batches(store: Store, **options: object) -> list[tuple[bytes, ...]]:
    with ViewLoader(store, 24, epochs=1, pool_batches=2, **options) as loader:
        found = [_bytes(batch) for batch in loader]
    assert loader.views_checked > 200
    assert not loader.views_drifted + loader.views_unchecked
    return found


def _bytes(batch: Batch) -> tuple[bytes, ...]:
    assert batch.labels is not None
    return tuple(tensor.numpy().tobytes() for tensor in (batch.views, batch.labels, batch.class_pairs, batch.samples))


@of_each_kind
def test_all_that_is_made_of_shards_in_a_bucket_is_as_of_local_ones(far: Far) -> None:
    """Index, fill, verify and an epoch, in this process and in others; then from a node's copies, without a request."""
    local, other = bright_store(far.folder), far_store(far)
    assert far.asked() == {"PUT": 4, "GET": 1 + 1 + 4 + 4, "HEAD": 4}  # listing, classes, then of each shard
    fill_store(local)
    fill_store(other, workers=1)
    asked = far.asked()
    assert asked.keys() == {"GET"}
    assert asked["GET"] <= 2 * 7 * 2 + 4  # of each unit its blocks, and what is proved first
    stores = files(local.path), files(other.path)
    assert stores[0].keys() == stores[1].keys()
    assert {name for name in stores[0] if stores[0][name] != stores[1][name]} == {"zarr.json"}
    opened, cache = Store.open(other.path), NodeCache(far.folder / "copies", 10_000_000)
    expected = batches(Store.open(local.path), workers=0)
    assert batches(opened, workers=0) == expected
    far.asked()
    assert batches(opened, workers=1, cache=cache) == expected
    assert far.asked() == {"GET": 7}  # a block each
    assert batches(opened, workers=1, cache=cache) == expected
    report = verify(opened, 1, cache=cache)
    assert report.exact
    assert report.block_views == 7 * 4
    assert far.asked() == {}


@of_each_kind
def test_a_stores_shards_move_to_a_bucket(far: Far) -> None:
    """`index` again notes their new places; `--shards` alone reads them from there once."""
    store = bright_store(far.folder)
    fill_store(store)
    shutil.rmtree(far.folder / "shards")
    patterns = f"{far.url}/train-{{0000..0003}}.tar"
    verified = CliRunner().invoke(main, ["verify", str(store.path), "--workers", "0", "--shards", patterns])
    assert (verified.exit_code, "0 differences" in verified.output) == (0, True), verified.output
    words = ["index", patterns, "--store", str(store.path), "--workers", "1"]
    moved = CliRunner().invoke(main, words)
    assert "its shards are those given, and are read from there from now on" in moved.output, moved.output
    found = Store.open(store.path)
    assert [entry.path for entry in found.index.shards] == [f"{far.url}/train-{number:04d}.tar" for number in range(4)]
    assert verify(found, 1).exact
    far.asked()
    again = CliRunner().invoke(main, words)
    assert "indexed already, as asked" in again.output
    assert far.asked()["GET"] <= 1 + 4  # classes, and the facts of each: no shard is walked
    storage = open_storage(far.url)
    content = storage.get("train-0001.tar")
    assert content is not None
    storage.put("train-0001.tar", content[:-1] + b"\1")
    failed = CliRunner().invoke(main, ["verify", str(store.path), "--workers", "1", "--fraction", "1"])
    assert failed.exit_code == 1
    assert "has the ETag" in failed.output
    assert "it is another file than was indexed" in failed.output


@of_each_kind
def test_a_student_trains_and_is_validated_from_a_bucket(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    local, other = bright_store(far.folder), far_store(far)
    for store in (local, other):
        fill_store(store)
    names = list(local.class_names)
    validation = validation_shard(far.folder / "val" / "val-0000.tar", 70, names)
    far.upload(far.folder / "val")
    cache = NodeCache(far.folder / "copies", 10_000_000)
    accuracy = [
        train_small(Store.open(local.path), far.folder / "one", val=(validation,)),
        train_small(Store.open(other.path), far.folder / "two", val=(f"{far.url}/val-*.tar",), cache=cache, workers=1),
    ]
    assert accuracy[0] == accuracy[1]
    monkeypatch.setattr(walk, "index_shard", lambda path, *rest: pytest.fail(f"{path} is walked again"))
    index_validation([f"{far.url}/val-*.tar"], names, other.index.class_from, cache=cache)


@of_each_kind
def test_a_network_that_fails_is_got_over_or_told_in_a_line(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "ObjectStorage", partial(ObjectStorage, stall_s=0.4, retry_s=0.8))
    source._folder.cache_clear()
    (path,) = expand_shards([f"{far.url}/train-0000.tar"])
    far.network.faults.append(Fault("cut", "GET", 30_000))  # of the listing, which is tried again
    far.network.faults += [Fault("cut", "GET", 30_000), Fault("stalled", "GET", 30_000)]
    index = index_shards([path], class_rule([path]))
    assert index.num_samples == COUNTS[0]
    far.network.faults.clear()
    expected = source.read_object(path, source.look(path), 0, 100_000)
    far.network.faults += [Fault("cut", "GET", 5000)]
    assert source.read_object(path, source.look(path), 0, 100_000) == expected
    far.network.faults.clear()
    for kind in ("cut", "stalled"):
        far.network.faults += [Fault(kind, "GET", 1000)] * 100
        task = RenderTask(0, index.place(0, 1), (0,))
        with open_render_pool(ON_CPU, PoolSettings(small_policy(), 0, workers=0), print) as pool:
            pool.submit(task)
            with pytest.raises(ShardError, match=rf"shard train-0000.tar .* key '{index.key(64)}': {path}") as told:
                pool.get()
        assert str(told.value).isprintable()
        far.network.faults.clear()


@pytest.mark.parametrize("workers", [0, 1])
def test_blocks_are_asked_for_before_their_turn(far: Far, workers: int) -> None:
    """All of them, as they are small: the first block's last view waits for room, so that no other's turn has come."""
    store = far_store(far)
    far.asked()
    settings = PoolSettings(store.policy, store.seed, workers=workers)
    places = [store.index.place(shard, block) for shard, count in enumerate(COUNTS) for block in range(-(-count // 64))]
    assert len(places) == 7
    with open_render_pool(ON_CPU, settings, print) as pool:
        for number, place in enumerate(places):
            assert pool.wants_tasks()
            pool.submit(RenderTask(number, place, tuple(range(SLOTS_PER_WORKER + 1))))
        first = pool.get()
        wait_until(lambda: len(far.network.requests) == 7, 20)
        first.release()
        while pool.pending:
            pool.get().release()
    assert far.asked() == {"GET": 7}


@of_each_kind
def test_a_bucket_that_is_not_there_is_told(far: Far) -> None:
    absent = f"{far.url.scheme}://no-such-bucket"
    with pytest.raises(ShardError, match=absent):
        expand_shards([f"{absent}/*.tar"])
    with pytest.raises(ShardError, match=rf"shard x.tar: {far.url}/x.tar cannot be opened \(no such object\)"):
        index_shards([f"{far.url}/x.tar"], class_rule([]))
