"""A store in a notebook: labels as arrays, views as pictures, nothing that writes."""

from pathlib import Path

import numpy as np
import pytest

import teacher_cache
from teacher_cache.audit.sample import describe_sample, describe_view, render_views
from teacher_cache.errors import StoreError
from teacher_cache.store.store import Store
from teacher_cache.store.unit import Unit
from tests.support.bright_shards import bright_store
from tests.support.drawn import all_labels, commit_labels


def test_notebook(soft_labels: Store) -> None:
    store, labels = teacher_cache.open_store(str(soft_labels.path)), all_labels(soft_labels)
    assert repr(store) == f"OpenStore(store=Store('{soft_labels.path}'))"
    assert (store.labels() == labels).all()
    assert store.labels().dtype == np.int16
    assert (store.labels([3, 0]) == labels[:, [3, 0]]).all()
    assert (store.labels(range(1, 3)) == labels[:, 1:3]).all()
    assert (store.labels(2) == labels[:, 2]).all()
    assert (store.votes().own == (labels == soft_labels.index.classes[:, None]).sum(axis=1)).all()
    key = soft_labels.index.key(66)
    (pictures,) = render_views(soft_labels, 66, [1])[1]
    for name in (66, key, f"train-0000.tar/{key}"):
        assert (store.render(name, 1) == pictures.mixed).all()
        assert (store.render(name, 1, mixed=False) == pictures.unmixed).all()
        assert (store.image(name) == render_views(soft_labels, 66, [])[0]).all()
        assert store.view(name, 1) == describe_view(soft_labels, 66, 1)
        assert store.sample(name) == describe_sample(soft_labels, 66)
    for number in (-1, 260):
        with pytest.raises(StoreError, match="samples 0 to 259"):
            store.render(number, 0)
    assert (store.labels(np.int64(2)) == labels[:, 2]).all()
    for asked in (lambda: store.render(0, 4), lambda: store.labels(4), lambda: store.labels([0, 4])):
        with pytest.raises(StoreError, match="there is no view 4"):
            asked()
    with pytest.raises(StoreError, match="there is no view -1"):
        store.labels(-1)
    with pytest.raises(TypeError):
        store.image(2.5)


def test_a_notebook_is_offered_nothing_that_writes(soft_labels: Store) -> None:
    store = teacher_cache.open_store(str(soft_labels.path))
    assert (store.path, store.views, store.seed) == (soft_labels.path, soft_labels.views, soft_labels.seed)
    assert (store.policy, store.class_names, store.teacher) == (
        soft_labels.policy,
        soft_labels.class_names,
        soft_labels.teacher,
    )
    assert (store.index.classes == soft_labels.index.classes).all()
    offered = {name for name in dir(store) if not name.startswith("_")}
    assert not offered & {"commit_unit", "extend", "move", "bind", "create", "publish_teacher", "publish_proof"}
    facts = "store path views seed policy teacher class_names index labels votes number sample view image render"
    assert offered == set(facts.split())
    assert not store.store.writable


def test_labels_of_what_is_not_filled(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    commit_labels(store, Unit(0, 1, 1), np.full((64, 2), 7))
    assert (teacher_cache.open_store(str(store.path)).labels() == all_labels(store)).all()
