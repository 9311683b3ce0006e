"""Whether a device renders as the CPU does: what is rendered to know it, and a CUDA device that does or does not. How
faults are told is in interpreted_proof.py, on Triton's interpreter."""

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch

from teacher_cache.replay.block import draw_blocks, mix_of
from teacher_cache.replay.params import NONE
from teacher_cache.replay.policy import Policy, load_policy

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed, which comes with torch for CUDA"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
POLICIES = {
    "deit": load_policy("deit", ["size=[24,32]"]),
    "AutoAugment": load_policy(
        "deit", ["size=24", "rand_augment=none", "auto_augment={}", "erase={mode='rand',count=2,probability=0.5}"]
    ),
    "transfer": load_policy("transfer", ["size=[17,9]"]),
    "none": load_policy("none", ["size=8"]),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_few_views_have_all_that_is_done_in_any(policy: Policy) -> None:
    from teacher_cache.rendering.device_proof import CHOSEN_FROM, SEED, MadeUpBlock, telling_views

    decoded = MadeUpBlock(policy.size)
    views = telling_views(policy, decoded)
    assert 1 <= len(views) == len(set(views)) <= 8

    def done(views: Any) -> dict[str, set]:
        drawn = draw_blocks(policy, SEED, [decoded], views)
        mixes = [mix_of(policy, SEED, decoded, view) for view in views]
        mixed = [mix.partners != np.arange(decoded.num_samples) for mix in mixes]
        return {
            "operations": set(drawn.operations[drawn.operations != NONE].tolist()),
            "flips": set(drawn.flips.tolist()),
            "erased": set(np.argwhere(drawn.erased[:, :, 2] > 0)[:, 1].tolist()),
            "pasted": {pasted for mix, own in zip(mixes, mixed, strict=True) for pasted in mix.boxes[own, 2] > 0},
        }

    assert done(views) == done(range(CHOSEN_FROM))
    if policy.rand_augment is not None:
        assert len(done(views)["operations"]) > 10
        assert done(views)["pasted"] == done(views)["flips"] == {False, True}


def test_made_up_pictures_are_of_all_kinds() -> None:
    from teacher_cache.rendering.device_proof import MadeUpBlock

    decoded = MadeUpBlock((24, 32))
    pictures = [decoded.image(position) for position in decoded.present]
    assert [decoded.image_size(position) for position in decoded.present] == [each.shape[:2] for each in pictures]
    assert sum(each.nbytes for each in pictures) <= decoded.num_bytes
    grey = [bool((each == each[:, :, :1]).all()) for each in pictures]
    assert grey == [False, True, False, False]
    assert all(len(np.unique(each)) > 20 for each in pictures)
    assert all(each.dtype == np.uint8 and each.flags.c_contiguous for each in pictures)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_cuda_device_makes_the_cpus_bytes(policy: Policy) -> None:
    from teacher_cache.rendering.choice import choose_rendering
    from teacher_cache.rendering.device_proof import device_fault

    device = torch.device("cuda", torch.cuda.current_device())
    assert device_fault(policy, device) is None
    assert choose_rendering("auto", policy, device).device == device


@pytest.mark.gpu
@needs_gpu
def test_a_cuda_device_that_does_not_is_found_and_still_serves_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from teacher_cache.rendering import device_proof
    from teacher_cache.rendering.device_proof import device_fault
    from teacher_cache.replay.gpu import kernels
    from teacher_cache.replay.gpu.render import Renderer

    device, found = torch.device("cuda", torch.cuda.current_device()), device_fault.__wrapped__

    class Idle:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *words, **named: None

    with monkeypatch.context() as patch:
        patch.setattr(kernels, "mix", Idle())
        assert "other pixels than the CPU" in (found(POLICIES["deit"], device) or "")

    def hungry(*words: Any) -> torch.Tensor:
        return torch.empty(1 << 50, dtype=torch.uint8, device=device)

    with monkeypatch.context() as patch:
        patch.setattr(Renderer, "render", hungry)
        assert (found(POLICIES["deit"], device) or "").startswith("OutOfMemoryError: CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(device_proof, "ANSWER_S", 0.001)
        patch.setattr(device_proof, "_answers", lambda device: True)
        render = Renderer.render

        def sleeping(*words: Any) -> torch.Tensor:
            torch.cuda._sleep(1 << 30)
            return render(*words)

        patch.setattr(Renderer, "render", sleeping)
        assert found(POLICIES["deit"], device) == "TimeoutError: it renders nothing within 0.001 s"
    assert device_proof._answers(device)
    assert torch.ones(3, device=device).sum().item() == 3


@pytest.mark.gpu
@needs_gpu
def test_memory_that_cannot_be_pinned_is_told_and_leaves_no_error_behind() -> None:
    from teacher_cache.rendering.device_proof import _answers
    from teacher_cache.rendering.device_streams import pin, unpin

    device = torch.device("cuda", torch.cuda.current_device())
    memory = torch.empty(1 << 20, dtype=torch.uint8)
    pin(memory, device)
    with pytest.raises(RuntimeError, match="already"):
        pin(memory, device)
    unpin(memory, device)
    assert _answers(device)
    assert torch.ones(3, device=device).sum().item() == 3


@pytest.mark.gpu
@needs_gpu
def test_levels_are_normalised_as_on_the_cpu_where_the_kernel_is_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    from teacher_cache.device import Normalise
    from teacher_cache.replay.gpu import kernels

    views = torch.randint(0, 256, (2, 16, 8, 3), dtype=torch.uint8)
    words = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = Normalise(*words, torch.device("cpu"))(views)
    by_kernel = Normalise(*words, torch.device("cuda"))
    assert by_kernel._by_kernel
    monkeypatch.setattr(kernels, "normalise", None)
    by_torch = Normalise(*words, torch.device("cuda"))
    assert not by_torch._by_kernel
    monkeypatch.undo()
    for normalise in (by_kernel, by_torch):
        assert torch.equal(normalise(views.cuda()).cpu(), expected)
