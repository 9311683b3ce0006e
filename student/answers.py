"""A teacher's answers to a batch: read from the store, or given online, on the very same views."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from student.faults import refuse
from student.loader import Batch
from student.losses import TeacherAnswers, spread_tail
from student.preflight import online_faults, tau_faults
from student.recipe import Recipe
from teacher_cache.messages.shown import counted
from teacher_cache.prove import check_online
from teacher_cache.rendering.choice import RENDER_DEFAULT, Render, choose_rendering, open_render_pool
from teacher_cache.rendering.crew import PoolSettings
from teacher_cache.store.status import nobodys_labels
from teacher_cache.store.store import Store
from teacher_cache.teacher.identity import DECIDING_FIELDS, SOFT_FIELDS, TeacherIdentity
from teacher_cache.teacher.settings import TeacherSettings
from teacher_cache.teacher.teacher import Teacher, open_teacher


class StoredAnswers:
    """The store's labels and, for soft distillation, its K largest probabilities. Raises RecipeError."""

    def __init__(self, store: Store, recipe: Recipe, device: torch.device) -> None:
        self.labels = recipe.distill != "none"  # what the loader shall read
        self.soft = recipe.distill == "soft"
        self._store, self._num_classes, self._device = store, store.num_classes, device
        if self.soft:
            refuse(tau_faults(store, recipe))
        teacher = store.teacher if self.labels else None
        self.weights_sha256 = None if teacher is None else teacher.weights_sha256
        self.teacher_name = None if teacher is None else teacher.name
        self.topk: int | None = store.topk if self.soft else None

    def of(self, batch: Batch) -> TeacherAnswers | None:
        """The batch's answers on the device; None without distillation."""
        if batch.labels is None:
            return None
        labels = batch.labels.to(self._device, non_blocking=True)
        if batch.soft is None:
            return TeacherAnswers(labels)
        classes, probabilities, tail = (
            part.to(self._device, non_blocking=True)
            for part in (batch.soft.classes, batch.soft.probabilities, batch.soft.tail)
        )
        return TeacherAnswers(labels, spread_tail(classes, probabilities, tail, self._num_classes))

    def check(self) -> None:
        """What a store holds was checked when it was filled."""

    def describe(self) -> str | None:
        said = nobodys_labels(self._store) if self.labels else None
        return None if said is None else f"warning: {said}"


@dataclass(frozen=True, eq=False)
class _PendingCheck:
    """What is left of a batch to be checked. samples, view_ids: as the batch has them; finite: (B,) bool, on the
    device, whether all of a view's logits are."""

    samples: Tensor
    view_ids: Tensor
    finite: Tensor


class OnlineAnswers:
    """A teacher that runs while the student trains: what the store spares, and the baseline of all comparisons.

    It runs as the store's teacher does (batch shape, dtype, normalisation), so on the same kind of device its labels
    are the store's. Its probabilities are those of all classes.
    """

    labels = soft = False  # nothing is read from the store
    topk: int | None = None

    def __init__(
        self, store: Store, recipe: Recipe, settings: TeacherSettings, render: Render = RENDER_DEFAULT
    ) -> None:
        refuse(online_faults(recipe))
        self._stored: TeacherIdentity | None = store.teacher
        self._store = store
        self._teacher = open_teacher(
            settings, num_classes=store.num_classes, view_size=store.policy.size, stored=self._stored
        )
        self._proved = not self._differing() and _repeats_its_proof(store, self._teacher, render)
        self._tau = recipe.distill_tau if recipe.distill == "soft" else None
        self.weights_sha256: str | None = self._teacher.identity.weights_sha256
        self.teacher_name: str | None = self._teacher.identity.name
        self._unchecked: list[_PendingCheck] = []

    def of(self, batch: Batch) -> TeacherAnswers | None:
        """The batch's answers, on the teacher's device, which is not waited for: check() looks at them."""
        logits = self._teacher.logits_on_device(batch.views)
        self._unchecked.append(_PendingCheck(batch.samples, batch.view_ids, torch.isfinite(logits).all(dim=1)))
        probabilities = None if self._tau is None else torch.softmax(logits / self._tau, dim=1)
        return TeacherAnswers(logits.argmax(1), probabilities)

    def check(self) -> None:
        """Refuse, with TeacherError that names the first view, answers since the last time that are not finite. Waits
        for the device."""
        answered, self._unchecked = self._unchecked, []
        if not answered:
            return
        wrong = torch.cat([each.finite for each in answered]).logical_not().cpu().nonzero()
        if len(wrong):
            samples, views = (torch.cat([getattr(each, name) for each in answered]) for name in ("samples", "view_ids"))
            first = int(wrong[0])
            raise self._teacher.not_finite(self._where(int(samples[first]), int(views[first])))

    def _where(self, sample: int, view: int) -> str:
        """A sample's view, as messages name it."""
        index = self._store.index
        return f"shard {self._store.shard_name(index.shard_of(sample))}, key {index.key(sample)}, view {view}"

    def describe(self) -> str | None:
        """One line about the teacher, and how it stands to the one that filled the store."""
        identity, stored = self._teacher.identity, self._stored
        line = (
            f"teacher {identity.name} runs online, {counted(identity.batch_size, 'view')} at a time, {identity.dtype}"
        )
        if stored is None:
            return line
        if differing := self._differing():
            return f"{line}; warning: it is not the store's teacher ({', '.join(differing)} differ)"
        proved = "and answers its proof as then" if self._proved else "which left no proof on this device"
        return f"{line}; it is the store's teacher, {proved}; no label is read"

    def _differing(self) -> list[str]:
        """What is otherwise than with the store's teacher and may change a label."""
        names = [name for name in DECIDING_FIELDS if name not in SOFT_FIELDS]
        stored, identity = self._stored, self._teacher.identity
        return [name for name in names if stored is None or getattr(stored, name) != getattr(identity, name)]


def _repeats_its_proof(store: Store, teacher: Teacher, render: Render) -> bool:
    """Raises TeacherError where the store's teacher gives other labels than when the store was bound to it."""
    rendering = choose_rendering(render, store.policy, teacher.device)
    settings = PoolSettings(store.policy, store.seed, workers=0, max_pixels=store.max_pixels)
    with open_render_pool(rendering, settings, warn=lambda message: None) as pool:  # the loader's pool will say it
        return check_online(store, teacher, pool)


Answers = StoredAnswers | OnlineAnswers


def open_answers(
    store: Store, recipe: Recipe, teacher: TeacherSettings | None, device: torch.device, render: Render = RENDER_DEFAULT
) -> Answers:
    """The store's answers, or those of a teacher that runs online. render: where the views of its proof are."""
    if teacher is None:
        return StoredAnswers(store, recipe, device)
    return OnlineAnswers(store, recipe, replace(teacher, device=device), render)
