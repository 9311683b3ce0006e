"""Chunk files are plain zarr's: the same values, the same bytes, the same refusals."""

import json
import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs import zstd

from teacher_cache.errors import StoreError
from teacher_cache.storage.local import LocalStorage
from teacher_cache.store.chunks import Chunks, open_chunks
from teacher_cache.store.records import RECORD_FIELDS
from teacher_cache.store.store import Store
from teacher_cache.store.unit import Unit
from tests.support.filled_store import TOPK, commit, fill, make_index, make_store

UNIT, ABSENT = Unit(0, 1, 1), Unit(3, 0, 1)


@pytest.fixture(scope="module", params=[10, 40_000], ids=["int16", "int32"])
def made(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """All arrays that a store may have, filled but for one unit. Units of few samples, as each has many logits."""
    index = make_index((66, 1, 0, 100), num_classes=request.param)
    store = make_store(tmp_path_factory.mktemp("made") / "s", index=index, unit_samples=64)
    store.publish_teacher(TOPK)
    for unit in store.units():
        if unit != ABSENT:
            commit(store, unit, skip=(0,) if unit == UNIT else ())
    return store.path


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    """A copy of it, for one test to damage."""
    shutil.copytree(made, tmp_path / "s")
    return Store.open(tmp_path / "s", writable=True)


def plain(store: Store, name: str, unit: Unit) -> np.ndarray:
    """A unit's chunk as plain zarr reads it; whatever zarr raises."""
    array = zarr.open_array(str(store.path / name), mode="r")
    corner = [unit.shard, unit.unit, unit.group, *[0] * (array.ndim - 3)]
    return np.asarray(array[tuple(slice(at * n, (at + 1) * n) for at, n in zip(corner, array.chunks, strict=True))])


def test_chunks_are_those_of_plain_zarr(store: Store) -> None:
    for name in store.array_names:
        chunks = open_chunks(store.storage, name)
        for unit in store.units():
            ours, zarrs = chunks.read(unit), plain(store, name, unit)
            np.testing.assert_array_equal(ours, zarrs)
            assert (ours.dtype, ours.shape) == (zarrs.dtype, zarrs.shape)
            assert (store.path / chunks.frames.name(unit)).exists() == (unit != ABSENT)
            if name != "records":
                np.testing.assert_array_equal(store.read_array(name, unit), zarrs[0])
    np.testing.assert_array_equal(store.records.read(), zarr.open_array(str(store.path / "records"), mode="r")[:])


def test_files_are_those_that_plain_zarr_writes(store: Store, tmp_path: Path) -> None:
    for name in store.array_names:
        array = zarr.open_array(str(store.path / name), mode="r")
        copy = zarr.create_array(
            tmp_path / name,
            shape=array.shape,
            chunks=array.chunks,
            dtype=array.dtype,
            fill_value=array.fill_value,
            compressors=array.compressors,
        )
        copy[:] = array[:]
        chunks = open_chunks(store.storage, name)
        for unit in store.units():
            if unit != ABSENT:
                file = store.path / chunks.frames.name(unit)
                assert file.read_bytes() == (tmp_path / name / file.relative_to(store.path / name)).read_bytes()


@pytest.mark.parametrize("name", ["labels", "digests", "topk_classes", "topk_probabilities", "records"])
def test_damaged_files_are_refused_as_by_plain_zarr(tmp_path: Path, name: str) -> None:
    """Every bit flipped, every length cut to. A few bits of a frame have no meaning: there the values are whole."""
    store = make_store(tmp_path / "s", views=2)
    store.publish_teacher(TOPK)
    fill(store)
    unit = Unit(0, 1, 0)
    chunks, whole = open_chunks(store.storage, name), store.records.read()
    file, array = store.path / chunks.frames.name(unit), chunks.read(unit)
    sound = file.read_bytes()
    passed = 0
    for bit in range(8 * len(sound)):
        flipped = bytearray(sound)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        try:
            found = chunks.read(unit)
        except (RuntimeError, ValueError):
            with pytest.raises(StoreError, match=r"shard-0\.tar, unit 1, views 0:2 (is|are) damaged") as refused:
                Store.open(store.path).records.read() if name == "records" else store.check_unit(unit)
            assert "\n" not in str(refused.value)
        else:
            passed += 1
            np.testing.assert_array_equal(found, array)
            np.testing.assert_array_equal(plain(store, name, unit), array)
            np.testing.assert_array_equal(Store.open(store.path).records.read(), whole)
    assert passed <= 8
    for length in range(len(sound)):
        file.write_bytes(sound[:length])
        with pytest.raises(StoreError, match=r"shard-0\.tar, unit 1, views 0:2 (is|are) damaged"):
            Store.open(store.path).records.read() if name == "records" else store.check_unit(unit)


def test_what_lies_behind_a_frame_claims_no_memory(store: Store) -> None:
    """Kilobytes of zstd stand for gigabytes: a stranger's file may begin as a chunk does and have another behind it."""
    bomb = zstd.compress(np.zeros(1 << 26, np.uint8), 1, True)
    for name in ("labels", "records"):
        chunks = open_chunks(store.storage, name)
        frame = chunks.frames.get(UNIT)
        assert frame is not None
        for read in (chunks.decode, lambda data, of=chunks: of.decode_all([data])):
            tracemalloc.start()
            with pytest.raises((RuntimeError, ValueError)):
                read(frame + bomb)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
            tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("labels", {"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]}),
        ("labels", {"codecs": [0, {"name": "zstd", "configuration": {"level": 5, "checksum": False}}]}),
        ("digests", {"codecs": [0, {"name": "gzip", "configuration": {"level": 5}}]}),
        ("digests", {"codecs": [{"name": "bytes", "configuration": {"endian": "big"}}, 1]}),
        ("records", {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}}}),
        ("topk_classes", {"codecs": [{"name": "transpose", "configuration": {"order": [3, 2, 1, 0]}}, 0, 1]}),
    ],
)
def test_other_layouts_are_refused_at_opening(store: Store, name: str, change: dict[str, Any]) -> None:
    file = store.path / name / "zarr.json"
    document = json.loads(file.read_text())
    if "codecs" in change:
        own = document["codecs"]
        change = {"codecs": [own[codec] if isinstance(codec, int) else codec for codec in change["codecs"]]}
    file.write_text(json.dumps(document | change))
    zarr.open_array(str(store.path / name), mode="r")  # zarr knows it
    with pytest.raises(ValueError, match=f"{name} has "):
        open_chunks(store.storage, name)
    with pytest.raises(StoreError, match=rf"{name}.*restore"):
        Store.open(store.path)


# -- many records ----------------------------------------------------------------------------------------------------


def record_files(store: Store) -> tuple[Chunks, list[bytes]]:
    chunks = open_chunks(store.storage, "records")
    files = [chunks.frames.get(unit) for unit in store.units() if unit != ABSENT]
    return chunks, [data for data in files if data is not None]


def test_many_at_once_are_each_of_them(store: Store) -> None:
    chunks, files = record_files(store)
    assert len(files) == 9
    np.testing.assert_array_equal(chunks.decode_all(files), [chunks.decode(data) for data in files])
    assert chunks.decode_all([]).shape == (0, 1, 1, 1, len(RECORD_FIELDS))


def test_many_at_once_do_not_lean_on_each_other(store: Store) -> None:
    """Files that only joined are sound frames: none of them is what it says."""
    chunks, (first, second, third, *_) = record_files(store)
    for files in (
        [first + second, b""],
        [b"", first],
        [first[:20], first[20:]],
        [first + second[:6], second[6:]],
        [first[:-4], second],
        [first + second],
        [first, second + third],
    ):
        with pytest.raises((RuntimeError, ValueError)):
            chunks.decode_all(files)


def test_only_files_that_changed_are_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Store.open(store.path)
    records = reader.records.read()
    read: list[str] = []

    get = LocalStorage.get

    def spy(storage: LocalStorage, name: str) -> bytes | None:
        read.append(str(storage.place / name))
        return get(storage, name)

    monkeypatch.setattr(LocalStorage, "get", spy)
    np.testing.assert_array_equal(reader.records.read(), records)
    assert read == []
    commit(store, ABSENT)
    read.clear()
    reader.records.read()
    assert read == [reader.records.file(ABSENT)]
    read.clear()
    reader.records.read()
    assert read == []


def test_a_record_written_anew_in_the_same_instant_is_seen(store: Store, tmp_path: Path) -> None:
    reader = Store.open(store.path)
    assert reader.records.read()[UNIT][6] == 2  # skipped
    file = reader.records.file(UNIT)
    os.link(file, tmp_path / "held")  # as it is removed first here, its inode could be the new one's
    time_ns = os.stat(file).st_mtime_ns
    commit(store, UNIT)
    os.utime(file, ns=(time_ns, time_ns))
    assert reader.records.read()[UNIT][6] == 0


def test_a_damaged_record_is_refused_each_time(store: Store) -> None:
    reader = Store.open(store.path)
    file = Path(reader.records.file(UNIT))
    sound = file.read_bytes()
    file.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    for _ in range(2):
        with pytest.raises(StoreError, match=r"the record of \S+, shard shard-0\.tar, unit 1, views 2:4 is damaged"):
            reader.records.read()
    file.write_bytes(sound)
    assert reader.committed().sum() == 9
