"""Units come into the store while the next is labelled: one at a time, whole, and told when they are there."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from teacher_cache.errors import DiskError
from teacher_cache.fill import FillOptions, FillProgress, fill
from teacher_cache.store.store import Store
from teacher_cache.store.unit import Unit
from tests.support.bright_shards import bright_store
from tests.support.filled_store import files
from tests.support.filling import fill_store, open_test_teacher

PROMPT_S = 30  # that what goes on beside a commit takes at most


def unit_commits(store: Store, monkeypatch: pytest.MonkeyPatch, before: Callable[[int, Unit], None]) -> list[Unit]:
    """Let `before` be called before each commit to a store, with its number. -> units that are committed, in order."""
    commit_unit, begun, committed = store.commit_unit, list[Unit](), list[Unit]()

    def commit(unit: Unit, *what: object) -> bool:
        begun.append(unit)
        before(len(begun) - 1, unit)
        written = commit_unit(unit, *what)
        committed.append(unit)
        return written

    monkeypatch.setattr(store, "commit_unit", commit)
    return committed


def run(store: Store, on_progress: Callable[[FillProgress], None]) -> int:
    return fill(store, open_test_teacher(store), FillOptions(workers=0), range(store.views), on_progress=on_progress)


def test_labelling_goes_on_while_a_unit_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside all but the first, which binds the store, and the last."""
    fill_store(bright_store(tmp_path, name="alone"))
    store = bright_store(tmp_path, name="beside")
    units, seen, moved = store.units(), list[FillProgress](), threading.Condition()
    ends = np.cumsum([store.layout.num_views(unit) for unit in units])

    def wait_for_more(number: int, unit: Unit) -> None:
        if number in (0, len(units) - 1):
            return
        with moved:
            beside = moved.wait_for(lambda: seen[-1].views > ends[number], PROMPT_S)
        assert beside, "nothing is labelled beside a commit"

    def note(progress: FillProgress) -> None:
        with moved:
            seen.append(progress)
            moved.notify_all()

    committed = unit_commits(store, monkeypatch, wait_for_more)
    assert run(store, note) == len(units)
    assert committed == units
    assert files(tmp_path / "beside") == files(tmp_path / "alone")
    assert seen[-1].labelled == seen[-1].views == 260 * 4


def test_a_commit_that_fails_stops_before_the_next_unit_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units of 256 samples in four blocks, two views each."""
    whole = bright_store(tmp_path, counts=(1024,), name="shape")
    store = Store.create(tmp_path / "store", whole.index, whole.policy, views=2, seed=3, group=2, unit_samples=256)
    failed, seen = threading.Event(), list[FillProgress]()

    def fail(number: int, unit: Unit) -> None:
        if number == 1:
            failed.set()
            raise DiskError("the disk is full")

    def note(progress: FillProgress) -> None:
        seen.append(progress)
        if progress.views > 512 + 512:
            assert failed.wait(PROMPT_S)

    committed = unit_commits(store, monkeypatch, fail)
    with pytest.raises(DiskError, match="the disk is full"):
        run(store, note)
    assert committed == store.units()[:1]
    assert 1024 <= seen[-1].views < 1024 + 512
    assert len(Store.open(store.path).missing_units()) == 3


def test_a_unit_on_its_way_is_committed_when_labelling_ends_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends it: the error is told, and what the commit says then is not."""
    store = bright_store(tmp_path)
    begun, ended = threading.Event(), threading.Event()

    def wait(number: int, unit: Unit) -> None:
        if number == 2:
            begun.set()
            assert ended.wait(PROMPT_S)

    def end(progress: FillProgress) -> None:
        if begun.is_set() and not ended.is_set():
            threading.Timer(0.2, ended.set).start()
            raise RuntimeError("the caller has had enough")

    committed = unit_commits(store, monkeypatch, wait)
    with pytest.raises(RuntimeError, match="the caller has had enough"):
        run(store, end)
    assert committed == store.units()[:3]
    assert [unit for unit in store.units() if unit not in committed] == Store.open(store.path).missing_units()
