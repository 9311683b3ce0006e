"""Counting what a model answers on validation shards: class head, distillation head, both fused; its teacher too."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from student.model import Fusion, Heads, fused, heads, token_blocks
from student.tokens import token_cosines
from student.validation import Batch, ValidationSet
from teacher_cache.device import Normalise
from teacher_cache.errors import TrainingError
from teacher_cache.job import meeting
from teacher_cache.teacher.teacher import Teacher, classify_views

Accuracy = dict[str, dict[str, float]]  # head -> {"top1", "top5"} in [0, 1]
ANSWERS = ("truth", "teacher", "class", "distillation", "fused_softmax_sum", "fused_logit_mean")


@dataclass(frozen=True)
class Tally:
    """Counts over all ranks' samples, each counted once; A = len(ANSWERS), in that order."""

    given: Tensor  # (A,) samples answered; 0 where this model, or a run without teacher, has no such answer
    top1: Tensor  # (A,) right
    top5: Tensor  # (A,) right among the five
    real_top1: Tensor  # (A,) one of the true classes, of samples that have any
    real_samples: int  # samples that have a true class
    differing: Tensor  # (A, A) samples on which two answer differently
    token_cosine: tuple[float, ...]  # mean cosine of class and distillation token after each block; () without both

    @property
    def answers(self) -> list[str]:
        """Those that were given."""
        return [name for name, given in zip(ANSWERS, self.given.tolist(), strict=True) if given]


def evaluate(
    model: nn.Module,
    validation: ValidationSet,
    device: torch.device,
    *,
    batch_size: int = 256,
    fusion: Fusion = "softmax_sum",
) -> Accuracy:
    """Top-1 and top-5 over all ranks' samples by "class", "distillation" and "fused".

    A model without a distillation head has only "class". The model is left in the mode it was in.
    """
    [found] = evaluate_all([model], validation, device, batch_size=batch_size, fusion=fusion)
    return found


def evaluate_all(
    models: Sequence[nn.Module],
    validation: ValidationSet,
    device: torch.device,
    *,
    batch_size: int = 256,
    fusion: Fusion = "softmax_sum",
) -> list[Accuracy]:
    """`evaluate` of several models, by views that are rendered once."""
    return [_accuracy(counts, fusion) for counts in tally_all(models, validation, device, batch_size=batch_size)]


def _accuracy(counts: Tally, fusion: Fusion) -> Accuracy:
    names = {"class": "class", "distillation": "distillation", f"fused_{fusion}": "fused"}
    numbers = {ANSWERS.index(answer): head for answer, head in names.items() if answer in counts.answers}
    given, top1, top5 = counts.given.tolist(), counts.top1.tolist(), counts.top5.tolist()
    return {
        head: {"top1": top1[number] / given[number], "top5": top5[number] / given[number]}
        for number, head in numbers.items()
    }


def tally(model: nn.Module, validation: ValidationSet, device: torch.device, **options: Any) -> Tally:
    """`tally_all` of one model."""
    [counts] = tally_all([model], validation, device, **options)
    return counts


@torch.inference_mode()
def tally_all(
    models: Sequence[nn.Module],
    validation: ValidationSet,
    device: torch.device,
    *,
    batch_size: int = 256,
    tta: Literal["flip"] | None = None,
    teacher: Teacher | None = None,
    real: Tensor | None = None,
) -> list[Tally]:
    """Run models, and a teacher, over the validation views. Every rank must call it; all get the same counts.

    tta "flip": logits are the mean over a view and its mirror image; the teacher sees the view alone. real is
    student.real.read_real's. The models are left in the mode they were in. Raises TrainingError, naming the first
    sample of this rank, for logits that are not finite.
    """
    were_training = [model.training for model in models]
    for model in models:
        model.eval()
    normalise = Normalise(validation.preprocessing.mean, validation.preprocessing.std, device)
    counts = [_Counts(len(token_blocks(model))) for model in models]
    for batch, teacher_scores in _with_teacher(validation, validation.batches(batch_size), teacher):
        views, true = batch.views.to(device), None if real is None else real[batch.samples]
        for model, counted in zip(models, counts, strict=True):
            images = normalise(views)  # for each its own: a model may write to them
            with token_cosines(model) as in_blocks:
                outputs = heads(model, images)
            if in_blocks:
                counted.cosines += torch.stack(in_blocks).double().sum(dim=1).cpu()
            if tta == "flip":
                outputs = _mean(outputs, heads(model, images.flip(3)))
            _check_finite(outputs, batch, validation)
            counted.add(_five_best(_scores(outputs, teacher_scores)), batch.classes, true)
    for model, was_training in zip(models, were_training, strict=True):
        model.train(was_training)
    for counted in counts:
        counted.add_ranks(device)
    return [counted.tally() for counted in counts]


class _Counts:
    """A Tally while it grows; in float64, which holds counts exactly and is added over ranks in one tensor.

    A rank without samples knows no answers, and adds up all the same.
    """

    def __init__(self, num_blocks: int) -> None:
        num = len(ANSWERS)
        shapes = ((num,), (num,), (num,), (num,), (1,), (num, num), (num_blocks,))
        self._all = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
        (
            self.given,
            self.top1,
            self.top5,
            self.real_top1,
            self.real_samples,
            self.differing,
            self.cosines,
        ) = self._all

    def add(self, five: dict[int, Tensor], classes: Tensor, true: Tensor | None) -> None:
        """Count a batch. five: answer's number -> its best classes (B, 5 or fewer); classes (B,); true (B, C) bool."""
        first = {number: ranking[:, 0] for number, ranking in five.items()} | {0: classes}
        for number, answer in first.items():
            self.given[number] += len(answer)
            self.top1[number] += (answer == classes).sum()
            self.top5[number] += (five[number] == classes[:, None]).sum() if number else len(answer)
            if true is not None:
                self.real_top1[number] += true.gather(1, answer[:, None]).sum()
            for other in first:
                self.differing[number, other] += (answer != first[other]).sum()
        if true is not None:
            self.real_samples += true.any(dim=1).sum()

    def add_ranks(self, device: torch.device) -> None:
        """Add up all ranks' counts."""
        if not dist.is_initialized():
            return
        together = torch.cat([part.flatten() for part in self._all]).to(device)
        with meeting("the end of an evaluation"):
            dist.all_reduce(together)
        for part, added in zip(self._all, together.cpu().split([part.numel() for part in self._all]), strict=True):
            part.copy_(added.view(part.shape))

    def tally(self) -> Tally:
        return Tally(
            given=self.given.long(),
            top1=self.top1.long(),
            top5=self.top5.long(),
            real_top1=self.real_top1.long(),
            real_samples=int(self.real_samples),
            differing=self.differing.long(),
            token_cosine=tuple((self.cosines / self.given[0]).tolist()),
        )


def _five_best(scores: dict[str, Tensor]) -> dict[int, Tensor]:
    """Answer's number -> its best classes, (B, 5) or fewer where there are fewer, the best first."""
    return {ANSWERS.index(name): each.topk(min(5, each.shape[1])).indices.cpu() for name, each in scores.items()}


def _check_finite(outputs: Heads, batch: Batch, validation: ValidationSet) -> None:
    for head, logits in (("class", outputs.class_logits), ("distillation", outputs.distill_logits)):
        if logits is None or bool((finite := torch.isfinite(logits).all(dim=1)).all()):
            continue
        sample = int(batch.samples[finite.logical_not().nonzero()[0, 0].cpu()])
        raise TrainingError(
            f"{validation.where(sample)}: the {head} head's logits are not finite, so the weights are of no use: take "
            "an earlier checkpoint, or train again at a lower rate"
        )


def _scores(outputs: Heads, teacher_scores: np.ndarray | None) -> dict[str, Tensor]:
    """Answer -> scores (B, C), of those that there are."""
    scores = {"class": outputs.class_logits.float()}
    if outputs.distill_logits is not None:
        scores["distillation"] = outputs.distill_logits.float()
        scores["fused_softmax_sum"] = fused(outputs, "softmax_sum")
        scores["fused_logit_mean"] = fused(outputs, "logit_mean")
    if teacher_scores is not None:
        scores["teacher"] = torch.from_numpy(teacher_scores)
    return scores


def _mean(one: Heads, two: Heads) -> Heads:
    if one.distill_logits is None or two.distill_logits is None:
        return Heads((one.class_logits + two.class_logits) / 2, None)
    return Heads((one.class_logits + two.class_logits) / 2, (one.distill_logits + two.distill_logits) / 2)


def _with_teacher(
    validation: ValidationSet, batches: Iterable[Batch], teacher: Teacher | None
) -> Iterator[tuple[Batch, np.ndarray | None]]:
    """Each batch with the teacher's logits (B, C); they come at the teacher's own batch shape."""
    if teacher is None:
        yield from ((batch, None) for batch in batches)
    else:
        shown = ((batch, batch.views) for batch in batches)
        yield from classify_views(teacher, shown, lambda batch, row: validation.where(int(batch.samples[row])))
