"""Memory that serves again only when nobody holds it, normalisation to the bit, copies beside the device's work."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from student.cli import main as student_main
from teacher_cache.cli import main as teacher_cache_main
from teacher_cache.device import (
    KEPT,
    PIECE,
    Normalise,
    RecycledMemory,
    Upload,
    choose_device,
    memory_format,
    use_device,
)
from teacher_cache.errors import DeviceError
from teacher_cache.store.store import Store
from teacher_cache.teacher.settings import TeacherSettings
from tests.support.filling import TEACHERS
from tests.support.small_runs import SMALL, filled_store, student, train_small

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """65 samples, all labelled."""
    return filled_store(tmp_path_factory.mktemp("filled"), counts=(65,))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, filled: Store) -> Path:
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("trained")
    train_small(filled, out, "epochs=1")
    return out


def drawn_views(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8))


# -- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hold", [lambda t: t, lambda t: t[1:, :2], lambda t: t.numpy(), lambda t: t.untyped_storage()])
def test_memory_serves_again_only_when_nobody_holds_it(hold: Callable[[Tensor], Any]) -> None:
    memory = RecycledMemory()
    first = memory.empty((4, 3), torch.float32)
    place = first.data_ptr()
    held = hold(first)
    del first
    second = memory.empty((4, 3), torch.float32)
    assert second.data_ptr() != place
    del held
    third = memory.empty((3, 4), torch.int32)  # as many bytes
    assert third.data_ptr() == place
    assert (third.shape, third.dtype, place % 64) == ((3, 4), torch.int32, 0)


def test_other_sizes_do_not_share_memory_and_little_is_kept() -> None:
    memory = RecycledMemory()
    many = [memory.empty((number + 1,), torch.uint8) for number in range(KEPT + 3)]
    assert len({tensor.data_ptr() for tensor in many}) == len(many)
    del many
    assert len(memory._free) == KEPT


# -- normalisation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(7, 5), (8, 8), (224, 224)])
def test_a_views_bits_depend_on_nothing_but_the_view(size: tuple[int, int]) -> None:
    views = drawn_views(9, *size)
    assert size != (224, 224) or views.numel() > PIECE  # in pieces
    normalise = Normalise(MEAN, STD, CPU)
    together = normalise(views)
    assert together.is_contiguous(memory_format=torch.channels_last)
    expected = (views.numpy() / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(together.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)
    alone = torch.cat([normalise(view[None]) for view in views])
    assert torch.equal(alone, together)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(normalise(views), together)
    finally:
        torch.set_num_threads(threads)


def all_levels() -> Tensor:
    """(1, 16, 16, 3) uint8: each of the 256 levels in each channel."""
    return torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).repeat(1, 1, 1, 3)


def same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(*(images.contiguous().view(torch.int16) for images in (one, other)))


def by_hand(mean: float, std: float) -> np.ndarray:
    """(256,) float32: every operation rounded by itself."""
    shift = np.float32(255) * np.float32(mean)
    scale = np.float32(1) / (np.float32(255) * np.float32(std))
    return np.array([np.float32(np.float32(level) - shift) * scale for level in range(256)], np.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_level_is_normalised_by_one_written_arithmetic(dtype: torch.dtype) -> None:
    normalise = Normalise(MEAN, STD, CPU, dtype)
    expected = torch.from_numpy(np.stack([by_hand(*each) for each in zip(MEAN, STD, strict=True)])).to(dtype)
    shown = normalise(all_levels())
    assert (shown.dtype, shown.is_contiguous(memory_format=torch.channels_last)) == (dtype, True)
    assert same_bits(shown.reshape(3, 256), expected)
    assert same_bits(normalise.values, expected)
    assert same_bits(normalise(all_levels().float()), shown)


@pytest.mark.parametrize(
    ("dtype", "digest"),
    [(torch.float32, "1bc79cc7d46ed8f1"), (torch.bfloat16, "19b7eb14dcab3589"), (torch.float16, "d145cb83059fc500")],
)
def test_what_models_are_given_is_frozen(dtype: torch.dtype, digest: str) -> None:
    """A store's labels, and the losses of runs that go on, hang on these bits."""
    values = Normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), CPU, dtype).values
    assert hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest()[:16] == digest


def test_normalised_views_stay_as_they_are_while_they_are_held() -> None:
    normalise = Normalise(MEAN, STD, CPU)
    weight = torch.ones(4, 3, 1, 1, requires_grad=True)
    first, second = drawn_views(2, 6, 6, seed=1), drawn_views(2, 6, 6, seed=2)
    loss = (nn.functional.conv2d(normalise(first), weight) ** 2).sum()  # autograd holds the images
    normalise(second)
    loss.backward()
    held = weight.grad.clone()
    weight.grad = None
    (nn.functional.conv2d(normalise(first), weight) ** 2).sum().backward()
    assert torch.equal(weight.grad, held)


def test_weights_have_their_channels_last_on_a_gpu_alone() -> None:
    assert memory_format(torch.device("cuda", 1)) is torch.channels_last
    assert memory_format(CPU) is torch.preserve_format


# -- copies and answers beside the device's work -------------------------------------------------------------------


def test_on_the_cpu_nothing_is_copied() -> None:
    views = drawn_views(2, 4, 4)
    assert [tensor.data_ptr() for tensor in Upload(CPU)([views])] == [views.data_ptr()]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("by_kernel", [True, False])
def test_normalised_on_cuda_are_the_cpus_bits_in_channels_last(dtype: torch.dtype, by_kernel: bool) -> None:
    cuda = torch.device("cuda")
    on_cpu, on_cuda = Normalise(MEAN, STD, CPU, dtype), Normalise(MEAN, STD, cuda, dtype)
    on_cuda._by_kernel = by_kernel
    for views in (drawn_views(9, 7, 5), all_levels()):
        for given in (views, views.float()):
            shown = on_cuda(given.to(cuda))
            assert (shown.dtype, shown.is_contiguous(memory_format=torch.channels_last)) == (dtype, True)
            assert same_bits(shown.cpu(), on_cpu(given))


@pytest.mark.gpu
@needs_gpu
def test_uploaded_batches_are_whole_although_memory_serves_again() -> None:
    device = torch.device("cuda")
    upload, memory = Upload(device), RecycledMemory(pin=True)
    busy = torch.randn(4096, 4096, device=device)
    sums = []
    for number in range(40):
        views = memory.empty((64, 64, 64, 3), torch.uint8)
        assert views.is_pinned()
        views.fill_(number)
        (moved,) = upload([views])
        for _ in range(4):  # so that the device is behind
            busy = busy @ busy.T / 4096
        sums.append(moved.double().mean())
        del views, moved
        assert len(upload._given) <= 1
    assert [float(total) for total in sums] == list(range(40))


# -- which device --------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine of so many GPUs, on which this is one of so many ranks."""

    def pretend(num_gpus: int, local_rank: int = 0, ranks: int = 1) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
        for name, value in (("LOCAL_RANK", local_rank), ("LOCAL_WORLD_SIZE", ranks), ("WORLD_SIZE", ranks)):
            if ranks == 1:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, str(value))

    return pretend


@pytest.mark.parametrize(
    ("asked", "there", "chosen"),
    [
        (None, (0,), "cpu"),
        (None, (0, 1, 2), "cpu"),
        (None, (1,), "cuda:0"),
        (None, (4, 3, 4), "cuda:3"),
        ("cpu", (4, 3, 4), "cpu"),
        ("cuda", (2,), "cuda:0"),
        ("cuda", (4, 2, 4), "cuda:2"),
        ("cuda:1", (2,), "cuda:1"),
    ],
)
def test_a_device_is_chosen_with_its_index(
    machine: Callable[..., None], asked: str | None, there: tuple[int, ...], chosen: str
) -> None:
    machine(*there)
    assert choose_device(asked) == torch.device(chosen)


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [("cpu", "cpu"), ("cpu:0", "cpu"), ("cuda", "cuda:2"), ("cuda:0", "cuda:0"), ("cuda:3", "cuda:3")],
)
def test_a_device_of_torchs_is_taken_as_it_is_meant(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, asked: str, chosen: str
) -> None:
    """Also by a rank that is not alone, whose caller knows which is its own."""
    machine(4, 1, 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    assert choose_device(torch.device(asked)) == torch.device(chosen)


@pytest.mark.parametrize(
    ("asked", "there", "message"),
    [
        (torch.device("cuda"), (0,), r"--device cuda, but torch .* finds no GPU here"),
        (torch.device("cuda", 4), (4,), r"--device cuda:4, but this machine's GPUs are cuda:0 to cuda:3"),
        (torch.device("mps"), (4,), r"--device mps is not a device"),
        ("cuda", (0,), r"--device cuda, but torch .* finds no GPU here: leave --device out to use the CPU, or check"),
        ("cuda:0", (0,), r"--device cuda:0, but torch .* finds no GPU here"),
        ("cuda:2", (2,), r"--device cuda:2, but this machine's GPUs are cuda:0 to cuda:1: give one of them"),
        ("cuda:1", (2, 0, 2), r"--device cuda:1 would be the one GPU of 2 ranks: give --device cuda, each"),
        ("cuda", (2, 2, 4), r"rank 2 of this machine has no GPU of its own, it has 2: start 2 ranks here"),
        (None, (2, 2, 4), r"rank 2 of this machine has no GPU of its own, it has 2"),
        ("gpu", (2,), r"--device gpu is not a device that is served: give cpu, cuda, or cuda:N for one GPU"),
        ("mps", (0,), r"--device mps is not a device"),
        ("meta", (0,), r"--device meta is not a device"),
        ("cuda:", (2,), r"--device cuda: is not a device"),
        ("cuda:-1", (2,), r"--device cuda:-1 is not a device"),
        ("", (2,), r"--device  is not a device"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    machine: Callable[..., None], asked: str | torch.device | None, there: tuple[int, ...], message: str
) -> None:
    machine(*there)
    with pytest.raises(DeviceError, match=f"^{message}"):
        choose_device(asked)


def test_what_is_chosen_is_made_the_current_device(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(4, 3, 4)
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert use_device("cuda") == use_device(torch.device("cuda", 3)) == torch.device("cuda", 3)
    assert [device.index for device in current] == [3, 3]
    use_device("cpu")
    assert len(current) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("command", ["fill", "verify", "train", "online", "finetune", "evaluate"])
def test_every_command_refuses_a_gpu_that_is_not_there(
    command: str, tmp_path: Path, filled: Store, trained: Path
) -> None:
    store, checkpoint = str(filled.path), str(trained / "checkpoint.pt")
    training = [store, "--recipe", SMALL, "--set", student("two_heads"), "--out", str(tmp_path / "out")]
    teacher, model = ["--teacher", f"{TEACHERS}:brightness"], student("two_heads").partition("=")[2]
    group, words = {
        "fill": (teacher_cache_main, ["fill", store, *teacher]),
        "verify": (teacher_cache_main, ["verify", store, *teacher]),
        "train": (student_main, ["train", *training]),
        "online": (student_main, ["train", *training, *teacher]),
        "finetune": (
            student_main,
            ["finetune", checkpoint, "--model", model, *training],
        ),
        "evaluate": (student_main, ["evaluate", checkpoint, "--val", str(filled.index.shards[0].path)]),
    }[command]
    result = CliRunner().invoke(group, [*words, "--device", "cuda"])
    assert result.exit_code == 1, result.output
    (line,) = result.output.splitlines()
    assert line.startswith(f"error: --device cuda, but torch {torch.__version__} finds no GPU here: leave --device out")


# -- the same switches for all -------------------------------------------------------------------------------------


def switches() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic


@pytest.fixture
def other_switches() -> Iterator[Callable[[], None]]:
    """Set what a user's own loop, or torch's defaults, may have set otherwise."""
    before = switches()

    def turn(*values: bool) -> None:
        torch.backends.cuda.matmul.allow_tf32 = values[0]
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = values[1:3]
        torch.backends.cudnn.deterministic = values[3]

    yield lambda: turn(True, True, True, False)
    turn(*before)


def test_cached_and_online_trainings_and_evaluations_run_under_the_same_switches(
    tmp_path: Path, filled: Store, trained: Path, other_switches: Callable[[], None]
) -> None:
    online = TeacherSettings(f"{TEACHERS}:brightness")
    words = ["evaluate", str(trained / "checkpoint.pt"), "--val", str(filled.index.shards[0].path)]
    runs: dict[str, Callable[[], object]] = {
        "cached": lambda: train_small(filled, tmp_path / "cached", "epochs=1"),
        "online": lambda: train_small(filled, tmp_path / "online", "epochs=1", teacher=online),
        "evaluate": lambda: CliRunner().invoke(student_main, [*words, "--workers", "0"], catch_exceptions=False),
    }
    found = {}
    for name, run in runs.items():
        other_switches()
        run()
        found[name] = switches()
    assert found == dict.fromkeys(runs, (False, False, False, True))
