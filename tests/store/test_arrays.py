import asyncio
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.core.sync import sync

from teacher_cache.errors import StoreError
from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.storage import Storage
from teacher_cache.store.arrays import ArrayShape, make_array, read_document, read_shape, read_whole, settled


def test_no_write_goes_on_after_one_that_failed(tmp_path: Path) -> None:
    """zarr writes several files at a time, and says of the first that fails while the others are under way."""

    def late() -> None:
        time.sleep(0.3)
        (tmp_path / "late").touch()

    async def full() -> None:
        raise OSError(28, "No space left on device")

    async def write() -> None:
        await asyncio.gather(full(), asyncio.to_thread(late))

    with pytest.raises(OSError, match="No space left"), settled():
        sync(write())
    assert (tmp_path / "late").exists()


def made(folder: Path, values: np.ndarray, chunks: tuple[int, ...]) -> None:
    """An array `values` in the group folder/store."""
    root = zarr.create_group(str(folder / "store"), zarr_format=3)
    array = make_array(root, "values", values.shape, chunks, str(values.dtype), 7)
    if values.size:
        array[...] = values


def store_of(folder: Path) -> Storage:
    return open_storage(folder / "store")


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "store/values/zarr.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | changes))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "uint64", "float32", "float16"])
@pytest.mark.parametrize(
    ("shape", "chunks"), [((10,), (4,)), ((8,), (4,)), ((1,), (4,)), ((0,), (1,)), ((5, 7), (2, 3)), ((3, 0), (3, 1))]
)
def test_an_array_is_read_as_zarr_reads_it(
    tmp_path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str
) -> None:
    values = np.random.default_rng(3).integers(0, 200, shape).astype(dtype)
    made(tmp_path, values, chunks)
    found = read_whole(store_of(tmp_path), "values", 40)
    assert (found.dtype, found.dtype.isnative) == (values.dtype, True)
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "store/values"), mode="r")[...], found)
    assert read_shape(store_of(tmp_path), "values") == ArrayShape(shape, chunks)


def test_an_array_that_is_not_whole_or_not_ours_is_not_read(tmp_path: Path) -> None:
    made(tmp_path, np.arange(10), (4,))
    file = tmp_path / "store/values/c/1"
    chunk = file.read_bytes()
    file.rename(tmp_path / "one")
    with pytest.raises(StoreError, match=r"^values of .*store cannot be read \(2 of 3 chunks are there\): restore"):
        read_whole(store_of(tmp_path), "values", 40)
    (tmp_path / "store/values/c/stray").touch()
    with pytest.raises(StoreError, match=r"\(chunk 1 is absent\)"):
        read_whole(store_of(tmp_path), "values", 40)
    file.write_bytes(chunk[:-3] + bytes(3))
    with pytest.raises(StoreError, match=r"^values of .* cannot be read"):
        read_whole(store_of(tmp_path), "values", 40)
    file.write_bytes(chunk)
    read_whole(store_of(tmp_path), "values", 40)
    big = {"name": "bytes", "configuration": {"endian": "big"}}
    zstd = json.loads((tmp_path / "store/values/zarr.json").read_bytes())["codecs"][1]
    edit(tmp_path, codecs=[big, zstd])
    with pytest.raises(StoreError, match=r"values is not little-endian"):
        read_whole(store_of(tmp_path), "values", 40)


@pytest.mark.parametrize("changes", [{"zarr_format": 2}, {"node_type": "group"}])
def test_a_document_of_another_kind_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    made(tmp_path, np.arange(3), (3,))
    assert read_document(store_of(tmp_path), "", "group")["node_type"] == "group"
    edit(tmp_path, **changes)
    with pytest.raises(ValueError, match="values is no array of Zarr 3"):
        read_shape(store_of(tmp_path), "values")
