"""A store in a bucket of an S3: made, filled, killed, verified and trained from as one in a folder is."""

import os
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from teacher_cache.cli import main
from teacher_cache.errors import StoreError
from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.place import Url
from teacher_cache.store.status import status
from teacher_cache.store.store import Store
from teacher_cache.verify import verify
from tests.support.azurite import Containers
from tests.support.bright_shards import SMALL, bright_store
from tests.support.faulty_proxy import FaultyProxy
from tests.support.filled_store import files
from tests.support.filling import fill_store, fill_words
from tests.support.forked import Forks
from tests.support.memory_storage import MemoryStorage, bucket_in_memory
from tests.support.object_server import KINDS, PAGE, Buckets
from tests.support.running import wait_until
from tests.support.small_runs import train_small

of_each_kind = pytest.mark.parametrize("object_server", KINDS, indirect=True)


def contents(place: Url) -> dict[str, bytes]:
    storage = open_storage(place)
    return {entry.name: storage.get(entry.name) or b"" for entry in storage.list()}


def index(folder: Path, store: Url | Path, *words: str) -> str:
    """`index` of the shards of a bright_store as that has them, to be run again on the same store."""
    policy = [word for setting in SMALL for word in ("--set", setting)]
    shape = ("--policy", "cifar", "--views", "4", "--group", "2", "--unit-samples", "64", "--seed", "3")
    done = CliRunner().invoke(main, ["index", f"{folder}/shards/*.tar", "--store", str(store), *policy, *shape, *words])
    assert done.exit_code == 0, done.output
    return done.output


@of_each_kind
def test_a_store_in_a_bucket_is_the_local_one_file_by_file(
    tmp_path: Path, bucket: Url, forks: Forks, object_server: Buckets | Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made by `index`, filled by a job that is killed and run again, extended and filled again, by as few requests."""
    local, url = bright_store(tmp_path), bucket / "store"
    with FaultyProxy(object_server.host, object_server.port) as network:
        for name, value in object_server.credentials(network.url).items():
            monkeypatch.setenv(name, value)
        assert "260 samples in 4 shards" in index(tmp_path, url)
        assert "indexed already, as asked" in index(tmp_path, url)
        first = forks.start("teacher_cache", fill_words(url))
        wait_until(lambda: sum("PUT" in line and "records/c" in line for line in network.requests) > 1)  # one is there
        os.kill(first.id, signal.SIGKILL)
        first.wait()
        assert Store.open(url).committed().any()
        again = forks.start("teacher_cache", fill_words(url))
        assert again.wait() == 0, again.output
        fill_store(local)
        extended = CliRunner().invoke(main, ["extend", str(url), "--views", "6"])
        assert extended.exit_code == 0, extended.output
        local.extend(6)
        fill_store(Store.open(url, writable=True))
        fill_store(local)
        found = contents(url)
        assert {name: len(content) for name, content in found.items()} == {
            name: (local.path / name).stat().st_size for name in files(Path(local.path))
        }
        assert {name for name, content in found.items() if (local.path / name).read_bytes() != content} == set()
        assert not open_storage(f"{url}.pending").list()
        network.requests.clear()
        assert not Store.open(url).missing_units()
        lists = [line for line in network.requests if "list-type=" in line or "comp=list" in line]
        pages = 1 if url.scheme == "az" else -(-len(local.units()) // PAGE)
        assert sum("records" in line for line in lists) == pages
        assert not any("records/c" in line for line in set(network.requests) - set(lists))


def test_what_is_read_of_a_store_in_a_bucket_is_what_a_folder_gives(tmp_path: Path, bucket: Url) -> None:
    local, url = bright_store(tmp_path), bucket / "store"
    fill_store(local)
    for name in files(Path(local.path)):
        open_storage(url).put(name, (local.path / name).read_bytes())
    far = Store.open(url)
    report = verify(far, 1.0)
    assert report.exact
    assert report.block_views == verify(local, 1.0).block_views
    assert {**status(far), "store": ""} == {**status(local), "store": ""}
    runs = [train_small(store, tmp_path / name, "epochs=1") for name, store in (("far", far), ("near", local))]
    assert runs[0] == runs[1]


def test_what_is_wrong_with_a_store_in_a_bucket_is_one_line(tmp_path: Path, bucket: Url) -> None:
    with pytest.raises(StoreError, match=rf"^there is no store at {bucket}/absent: check the place, or make one with"):
        Store.open(bucket / "absent")
    local = bright_store(tmp_path)
    open_storage(bucket / "other").put("labels/zarr.json", b"of another")
    with pytest.raises(StoreError, match=r"other/labels/zarr.json is there and is of another store, one that is being"):
        Store.create(bucket / "other", local.index, local.policy, views=4, seed=3)
    made = Store.create(bucket / "made", local.index, local.policy, views=4, seed=3)
    with pytest.raises(StoreError, match=r"made exists already: remove it or choose another --store"):
        Store.create(bucket / "made", local.index, local.policy, views=4, seed=3)
    assert made.path == bucket / "made"


@pytest.mark.parametrize("left", ["labels/c/0/0/0", "teacher/zarr.json", "notes.txt"])
def test_where_anything_else_lies_no_store_is_made(tmp_path: Path, left: str) -> None:
    """What is left of a store that was removed in part would be the new one's; what `index` itself left is its own."""
    local = bright_store(tmp_path)
    with bucket_in_memory() as memory:
        memory.objects[f"s3://bucket/store/{left}"] = b"left"
        with pytest.raises(StoreError, match=rf"^s3://bucket/store/{left} is there, of another store or none: remove"):
            Store.create(Url("s3://bucket/store"), local.index, local.policy, views=4, seed=3)
        assert list(memory.objects) == [f"s3://bucket/store/{left}"]
        memory.objects.clear()
        made = Store.create(Url("s3://bucket/store"), local.index, local.policy, views=4, seed=3)
        before = dict(memory.objects)
        for name in ("zarr.json", "labels/zarr.json", "index/sizes/c/0"):
            del memory.objects[f"s3://bucket/store/{name}"]
        Store.create(made.path, local.index, local.policy, views=4, seed=3)
        assert memory.objects == before


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/"])
def test_a_whole_bucket_is_no_place_for_a_store(tmp_path: Path, url: str) -> None:
    """Beside it lies nothing that is one's own; one that somebody has put there is read."""
    local = bright_store(tmp_path)
    with bucket_in_memory() as memory:
        with pytest.raises(
            StoreError, match=r"^s3://bucket/? is a whole bucket: name a folder in it, as s3://bucket/s"
        ):
            Store.create(Url(url), local.index, local.policy, views=4, seed=3)
        assert not memory.objects
        for entry in local.storage.list():
            memory.objects[f"s3://bucket/{entry.name}"] = local.storage.get(entry.name) or b""
        assert Store.open(Url("s3://bucket")).views == 4
        with pytest.raises(StoreError, match="is a whole bucket"):
            Store.open(Url("s3://bucket"), writable=True)


def test_a_store_far_away_opens_while_another_process_extends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its settings come last of what is got at once, and are of after the extend; its arrays are of before."""
    local = bright_store(tmp_path)
    with bucket_in_memory():
        made = Store.create(Url("s3://bucket/store"), local.index, local.policy, views=4, seed=3, group=2)
        get, others, extended = MemoryStorage.get, threading.Semaphore(0), threading.Event()

        def late(storage: MemoryStorage, name: str) -> bytes | None:
            if threading.current_thread() is threading.main_thread() or extended.is_set():
                return get(storage, name)
            if name != "zarr.json":
                content = get(storage, name)
                others.release()
                return content
            for _ in range(3 + 8):
                assert others.acquire(timeout=30)
            extended.set()
            made.extend(8)
            return get(storage, name)

        monkeypatch.setattr(MemoryStorage, "get", late)
        assert Store.open(made.path).views == 8
        assert extended.is_set()


def test_opening_a_store_far_away_asks_for_nothing_twice(tmp_path: Path) -> None:
    """Each request takes its time. The root is looked at before, whether it is there."""
    made = bright_store(tmp_path)
    fill_store(made, topk=2, tau=1.0)
    with bucket_in_memory() as memory:
        storage = open_storage("s3://bucket/store")
        for entry in made.storage.list():
            storage.put(entry.name, made.storage.get(entry.name) or b"")
        memory.requests.clear()
        store = Store.open(storage.place)
        asked = Counter(url.removeprefix("s3://bucket/store/") for method, url, _ in memory.requests)
        assert len(asked) > 14
        # that of an array which may be made or grow meanwhile: once to compare it, once to open it
        assert {name: times for name, times in asked.items() if times > 1} == {
            "zarr.json": 2,
            "teacher/zarr.json": 2,
            "topk_classes/zarr.json": 2,
            "topk_probabilities/zarr.json": 2,
        }
        memory.requests.clear()
        assert store.index.num_samples == made.index.num_samples
        assert not any(url.endswith("zarr.json") for _, url, _ in memory.requests)


def test_fill_keeps_the_index_of_a_far_store_in_its_cache(tmp_path: Path) -> None:
    bright_store(tmp_path)
    with bucket_in_memory() as bucket:
        url = Url("s3://set/store")
        index(tmp_path, url)
        kept = ("--cache", tmp_path / "cache", "--cache-bytes", "100M")
        for read_again in (True, False):
            bucket.requests.clear()
            done = CliRunner().invoke(main, fill_words(url, "--views", "0:2", *kept))
            assert done.exit_code == 0, done.output
            read = {name for method, name, _ in bucket.requests if "/index/" in name and "/c/" in name}
            assert bool(read) == read_again
        assert list((tmp_path / "cache").rglob("*.copy"))
