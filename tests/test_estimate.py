"""What a fill would cost: one unit is timed, and nothing is kept."""

from pathlib import Path

import pytest

from teacher_cache.errors import TeacherError
from teacher_cache.estimate import estimate
from teacher_cache.fill import FillOptions
from tests.support.bright_shards import bright_store
from tests.support.filled_store import files
from tests.support.filling import fill_store, open_test_teacher


@pytest.mark.parametrize("views", [4, 304, 1024])
def test_nothing_is_written_and_every_number_of_views_is_told(tmp_path: Path, views: int) -> None:
    store = bright_store(tmp_path, counts=(70,), views=views, group=4)
    before = files(store.path)
    first, heading, *rows = estimate(store, open_test_teacher(store), FillOptions(workers=0)).splitlines()
    assert files(store.path) == before
    assert first.endswith("nothing was committed")
    assert heading.split() == ["views", "hours", "MB", "files"]
    told = [int(row.split()[0]) for row in rows]
    assert told == sorted({16, 32, 64, 128, 256, 512, views})


def test_files_and_bytes_are_those_that_a_fill_makes(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(130, 70), views=16, group=4)
    row = estimate(store, open_test_teacher(store), FillOptions(workers=0)).splitlines()[2].split()
    fill_store(store)
    made = [file for name in store.array_names for file in (store.path / name).rglob("*") if file.name != "zarr.json"]
    assert row[0] == "16"
    assert int(row[3]) == len([file for file in made if file.is_file()])


def test_another_teacher_than_the_stores_is_refused(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(70,))
    fill_store(store)
    with pytest.raises(TeacherError, match="weights_sha256"):
        estimate(store, open_test_teacher(store, "shifted"), FillOptions(workers=0))
