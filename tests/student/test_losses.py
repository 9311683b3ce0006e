"""Losses against plain transcriptions of their formulas."""

import math

import numpy as np
import pytest
import timm.data.mixup
import timm.loss
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from student.losses import hard_distillation_loss, mixed_target, soft_cross_entropy, student_loss, truth_loss
from student.model import Heads
from student.recipe import load_recipe

CLASSES = 7


def draw(seed: int, num: int = 5) -> tuple[Heads, Tensor, Tensor, Tensor]:
    """Logits of both heads, class pairs, lambdas, labels."""
    generator = np.random.default_rng(seed)
    logits = torch.from_numpy(generator.normal(0, 3, (2, num, CLASSES)).astype(np.float32))
    pairs = torch.from_numpy(generator.integers(0, CLASSES, (num, 2)))
    lambdas = torch.from_numpy((generator.integers(0, 65537, num) / 65536).astype(np.float32))
    return Heads(logits[0], logits[1]), pairs, lambdas, torch.from_numpy(generator.integers(0, CLASSES, num))


def naive_cross_entropy(logits: list[float], target: list[float]) -> float:
    total = math.log(sum(math.exp(value) for value in logits))
    return sum(share * (total - value) for value, share in zip(logits, target, strict=True))


def naive_target(pair: list[int], share: float, smoothing: float) -> list[float]:
    def smoothed(number: int) -> list[float]:
        return [(1 - smoothing) * (number == other) + smoothing / CLASSES for other in range(CLASSES)]

    first, second = (smoothed(number) for number in pair)
    return [share * one + (1 - share) * other for one, other in zip(first, second, strict=True)]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1 << 30), smoothing=st.sampled_from([0.0, 0.1, 0.5]), alpha=st.floats(0, 1))
def test_losses_are_their_formulas(seed: int, smoothing: float, alpha: float) -> None:
    outputs, pairs, lambdas, labels = draw(seed)
    assert outputs.distill_logits is not None
    targets = [naive_target(*row, smoothing) for row in zip(pairs.tolist(), lambdas.tolist(), strict=True)]
    target = mixed_target(pairs, lambdas, CLASSES, smoothing)
    assert target.dtype == torch.float32
    torch.testing.assert_close(target, torch.tensor(targets))

    def mean(logits: Tensor, wanted: list[list[float]]) -> float:
        losses = [naive_cross_entropy(*row) for row in zip(logits.tolist(), wanted, strict=True)]
        return sum(losses) / len(losses)

    one_hot = [[float(label == number) for number in range(CLASSES)] for label in labels.tolist()]
    truth = mean(outputs.class_logits, targets)
    hard, second = mean(outputs.distill_logits, one_hot), mean(outputs.distill_logits, targets)

    loss = hard_distillation_loss(outputs, target, labels, alpha)
    assert loss.class_loss.item() == pytest.approx(truth, rel=1e-5)
    assert loss.distill_loss.item() == pytest.approx(hard, rel=1e-5, abs=1e-6)
    assert loss.total.item() == pytest.approx((1 - alpha) * truth + alpha * hard, rel=1e-5)

    loss = truth_loss(outputs, target, alpha)
    assert loss.total.item() == pytest.approx((1 - alpha) * truth + alpha * second, rel=1e-5)

    loss = truth_loss(Heads(outputs.class_logits, None), target, alpha)
    assert loss.total.item() == loss.class_loss.item() == pytest.approx(truth, rel=1e-5)
    assert loss.distill_loss.item() == 0


def test_target_is_timms_bit_for_bit() -> None:
    _, pairs, _, _ = draw(0, num=4)
    pairs[:, 1] = pairs[:, 0].flip(0)  # timm pairs a batch with its reverse, at one lambda
    theirs = timm.data.mixup.mixup_target(pairs[:, 0], CLASSES, 0.3, 0.1)
    assert torch.equal(mixed_target(pairs, torch.full((4,), 0.3, dtype=torch.float64), CLASSES, 0.1), theirs)


def test_cross_entropy_is_timms_bit_for_bit() -> None:
    outputs, pairs, lambdas, _ = draw(1)
    target = mixed_target(pairs, lambdas, CLASSES, 0.1)
    theirs = timm.loss.SoftTargetCrossEntropy()(outputs.class_logits, target)
    assert torch.equal(soft_cross_entropy(outputs.class_logits, target), theirs)


def test_half_precision_logits_are_summed_in_single() -> None:
    outputs, pairs, lambdas, labels = draw(2)
    assert outputs.distill_logits is not None
    half = Heads(outputs.class_logits.bfloat16(), outputs.distill_logits.bfloat16())
    single = Heads(outputs.class_logits.bfloat16().float(), outputs.distill_logits.bfloat16().float())
    target = mixed_target(pairs, lambdas, CLASSES, 0.1)
    losses = [hard_distillation_loss(heads, target, labels, 0.5).total for heads in (half, single)]
    assert losses[0].dtype == torch.float32
    assert torch.equal(*losses)


def test_the_recipe_chooses_the_loss() -> None:
    outputs, pairs, lambdas, labels = draw(3)
    target = mixed_target(pairs, lambdas, CLASSES, 0.1)
    hard = load_recipe("deit_tiny_distilled", ["distill_alpha=0.25"])
    loss = student_loss(hard, outputs, target, labels)
    assert torch.equal(loss.total, 0.75 * loss.class_loss + 0.25 * loss.distill_loss)
    assert torch.equal(loss.distill_loss, hard_distillation_loss(outputs, target, labels, 0.5).distill_loss)
    plain = student_loss(load_recipe("deit_tiny"), Heads(outputs.class_logits, None), target, None)
    assert torch.equal(plain.total, soft_cross_entropy(outputs.class_logits, target))
