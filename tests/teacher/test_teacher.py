"""A teacher that runs: opened as asked and as stored, its logits at one batch shape, and answers that are refused."""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from teacher_cache.device import RecycledMemory
from teacher_cache.errors import TeacherError
from teacher_cache.fill import FillOptions, fill
from teacher_cache.teacher import teacher as module
from teacher_cache.teacher.identity import TeacherIdentity
from teacher_cache.teacher.settings import TeacherSettings
from teacher_cache.teacher.teacher import Teacher, classify_views, device_name, driver_version, open_teacher
from teacher_cache.verify import verify
from tests.support.bright_shards import bright_store
from tests.support.filling import TEACHERS, fill_store, open_test_teacher

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def drawn_views(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8))


# -- opening -------------------------------------------------------------------------------------------------------


def test_later_fills_take_the_teachers_settings_as_defaults(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_store(store, views=range(2))
    assert store.teacher is not None
    settings = TeacherSettings(store.teacher.spec, device="cpu")
    teacher = open_teacher(settings, num_classes=10, view_size=(8, 8), stored=store.teacher)
    assert teacher.identity == store.teacher
    with pytest.raises(TeacherError, match=r"the store's teacher .*add --teacher \S+/teachers.py:brightness if you"):
        open_teacher(TeacherSettings(device="cpu"), num_classes=10, view_size=(8, 8), stored=store.teacher)


def test_class_counts_that_differ_are_refused(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    with pytest.raises(TeacherError, match="gives 13 classes, the store has 10"):
        open_test_teacher(store, "too_many_classes")
    with pytest.raises(TeacherError, match="teacher resnet10t gives 1,000 classes, the store has 10: bring it"):
        open_teacher(TeacherSettings("resnet10t"), num_classes=10, view_size=(8, 8), stored=None)


def test_logits_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"a black view: teacher \S+not_finite gives logits .*not finite.*--dtype"):
        open_test_teacher(bright_store(tmp_path), "not_finite")


def test_a_teacher_that_answers_no_numbers_names_the_first_view(tmp_path: Path) -> None:
    """In the first batch, which it proves itself by, and in any later one, whose views lie across blocks."""
    message = r"^shard (\S+), key (\S+), view (\d+): teacher \S+fainting gives logits that are not finite at fp32: use"
    with pytest.raises(TeacherError, match=message) as refused:
        fill_store(bright_store(tmp_path), "fainting")
    early = re.match(message, str(refused.value))
    assert early is not None
    whole = bright_store(tmp_path, name="whole")
    fill_store(whole)
    unit = whole.units()[0]
    block = whole.layout.blocks(unit)[0]
    brightest = int((whole.read_unit(unit).labels[:32, 0] == 9).argmax())
    assert early.groups() == (whole.shard_name(0), whole.index.place(0, block).keys[brightest], "0")

    store = bright_store(tmp_path, name="late")
    teacher = open_test_teacher(store)
    healthy, asked = teacher._run, 0

    def faint(views: torch.Tensor) -> torch.Tensor:
        nonlocal asked
        asked += 1
        logits = healthy(views)
        if asked == 9:
            logits[5] = torch.inf
        return logits

    teacher._run = faint
    with pytest.raises(TeacherError, match=r"not finite at fp32") as refused:
        fill(store, teacher, FillOptions(workers=0), range(store.views))
    found = re.match(message.replace("fainting", "brightness"), str(refused.value))
    assert found is not None
    shard, key, view = found.groups()
    views: list[tuple[str, str, int]] = []  # in the order of filling: four proofs' batches of 32, then blocks by view
    for unit in store.units():
        for block in store.layout.blocks(unit):
            keys = store.index.place(unit.shard, block).keys
            for number in store.layout.group_views(unit.group):
                views += [(store.shard_name(unit.shard), each, number) for each in keys]
    assert (shard, key, int(view)) == views[(9 - 1 - 4) * 32 + 5]

    audited = open_test_teacher(whole)
    audited._run = faint
    asked = 8
    with pytest.raises(TeacherError, match=r"^shard \S+, key \S+, view \d+: .* not finite at fp32"):
        verify(whole, 1.0, teacher=audited, workers=0)


def test_a_teacher_of_its_own_says_what_it_is_and_is_not_trained(tmp_path: Path) -> None:
    spec = f"{TEACHERS}:convnet"
    teacher = open_teacher(TeacherSettings(spec, device="cpu"), num_classes=10, view_size=(8, 8), stored=None)
    identity = teacher.identity
    assert (identity.name, identity.spec, identity.num_classes) == ("teachers.py:convnet", spec, 10)
    assert (identity.device, identity.torch, identity.cuda) == (device_name(CPU), torch.__version__, None)
    assert (identity.batch_size, identity.dtype, identity.input_size, identity.compile) == (64, "fp32", None, False)
    assert teacher.build()["threads"] == torch.get_num_threads()
    assert not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    torch.save(teacher.model.state_dict(), tmp_path / "weights.pt")
    again = open_teacher(
        TeacherSettings(spec, str(tmp_path / "weights.pt"), device="cpu"),
        num_classes=10,
        view_size=(8, 8),
        stored=None,
    )
    assert again.identity.name == "teachers.py:convnet (weights.pt)"
    assert again.identity.weights_sha256 == identity.weights_sha256


def two_heads(num_classes: int) -> nn.Module:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(192, num_classes)

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.head(images.flatten(1))
            return logits, logits

    return TwoHeads()


def test_a_teacher_that_gives_no_tensor_is_refused() -> None:
    settings = TeacherSettings(f"{__file__}:two_heads", device="cpu")
    with pytest.raises(TeacherError, match=r"two_heads gives a tuple, one tensor of logits .* is expected: let its"):
        open_teacher(settings, num_classes=5, view_size=(8, 8), stored=None)


def test_views_of_another_size_are_resized_or_refused_with_what_to_do() -> None:
    def open_for(input_size: int | None) -> Teacher:
        settings = TeacherSettings(f"{__file__}:small_of_eight", device="cpu", input_size=input_size)
        return open_teacher(settings, num_classes=5, view_size=(12, 12), stored=None)

    with pytest.raises(TeacherError, match=r"small_of_eight does not take views of 12 x 12: .*: give --input-size"):
        open_for(None)
    assert open_for(8).logits(drawn_views(3, 12, 12).numpy()).shape == (3, 5)


class Raising(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise self.error


def wrong_value(num_classes: int) -> nn.Module:
    return Raising(ValueError("24 patches\nare expected"))


def bare_assertion(num_classes: int) -> nn.Module:
    return Raising(AssertionError())


def too_large(num_classes: int) -> nn.Module:
    return Raising(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes"))


@pytest.mark.parametrize(("function", "said"), [("wrong_value", "24 patches"), ("bare_assertion", "AssertionError")])
def test_a_teacher_that_fails_is_told_in_one_line(function: str, said: str) -> None:
    settings = TeacherSettings(f"{__file__}:{function}", device="cpu")
    told = rf"{function} does not take views of 8 x 8: {said}: give --input-size, or correct the model"
    with pytest.raises(TeacherError, match=told):
        open_teacher(settings, num_classes=5, view_size=(8, 8), stored=None)


def test_a_batch_that_memory_has_no_room_for_is_told_as_that() -> None:
    settings = TeacherSettings(f"{__file__}:too_large", device="cpu")
    with pytest.raises(RuntimeError, match="can't allocate memory"):  # which the command tells as memory's
        open_teacher(settings, num_classes=5, view_size=(8, 8), stored=None)


@pytest.mark.parametrize("kernel_module", ["x86_64 Kernel Module", "Open Kernel Module for x86_64"])
def test_a_driver_is_read_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel_module: str
) -> None:
    said = tmp_path / "version"
    monkeypatch.setattr(module, "Path", lambda place: said)
    assert driver_version() is None
    said.write_text(f"NVRM version: NVIDIA UNIX {kernel_module}  580.65.06  Release Build\nGCC version:  gcc 13.2.0\n")
    assert driver_version() == "580.65.06"


# -- running -------------------------------------------------------------------------------------------------------


class LateTeacher:
    """Gives logits when they are asked for, as a device does that is still at work: each view's sum."""

    on_cuda = True
    num_classes = 1

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.under_way: list[Tensor] = []
        self.most = 0

    def submit(self, views: Tensor) -> "LateTeacher":
        self.under_way.append(views)
        self.most = max(self.most, len(self.under_way))
        return self

    def result(self) -> np.ndarray:
        return self.under_way.pop(0).float().sum((1, 2, 3))[:, None].numpy()

    def check_finite(self, logits: np.ndarray, where: Callable[[int], str]) -> None:
        assert np.isfinite(logits).all()


def nowhere(start: int, row: int) -> str:
    return f"{start} {row}"


@pytest.mark.parametrize("batch_size", [4, 5, 64])
def test_a_batch_is_put_together_while_the_one_before_is_under_way(
    monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    monkeypatch.setattr(
        "teacher_cache.teacher.teacher.RecycledMemory", lambda *, pin: RecycledMemory()
    )  # no CUDA, no pinned memory
    teacher = LateTeacher(batch_size)
    views = drawn_views(23, 4, 4).numpy()
    slot = np.empty((6, 4, 4, 3), np.uint8)  # used again for every item

    def items() -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, 23, 6):
            some = views[start : start + 6]
            slot[: len(some)] = some
            yield start, slot[: len(some)]
            slot[:] = 0

    answers = list(classify_views(teacher, items(), nowhere))
    assert [start for start, _ in answers] == [0, 6, 12, 18]
    assert np.array_equal(np.concatenate([logits for _, logits in answers])[:, 0], views.sum((1, 2, 3)))
    assert teacher.most == min(2, -(-23 // batch_size))


def small_teacher(device: torch.device, batch_size: int) -> Teacher:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(5)).eval()
    model(torch.zeros(1, 3, 8, 8))
    identity = TeacherIdentity("small", batch_size=batch_size, num_classes=5, mean=MEAN, std=STD)
    return Teacher(model.to(device).to(memory_format=torch.channels_last), identity, device)


def check_classified(device: torch.device) -> None:
    teacher = small_teacher(device, 16)
    views = drawn_views(70, 8, 8).numpy()
    cuts = (0, 16, 32, 40, 64, 70)  # whole batches where they lie, parts of one, a short last one
    found = classify_views(teacher, ((cut, views[cut:stop]) for cut, stop in pairwise(cuts)), nowhere)
    together = np.concatenate([logits for _, logits in found])
    assert np.array_equal(together, np.concatenate([teacher.logits(views[n : n + 16]) for n in range(0, 70, 16)]))
    assert np.array_equal(together, teacher.logits_on_device(torch.from_numpy(views)).cpu().numpy())


def test_answers_are_the_same_however_they_are_asked_for() -> None:
    check_classified(CPU)


@pytest.mark.gpu
@needs_gpu
def test_answers_are_the_same_however_they_are_asked_for_on_cuda() -> None:
    check_classified(torch.device("cuda"))


def small_of_eight(num_classes: int) -> nn.Module:
    """A model that takes images of 8 x 8 alone."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, num_classes))


def test_a_row_does_not_depend_on_its_neighbours_or_their_number() -> None:
    teacher = small_teacher(CPU, 16)
    views = drawn_views(16, 8, 8).numpy()
    together = teacher.logits(views)
    assert together.dtype == np.float32
    for rows in (slice(0, 1), slice(3, 4), slice(5, 16)):
        assert np.array_equal(teacher.logits(views[rows]), together[rows])


def test_logits_for_a_loss_may_be_kept_by_its_graph() -> None:
    logits = small_teacher(CPU, 16).logits_on_device(drawn_views(3, 8, 8))
    (logits * torch.ones(3, 5, requires_grad=True)).sum().backward()
    with pytest.raises(TeacherError, match="view 1 of a batch: teacher small gives logits that are not finite at fp32"):
        faint(small_teacher(CPU, 16), 1).logits(drawn_views(3, 8, 8).numpy())


def faint(teacher: Teacher, row: int) -> Teacher:
    """The teacher, whose logits of a row are not finite."""
    run = teacher._run

    def spoiled(views: Tensor) -> Tensor:
        logits = run(views)
        logits[row] = torch.nan
        return logits

    teacher._run = spoiled
    return teacher


def test_a_row_that_is_not_finite_is_named_by_its_item() -> None:
    views = drawn_views(6, 8, 8).numpy()
    items = [("a", views[:3]), ("b", views[3:3]), ("c", views[3:])]
    with pytest.raises(TeacherError, match=r"^c 1: teacher small gives"):
        list(classify_views(faint(small_teacher(CPU, 16), 4), items, lambda tag, row: f"{tag} {row}"))
    found = classify_views(small_teacher(CPU, 4), items, lambda tag, row: f"{tag} {row}")
    assert [(tag, len(logits)) for tag, logits in found] == [("a", 3), ("b", 0), ("c", 3)]
