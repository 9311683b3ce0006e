"""Whether a device is found out that renders otherwise than the CPU, or not at all: tests that test_rendering.py runs
with Triton's interpreter as the device."""

import functools
import subprocess
from typing import Any

import numpy as np
import pytest
import torch

from teacher_cache.device import Normalise
from teacher_cache.errors import DeviceError, RenderError
from teacher_cache.rendering import choice as rendering
from teacher_cache.rendering import device_proof
from teacher_cache.rendering.choice import ON_CPU, Rendering, choose_rendering
from teacher_cache.rendering.device_proof import device_fault
from teacher_cache.rendering.device_streams import DeviceStreams
from teacher_cache.replay.gpu import kernels
from teacher_cache.replay.gpu.hashing import PixelHasher
from teacher_cache.replay.gpu.normalise import is_exact, normalised
from teacher_cache.replay.gpu.render import INTERPRETED, Renderer
from tests.support.bright_shards import small_policy
from tests.support.interpreter import hasten

AcceleratorError = getattr(torch, "AcceleratorError", RuntimeError)  # what torch 2.6 says of a device
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
POLICY = small_policy()
SAID = "cuda:0 (NVIDIA H100)"


@pytest.fixture(scope="module", autouse=True)
def _hastened() -> None:
    hasten()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """A CUDA device as far as a choice goes, whose kernels the interpreter runs; the devices that were proved."""
    asked: list[torch.device] = []
    found = functools.cache(device_fault.__wrapped__)  # which a test may make another

    def fault(policy: Any, device: torch.device) -> str | None:
        asked.append(device)
        return found(policy, CPU)

    assert INTERPRETED
    monkeypatch.setattr(rendering, "describe", lambda device: SAID)
    monkeypatch.setattr(rendering, "free_bytes", lambda device: 10**12)
    monkeypatch.setattr(device_proof, "device_fault", fault)
    return asked


def test_a_device_that_makes_the_cpus_bytes_is_taken(gpu: list[torch.device]) -> None:
    chosen = Rendering(CUDA, f"views are rendered on {SAID}")
    assert choose_rendering("auto", POLICY, CUDA) == chosen
    assert choose_rendering("gpu", POLICY, CUDA) == chosen
    assert gpu == [CUDA, CUDA]
    assert choose_rendering("cpu", POLICY, CUDA) == choose_rendering("auto", POLICY, CPU) == ON_CPU
    assert gpu == [CUDA, CUDA]


def test_a_device_is_proved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[object] = []
    begin = DeviceStreams.begin
    monkeypatch.setattr(DeviceStreams, "begin", lambda streams, parts: begun.append(parts) or begin(streams, parts))
    policy = small_policy("size=[9,8]")
    assert [choose_rendering("gpu", policy, CPU).device for _ in range(3)] == [CPU] * 3
    assert len(begun) == 1


def refusals(policy: Any = POLICY) -> str:
    """What is said under "auto", and "gpu" refuses with."""
    chosen = choose_rendering("auto", policy, CUDA)
    assert chosen.device is None
    with pytest.raises(DeviceError) as refused:
        choose_rendering("gpu", policy, CUDA)
    words = f"{SAID} cannot: "
    said = (chosen.said or "").removeprefix(f"views are rendered on the CPU: {words}")
    assert str(refused.value) == f"--render gpu, but {words}{said}: give --render cpu"
    return said


class Spoiled:
    """A kernel that is launched with other constants, or not at all."""

    def __init__(self, kernel: Any, **constants: int) -> None:
        self.kernel, self.constants = kernel, constants

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        if not self.constants:
            return lambda *words, **named: None
        return lambda *words, **named: self.kernel[grid](*words, **(named | self.constants))


@pytest.mark.parametrize("name", ["resize_down", "mix", "erase"])
def test_a_kernel_that_does_nothing_is_found(
    gpu: list[torch.device], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(kernels, name, Spoiled(getattr(kernels, name)))
    assert "it makes other pixels than the CPU of " in refusals(small_policy("erase={probability=0.3}"))


def test_one_level_of_one_view_is_found(gpu: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    render = Renderer.render

    def spoiled(*words: Any) -> torch.Tensor:
        views = render(*words)
        views[-1, -1, -1, -1] ^= 1
        return views

    monkeypatch.setattr(Renderer, "render", spoiled)
    assert refusals() == "it makes other pixels than the CPU of 1 of 4 made-up pictures"


def test_another_digest_is_found(gpu: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    digests = PixelHasher.digests
    monkeypatch.setattr(PixelHasher, "digests", lambda hasher, views: digests(hasher, views) ^ 1)
    assert refusals() == "it gives another digest than the CPU to the same pixels"


def test_rows_that_get_others_views_are_found(gpu: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    gather = DeviceStreams.gather
    monkeypatch.setattr(
        DeviceStreams, "gather", lambda streams, rows, memory: gather(streams, np.roll(rows, 1), memory)
    )
    assert "it makes other pixels than the CPU of " in refusals()


@pytest.mark.parametrize(
    ("where", "error", "said"),
    [
        (
            "render",
            RuntimeError("Failed to find C compiler. Please specify via CC\nat 3"),
            "RuntimeError: Failed to find",
        ),
        (
            "render",
            FileNotFoundError(2, "No such file or directory", "ptxas"),
            "FileNotFoundError: [Errno 2] No such file",
        ),
        ("render", subprocess.CalledProcessError(1, ["gcc", "-O3"]), "CalledProcessError: Command '['gcc', '-O3']'"),
        (
            "render",
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB"),
            "OutOfMemoryError: CUDA out of",
        ),
        ("render", NotImplementedError(), "NotImplementedError"),
        (
            "begin",
            AcceleratorError("CUDA error: an illegal memory access\nCUDA kernel"),
            f"{AcceleratorError.__name__}: CUDA",
        ),
        ("pin", RuntimeError("operation not supported (801)"), "RuntimeError: operation not supported (801)"),
        ("SharedMemory", RenderError("no shared memory of 1 MB"), "RenderError: no shared memory of 1 MB"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_is_told_by_its_first_line(
    gpu: list[torch.device], monkeypatch: pytest.MonkeyPatch, where: str, error: Exception, said: str
) -> None:
    def failing(*words: Any) -> None:
        raise error

    place = {"render": Renderer, "begin": DeviceStreams}.get(where, device_proof)
    monkeypatch.setattr(place, where, failing)
    told = refusals()
    assert told.startswith(said)
    assert "\n" not in told
    assert "at 3" not in told


def test_a_device_that_hangs_is_not_waited_for(gpu: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    class Never:
        def query(self) -> bool:
            return False

    begin = DeviceStreams.begin

    def hanging(streams: DeviceStreams, parts: Any) -> Any:
        begun = begin(streams, parts)
        object.__setattr__(begun, "rendered", Never())
        return begun

    monkeypatch.setattr(DeviceStreams, "begin", hanging)
    monkeypatch.setattr(device_proof, "ANSWER_S", 0.01)
    held = len(device_proof._READ_FOR_EVER)
    assert refusals() == "TimeoutError: it renders nothing within 0.01 s"
    assert len(device_proof._READ_FOR_EVER) == held + 1


def test_a_device_that_answers_nothing_any_more_is_refused_whatever_is_asked(
    gpu: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*words: Any) -> None:
        raise AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA")

    monkeypatch.setattr(DeviceStreams, "begin", failing)
    monkeypatch.setattr(device_proof, "_answers", lambda device: False)
    for asked in ("auto", "gpu"):
        with pytest.raises(
            DeviceError, match=rf"does not answer .* \({AcceleratorError.__name__}: .*encountered\): start again with"
        ):
            choose_rendering(asked, POLICY, CUDA)


def test_normalisation_is_proved_too(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.rand(3, 256)
    assert is_exact(values)
    assert is_exact(values.bfloat16())
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "normalise", Spoiled(kernels.normalise))
        assert not is_exact(values)
        patch.setattr(kernels, "normalise", None)  # which cannot be launched
        assert not is_exact(values)


def test_no_views_at_all_are_normalised_too() -> None:
    """As on the CPU: a loop of one's own may come to an empty batch."""
    none, values = torch.empty((0, 8, 6, 3), dtype=torch.uint8), torch.rand(3, 256)
    assert normalised(none, values).shape == Normalise((0.5,) * 3, (0.5,) * 3, CPU)(none).shape == (0, 3, 8, 6)
