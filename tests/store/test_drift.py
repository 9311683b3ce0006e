"""What is said where pixels are not the stored ones, of libraries that a store names and that are not used any more."""

from pathlib import Path

import pytest

from student.loader import ViewLoader
from teacher_cache.errors import DriftError
from teacher_cache.replay.libraries import pixel_libraries
from teacher_cache.store.drift import drift_message, unsteady_message
from teacher_cache.store.status import status
from teacher_cache.store.store import Store
from tests.support.bright_shards import bright_store, change_pixel
from tests.support.filling import fill_store

LIBRARY = {"nvimgcodec": "0.9.0"}  # decoded single crops until this was dropped


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A half-filled store whose settings and whose teacher name a library that is no more used."""
    with monkeypatch.context() as patched:
        for module in ("store.store", "teacher.teacher"):
            patched.setattr(f"teacher_cache.{module}.pixel_libraries", lambda: pixel_libraries() | LIBRARY)
        store = bright_store(tmp_path)
        fill_store(store, views=range(2))
    return Store.open(store.path, writable=True)


def test_a_store_that_names_a_library_of_the_past_is_read_and_filled(older: Store) -> None:
    assert older.teacher is not None
    assert status(older)["libraries"] == older.teacher.libraries == pixel_libraries() | LIBRARY
    fill_store(older)
    loader = ViewLoader(Store.open(older.path), 26, epochs=4)
    assert len(list(loader)) == 40
    assert (loader.views_checked, loader.views_drifted) == (1040, 0)


def test_drift_is_not_laid_to_a_library_of_the_past(older: Store) -> None:
    change_pixel(older, 0)
    with pytest.raises(DriftError, match=r"same libraries, .*; filled with .*, nvimgcodec 0\.9\.0; here torch "):
        list(ViewLoader(older, 26, epochs=2))


def test_the_message_names_place_cause_and_both_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = bright_store(tmp_path)
    fill_store(store, views=range(2))
    here = pixel_libraries()
    changed = next(iter(here))
    assert drift_message(store, 1, 0, 3).startswith(
        "shard train-0001.tar, block 0, view 3: the replayed pixels are not"
    )
    assert "(same libraries, so an image file or the processor differs; filled with" in drift_message(store, 1, 0, 3)
    monkeypatch.setattr("teacher_cache.store.drift.pixel_libraries", lambda: here | {changed: "0"})
    said = drift_message(store, 0, 1, 2)
    assert f"(changed: {changed}; filled with {changed} {here[changed]}, " in said
    assert f"; here {changed} 0, " in said
    assert said.endswith("install what it was filled with, restore the shard, or fill a new store")


def test_pixels_that_come_out_otherwise_at_once_are_not_laid_to_libraries(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    assert unsteady_message(store, 1, 0, 3) == (
        f"shard {store.shard_name(1)}, block 0, view 3: rendered twice, the pixels differ, and nothing was written: "
        "the shard was changed meanwhile, or this machine's memory is not sound: run it again"
    )
