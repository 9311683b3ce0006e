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

from student.losses import (
    TeacherAnswers,
    describe_way,
    hard_distillation_loss,
    mixed_target,
    soft_cross_entropy,
    soft_distillation_loss,
    spread_tail,
    student_loss,
    truth_loss,
)
from student.model import Heads
from student.recipe import load_recipe
from tests.support.small_runs import small_recipe

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


def naive_softmax(logits: list[float], tau: float) -> list[float]:
    powers = [math.exp(value / tau) for value in logits]
    return [power / sum(powers) for power in powers]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1 << 30), tau=st.sampled_from([1.0, 3.0]), alpha=st.sampled_from([0.1, 0.5, 1.0]))
@pytest.mark.parametrize("num_heads", [1, 2])
def test_soft_distillation_is_the_papers_and_the_codes_formula(
    num_heads: int, seed: int, tau: float, alpha: float
) -> None:
    outputs, pairs, lambdas, _ = draw(seed)
    if num_heads == 1:
        outputs = Heads(outputs.class_logits, None)
    taught = outputs.class_logits if outputs.distill_logits is None else outputs.distill_logits
    teacher = np.random.default_rng(seed + 1).normal(0, 3, taught.shape).tolist()
    target = mixed_target(pairs, lambdas, CLASSES, 0.1)
    truth = soft_cross_entropy(outputs.class_logits, target).item()

    divergence = 0.0
    for teacher_row, student_row in zip(teacher, taught.tolist(), strict=True):
        p, q = naive_softmax(teacher_row, tau), naive_softmax(student_row, tau)
        divergence += sum(one * (math.log(one) - math.log(other)) for one, other in zip(p, q, strict=True))
    probabilities = torch.tensor([naive_softmax(row, tau) for row in teacher])

    paper = soft_distillation_loss(outputs, target, probabilities, alpha, tau, "views")
    expected = (1 - alpha) * truth + alpha * tau**2 * divergence / len(teacher)
    assert paper.total.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    code = soft_distillation_loss(outputs, target, probabilities, alpha, tau, "elements")
    expected = (1 - alpha) * truth + alpha * tau**2 * divergence / (len(teacher) * CLASSES)
    assert code.total.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert code.class_loss.item() == paper.class_loss.item() == pytest.approx(truth)


def test_soft_distillation_is_torchs_as_the_released_code_calls_it() -> None:
    outputs, pairs, lambdas, _ = draw(7)
    assert outputs.distill_logits is not None
    target, teacher, tau = mixed_target(pairs, lambdas, CLASSES, 0.1), draw(8)[0].class_logits, 2.0
    log_p, log_q = (torch.log_softmax(logits / tau, dim=1) for logits in (teacher, outputs.distill_logits))
    theirs = torch.nn.KLDivLoss(reduction="sum", log_target=True)(log_q, log_p) * tau**2 / log_q.numel()
    ours = soft_distillation_loss(outputs, target, log_p.exp(), 0.5, tau, "elements")
    torch.testing.assert_close(ours.distill_loss, theirs)


def test_probabilities_of_zero_cost_nothing() -> None:
    outputs, pairs, lambdas, labels = draw(9)
    certain = torch.nn.functional.one_hot(labels, CLASSES).float()
    target = mixed_target(pairs, lambdas, CLASSES, 0.1)
    soft = soft_distillation_loss(outputs, target, certain, 1.0, 1.0, "views")
    torch.testing.assert_close(soft.total, hard_distillation_loss(outputs, target, labels, 1.0).total)


def test_the_tail_is_spread_evenly() -> None:
    classes, probabilities = torch.tensor([[2, 0], [4, 3]]), torch.tensor([[0.5, 0.25], [0.9, 0.1]])
    spread = spread_tail(classes, probabilities, torch.tensor([0.25, 0.0]), 5)
    thirds = 0.25 / 3
    expected = [[0.25, thirds, 0.5, thirds, thirds], [0.0, 0.0, 0.0, 0.1, 0.9]]
    torch.testing.assert_close(spread, torch.tensor(expected))
    whole = spread_tail(torch.tensor([[1, 0]]), torch.tensor([[0.75, 0.25]]), torch.tensor([0.0]), 2)
    torch.testing.assert_close(whole, torch.tensor([[0.25, 0.75]]))


def test_the_recipe_chooses_the_loss() -> None:
    """Every row of the paper's table 3: none, soft and hard without a token, hard with it."""
    outputs, pairs, lambdas, labels = draw(3)
    one_head = Heads(outputs.class_logits, None)
    assert outputs.distill_logits is not None
    target = mixed_target(pairs, lambdas, CLASSES, 0.1)
    hard = TeacherAnswers(labels)
    on_truth = soft_cross_entropy(outputs.class_logits, target)

    loss = student_loss(load_recipe("deit_tiny_distilled", ["distill_alpha=0.25"]), outputs, target, hard)
    taught = torch.nn.functional.cross_entropy(outputs.distill_logits, labels)
    assert torch.equal(loss.total, 0.75 * on_truth + 0.25 * taught)
    assert torch.equal(loss.distill_loss, taught)

    assert torch.equal(student_loss(load_recipe("deit_tiny"), one_head, target, None).total, on_truth)

    alone = torch.nn.functional.cross_entropy(outputs.class_logits, labels)
    for recipe in ("deit_tiny_hard", "deit_small_hard", "deit_base_hard", "cifar_tiny_hard"):
        loss = student_loss(load_recipe(recipe), one_head, target, hard)
        assert torch.equal(loss.total, 0.5 * on_truth + 0.5 * alone), recipe
    loss = student_loss(load_recipe("deit_tiny_hard", ["hard_without_token=teacher"]), one_head, target, hard)
    torch.testing.assert_close(loss.total, alone)
    with_token = student_loss(load_recipe("deit_tiny_hard"), outputs, target, hard)
    assert torch.equal(with_token.total, 0.5 * on_truth + 0.5 * taught)  # the setting is of models without one

    probabilities = torch.softmax(draw(4)[0].class_logits / 3, dim=1)
    soft = TeacherAnswers(labels, probabilities)
    for heads in (one_head, outputs):
        loss = student_loss(load_recipe("deit_tiny_soft"), heads, target, soft)
        expected = soft_distillation_loss(heads, target, probabilities, 0.1, 3.0, "views")
        assert torch.equal(loss.total, expected.total)


def test_rows_of_answers() -> None:
    answers = TeacherAnswers(torch.arange(4), torch.arange(8).reshape(4, 2).float())
    part = answers.rows(slice(1, 3))
    assert part.labels.tolist() == [1, 2]
    assert part.probabilities is not None
    assert part.probabilities.tolist() == [[2, 3], [4, 5]]
    assert TeacherAnswers(torch.arange(4)).rows(slice(2)).probabilities is None


@pytest.mark.parametrize(
    ("settings", "token", "said"),
    [
        (["distill=none"], False, None),
        (["distill=none"], True, "M has a distillation token, recipe R does not distil: both heads learn the ground"),
        (["distill=hard"], True, "recipe R distils through the distillation token of M, as the last rows of table 3"),
        (["distill=soft"], True, "recipe R distils through the distillation token of M, softly, which is no row of"),
        (
            ["distill=hard", "hard_without_token=both"],
            False,
            "M has no distillation token: recipe R teaches its class head, which is row 'hard distillation' of table 3 "
            "of arXiv 2012.12877, not one of those with the token",
        ),
        (
            ["distill=hard", "hard_without_token=teacher"],
            False,
            "M has no distillation token: recipe R teaches its class head, which is row 'hard distillation' of table 3 "
            "of arXiv 2012.12877 (by the teacher's labels alone), not one of those with the token",
        ),
        (["distill=soft"], False, "M has no distillation token: recipe R teaches its class head, which is row 'usual "),
    ],
)
def test_which_row_of_the_paper_it_is(settings: list[str], token: bool, said: str | None) -> None:
    found = describe_way(small_recipe(*settings, "name=R", "model=M"), token=token)
    assert found == said if said is None or found is None else found.startswith(said)
