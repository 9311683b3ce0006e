"""What `status` says of a store."""

import json
from pathlib import Path

import numpy as np

from teacher_cache.store.status import status
from teacher_cache.store.store import Store
from teacher_cache.store.unit import TOPK_ARRAYS
from teacher_cache.teacher.identity import TeacherIdentity
from tests.support.filled_store import (
    COUNTS,
    TOPK,
    commit,
    count,
    fill,
    make_store,
)


def test_status_counts_topk(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    empty = status(store)
    assert (empty["topk"], empty["tau"], set(empty["bytes"])) == (0, None, {"labels", "digests", "records", "per_view"})
    store.publish_teacher(TOPK)
    fill(store, range(2))
    found = json.loads(json.dumps(status(Store.open(store.path))))
    assert (found["topk"], found["tau"]) == (3, 2.0)
    sizes = {
        name: sum(file.stat().st_size for file in (store.path / name).rglob("*") if file.is_file())
        for name in ("labels", "digests", *TOPK_ARRAYS, "records")
    }
    assert found["bytes"] == {**sizes, "per_view": sum(sizes.values()) / (2 * sum(COUNTS))}


def test_status_sums_records(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    empty = status(store)
    assert empty["coverage"]["share"] == 0
    assert empty["agreement"] is None
    assert empty["bytes"]["per_view"] is None
    own = 0
    for unit in store.units(range(2)):
        values = commit(store, unit, skip=(0,) if unit.shard == 3 else ())
        own += count(store, unit, values).own
    store.publish_teacher(TeacherIdentity("tiny"))
    found = json.loads(json.dumps(status(Store.open(store.path))))
    assert found["units"] == 10
    assert found["units_committed"] == 5
    assert found["coverage"] == {
        "share": 0.5,
        "groups": [
            {"views": [0, 2], "units": 5, "units_committed": 5, "share": 1.0},
            {"views": [2, 4], "units": 5, "units_committed": 0, "share": 0.0},
        ],
    }
    assert found["labelled"] == 2 * (sum(COUNTS) - 2)
    assert found["skipped"] == {
        "views": 4,
        "samples": 2,
        "first": [{"shard": "shard-3.tar", "key": "3-0000"}, {"shard": "shard-3.tar", "key": "3-0128"}],
    }
    assert found["agreement"]["own"] == own / found["labelled"]
    sizes = [
        file.stat().st_size
        for name in ("labels", "digests", "records")
        for file in (store.path / name).rglob("*")
        if file.is_file()
    ]
    assert found["bytes"]["per_view"] == sum(sizes) / (2 * sum(COUNTS))
    assert found["teacher"] == TeacherIdentity("tiny").to_json()
    assert found["libraries"]["numpy"] == np.__version__


def test_status_says_what_each_device_labelled_and_of_some_units_alone(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", any_device=True)
    for unit in store.units():
        commit(store, unit, device="cpu" if unit.group else "some GPU")
    views = 2 * sum(COUNTS)
    assert status(store)["labelled_on"] == {"some GPU": views, "cpu": views}
    units = store.committed()
    units[..., 1] = False
    found = status(store, units)
    assert (found["labelled_on"], found["labelled"], found["units_committed"]) == ({"some GPU": views}, views, 5)
    one = make_store(tmp_path / "one")
    one.publish_teacher(TeacherIdentity("tiny", device="cpu"))
    fill(one)
    assert status(one)["labelled_on"] == {"cpu": 2 * views}
