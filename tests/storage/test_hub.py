"""Files of a repository on the Hub, as its own client reads and commits them, against a stand-in on this machine."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from teacher_cache.errors import ChangedError, StorageError, StoreError
from teacher_cache.publish import publish, unpack
from teacher_cache.shards.classes import class_rule
from teacher_cache.shards.find import expand_shards
from teacher_cache.shards.indexing import index_shards
from teacher_cache.shards.read import read_block
from teacher_cache.storage.hub import HubStorage, commit_folder
from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.place import Url
from teacher_cache.store.labels import read_views
from teacher_cache.store.store import Store
from tests.support.bright_shards import write_bright_shards
from tests.support.faulty_proxy import Fault, FaultyProxy
from tests.support.filled_store import fill, make_store
from tests.support.model_hub import TOKEN, ModelHub, Repository, require_timeouts, use_hub

PLACE = Url("hf://datasets/someone/labels")
PLACE_AT_FIRST = Url(f"{PLACE}@{1:040x}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    import huggingface_hub

    with ModelHub() as made:
        use_hub(monkeypatch, made.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        assert huggingface_hub.HfApi().endpoint == made.url
        yield made


@pytest.fixture
def repository(hub: ModelHub) -> Repository:
    made = hub.repositories["datasets/someone/labels"] = Repository(private=False)
    made.commits.append({"store/a": b"0123456789", "store/b/c": b"other", "README.md": b"card"})
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = make_store(tmp_path / "s")
    fill(made)
    return made


def test_a_repository_is_read_at_one_commit(repository: Repository) -> None:
    storage = HubStorage(PLACE / "store")
    assert [(entry.name, entry.num_bytes) for entry in storage.list()] == [("a", 10), ("b/c", 5)]
    assert [entry.name for entry in storage.list("b")] == ["b/c"]
    assert storage.list("absent") == []
    (entry,) = storage.list("a")
    repository.commits.append({"store/a": b"changed"})
    for same in (storage, pickle.loads(pickle.dumps(storage))):
        assert same.get("a") == b"0123456789"
        assert same.get("absent") is None
        assert same.get_ranges("a", [(2, 3), (8, 9), (12, 1)], entry.stamp) == [b"234", b"89", b""]
    newer = HubStorage(PLACE / "store")
    assert newer.get("a") == b"changed"
    with pytest.raises(ChangedError, match="is another file than before"):
        newer.get_ranges("a", [(0, 1)], entry.stamp)
    with pytest.raises(FileNotFoundError):
        newer.get_ranges("b/c", [(0, 1)])
    assert HubStorage(Url(f"{PLACE}@{1:040x}/store")).get("a") == b"0123456789"


def test_files_are_read_from_where_the_hub_says_that_they_lie(hub: ModelHub, repository: Repository) -> None:
    hub.redirects = True
    storage = HubStorage(PLACE / "store")
    assert storage.get("a") == b"0123456789"
    assert storage.get_ranges("a", [(2, 3), (8, 9)]) == [b"234", b"89"]


def test_a_hub_that_does_not_answer_is_asked_again_then_given_up(
    hub: ModelHub, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is asked: its commit, what it holds, a file."""
    monkeypatch.setattr("teacher_cache.storage.hub.STALL_S", 0.15)
    monkeypatch.setattr("teacher_cache.storage.hub.RETRY_S", 0.01)
    host, port = hub.url.removeprefix("http://").split(":")
    with FaultyProxy(host, int(port)) as network:
        use_hub(monkeypatch, network.url)
        for fault in ("lost", "busy", "stalled"):
            storage = HubStorage(PLACE / "store")
            for ask in (lambda storage: storage.list(), lambda storage: storage.get("a")):
                network.faults.append(Fault(fault))
                assert ask(storage)
                assert not network.faults
        network.faults += [Fault("stalled")] * 100
        with pytest.raises(StorageError, match=rf"^{PLACE}/store: the Hub answers: .*: check the name"):
            HubStorage(PLACE / "store").list()
        with pytest.raises(StorageError, match=rf"^{PLACE}/store/a: the Hub answers: .*: check the name"):
            storage.get("a")


def test_it_is_read_only_and_what_is_wrong_is_one_line(hub: ModelHub) -> None:
    storage = open_storage("hf://datasets/someone/labels/store")
    for write in (lambda: storage.put("a", b""), lambda: storage.put_if_absent("a", b""), lambda: storage.delete("a")):
        with pytest.raises(StorageError, match=r"^hf://datasets/someone/labels/store/a is read only: fill a folder"):
            write()
    with pytest.raises(StorageError, match=r"^hf://datasets/someone/labels/store: the Hub answers: .*check the name"):
        storage.get("a")
    for place in ("hf://labels", "hf://datasets/labels", "hf://spaces/someone/labels", "hf:///someone/labels"):
        with pytest.raises(StorageError, match=rf"^{place} is no place of the Hub: give hf://datasets/OWNER/NAME"):
            open_storage(place)


def test_a_store_is_published_in_one_commit_and_read_from_there(hub: ModelHub, store: Store, tmp_path: Path) -> None:
    publish(store, str(PLACE), licence="cc-by-4.0")
    repository = hub.repositories["datasets/someone/labels"]
    assert len(repository.commits) == 1
    packed = Store.open(PLACE / "store")
    np.testing.assert_array_equal(read_views(packed), read_views(store))
    assert not packed.missing_units()
    back = unpack(str(PLACE), str(tmp_path / "back"))
    np.testing.assert_array_equal(read_views(back), read_views(store))


@pytest.mark.parametrize(
    "stalls", ["repos/create", "datasets/someone/labels/preupload", "datasets/someone/labels/commit"]
)
def test_a_hub_that_is_silent_while_it_is_written_to_is_given_up(
    stalls: str, hub: ModelHub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_timeouts()
    hub.stalls = f"POST /api/{stalls}"
    monkeypatch.setattr("teacher_cache.storage.hub.WRITE_STALL_S", 0.3)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with pytest.raises(StorageError, match=f"^{PLACE}: the Hub answers: .*timed out: check the name"):
        publish(store, str(PLACE))
    hub.stalls = None
    publish(store, str(PLACE))
    assert not Store.open(PLACE).missing_units()


@pytest.mark.parametrize("again", [504, 412])
def test_a_commit_whose_answer_was_lost_is_found(
    again: int, hub: ModelHub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway gives up what the Hub goes on with; who asks again hears of a commit since."""
    post = hub.post

    def lose(path: str, content: bytes) -> tuple[int, dict[str, str], bytes]:
        answer = post(path, content)
        return (again, {}, b"{}") if path.endswith("/commit/main") else answer

    monkeypatch.setattr(hub, "post", lose)
    publish(store, str(PLACE))
    repository = hub.repositories["datasets/someone/labels"]
    assert len(repository.commits) == 1
    repository.commits.append({})
    hub.refuses = "/api/datasets/someone/labels/commit"
    with pytest.raises(StorageError, match=f"^{PLACE}: the Hub answers: .*403"):
        publish(store, str(PLACE))
    assert len(repository.commits) == 2


def test_an_open_store_stays_at_its_commit(hub: ModelHub, store: Store, tmp_path: Path) -> None:
    publish(store, str(PLACE))
    repository = hub.repositories["datasets/someone/labels"]
    packed = Store.open(PLACE)
    assert packed.path == PLACE_AT_FIRST / "store"
    repository.commits.append({"README.md": b"moved away"})
    np.testing.assert_array_equal(read_views(pickle.loads(pickle.dumps(packed))), read_views(store))
    np.testing.assert_array_equal(read_views(Store.open(PLACE_AT_FIRST)), read_views(store))
    with pytest.raises(StoreError, match=f"^there is no store at {PLACE}: check the place"):
        Store.open(PLACE)


def test_a_repository_is_asked_once_where_its_branch_is(
    hub: ModelHub, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    get, asked = hub.get, []

    def count(path: str, content: bytes) -> tuple[int, dict[str, str], bytes]:
        asked.append(path)
        return get(path, content)

    monkeypatch.setattr(hub, "get", count)
    places = expand_shards([f"{PLACE}/{{a,b,c}}.tar", f"{PLACE}@main/d.tar", f"{PLACE}@{1:040x}/e.tar"])
    assert places == [f"{PLACE_AT_FIRST}/{name}.tar" for name in "abcde"]
    assert asked == ["/api/datasets/someone/labels"]


def unchecked(done: int, total: int) -> None:
    pytest.fail("a unit was checked")


def test_what_is_published_is_not_replaced(hub: ModelHub, store: Store, tmp_path: Path) -> None:
    publish(store, str(PLACE))
    repository = hub.repositories["datasets/someone/labels"]
    told = "has README.md, manifest.json, store already: remove them, or choose another place, a folder in the"
    with pytest.raises(StorageError, match=f"^{PLACE} {told}"):
        publish(store, str(PLACE), on_progress=unchecked)
    assert len(repository.commits) == 1
    publish(store, str(PLACE / "more"))
    assert repository.files.keys() > repository.commits[0].keys()
    assert Store.open(PLACE / "more").packing == Store.open(PLACE).packing == "groups"
    del repository.files["README.md"], repository.files["manifest.json"]
    with pytest.raises(StorageError, match=rf"^{PLACE} has store already: remove it"):
        publish(store, str(PLACE), on_progress=unchecked)


def test_what_came_meanwhile_is_not_replaced(hub: ModelHub, store: Store) -> None:
    repository = hub.repositories["datasets/someone/labels"] = Repository(private=False)
    theirs = {"manifest.json": b"of another"}

    def commit(done: int, total: int) -> None:
        if done == total:
            repository.commits.append(theirs)

    with pytest.raises(StorageError, match=r"has manifest\.json already"):
        publish(store, str(PLACE), on_progress=commit)
    assert repository.commits == [theirs]


def test_a_new_repository_is_published_to_though_its_card_says_a_licence(hub: ModelHub, store: Store) -> None:
    """The form on the Hub makes .gitattributes, and a card where a licence is chosen; shards may lie beside, too."""
    repository = hub.repositories["datasets/someone/labels"] = Repository(private=False)
    others = {".gitattributes": b"*.tar filter=lfs", "data/0.tar": b"a shard"}
    made = {**others, "README.md": b"---\nlicense: cc-by-4.0\n---\n"}
    for card, licence in ((made["README.md"], None), (made["README.md"] + b"# Mine", "cc-by-4.0")):
        repository.commits[:] = [{**made, "README.md": card}]
        with pytest.raises(StorageError, match=rf"^{PLACE} has README\.md already: remove it"):
            publish(store, str(PLACE), licence=licence, on_progress=unchecked)
    repository.commits[:] = [made]
    publish(store, str(PLACE), licence="cc-by-4.0")
    assert {name: repository.files[name] for name in others} == others
    assert repository.files["README.md"].startswith(made["README.md"].removesuffix(b"---\n"))
    np.testing.assert_array_equal(read_views(Store.open(PLACE)), read_views(store))


def test_what_cannot_be_read_back_is_not_committed(hub: ModelHub, store: Store) -> None:
    document = store.path / "labels/zarr.json"

    def damage(done: int, total: int) -> None:
        if done == total:
            document.write_text(document.read_text().replace('"level": 5', '"level": 6'))

    with pytest.raises(StoreError, match="to be published cannot be read as it can "):
        publish(store, str(PLACE), on_progress=damage)
    assert not any(repository.commits for repository in hub.repositories.values())


def test_a_repository_without_a_store_is_named(hub: ModelHub, repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"^there is no store at {PLACE}: check the place"):
        unpack(str(PLACE), str(tmp_path / "back"))


def test_a_commit_of_somebody_else_meanwhile_fails_ours(
    hub: ModelHub, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "manifest.json").write_bytes(b"ours")
    post = hub.post

    def late(path: str, content: bytes) -> tuple[int, dict[str, str], bytes]:
        if path.endswith("/preupload/main"):
            repository.commits.append({"manifest.json": b"of theirs"})
        return post(path, content)

    monkeypatch.setattr(hub, "post", late)
    with pytest.raises(StorageError, match="labels: the Hub answers: "):
        commit_folder(PLACE, tmp_path, lambda there: None)
    assert repository.files == {"manifest.json": b"of theirs"}


def test_shards_of_a_repository_are_indexed_and_read(hub: ModelHub, repository: Repository, tmp_path: Path) -> None:
    paths = write_bright_shards(tmp_path, (70, 5))
    repository.commits.append({f"data/{Path(path).name}": Path(path).read_bytes() for path in paths})
    for pattern in ("data/train-*.tar", "data/train-{0000..0001}.tar"):
        far = expand_shards([f"{PLACE}/{pattern}"])
        assert far == [f"{PLACE}@{2:040x}/data/train-{number:04}.tar" for number in (0, 1)]
    repository.commits.append({})
    assert expand_shards(far) == far
    rule = class_rule(paths)
    near_index, far_index = index_shards(paths, rule), index_shards(far, rule)
    assert [shard.hash for shard in far_index.shards] == [shard.hash for shard in near_index.shards]
    for shard, block in ((0, 0), (0, 1), (1, 0)):
        assert read_block(far_index.place(shard, block)).images == read_block(near_index.place(shard, block)).images
