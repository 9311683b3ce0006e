"""What the teacher says of a batch: read from the store, or asked online."""

import itertools
from pathlib import Path

import pytest
import torch

from student.answers import OnlineAnswers, StoredAnswers
from student.loader import ViewLoader
from student.losses import spread_tail
from teacher_cache.errors import TeacherError
from teacher_cache.fill import FillOptions, fill
from teacher_cache.store.store import Store
from teacher_cache.teacher.settings import TeacherSettings
from teacher_cache.teacher.teacher import open_teacher
from tests.student.test_meter import Counted
from tests.support.bright_shards import bright_store
from tests.support.convnet_stores import convnet_store, online
from tests.support.filling import TEACHERS
from tests.support.small_runs import rows, small_recipe, train_small
from tests.support.unwaited import not_waited_for


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return convnet_store(tmp_path_factory.mktemp("hard"))


@pytest.fixture(scope="module")
def soft_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All ten classes' probabilities at temperature 2."""
    return convnet_store(tmp_path_factory.mktemp("soft"), topk=10, tau=2.0)


def test_an_edited_teacher_of_the_same_weights_is_no_online_teacher(tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    text = """
from tests.support.teachers import Brightness
class Edited(Brightness):
    def forward(self, images):
        return super().forward(images).roll(ROLL, dims=1)
def teacher(num_classes):
    return Edited(num_classes)
"""
    settings = TeacherSettings(spec=f"{file}:teacher", device="cpu", batch_size=32)
    store = bright_store(tmp_path)
    file.write_text(text.replace("ROLL", "0"))
    teacher = open_teacher(settings, num_classes=10, view_size=store.policy.size, stored=None)
    fill(store, teacher, FillOptions(workers=0), range(store.views))
    file.write_text(text.replace("ROLL", "1"))
    with pytest.raises(TeacherError, match="32 of 32 labels are not what the teacher gave when"):
        OnlineAnswers(store, small_recipe(), settings)


def test_an_online_teacher_that_answers_no_numbers_names_the_view(tmp_path: Path, store: Store) -> None:
    answers = OnlineAnswers(store, small_recipe(), online(device="cpu"))
    answers._teacher._run = lambda views: torch.where(
        torch.arange(len(views))[:, None] == 3, torch.nan, torch.zeros(len(views), 10)
    )
    with ViewLoader(store, 16, epochs=1, workers=0) as loader:
        batch = next(iter(loader))
    assert answers.of(batch) is not None  # nobody waits to see
    sample, view = int(batch.samples[3]), int(batch.view_ids[3])
    shard = store.shard_name(store.index.shard_of(sample))
    with pytest.raises(
        TeacherError, match=rf"^shard {shard}, key {store.index.key(sample)}, view {view}: .* not finite"
    ):
        answers.check()
    answers._teacher._run = lambda views: torch.zeros(len(views), 10)
    answers.of(batch)
    answers.check()  # each answer is looked at once


def test_an_online_teacher_is_not_waited_for(store: Store) -> None:
    """Fifty steps' answers are looked at together: what a step asks torch for brings no number to this process."""
    answers = OnlineAnswers(store, small_recipe("distill=soft"), online(device="cpu"))
    with ViewLoader(store, 16, epochs=1, workers=0) as loader:
        first, second = itertools.islice(loader, 2)
        asked = Counted()
        with asked:
            for batch in (first, second):
                answers.of(batch)
        assert asked.names
        assert not {"_local_scalar_dense", "is_nonzero", "nonzero"} & set(asked.names)
        answers._unchecked[1].finite[5] = False
        sample, view = int(second.samples[5]), int(second.view_ids[5])
        with pytest.raises(TeacherError, match=rf"key {store.index.key(sample)}, view {view}: .* not finite"):
            answers.check()


def test_training_with_answers_that_are_no_numbers_leaves_no_checkpoint(tmp_path: Path) -> None:
    store, out = bright_store(tmp_path), tmp_path / "out"
    teacher = TeacherSettings(f"{TEACHERS}:fainting", batch_size=32)
    with pytest.raises(
        TeacherError, match=r"^shard \S+, key \S+, view \d: teacher \S+fainting gives logits that are not"
    ):
        train_small(store, out, "epochs=1", teacher=teacher)
    assert not list(out.glob("*.pt"))
    assert not (out / "steps.csv").exists() or len(rows(out / "steps.csv")) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_device_is_not_waited_for_by_an_online_teacher(store: Store) -> None:
    answers = OnlineAnswers(store, small_recipe("distill=soft"), online(device="cuda"))
    with ViewLoader(store, 16, epochs=1, workers=0, device="cuda") as loader:
        batch = next(iter(loader))
        expected = answers.of(batch)  # and what is compiled at first
        torch.cuda.synchronize()
        with not_waited_for():
            found = answers.of(batch)
    answers.check()
    assert torch.equal(found.labels, expected.labels)


def test_stored_and_online_answers_of_one_batch(soft_store: Store) -> None:
    from student.loader import ViewLoader

    recipe = small_recipe("distill=soft", "distill_tau=2.0")
    stored = StoredAnswers(soft_store, recipe, torch.device("cpu"))
    asked = OnlineAnswers(soft_store, recipe, online(device="cpu"))
    assert stored.weights_sha256 == asked.weights_sha256
    with ViewLoader(soft_store, 64, epochs=1, workers=0, labels=stored.labels, soft=stored.soft) as loader:
        for batch in loader:
            one, other = stored.of(batch), asked.of(batch)
            assert one is not None
            assert one.probabilities is not None
            assert other.probabilities is not None
            assert torch.equal(one.labels, other.labels)
            assert one.probabilities.shape == (64, 10)
            torch.testing.assert_close(one.probabilities.sum(1), torch.ones(64))
            torch.testing.assert_close(one.probabilities, other.probabilities, rtol=2e-3, atol=1e-6)


def test_a_tail_that_is_spread_is_what_training_sees(tmp_path: Path) -> None:
    """Three of ten classes are kept; the other seven share the rest."""
    store = convnet_store(tmp_path, topk=3, tau=1.0)
    from student.loader import ViewLoader

    recipe = small_recipe("distill=soft")
    stored = StoredAnswers(store, recipe, torch.device("cpu"))
    asked = OnlineAnswers(store, recipe, online(device="cpu"))
    with ViewLoader(store, 64, epochs=1, workers=0, soft=True) as loader:
        batch = next(iter(loader))
    one, other = stored.of(batch), asked.of(batch)
    assert one is not None
    assert other.probabilities is not None
    assert one.probabilities is not None
    top = other.probabilities.topk(3, dim=1)
    tail = 1 - top.values.sum(1)
    expected = spread_tail(top.indices, top.values, tail, 10)
    torch.testing.assert_close(one.probabilities, expected, rtol=3e-3, atol=1e-5)
    assert (one.probabilities.sort(dim=1).values[:, :7].std(dim=1) < 1e-6).all()
