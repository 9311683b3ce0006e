"""What a student minimises. Pure functions: logits, mixed ground truth, teacher labels -> losses.

Views come mixed from the store, and so do their classes; nothing is mixed here but the targets.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from student.model import Heads
from student.recipe import Recipe


@dataclass(frozen=True)
class StudentLoss:
    """Means over a batch, float32 scalars: what is minimised, the truth's part and the teacher's, before weighting."""

    total: Tensor
    class_loss: Tensor  # the class head on the mixed truth
    distill_loss: Tensor  # on the teacher's answers, by the distillation head or the only one; see truth_loss for none


@dataclass(frozen=True)
class TeacherAnswers:
    """What a teacher says of a batch. probabilities are at the recipe's temperature, for soft distillation only."""

    labels: Tensor  # (B,) int64
    probabilities: Tensor | None = None  # (B, C) float32

    def rows(self, rows: slice) -> "TeacherAnswers":
        return TeacherAnswers(self.labels[rows], None if self.probabilities is None else self.probabilities[rows])


def student_loss(recipe: Recipe, outputs: Heads, target: Tensor, answers: TeacherAnswers | None) -> StudentLoss:
    """The loss that the recipe asks for. target (B, C) from mixed_target; answers where it distils."""
    alpha = recipe.distill_alpha
    if recipe.distill == "none":
        return truth_loss(outputs, target, alpha)
    assert answers is not None, "distillation needs a teacher's answers"
    if recipe.distill == "soft":
        assert answers.probabilities is not None, "soft distillation needs probabilities"
        return soft_distillation_loss(
            outputs, target, answers.probabilities, alpha, recipe.distill_tau, recipe.soft_mean
        )
    if outputs.distill_logits is None and recipe.hard_without_token == "teacher":
        alpha = 1.0
    return hard_distillation_loss(outputs, target, answers.labels, alpha)


def hard_distillation_loss(outputs: Heads, target: Tensor, labels: Tensor, alpha: float) -> StudentLoss:
    """(1 - alpha) x the class head on the mixed truth + alpha x the distillation head on the teacher's labels.

    arXiv 2012.12877, equation 3: with the distillation token; without one the class head learns both. The labels are
    never smoothed.
    """
    class_loss = soft_cross_entropy(outputs.class_logits, target)
    distill_loss = functional.cross_entropy(_taught(outputs).float(), labels)
    return StudentLoss((1 - alpha) * class_loss + alpha * distill_loss, class_loss, distill_loss)


def soft_distillation_loss(
    outputs: Heads,
    target: Tensor,
    probabilities: Tensor,
    alpha: float,
    tau: float,
    mean: Literal["views", "elements"],
) -> StudentLoss:
    """(1 - alpha) x the class head on the mixed truth + alpha tau^2 KL(teacher || student), both at temperature tau.

    arXiv 2012.12877, equation 2, is of one sample, so its mean is over "views"; the released code divides by views x
    classes ("elements"). The paper writes KL(student, teacher) and does not say which is which; its code, and the soft
    distillation that it cites, measure the student by the teacher. probabilities (B, C): the teacher's, at tau.
    """
    class_loss = soft_cross_entropy(outputs.class_logits, target)
    log_student = functional.log_softmax(_taught(outputs).float() / tau, dim=1)
    divergence = functional.kl_div(log_student, probabilities, reduction="sum")
    count = probabilities.numel() if mean == "elements" else len(probabilities)
    distill_loss = tau**2 * divergence / count
    return StudentLoss((1 - alpha) * class_loss + alpha * distill_loss, class_loss, distill_loss)


def truth_loss(outputs: Heads, target: Tensor, alpha: float) -> StudentLoss:
    """The mixed truth alone. A second head, if there is one, learns it too, with weight alpha.

    That is the paper's control experiment of two class tokens (arXiv 2012.12877, section 4).
    """
    class_loss = soft_cross_entropy(outputs.class_logits, target)
    if outputs.distill_logits is None:
        return StudentLoss(class_loss, class_loss, torch.zeros_like(class_loss))
    distill_loss = soft_cross_entropy(outputs.distill_logits, target)
    return StudentLoss((1 - alpha) * class_loss + alpha * distill_loss, class_loss, distill_loss)


def spread_tail(classes: Tensor, probabilities: Tensor, tail: Tensor, num_classes: int) -> Tensor:
    """The K largest probabilities, and the mass of all other classes spread evenly over them.

    classes (B, K) int64, probabilities (B, K), tail (B,) -> (B, num_classes) float32.
    """
    others = num_classes - classes.shape[1]
    even = tail.float()[:, None] / max(1, others)
    return even.expand(-1, num_classes).scatter(1, classes, probabilities.float())


def mixed_target(class_pairs: Tensor, lambdas: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Smooth and blend the classes of mixed views, as timm's Mixup does.

    class_pairs (B, 2) int64, lambdas (B,) in [0, 1] for the first of each pair -> (B, num_classes) float32.
    """
    off = smoothing / num_classes
    on = 1.0 - smoothing + off
    one_hot = torch.full((2, len(class_pairs), num_classes), off, device=class_pairs.device)
    first, second = one_hot.scatter_(2, class_pairs.T[:, :, None], on)
    share = lambdas[:, None].float()
    return first * share + second * (1.0 - share)


def _taught(outputs: Heads) -> Tensor:
    """The logits that learn from the teacher."""
    return outputs.class_logits if outputs.distill_logits is None else outputs.distill_logits


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with a distribution, in float32, mean over the batch. logits, target (B, C)."""
    return torch.sum(-target * functional.log_softmax(logits.float(), dim=-1), dim=-1).mean()


def describe_way(recipe: Recipe, *, token: bool) -> str | None:
    """Which training this is among the paper's, as recipe and model together decide; None without distillation.

    token: whether the model has a distillation token, or another second head.
    """
    table = "table 3 of arXiv 2012.12877"
    if recipe.distill == "none":
        if not token:
            return None
        return (
            f"{recipe.model} has a distillation token, recipe {recipe.name} does not distil: both heads learn the "
            "ground truth, the control of two class tokens in section 4 of arXiv 2012.12877"
        )
    if token:
        rows = f"as the last rows of {table}" if recipe.distill == "hard" else f"softly, which is no row of {table}"
        return f"recipe {recipe.name} distils through the distillation token of {recipe.model}, {rows}"
    row = "hard distillation" if recipe.distill == "hard" else "usual distillation"
    by_labels = recipe.distill == "hard" and recipe.hard_without_token == "teacher"
    alone = " (by the teacher's labels alone)" if by_labels else ""
    return (
        f"{recipe.model} has no distillation token: recipe {recipe.name} teaches its class head, which is row '{row}' "
        f"of {table}{alone}, not one of those with the token"
    )
