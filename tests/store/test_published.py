"""What the first of several processes makes in a store: its teacher, the arrays of topk."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zarr

from teacher_cache import files as files_module
from teacher_cache.errors import DiskError, StoreError, TeacherError
from teacher_cache.store import published
from teacher_cache.store.published import publish_attributes
from teacher_cache.store.store import Store
from teacher_cache.store.unit import TOPK_ARRAYS, Unit
from teacher_cache.teacher.identity import TeacherIdentity
from tests.support.filled_store import TOPK, UNIT, Killed, commit, files, fill, make_soft_store, make_store


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


@pytest.mark.parametrize("at", ["before", "after"])
def test_a_killed_publication_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    store, whole = make_store(tmp_path / "s"), make_store(tmp_path / "whole")
    whole.publish_teacher(TeacherIdentity("first"))

    def killed(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a process that is dead tidies nothing
    if at == "before":
        monkeypatch.setattr(Path, "rename", killed)
    else:
        monkeypatch.setattr(files_module, "sync", lambda path: killed() if path == store.path else None)
    with pytest.raises(Killed):
        store.publish_teacher(TeacherIdentity("first"))
    monkeypatch.undo()
    reopened = Store.open(store.path, writable=True)
    assert reopened.teacher == (None if at == "before" else TeacherIdentity("first"))
    list(zarr.open_group(str(store.path), mode="r").members())  # warns of stray files, were there any
    if at == "before":
        reopened.publish_teacher(TeacherIdentity("first"))
    assert files(store.path) == files(whole.path)


@pytest.mark.parametrize("at", ["mkdir", "write", "sync", "rename", "between"])
def test_killed_between_binding_a_teacher_and_making_its_arrays_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    whole = make_soft_store(tmp_path / "whole")
    fill(whole)
    store = make_store(tmp_path / "s")
    made = 0

    def killed_before(real: Callable[..., Any], match: str) -> Callable[..., Any]:
        def call(path: Path, *arguments: Any, **options: Any) -> Any:
            nonlocal made
            if match in str((path, *arguments)) and (store.path / "teacher").exists():
                made += 1
                if made > (at == "between"):  # "between": the first array is there, the second is not
                    raise Killed
            return real(path, *arguments, **options)

        return call

    with monkeypatch.context() as patch:
        if at == "mkdir":
            patch.setattr(Path, "mkdir", killed_before(Path.mkdir, "publishing"))
        elif at == "write":
            patch.setattr(Path, "write_bytes", killed_before(Path.write_bytes, "publishing"))
        elif at == "sync":
            patch.setattr(files_module, "sync_tree", killed_before(files_module.sync_tree, "publishing"))
        else:
            patch.setattr(Path, "rename", killed_before(Path.rename, "topk"))
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a process that is dead tidies nothing
        with pytest.raises(Killed):
            store.publish_teacher(TOPK)
    assert Store.open(store.path).teacher == TOPK
    assert sum((store.path / name).exists() for name in TOPK_ARRAYS) == (at == "between")
    list(zarr.open_group(str(store.path), mode="r").members())  # warns of stray files, were there any
    with pytest.raises(StoreError, match="holds no topk_classes: run `teacher-cache fill"):
        Store.open(store.path).read_array("topk_classes", UNIT)
    reopened = Store.open(store.path, writable=True)
    assert not list(reopened.path.rglob("*.partial"))
    fill(reopened)
    assert files(reopened.path) == files(whole.path)


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


def test_a_group_whose_parent_is_gone_is_told_and_not_tried_for_ever(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", any_device=True)
    with pytest.raises(DiskError, match=r"teacher/device-\w+ cannot be written"):
        commit(store, UNIT)
    assert not list(store.path.rglob("*.partial"))


def test_a_sweep_in_the_middle_of_a_publication_leaves_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process opens the store to write, and sweeps what is aside, while this one writes it."""
    store, real, swept = make_store(tmp_path / "s"), Path.write_bytes, []

    def write(file: Path, content: bytes) -> int:
        written = real(file, content)
        if not swept:
            swept.append(file)
            published.sweep_unpublished(store.path)
        return written

    monkeypatch.setattr(Path, "write_bytes", write)
    assert publish_attributes(
        store.path, "teacher", {"name": "t"}, {"device/zarr.json": b"{}", "device/proof/c/0": b"x"}
    )
    monkeypatch.undo()
    assert swept
    assert set(files(store.path / "teacher")) == {"zarr.json", "device/zarr.json", "device/proof/c/0"}
    assert not list(store.path.rglob("*.partial"))
