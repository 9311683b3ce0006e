"""Labels that name no teacher, as in a copy of a store that broke off: whatever rests on them says so."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from student.preflight import topk_faults
from teacher_cache.publish import publish
from teacher_cache.status_text import print_status
from teacher_cache.store.status import nobodys_labels, status
from teacher_cache.store.store import Store
from teacher_cache.verify import verify
from tests.support.bright_shards import bright_store
from tests.support.filling import fill_store
from tests.support.small_runs import filled_store, train_small


def test_whatever_rests_on_labels_says_that_they_are_nobodys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = filled_store(tmp_path, counts=(65,), views=2)
    heard: list[str] = []
    verify(store, 1.0, say=heard.append)
    train_small(store, tmp_path / "named", "epochs=2", said=heard)
    assert nobodys_labels(store) is None
    assert not any("whose labels" in line for line in heard)

    shutil.rmtree(store.path / "teacher")
    copy, said = Store.open(store.path), []
    warning = (
        f"warning: {store.path} does not say whose labels it holds: its teacher/ is absent, as in a copy that broke "
        "off: restore that, unless the labels are simulated"
    )
    assert verify(copy, 1.0, say=said.append).exact
    assert said == [warning]
    train_small(copy, tmp_path / "nobodys", "epochs=2", said=said)
    assert said.count(warning) == 2
    train_small(copy, tmp_path / "none asked", "epochs=2", "distill=none", said=said)
    assert said.count(warning) == 2
    publish(copy, str(tmp_path / "published"))
    assert warning in capsys.readouterr().err.splitlines()
    print_status(status(copy))
    assert "teacher its teacher/ is absent" in " ".join(capsys.readouterr().out.split())
    (fault,) = topk_faults(copy)
    assert str(fault) == f"soft labels are wanted, and {warning.removeprefix('warning: ')}"


def test_a_store_without_labels_has_no_teacher_yet(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(65,), views=2)
    assert nobodys_labels(store) is None
    assert "is not filled yet" in str(*topk_faults(store))
    fill_store(store)
    assert nobodys_labels(Store.open(store.path)) is None


def test_a_fill_that_begins_meanwhile_is_somebodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who labels is there before the first label, but a reader may look for the one, and then for the other."""
    store, committed = bright_store(tmp_path, counts=(65,), views=2), Store.committed

    def filled_meanwhile(reader: Store) -> np.ndarray:
        monkeypatch.setattr(Store, "committed", committed)
        fill_store(Store.open(store.path, writable=True))
        return committed(reader)

    monkeypatch.setattr(Store, "committed", filled_meanwhile)
    assert nobodys_labels(Store.open(store.path)) is None
