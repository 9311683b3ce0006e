"""A store that is published, read where it is, and unpacked again."""

import hashlib
import json
import re
import shlex
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner

from student.cli import main as student_main
from student.loader import ViewLoader
from teacher_cache import open_store
from teacher_cache.cli import main
from teacher_cache.errors import DiskError, ShardError, StorageError, StoreError
from teacher_cache.messages.shown import shown
from teacher_cache.publish import CARD, publish, unpack
from teacher_cache.storage.manifest import MANIFEST, STORE
from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.place import Place, Url
from teacher_cache.store.labels import read_views
from teacher_cache.store.places import open_moved
from teacher_cache.store.status import status
from teacher_cache.store.store import Store
from teacher_cache.store.unit import NOT_LABELLED, Unit
from teacher_cache.teacher.identity import TeacherIdentity
from teacher_cache.verify import verify
from tests.support.bright_shards import bright_store, spoil_image
from tests.support.filled_store import commit, copied, files, make_store
from tests.support.filling import fill_store, fill_words
from tests.support.small_runs import SMALL, SPEED, rows, student, train_small
from tests.support.web_server import WebServer


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Filled, with probabilities, over shards/ beside it."""
    store = bright_store(tmp_path_factory.mktemp("made-by-somebody"))
    fill_store(store, topk=3, tau=2.0)
    return Store.open(store.path)


@pytest.fixture(params=["folder", "s3", "az"])
def target(request: pytest.FixtureRequest, tmp_path: Path, new_bucket: Callable[..., Url]) -> Place:
    if request.param == "folder":
        return tmp_path / "published"
    return new_bucket(request.getfixturevalue(request.param)) / "published"


def shards(source: Store) -> list[str]:
    return [f"{Path(source.path).parent}/shards/*.tar"]


def test_what_is_published_is_read_as_the_store_and_unpacked_to_it(
    source: Store, target: Place, tmp_path: Path
) -> None:
    done = publish(source, str(target), licence="cc-by-4.0")
    assert (done.files_before, done.files) == (len(files(Path(source.path))), len(open_storage(target).list(STORE)))
    packed = Store.open(target / STORE)
    np.testing.assert_array_equal(read_views(packed), read_views(source))
    found, expected = status(packed), status(source)
    for differing in ("store", "bytes", "teacher"):
        del found[differing], expected[differing]
    assert found == expected
    assert verify(open_moved(str(target / STORE), shards(source)), 1.0).exact
    back = unpack(str(target), str(tmp_path / "back"))
    ours, theirs = files(Path(back.path)), files(Path(source.path))
    assert {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)} <= {
        "zarr.json",  # shards' places
        "teacher/zarr.json",  # the place of a teacher of somebody's own
    }
    moved = open_moved(str(tmp_path / "back"), shards(source), writable=True)
    moved.extend(6)
    assert fill_store(moved, topk=3, tau=2.0) == len(moved.units()) // 3


def test_on_a_web_server_it_is_read_as_in_a_folder(source: Store, tmp_path: Path) -> None:
    """At the place that was published to, or its store/; with the shards there, too, and by the commands."""
    folder = tmp_path / "srv" / "labels"
    publish(source, str(folder))
    (folder.parent / "shards").symlink_to(Path(source.path).parent / "shards")
    shards = Path(source.path).parent.glob("shards/*.tar")
    with WebServer(folder.parent) as web:
        numbers = [path.stem.removeprefix("train-") for path in sorted(shards)]
        given = f"{web.url}/shards/train-{{{','.join(numbers)}}}.tar"
        url = Url(f"{web.url}/labels")
        assert {Store.open(place).path for place in (url, url / STORE, f"{url}/")} == {url / STORE}
        far = Store.open(url)
        np.testing.assert_array_equal(read_views(far), read_views(source))
        found, expected = status(far), status(Store.open(folder))
        assert {**found, "store": ""} == {**expected, "store": ""}
        kept = ["--workers", "0", "--shards", given, "--cache", str(tmp_path / "cache"), "--cache-bytes", "1G"]
        learn = ["--recipe", SMALL, "--set", student("two_heads"), "--set", "epochs=1", "--device", "cpu"]
        fetched = []
        for command, words in (
            (main, ["verify", str(url), "--fraction", "0.1", *kept]),
            (main, ["verify", str(url / STORE), "--fraction", "0.1", *kept]),
            (student_main, ["train", str(url), *learn, "--out", str(tmp_path / "far"), *kept]),
        ):
            web.requests.clear()
            done = CliRunner().invoke(command, words)
            assert done.exit_code == 0, done.output
            fetched.append(sum(line.startswith("GET") and "/c/0/0/" in line for line in web.requests))
        assert fetched[0]
        assert fetched[1:] == [0, 0]  # as all is kept
        train_small(source, tmp_path / "own", "epochs=1")
        epochs = [rows(tmp_path / name / "epochs.csv", without=SPEED) for name in ("far", "own")]
        assert epochs[0] == epochs[1]
        backs = [unpack(str(place), str(tmp_path / f"back-{n}")) for n, place in enumerate((url, url / STORE, folder))]
        assert files(Path(backs[0].path)) == files(Path(backs[1].path)) == files(Path(backs[2].path))


def test_what_a_web_server_cannot_give_is_told(source: Store, tmp_path: Path) -> None:
    with WebServer(Path(source.path).parent) as web:
        told = f"{web.url}/store: a web server cannot list a store's files, and {web.url}/manifest.json is absent"
        mend = "have it serve what `teacher-cache publish` makes, or copy the store to a folder or a bucket"
        with pytest.raises(StorageError, match=f"^{told}: {mend}$"):
            Store.open(f"{web.url}/store")
        with pytest.raises(StoreError, match=rf"^there is no store at {web.url}/nothing: check the place"):
            Store.open(f"{web.url}/nothing")
    publish(source, str(tmp_path / "published"))
    with WebServer(tmp_path) as web:
        with pytest.raises(StoreError, match=r"is packed, as it was published, and only read: unpack it first"):
            Store.open(f"{web.url}/published", writable=True)
        (tmp_path / "published/store/labels/c/0/0/1").unlink()
        with pytest.raises(StoreError, match=r"store/labels/c/0/0/1 is absent: fetch it again"):
            unpack(f"{web.url}/published", str(tmp_path / "back"))
        (tmp_path / "published" / MANIFEST).write_text("[]")
        with pytest.raises(StorageError, match=r"published/manifest\.json is damaged: have it serve what"):
            Store.open(f"{web.url}/published")


def test_a_student_learns_from_it_as_from_the_store(source: Store, tmp_path: Path) -> None:
    publish(source, str(tmp_path / "published"))
    packed = open_moved(str(tmp_path / "published/store"), shards(source))
    runs = [train_small(store, tmp_path / name, "epochs=1") for name, store in (("packed", packed), ("own", source))]
    assert runs[0] == runs[1]
    with pytest.raises(ShardError, match=r"the store does not say where; .* say so with --shards"):
        train_small(Store.open(packed.path), tmp_path / "nowhere", "epochs=1")
    how = {"batch_size": 32, "epochs": 1, "workers": 0}
    (pattern,) = shards(source)
    for given in (pattern, [pattern]):
        with ViewLoader(tmp_path / "published", **how, shards=given) as theirs, ViewLoader(source, **how) as ours:
            for batch, again in zip(theirs, ours, strict=True):
                assert torch.equal(batch.views, again.views)
    assert np.array_equal(open_store(str(packed.path), shards=pattern).image(5), open_store(str(source.path)).image(5))


def test_who_does_not_say_where_the_shards_are_is_asked_at_once(source: Store, tmp_path: Path) -> None:
    """By whatever reads all of them."""
    publish(source, str(tmp_path / "published"))
    unpack(str(tmp_path / "published"), str(tmp_path / "back"))
    Store.open(tmp_path / "back", writable=True).extend(source.views + 4)
    learn = ["--recipe", SMALL, "--set", student("two_heads"), "--set", "epochs=1", "--device", "cpu"]
    count = source.index.num_shards
    for command, words in (
        (student_main, ["train", str(tmp_path / "published"), *learn, "--out", str(tmp_path / "run")]),
        (main, fill_words(tmp_path / "back")),
    ):
        done = CliRunner().invoke(command, words)
        assert done.exit_code == 1
        assert done.output == (
            f"error: {count} of {count} shards are not in this folder, and the store does not say where; the first is "
            f"{source.shard_name(0)} (No such file or directory): say so with --shards PATTERN\n"
        )


def test_nothing_says_where_it_was_made(source: Store, tmp_path: Path) -> None:
    publish(source, str(tmp_path / "published"))
    for path in (tmp_path / "published").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"made-by-somebody" not in content, path
            assert str(Path(__file__).parents[1]).encode() not in content, path


def test_manifest_card_and_plain_zarr(source: Store, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    publish(source, str(folder), licence="cc-by-4.0")
    listed = json.loads((folder / MANIFEST).read_text())["files"]
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(listed) == there - {MANIFEST}
    for name, said in listed.items():
        content = (folder / name).read_bytes()
        assert said == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    card = (folder / CARD).read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\n")
    for told in ("260 in 4 shards, 10 classes", "| labelled | 1,040 of 1,040 views |", "brightness", "temperature 2"):
        assert told in card
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of stray files
        group = zarr.open_group(str(folder / STORE), mode="r")
        assert {name for name, _ in group.members()} >= {"labels", "digests", "records", "index", "teacher"}
    original = zarr.open_group(str(source.path), mode="r")
    np.testing.assert_array_equal(group["labels"][:], original["labels"][:])


@pytest.mark.parametrize("text", ["my own\nlicense: x", "", "no", "Off", "1.0"])  # the last three no texts in YAML
def test_what_is_no_licence_is_refused(source: Store, tmp_path: Path, text: str) -> None:
    told = re.escape(f"--licence {shown(text)} is no licence's id: give one as the Hub has it")
    with pytest.raises(StoreError, match=told):
        publish(source, str(tmp_path / "published"), licence=text)
    assert not (tmp_path / "published").exists()


def test_a_store_that_is_not_filled_is_published_in_part_on_request(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_store(store, views=range(2))
    with pytest.raises(StoreError, match=r"^7 of 14 units are not labelled in \S+: run `teacher-cache fill"):
        publish(store, str(tmp_path / "published"))
    assert not (tmp_path / "published").exists()
    before = store.committed()
    publish(store, str(tmp_path / "published"), partial=True, on_progress=lambda done, total: fill_rest(store))
    packed = Store.open(tmp_path / "published/store")
    np.testing.assert_array_equal(packed.committed(), before)
    card = (tmp_path / "published" / CARD).read_text()
    assert "\n**It is a part:** 2 views are labelled of every sample.\n" in card
    assert "| labelled | 520 of 1,040 views |" in card
    np.testing.assert_array_equal(read_views(packed, 1), read_views(store, 1))
    with pytest.raises(StoreError) as refused:
        publish(packed, str(tmp_path / "again"))
    unpack_first = f"run `teacher-cache unpack {packed.path} FOLDER`, then `teacher-cache fill FOLDER --views 0:4`"
    assert str(refused.value).endswith(f"in {packed.path}: {unpack_first}, or publish what there is with --partial")


def fill_rest(store: Store) -> None:
    fill_store(Store.open(store.path, writable=True))


def test_the_commands_of_a_card_are_those_that_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = bright_store(tmp_path)
    fill_store(store, views=range(2))
    publish(store, str(tmp_path / "it's a part"), partial=True)
    card = (tmp_path / "it's a part" / CARD).read_text()
    given = {"'SHARDS'": f"{tmp_path}/shards/*.tar", "RECIPE": SMALL, "RUN": "run", "FOLDER": "back"}
    learn = ["--set", student("two_heads"), "--set", "epochs=2", "--workers", "0", "--device", "cpu"]
    monkeypatch.chdir(tmp_path)
    _, *lines = card.partition("```bash\n")[2].partition("\n```")[0].splitlines()
    for line in lines:
        for word, value in given.items():
            line = line.replace(word, value)
        program, *words = shlex.split(line.replace(f"--val {tmp_path}/shards/*.tar ", ""), comments=True)
        command, more = {"teacher-cache": (main, []), "student": (student_main, learn)}[program]
        done = CliRunner().invoke(command, [*words, *more])
        assert done.exit_code == 0, (line, done.output)
    assert len(lines) == 4
    assert files(tmp_path / "back").keys() == files(store.path).keys()


def test_a_card_says_what_each_device_labelled(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", any_device=True)
    store.publish_teacher(TeacherIdentity("owner/tiny", spec="owner/tiny"))
    for unit in store.units():
        commit(store, unit, device="cpu" if unit.group else "some GPU")
    build = {
        "torch": "2.14",
        "cuda": None,
        "cudnn": None,
        "driver": None,
        "device": "cpu",
        "threads": 2,
        "libraries": {},
    }
    store.proofs.note_build(build, "as the proof's")
    publish(store, str(tmp_path / "published"))
    card = (tmp_path / "published" / CARD).read_text()
    views = f"{store.layout.num_samples * 2:,} views\n"
    assert f"- `some GPU`: {views}" in card
    assert f"- `cpu`: {views}  - `torch 2.14, cpu, 2 CPU threads`; logits: `as the proof's`\n" in card
    assert "| teacher | `owner/tiny` |" in card


def test_a_card_offers_no_training_where_no_view_is_labelled_of_every_sample(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(64, 64))
    fill_store(store)
    for shard, group in ((0, 0), (1, 1)):
        Path(store.records.file(Unit(shard, 0, group))).unlink()
    publish(Store.open(store.path), str(tmp_path / "published"), partial=True)
    card = (tmp_path / "published" / CARD).read_text()
    assert "| labelled | 256 of 512 views |" in card
    assert "\n**It is a part:** no view is labelled of every sample, so unpack it and label more before" in card
    assert "student train" not in card
    assert "\nteacher-cache unpack published FOLDER" in card


def test_a_card_counts_skipped_samples(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    spoil_image(store, 3)
    fill_store(store, skip_bad=True)
    publish(store, str(tmp_path / "published"))
    card = (tmp_path / "published" / CARD).read_text()
    assert "| labelled | 1,036 of 1,040 views |" in card
    assert "| skipped | 1 sample: the images do not decode |" in card


def test_what_a_store_says_of_devices_is_no_markup_of_the_card(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", any_device=True)
    store.publish_teacher(TeacherIdentity("owner/tiny", spec="owner/tiny"))
    for unit in store.units():
        commit(store, unit, device="[a GPU](http://host/)<b>")
    publish(store, str(tmp_path / "published"))
    assert "\n- `[a GPU](http://host/)<b>`: " in (tmp_path / "published" / CARD).read_text()


def test_nothing_is_made_in_a_store(source: Store, tmp_path: Path) -> None:
    """Where Zarr would find what is no part of it."""
    store = copied(source, tmp_path / "store")
    publish(source, str(tmp_path / "published"))
    before = files(tmp_path)
    inside = tmp_path / "store" / "labels" / "new"
    for make in (
        lambda: publish(source, str(inside)),
        lambda: unpack(str(tmp_path / "published"), str(inside)),
        lambda: Store.create(inside, store.index, store.policy, views=2, seed=0),
    ):
        with pytest.raises(DiskError, match=f"^{inside} lies in the store {tmp_path}/store, where nothing else may be"):
            make()
    told = CliRunner().invoke(
        main, ["index", *shards(source), "--store", str(inside), "--views", "2", "--policy", "cifar"]
    )
    assert f"error: {inside} lies in the store" in told.output
    assert files(tmp_path) == before


def test_a_damaged_store_is_not_published(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_store(store)
    (store.path / "labels/c/0/1/0").unlink()
    with pytest.raises(StoreError, match=r"shard train-0000\.tar, unit 1, views 0:2"):
        publish(store, str(tmp_path / "published"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards", "store"]


def test_files_that_the_manifest_does_not_name_do_not_count(tmp_path: Path, target: Place) -> None:
    """As of a store that was published to the same place before."""
    store = bright_store(tmp_path)
    fill_store(store)
    whole, part = open_storage(tmp_path / "whole"), open_storage(target)
    publish(store, str(whole.place))
    for unit in store.units(range(2, 4)):
        Path(store.records.file(unit)).unlink()
    publish(store, str(target), partial=True)
    expected = status(Store.open(target))
    for name in {entry.name for entry in whole.list(STORE)} - {entry.name for entry in part.list(STORE)}:
        part.put(name, whole.get(name) or b"")
    found = Store.open(target)
    np.testing.assert_array_equal(found.committed(), store.committed())
    assert status(found) == expected
    assert not [unit for unit in store.units(range(2, 4)) if found.records.is_committed(unit)]
    assert (read_views(found, range(2, 4)) == NOT_LABELLED).all()
    np.testing.assert_array_equal(unpack(str(target), str(tmp_path / "back")).committed(), store.committed())


def test_what_was_published_is_published_again_file_by_file(source: Store, target: Place, tmp_path: Path) -> None:
    """From a web server, too, which lists nothing."""
    folder = tmp_path / "first"
    publish(source, str(folder))
    first = open_storage(folder)
    with WebServer(tmp_path) as web:
        for number, place in enumerate((folder, f"{web.url}/first/store")):
            again = open_storage(f"{target}-{number}")
            publish(Store.open(place), str(again.place), licence="cc0-1.0")
            assert [entry.name for entry in again.list()] == [entry.name for entry in first.list()]
            for name in (entry.name for entry in again.list(STORE)):
                assert again.get(name) == first.get(name)
            assert b"license: cc0-1.0" in (again.get(CARD) or b"")
            np.testing.assert_array_equal(read_views(Store.open(again.place)), read_views(source))
            back = unpack(str(again.place), str(tmp_path / f"back-{number}"))
            np.testing.assert_array_equal(read_views(back), read_views(source))


def test_what_is_not_as_it_was_published_is_not_published_again(source: Store, tmp_path: Path) -> None:
    folder, target = tmp_path / "first", tmp_path / "target"
    publish(source, str(folder))
    store, manifest = Store.open(folder), folder / MANIFEST
    listed = manifest.read_text()
    damages = {
        "index/sizes/c/0 is not what its manifest says: fetch it again": lambda file: file.write_bytes(b"other"),
        "teacher/zarr.json is absent: fetch it again": Path.unlink,
    }
    for told, damage in damages.items():
        file = folder / STORE / told.partition(" ")[0]
        sound = file.read_bytes()
        damage(file)
        with pytest.raises(StoreError, match=f"^{folder}/store/{told}"):
            publish(store, str(target))
        file.write_bytes(sound)
    for name in ("../../zarr.json", "labels/c/0/0/00"):
        manifest.write_text(listed.replace("store/teacher/zarr.json", f"store/{name}"))
        for fetch in (publish, lambda of, to: unpack(str(of.path), to)):
            with pytest.raises(StoreError, match=rf"^{folder}/store: {re.escape(name)} is no file of a packed store"):
                fetch(store, str(target))
    manifest.unlink()
    with pytest.raises(StoreError, match=rf"^{manifest} is absent or damaged: fetch it again"):
        publish(store, str(target))
    assert not target.exists()


def test_a_store_that_is_extended_meanwhile_is_published_as_it_was(
    source: Store, target: Place, tmp_path: Path
) -> None:
    store = copied(source, tmp_path / "copy")

    def extend(done: int, total: int) -> None:
        if done == total:
            Store.open(store.path, writable=True).extend(6)

    publish(Store.open(store.path), str(target), on_progress=extend)
    packed = Store.open(target)
    assert packed.views == source.views
    np.testing.assert_array_equal(read_views(packed), read_views(source))


def test_what_cannot_be_read_back_is_not_published(source: Store, target: Place, tmp_path: Path) -> None:
    store = copied(source, tmp_path / "copy")
    document = Path(store.path) / "labels/zarr.json"

    def damage(done: int, total: int) -> None:
        if done == total:
            document.write_text(document.read_text().replace('"level": 5', '"level": 6'))

    with pytest.raises(StoreError, match=rf"^what was made of {store.path} to be published cannot be read as it can "):
        publish(Store.open(store.path), str(target), on_progress=damage)
    assert open_storage(target).get(f"{STORE}/zarr.json") is None
    assert isinstance(target, Url) or not target.exists()


def test_what_is_there_is_not_replaced(source: Store, target: Place, tmp_path: Path) -> None:
    open_storage(target).put("README.md", b"of somebody")
    with pytest.raises((DiskError, StorageError), match=r"already: remove (it|them), or choose another place"):
        publish(source, str(target))
    assert [entry.name for entry in open_storage(target).list()] == ["README.md"]


def test_a_link_to_nothing_is_there_too(source: Store, tmp_path: Path) -> None:
    """It is told before anything is packed, and not as what came in the meantime."""
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    with pytest.raises(DiskError, match=r"link is there already: remove it, or choose another place$"):
        publish(source, str(link))
    publish(source, str(tmp_path / "published"))
    with pytest.raises(DiskError, match=r"link is there already: remove it, or choose another folder$"):
        unpack(str(tmp_path / "published"), str(link))


def test_in_a_bucket_one_publishes_at_a_time(source: Store, bucket: Url) -> None:
    storage = open_storage(bucket / "published")
    storage.put("publishing", b"of another")
    with pytest.raises(StorageError, match=r"there are objects under s3://.*/published already: remove them"):
        publish(source, str(storage.place))
    storage.delete("publishing")

    def checked(units: int, of: int, comes: str) -> None:
        if units == of:
            storage.put(comes, b"of another")

    told = {"publishing": "is published to by another", "store/zarr.json": "there are objects under"}
    for comes, message in told.items():
        with pytest.raises(StorageError, match=message):
            publish(source, str(storage.place), on_progress=partial(checked, comes=comes))
        assert [entry.name for entry in storage.list()] == [comes]
        storage.delete(comes)
    publish(source, str(storage.place))
    assert storage.get("publishing") is None


def test_a_file_that_is_not_what_the_manifest_says_is_not_unpacked(source: Store, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    publish(source, str(folder))
    file = folder / STORE / "labels/c/0/0/1"
    sound = file.read_bytes()
    for damaged in (sound[:20] + bytes([sound[20] ^ 1]) + sound[21:], sound[:-1] + bytes([sound[-1] ^ 1]), sound[1:]):
        file.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"labels/c/0/0/1 is not what its manifest says: fetch it again"):
            unpack(str(folder), str(tmp_path / "back"))
    file.unlink()
    with pytest.raises(StoreError, match=r"labels/c/0/0/1 is absent: fetch it again"):
        unpack(str(folder), str(tmp_path / "back"))
    file.write_bytes(sound)
    (folder / MANIFEST).write_text("{}")
    with pytest.raises(StoreError, match=r"manifest\.json is damaged .*: fetch it again"):
        unpack(str(folder), str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()


def test_records_that_the_manifest_names_and_nobody_fetched_are_not_taken_for_views_to_label(
    source: Store, target: Place, tmp_path: Path
) -> None:
    publish(source, str(target))
    name = f"{STORE}/records/c/0/0/1/0"
    storage = open_storage(target)
    storage.delete(name)
    told = f"^{target}/{name} is absent: fetch it again from where it was published$"
    for read in (Store.committed, status, read_views, lambda store: verify(store, 0.0)):
        with pytest.raises(StoreError, match=told):
            read(Store.open(target))
    if isinstance(target, Path):
        with WebServer(target.parent) as web, pytest.raises(StoreError, match=rf"{name} is absent: fetch it again"):
            status(Store.open(f"{web.url}/published"))


def test_a_packed_store_is_not_written(source: Store, tmp_path: Path) -> None:
    publish(source, str(tmp_path / "published"))
    with pytest.raises(StoreError, match=r"is packed, as it was published, and only read: unpack it first"):
        Store.open(tmp_path / "published/store", writable=True)
    with pytest.raises(StoreError, match="is not packed"):
        unpack(str(Path(source.path)), str(tmp_path / "back"))


def test_the_store_that_is_named_is_unpacked_and_no_other(
    source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "published"
    publish(source, str(folder))
    expected = unpack(str(folder), str(tmp_path / "back"))
    monkeypatch.chdir(folder / STORE)
    for number, place in enumerate((".", "../store", "labels/..")):
        back = unpack(place, str(tmp_path / f"back-{number}"))
        assert files(Path(back.path)) == files(Path(expected.path))
    shutil.copytree(folder / STORE, folder / "other")
    with pytest.raises(StoreError, match=rf"^{folder}/manifest\.json is absent or damaged: fetch it again"):
        unpack(str(folder / "other"), str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_where_nothing_is_published_that_place_is_named(bucket: Url, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for place in (bucket, bucket.parent.parent, tmp_path / "folder"):
        with pytest.raises(StoreError, match=rf"^(there is no store at )?{place}[: ]"):
            unpack(str(place), str(tmp_path / "back"))


def test_a_web_server_is_refused_as_a_target_before_anything_is_checked(source: Store) -> None:
    told = "https://host/labels: a web server is only read: give a folder or a bucket to write to"
    with pytest.raises(StorageError, match=f"^{told}$"):
        publish(source, "https://host/labels", on_progress=lambda done, total: pytest.fail("a unit was checked"))


def test_nothing_is_published_into_a_store_in_a_bucket(source: Store, bucket: Url) -> None:
    for entry in source.storage.list():
        open_storage(bucket / "s").put(entry.name, source.storage.get(entry.name) or b"")
    target = bucket / "s" / "published"
    done = CliRunner().invoke(main, ["publish", str(source.path), str(target)])
    assert (
        done.output
        == f"error: {target} lies in the store {bucket}/s, where nothing else may be: choose another place\n"
    )
    assert not open_storage(target).list()


def test_the_commands(source: Store, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["publish", str(source.path), str(tmp_path / "published")])
    assert done.exit_code == 0, done.output
    assert "keys of samples and names of classes become public with it" in done.output
    assert f"instead of {len(files(Path(source.path)))} of" in done.output
    done = CliRunner().invoke(main, ["unpack", str(tmp_path / "published"), str(tmp_path / "back")])
    assert done.exit_code == 0, done.output
    assert done.output.endswith("back: 4 views of 260 samples, checked by its hashes\n")
    assert Store.open(tmp_path / "back").records.is_committed(Unit(0, 0, 0))
