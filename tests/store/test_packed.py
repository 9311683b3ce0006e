"""A packed store holds what the store held: for this program, for plain zarr, and once it is unpacked."""

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import zarr

from teacher_cache.audit.compare import compare
from teacher_cache.audit.disagreements import weigh
from teacher_cache.errors import ChangedError, StorageError, StoreError
from teacher_cache.publish import publish
from teacher_cache.storage import storage
from teacher_cache.storage.cache import NodeCache
from teacher_cache.storage.place import Url
from teacher_cache.store import labels
from teacher_cache.store import packed as packing_groups
from teacher_cache.store.chunks import open_chunks
from teacher_cache.store.labels import read_unit_row, read_views, skipped_samples, unit_rows
from teacher_cache.store.packed import pack, packed_document, unpacked_document
from teacher_cache.store.packing import copied_files, packed_files, unpacked_files, without_place
from teacher_cache.store.status import status
from teacher_cache.store.store import Store
from teacher_cache.store.unit import Unit
from teacher_cache.verify import verify
from tests.support.filled_store import commit, copied, files, make_index, make_soft_store, make_store
from tests.support.memory_storage import Bucket, MemoryStorage, bucket_in_memory

ABSENT = Unit(3, 0, 1)
FAR = Url("s3://set/store")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All arrays that a store may have, filled but for one unit, which has chunks all the same."""
    store = make_soft_store(tmp_path_factory.mktemp("source") / "s")
    store.proofs.publish("cpu")
    for unit in store.units():
        commit(store, unit, skip=(0,) if unit == Unit(0, 1, 1) else ())
    Path(store.records.file(ABSENT)).unlink()
    return Store.open(store.path)


def write(store: Store, folder: Path) -> Path:
    for name, parts in packed_files(store, store.committed()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"".join(parts))
    return folder


@pytest.fixture(scope="module")
def made(source: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(source, tmp_path_factory.mktemp("packed") / "p")


@pytest.fixture
def packed(made: Path, tmp_path: Path) -> Path:
    """A copy of it, for one test to damage."""
    return Path(shutil.copytree(made, tmp_path / "p"))


def test_it_reads_as_the_store_it_was_made_of(source: Store, made: Path) -> None:
    packed = Store.open(made)
    np.testing.assert_array_equal(packed.committed(), source.committed())
    np.testing.assert_array_equal(packed.records.read(), source.records.read())
    for unit in source.units():
        if unit != ABSENT:
            for name, values in vars(source.read_unit(unit)).items():
                np.testing.assert_array_equal(getattr(packed.read_unit(unit), name), values)
    np.testing.assert_array_equal(read_views(packed, range(2)), read_views(source, range(2)))
    ours, theirs = status(packed), status(source)
    assert {**ours, "bytes": 0, "store": 0} == {**theirs, "bytes": 0, "store": 0}
    assert verify(packed, 0).exact
    assert verify(packed, 0).units == len(source.units()) - 1


def test_a_store_that_is_extended_meanwhile_is_packed_as_it_was_opened(source: Store, tmp_path: Path) -> None:
    """Whenever that is: before anything of it is packed, in the midst, and when all but the root is."""
    names = [name for name, _ in packed_files(source, source.committed())]
    for number in {0, names.index("labels/zarr.json"), names.index("records/zarr.json"), len(names) - 2}:
        store, committed = Store.open(copied(source, tmp_path / f"s{number}").path), source.committed()
        if number == 0:
            Store.open(store.path, writable=True).extend(8)
        for at, (name, parts) in enumerate(packed_files(store, committed)):
            (tmp_path / f"p{number}" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / f"p{number}" / name).write_bytes(b"".join(parts))
            if at == number > 0:
                Store.open(store.path, writable=True).extend(8)
        packed = Store.open(tmp_path / f"p{number}")
        assert packed.views == source.views
        np.testing.assert_array_equal(packed.committed(), committed)
        assert verify(packed, 0).exact


def test_a_file_holds_a_group_of_an_array(source: Store, made: Path) -> None:
    found = sorted(
        str(file.relative_to(made))
        for file in made.rglob("*")
        if file.is_file() and "/c/" in str(file) and "index" not in file.parts
    )
    groups = [f"{name}/c/0/0/{group}" for name in ("digests", "labels") for group in range(2)]
    ranked = [
        f"{name}/c/0/0/{group}/0" for name in ("records", "topk_classes", "topk_probabilities") for group in range(2)
    ]
    assert found == groups + ranked
    chunks, grouped = open_chunks(source.storage, "labels"), (made / "labels/c/0/0/1").read_bytes()
    frames = [chunks.frames.get(unit) for unit in source.units(range(2, 4)) if unit != ABSENT]
    assert grouped.startswith(b"".join(frame for frame in frames if frame is not None))  # the same, one after the other


def test_an_array_that_the_store_has_not_is_neither_copied_nor_unpacked(tmp_path: Path) -> None:
    """Nothing of it was looked at when the store was opened: a stranger's may have chunks of no rows."""
    store = make_store(tmp_path / "s")
    commit(store, store.units()[0])
    packed = Store.open(write(store, tmp_path / "p"))
    hashes = {"zarr.json": "", "topk_classes/zarr.json": "", "topk_classes/c/0/0/0/0": ""}
    for taken in (copied_files, unpacked_files):
        with pytest.raises(
            StoreError, match=r"/p: topk_classes/zarr\.json is no file of a packed store: fetch it again"
        ):
            next(taken(packed, hashes))


def test_plain_zarr_reads_it(source: Store, made: Path) -> None:
    ours, theirs = (zarr.open_group(path, mode="r") for path in (made, source.path))
    committed = source.committed()
    for name in source.array_names:
        one, two = ours[name], theirs[name]
        assert (one.shape, one.dtype, one.fill_value, one.chunks) == (two.shape, two.dtype, two.fill_value, two.chunks)
        assert one.shards is not None
        for unit in map(Unit._make, np.argwhere(committed).tolist()):
            at = tuple(slice(n * size, (n + 1) * size) for n, size in zip(unit, two.chunks, strict=False))
            np.testing.assert_array_equal(one[at], two[at])
        at = tuple(slice(n * size, (n + 1) * size) for n, size in zip(ABSENT, two.chunks, strict=False))
        assert (one[at] == one.fill_value).all()  # its unit is not committed: its chunks are left behind


def test_the_bytes_are_those_that_zarr_writes(source: Store, made: Path, tmp_path: Path) -> None:
    """Zarr writes a shard's chunks in an order of its own, so the index is compared by what it finds."""
    array = zarr.open_array(made / "digests", mode="r")
    copy = zarr.create_array(
        tmp_path / "z",
        shape=array.shape,
        shards=array.shards,
        chunks=array.chunks,
        dtype=array.dtype,
        fill_value=0,
        compressors=array.compressors,
        dimension_names=("shard", "block", "view"),
    )
    written, own = copy.metadata.to_dict(), array.metadata.to_dict()
    assert written == own


@pytest.mark.parametrize("change", ["grid", "codecs", "location"])
def test_zarr_shards_of_another_kind_are_refused(change: str) -> None:
    document = {
        "shape": [2, 256, 4],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 128, 2]}},
        "codecs": [{"name": "bytes"}, {"name": "zstd"}],
    }
    packed = packed_document(document)
    assert unpacked_document(packed) == document
    assert unpacked_document(document) is document
    if change == "grid":
        packed["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": [1, 256, 2]}}
    elif change == "codecs":
        packed["codecs"][0]["configuration"]["index_codecs"] = [{"name": "bytes"}]
    else:
        packed["codecs"][0]["configuration"]["index_location"] = "start"
    with pytest.raises(ValueError, match="its Zarr shards are not those of a group each"):
        unpacked_document(packed)


def test_it_is_only_read(packed: Path) -> None:
    before = files(packed)
    message = rf"{packed} is packed, as it was published, and only read: .*`teacher-cache unpack {packed} FOLDER`"
    with pytest.raises(StoreError, match=message):
        Store.open(packed, writable=True)
    assert files(packed) == before


@pytest.mark.parametrize("at", [-1, -4, -5, -20])
def test_a_damaged_index_is_told(packed: Path, at: int) -> None:
    file = packed / "labels/c/0/0/1"
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    store = Store.open(packed)
    with pytest.raises(StoreError, match=f"{file} is damaged .the CRC-32C of its index differs.: fetch it again"):
        store.read_labels(Unit(0, 0, 1))
    assert store.read_labels(Unit(0, 0, 0)).any()


def test_an_index_that_leads_elsewhere_is_told(packed: Path) -> None:
    """Whoever means to deceive can write a fitting checksum."""
    file = packed / "records/c/0/0/0/0"
    chunks = open_chunks(Store.open(packed).storage, "records")
    frame = chunks.frames.get(Unit(0, 0, 0))
    assert frame is not None
    for start, length in ((2**40, 1), (0, 2**40), (len(frame), len(frame)), (2**64 - 2, 2**64 - 2)):
        (_, index, _) = pack([frame, *[None] * 7])
        places = np.frombuffer(index, "<u8").copy()
        places[:2] = start, length
        content = places.tobytes()
        import google_crc32c

        file.write_bytes(frame + content + google_crc32c.value(content).to_bytes(4, "little"))
        with pytest.raises(StoreError, match="its index names bytes that it does not have"):
            Store.open(packed).records.read()


def test_a_damaged_chunk_is_told_and_how_to_mend_it(packed: Path) -> None:
    file = packed / "labels/c/0/0/0"
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        StoreError, match=f"labels of .* are damaged .*: fetch {packed} again from where it was published"
    ):
        Store.open(packed).check_unit(Unit(0, 0, 0))


def test_a_missing_label_says_to_unpack(packed: Path) -> None:
    with pytest.raises(
        StoreError,
        match=rf"is not filled: run `teacher-cache unpack {packed} FOLDER`, then `teacher-cache fill FOLDER --views 2",
    ):
        Store.open(packed).check_unit(ABSENT)


def test_a_teachers_place_stays_behind() -> None:
    identity = {"name": "local-dir:/home/me/net (weights.pt)", "spec": "local-dir:/home/me/net", "dtype": "fp32"}
    assert without_place(identity) == {"name": "local-dir:net (weights.pt)", "spec": "local-dir:net", "dtype": "fp32"}


def test_the_packing_that_it_says_is_the_one_that_it_has(packed: Path) -> None:
    root = packed / "zarr.json"
    root.write_text(root.read_text().replace('"groups"', '"files"'))
    with pytest.raises(StoreError, match="not all arrays are packed as files"):
        Store.open(packed)


# -- far away ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def far(made: Path) -> Iterator[Bucket]:
    """The packed store at FAR."""
    with bucket_in_memory() as bucket:
        for name in files(made):
            bucket.objects[f"{FAR}/{name}"] = (made / name).read_bytes()
        yield bucket


def fetched(bucket: Bucket) -> Counter[str]:
    """Bytes that were asked for of groups' files, by name."""
    return asked_of(bucket, "/c/0/0/")


def asked_of(bucket: Bucket, part: str) -> Counter[str]:
    """Bytes that were asked for of the names that this is in."""
    found: Counter[str] = Counter()
    for method, url, num_bytes in bucket.requests:
        if method != "list" and part in url:
            found[url.removeprefix(f"{FAR}/")] += num_bytes
    return found


def groups(made: Path) -> Counter[str]:
    """What fetching each group's file once takes."""
    return Counter({name: (made / name).stat().st_size for name in files(made) if "/c/0/0/" in name})


def assert_equal(store: Store, source: Store) -> None:
    np.testing.assert_array_equal(store.records.read(), source.records.read())
    for unit in source.units():
        if unit != ABSENT:
            for name, values in vars(source.read_unit(unit)).items():
                np.testing.assert_array_equal(getattr(store.read_unit(unit), name), values)


def test_a_node_fetches_a_groups_file_once(
    source: Store, made: Path, far: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PART_BYTES", 500)
    cache = NodeCache(tmp_path, 10**7)
    for _ in range(2):  # as of two processes
        assert_equal(Store.open(FAR, cache=cache), source)
    assert fetched(far) == groups(made)
    assert sum(method == "get_ranges" for method, _, _ in far.requests) > 2 * len(groups(made))
    copies = sorted(path.stat().st_size for path in tmp_path.glob("??/*.copy"))
    assert copies == sorted((groups(made) + index_of(made, "counts")).values())
    far.requests.clear()
    assert_equal(Store.open(made, cache=cache), source)
    assert len(list(tmp_path.glob("??/*.copy"))) == len(copies)  # none of what lies near


def index_of(made: Path, array: str = "*") -> Counter[str]:
    """The chunks of the index, and their sizes."""
    return Counter({name: (made / name).stat().st_size for name in files(made) if fnmatch(name, f"index/{array}/c/*")})


def test_a_node_fetches_the_index_once(source: Store, made: Path, far: Bucket, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path, 10**7)
    with ThreadPoolExecutor(4) as pool:  # as processes that start together
        opened = list(pool.map(lambda _: Store.open(FAR, cache=cache).index, range(4)))
    assert asked_of(far, "/c/0") - asked_of(far, "/c/0/0") == index_of(made)
    for index in opened:
        np.testing.assert_array_equal(index.classes, source.index.classes)
        assert index.key(3) == source.index.key(3)


def test_a_copy_of_the_index_is_of_one_object(made: Path, far: Bucket, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path, 10**7)
    before = Store.open(FAR, cache=cache).index.classes
    other = far.objects[f"{FAR}/index/sizes/c/0"]
    far.objects[f"{FAR}/index/offsets/c/0"] = other
    index = Store.open(FAR, cache=cache).index
    np.testing.assert_array_equal(index.offsets, index.sizes)
    np.testing.assert_array_equal(index.classes, before)


def test_a_process_without_a_cache_fetches_it_once(source: Store, made: Path, far: Bucket, tmp_path: Path) -> None:
    assert_equal(Store.open(FAR), source)
    assert fetched(far) == groups(made)
    far.requests.clear()
    assert_equal(Store.open(FAR, cache=NodeCache(tmp_path, 100)), source)  # without room for one
    assert fetched(far) == groups(made)


def test_records_of_all_groups_are_asked_for_at_once(
    source: Store, far: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other would take as many times as long."""
    get, all_asked = MemoryStorage.get, threading.Barrier(2, timeout=60)

    def wait(storage: MemoryStorage, name: str) -> bytes | None:
        if name.startswith("records/c/"):
            all_asked.wait()
        return get(storage, name)

    monkeypatch.setattr(MemoryStorage, "get", wait)
    np.testing.assert_array_equal(Store.open(FAR).committed(), source.committed())


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_damaged_copy_is_fetched_again(
    source: Store, made: Path, far: Bucket, tmp_path: Path, damage: str, opened: bool
) -> None:
    """One that is open, too, and was sound when it was opened."""
    cache = NodeCache(tmp_path, 10**7)
    store = Store.open(FAR, cache=cache)
    assert_equal(store, source)
    for path in tmp_path.glob("??/*.copy"):
        with open(path, "r+b") as file:
            file.seek(20)
            byte = file.read(1)
            file.seek(20)
            file.write(bytes([byte[0] ^ 1]))
            if damage == "cut":
                file.truncate(15)
    far.requests.clear()
    assert_equal(store if opened else Store.open(FAR, cache=cache), source)
    expected = groups(made)
    if opened:  # which has read its records
        expected = Counter({name: size for name, size in expected.items() if not name.startswith("records")})
    assert fetched(far) == expected


def test_a_copy_is_of_one_object(source: Store, made: Path, far: Bucket, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path, 10**7)
    before = Store.open(FAR, cache=cache)
    before.read_labels(Unit(0, 0, 0))
    far.objects[f"{FAR}/labels/c/0/0/0"], far.objects[f"{FAR}/labels/c/0/0/1"] = (
        far.objects[f"{FAR}/labels/c/0/0/{group}"] for group in (1, 0)
    )
    np.testing.assert_array_equal(before.read_labels(Unit(0, 0, 0)), source.read_labels(Unit(0, 0, 0)))
    after = Store.open(FAR, cache=cache)
    np.testing.assert_array_equal(after.read_labels(Unit(0, 0, 0)), source.read_labels(Unit(0, 0, 1)))
    np.testing.assert_array_equal(after.read_labels(Unit(0, 0, 1)), source.read_labels(Unit(0, 0, 0)))


def test_an_object_that_is_changed_while_it_is_fetched_is_told(
    far: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PART_BYTES", 100)
    url = f"{FAR}/labels/c/0/0/0"

    def change(read: str) -> None:
        if read == url and any(asked == url for method, asked, _ in far.requests if method == "get_ranges"):
            far.objects[url] = far.objects[url][::-1]

    far.on_read = change
    with pytest.raises(ChangedError, match=f"^{url} was changed"):
        Store.open(FAR, cache=NodeCache(tmp_path, 10**7)).read_labels(Unit(0, 0, 0))
    assert not list(tmp_path.glob("??/*"))


def test_a_network_that_fails_is_not_called_damage(far: Bucket, tmp_path: Path) -> None:
    far.fails = {f"{FAR}/labels/c/0/0/0"}
    with pytest.raises(StorageError, match="labels/c/0/0/0: gave no answer"):
        Store.open(FAR, cache=NodeCache(tmp_path, 10**7)).read_labels(Unit(0, 0, 0))


# -- with more groups than are held ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Of 8 groups, each of 8 units, in all of which a sample was skipped."""
    store = make_store(tmp_path_factory.mktemp("wide") / "s", index=make_index((128,) * 4), views=16, unit_samples=64)
    for unit in store.units():
        commit(store, unit, skip=(0,))
    return Store.open(store.path)


@pytest.fixture(scope="module")
def wide_made(wide: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "p"
    publish(wide, str(folder))
    return folder / "store"


@pytest.fixture
def wide_far(wide_made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """It at FAR, where all but one of the files of an array are held at most."""
    sizes = Counter[str]()
    for name, size in groups(wide_made).items():
        sizes[name.partition("/")[0]] += size
    assert max(sizes, key=sizes.__getitem__) == "labels"
    monkeypatch.setattr(packing_groups, "HELD_BYTES", sizes["labels"] - 1)
    with bucket_in_memory() as bucket:
        for name in files(wide_made.parent):
            bucket.objects[f"{FAR.parent}/{name}"] = (wide_made.parent / name).read_bytes()
        yield bucket


def times(bucket: Bucket, made: Path, array: str) -> set[float]:
    """How many times each file of an array was fetched since this was asked for last."""
    sizes = groups(made)
    found = {num_bytes / sizes[name] for name, num_bytes in fetched(bucket).items() if name.startswith(f"{array}/")}
    bucket.requests.clear()
    return found


def test_what_reads_a_whole_store_fetches_each_file_once(wide: Store, wide_made: Path, wide_far: Bucket) -> None:
    report = verify(Store.open(FAR), 0)
    assert (report.exact, report.units) == (True, len(wide.units()))
    assert times(wide_far, wide_made, "labels") == {1}
    for views in (None, 3, [15, 0, 7, 0]):
        found, expected = read_views(Store.open(FAR), views), read_views(wide, views)
        np.testing.assert_array_equal(found, expected)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert times(wide_far, wide_made, "labels") == {1}
    np.testing.assert_array_equal(skipped_samples(Store.open(FAR)), skipped_samples(wide))
    assert times(wide_far, wide_made, "labels") == {1}
    far = Store.open(FAR)
    for found, expected in zip(unit_rows(far, far.committed()), unit_rows(wide, wide.committed()), strict=True):
        assert found[:3] == expected[:3]
        np.testing.assert_array_equal(found.labels, expected.labels)
        assert found.labels.dtype == expected.labels.dtype
    assert times(wide_far, wide_made, "labels") == {1}
    samples = np.arange(0, 512, 70)
    weighed = [vars(weigh(store, samples)[0]) for store in (far, wide)]
    for name, values in weighed[0].items():
        np.testing.assert_array_equal(values, weighed[1][name])
    assert times(wide_far, wide_made, "labels") == {1}
    assert compare(Store.open(FAR), Store.open(FAR), limit=1)["views"]["agree"] == 1
    assert times(wide_far, wide_made, "labels") == {2}  # once for each of the two


def test_publishing_one_again_fetches_each_file_three_times(wide_made: Path, wide_far: Bucket, tmp_path: Path) -> None:
    """To check its units, to count samples that were skipped, and to copy it."""
    publish(Store.open(FAR), str(tmp_path / "again"))
    assert files(tmp_path / "again/store") == files(wide_made)
    assert times(wide_far, wide_made, "labels") == {3}


def test_rows_that_are_too_large_together_are_read_in_parts(
    wide: Store, wide_made: Path, wide_far: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    far, places = Store.open(FAR), [(3, 1), (0, 0), (2, 1), (1, 1)]
    monkeypatch.setattr(labels, "ROWS_BYTES", 3 * 64 * 16 * 2)  # three rows of 64 samples and 16 views
    done: list[tuple[int, int]] = []
    rows = list(unit_rows(far, far.committed(), lambda *counts: done.append(counts), places))
    assert [(row.shard, row.unit) for row in rows] == places
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for row in rows:
        expected = read_unit_row(wide, row.shard, row.unit, wide.committed()[row.shard, row.unit])
        np.testing.assert_array_equal(row.labels, expected.labels)
    assert max(times(wide_far, wide_made, "labels")) <= 2
