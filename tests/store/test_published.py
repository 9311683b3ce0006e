"""What the first of several processes makes in a store: its teacher, the arrays of topk."""

import threading
from pathlib import Path

import pytest
import zarr

from teacher_cache.errors import TeacherError
from teacher_cache.store.store import Store
from teacher_cache.store.unit import Unit
from teacher_cache.teacher.identity import TeacherIdentity
from tests.support.filled_store import (
    TOPK,
    UNIT,
    Killed,
    commit,
    copied,
    drawn_proof,
    files,
    make_soft_store,
    make_store,
)
from tests.support.interrupted import count_writes, kill_before


def test_a_second_teacher_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    identity = TeacherIdentity("regnety_160", weights_sha256="ab", mean=(0.5, 0.5, 0.5))
    store.publish_teacher(identity)
    before = files(store.path)
    assert Store.open(store.path).teacher == identity
    with pytest.raises(TeacherError, match="bound to teacher regnety_160 already, resnet50 cannot fill it"):
        store.publish_teacher(TeacherIdentity("resnet50"))
    assert files(store.path) == before


def test_one_of_many_teachers_at_once_wins(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s").path
    start = threading.Barrier(8)
    refused: list[str] = []

    def publish(name: str) -> None:
        start.wait()
        try:
            Store.open(path, writable=True).publish_teacher(TeacherIdentity(name))
        except TeacherError:
            refused.append(name)

    threads = [threading.Thread(target=publish, args=(f"t{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    teacher = Store.open(path).teacher
    assert teacher is not None
    assert sorted([*refused, teacher.name]) == [f"t{number}" for number in range(8)]
    assert not list(path.rglob("*.partial"))


@pytest.mark.parametrize("identity", [TeacherIdentity("first"), TOPK], ids=["labels", "topk"])
def test_a_publication_killed_between_any_two_writes_is_whole_or_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, identity: TeacherIdentity
) -> None:
    empty, whole = make_store(tmp_path / "empty"), make_store(tmp_path / "whole")
    with monkeypatch.context() as patch:
        written = count_writes(patch)
        whole.publish_teacher(identity, drawn_proof())
    commit(whole, UNIT)
    mark = written.index("teacher/zarr.json")
    assert mark > 3
    for number, name in enumerate(written):
        store = copied(empty, tmp_path / f"s{number}")
        with monkeypatch.context() as patch:
            kill_before(patch, number)
            with pytest.raises(Killed):
                store.publish_teacher(identity, drawn_proof())
        assert Store.open(store.path).teacher == (identity if number > mark else None), name
        reopened = Store.open(store.path, writable=True)
        if number == 0:
            reopened.publish_teacher(identity, drawn_proof())
        else:  # what the killed one has put is as good as there
            with pytest.raises(TeacherError, match=f"bound to teacher {identity.name} already"):
                reopened.publish_teacher(TeacherIdentity("second"), drawn_proof())
        reopened.finish_pending()
        list(zarr.open_group(str(store.path), mode="r").members())  # warns of stray files, were there any
        commit(reopened, UNIT)
        assert files(reopened.path) == files(whole.path), name
        assert not list(tmp_path.glob(f"s{number}.*")), name


def test_a_second_job_makes_the_arrays_that_the_first_has_not_made_yet(tmp_path: Path) -> None:
    """Two stores opened before there was a teacher; the one that binds it is slow to make the arrays."""
    first, second = make_store(tmp_path / "s"), Store.open(tmp_path / "s", writable=True)
    assert first.bind(TOPK)
    with pytest.raises(TeacherError, match="bound to teacher soft already"):
        second.publish_teacher(TOPK)
    commit(second, UNIT)
    commit(first, Unit(0, 0, 0))
    whole = make_soft_store(tmp_path / "whole")
    commit(whole, UNIT)
    commit(whole, Unit(0, 0, 0))
    assert files(first.path) == files(whole.path)


def test_of_teachers_at_once_with_different_topk_the_arrays_are_the_winners(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s").path
    start = threading.Barrier(6)
    refused: list[int] = []

    def publish(topk: int) -> None:
        start.wait()
        store = Store.open(path, writable=True)
        try:
            store.publish_teacher(TeacherIdentity("t", topk=topk, tau=1.0))
        except TeacherError:
            refused.append(topk)

    threads = [threading.Thread(target=publish, args=(topk,)) for topk in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = Store.open(path, writable=True)
    assert sorted([*refused, store.topk]) == list(range(1, 7))
    assert store.read_array("topk_classes", UNIT).shape[2] == store.topk
    assert store.read_array("topk_probabilities", UNIT).shape[2] == store.topk + 1
    list(zarr.open_group(str(path), mode="r").members())
    assert not list(path.rglob("*.partial"))


def test_many_writers_at_once_make_the_same_arrays(tmp_path: Path) -> None:
    store, whole = make_store(tmp_path / "s"), make_soft_store(tmp_path / "whole")
    assert store.bind(TOPK)
    start = threading.Barrier(8)
    opened: list[Store] = []

    def open_it() -> None:
        start.wait()
        opened.append(Store.open(store.path, writable=True))

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 8
    assert files(store.path) == files(whole.path)


def test_extend_while_the_first_fill_has_no_teacher_yet(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    Store.open(store.path, writable=True).extend(8)
    store.publish_teacher(TOPK)
    commit(store, UNIT)
    reopened = Store.open(store.path, writable=True)
    commit(reopened, Unit(0, 1, 3))
    reopened.check_unit(UNIT)
