"""What a student minimises. Pure functions: logits, mixed ground truth, teacher labels -> losses.

Views come mixed from the store, and so do their classes; nothing is mixed here but the targets.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from student.model import Heads
from student.recipe import Recipe


@dataclass(frozen=True)
class StudentLoss:
    """Means over a batch, float32 scalars: the class head's loss, the distillation head's, and what is minimised."""

    total: Tensor
    class_loss: Tensor
    distill_loss: Tensor  # 0 where there is no distillation head


def student_loss(recipe: Recipe, outputs: Heads, target: Tensor, labels: Tensor | None) -> StudentLoss:
    """The loss that the recipe asks for. target (B, C) from mixed_target, labels (B,) int64 where it distils."""
    if recipe.distill == "hard":
        assert labels is not None, "hard distillation reads labels"
        return hard_distillation_loss(outputs, target, labels, recipe.distill_alpha)
    return truth_loss(outputs, target, recipe.distill_alpha)


def hard_distillation_loss(outputs: Heads, target: Tensor, labels: Tensor, alpha: float) -> StudentLoss:
    """(1 - alpha) x the class head on the mixed truth + alpha x the distillation head on the teacher's labels.

    arXiv 2012.12877, equation 3, with the distillation token. The labels are never smoothed.
    """
    assert outputs.distill_logits is not None, "build_model refuses hard distillation without a distillation head"
    class_loss = soft_cross_entropy(outputs.class_logits, target)
    distill_loss = functional.cross_entropy(outputs.distill_logits.float(), labels)
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


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with a distribution, in float32, mean over the batch. logits, target (B, C)."""
    return torch.sum(-target * functional.log_softmax(logits.float(), dim=-1), dim=-1).mean()
