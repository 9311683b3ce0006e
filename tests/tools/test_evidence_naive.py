"""A naive cache's labels: against what each is said to be, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from teacher_cache.replay.block import view_mix
from teacher_cache.replay.policy import Policy, load_policy
from teacher_cache.store.labels import read_views
from teacher_cache.store.status import status
from teacher_cache.store.store import Store
from teacher_cache.verify import verify
from tests.support.bright_shards import bright_store, small_policy, spoil_image
from tests.support.filling import fill_store
from tools.evidence.errors import EvidenceError
from tools.evidence.naive import rewrite

COUNTS = (70, 130)


def filled(folder: Path, name: str, policy: Policy, *, skip_bad: bool = False, views: int = 4) -> Store:
    """A store over folder/shards, labelled by random weights, whose labels depend on every pixel."""
    store = bright_store(folder, counts=COUNTS, policy=policy, name=name, views=views, group=min(2, views))
    fill_store(store, "convnet", skip_bad=skip_bad, allow_low_agreement=True)
    return Store.open(store.path)


def empty(folder: Path, name: str) -> Store:
    return bright_store(folder, counts=COUNTS, policy=small_policy(), name=name)


def whole_pictures(folder: Path, **options: bool) -> Store:
    return filled(folder, "whole", load_policy("none", ["size=8"]), views=1, **options)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    """Mixed views and whole pictures of the same shards, in a folder where there is room for others of them."""
    folder = tmp_path_factory.mktemp("stores")
    return filled(folder, "source", small_policy()), whole_pictures(folder)


def test_one_label_an_image(stores: tuple[Store, Store]) -> None:
    source, labels = stores
    target = empty(source.path.parent, "one-label")
    assert rewrite("one_label", source, labels, target) == len(source.units())
    again = Store.open(target.path)
    found = read_views(again)
    assert (found == read_views(labels)[:, :1]).all()
    assert (found != read_views(source)).any()
    for unit in source.units():
        assert (again.read_unit(unit).digests == source.read_unit(unit).digests).all()
    assert verify(again, 1.0).exact  # records, and the digests of pixels that are rendered again
    assert again.teacher is not None
    assert again.teacher.name.endswith("teachers.py:convnet, one_label")
    assert rewrite("one_label", source, labels, Store.open(target.path, writable=True)) == 0


def test_a_mixed_view_has_the_label_of_the_crop_that_covers_most_of_it(stores: tuple[Store, Store]) -> None:
    source, folder = stores[0], stores[0].path.parent
    unmixed, target = filled(folder, "plain", small_policy("mix=none")), empty(folder, "larger-crop")
    rewrite("larger_crop", source, unmixed, target)
    found, before = read_views(target), read_views(unmixed)
    taken = own_larger = 0
    for shard, count in enumerate(COUNTS):
        for first in range(0, count, 64):
            samples = range(
                int(source.index.starts[shard]) + first, int(source.index.starts[shard]) + min(count, first + 64)
            )
            for view in range(source.views):
                mix = view_mix(
                    source.policy,
                    source.seed,
                    shard=source.shard_name(shard),
                    block=first // 64,
                    num_samples=len(samples),
                    skipped=frozenset(),
                    view=view,
                )
                for position, sample in enumerate(samples):
                    partner = samples[int(mix.partners[position])]
                    larger = sample if int(mix.lambdas[position]) >= 32768 else partner
                    assert found[sample, view] == before[larger, view]
                    taken += larger != sample
                    own_larger += larger == sample
    assert taken > 50
    assert own_larger > 50
    agreement = status(target)["agreement"]
    assert agreement["either"] >= max(agreement["own"], agreement["larger"])


def test_a_skipped_sample_stays_skipped(tmp_path: Path) -> None:
    spoilt = bright_store(tmp_path, counts=COUNTS, policy=small_policy(), name="made")
    spoil_image(spoilt, 66)
    options = {"skip_bad": True}
    source = filled(tmp_path, "source", small_policy(), **options)
    target = empty(tmp_path, "target")
    rewrite("one_label", source, whole_pictures(tmp_path, **options), target)
    found = read_views(target)
    assert (found[66] == -2).all()
    assert (np.delete(found, 66, axis=0) >= 0).all()


def test_stores_that_do_not_fit_each_other_are_refused(stores: tuple[Store, Store], tmp_path: Path) -> None:
    source, labels = stores
    folder = source.path.parent
    cases = [
        ("one_label", source, source, empty(folder, "a"), "has 4 views, one label an image is of one"),
        ("larger_crop", source, source, empty(folder, "b"), "does not hold the views of .* before they are mixed"),
        ("larger_crop", source, labels, empty(folder, "c"), "does not hold the views of .* before they are mixed"),
        ("one_label", empty(folder, "d"), labels, empty(folder, "e"), "d is not filled to its end: run `teacher"),
        ("one_label", source, empty(folder, "f"), empty(folder, "g"), "f is not filled to its end: run `teacher"),
    ]
    for kind, one, two, target, message in cases:
        with pytest.raises(EvidenceError, match=message):
            rewrite(kind, one, two, target)
        assert target.teacher is None
    other = bright_store(folder, counts=COUNTS, policy=small_policy(), name="other-seed", seed=4)
    with pytest.raises(EvidenceError, match="other-seed has other views than "):
        rewrite("one_label", source, labels, other)
    elsewhere = bright_store(tmp_path / "elsewhere", counts=(65,), policy=small_policy())
    with pytest.raises(EvidenceError, match="index other shards: index the same ones"):
        rewrite("one_label", source, labels, elsewhere)


def test_the_teacher_of_rewritten_labels_is_not_the_one_that_gave_them(stores: tuple[Store, Store]) -> None:
    source, labels = stores
    target = empty(source.path.parent, "of-another-teacher")
    rewrite("one_label", source, labels, target)
    assert source.teacher is not None
    assert replace(source.teacher, name="") == replace(target.teacher or source.teacher, name="")
    assert target.teacher != source.teacher
