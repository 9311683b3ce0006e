"""From settings to rows: which steps have to end before each can be written.

Rows share teachers, stores and trained students: a student of two experiments is trained once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from student.plan import num_views_read
from tools.evidence.settings import Experiment, Settings, Student
from tools.evidence.steps import Step, Steps


@dataclass(frozen=True)
class RowPlan:
    """A row of the results: whose run it is, and the step that trains it. seed: None for a teacher, trained once."""

    experiment: str
    arm: str
    seed: int | None
    epochs: int
    views: int
    train: str  # the step
    evaluate: str
    teacher: str | None = None  # the step that evaluates the one whose labels it learns from

    @property
    def ends(self) -> tuple[str, ...]:
        """The steps that have to end before it can be written."""
        return (self.train, self.evaluate, *([self.teacher] if self.teacher else []))


@dataclass(frozen=True)
class MeasurePlan:
    """What is measured beside accuracy, by a step or from files of steps that have ended."""

    experiment: str
    kind: str  # "losses" | "labels" | "bytes" | "crops" | "fill" | "taught"
    arm: str
    seed: int | None
    needs: tuple[str, ...]

    @property
    def ends(self) -> tuple[str, ...]:
        """The steps that have to end before it can be written."""
        return self.needs


@dataclass(frozen=True)
class Plan:
    """All of it. steps: by name, each after those that it needs; rows and measures in the order they are wanted."""

    settings: Settings
    steps: Mapping[str, Step]
    rows: tuple[RowPlan, ...]
    measures: tuple[MeasurePlan, ...]

    def needed(self, name: str) -> list[str]:
        """A step and all before it, in order."""
        found: dict[str, None] = {}

        def visit(step: str) -> None:
            for before in self.steps[step].needs:
                visit(before)
            found[step] = None

        visit(name)
        return list(found)


def make_plan(settings: Settings, device: str | None = None) -> Plan:
    """Steps, rows and measures of settings. device: as the commands take it."""
    steps = Steps(settings, device)
    rows, measures = [], []
    for name, experiment in settings.experiments.items():
        rows += list(_rows(steps, name, experiment))
        measures += list(_measures(steps, name, experiment))
    return Plan(settings, steps.made, tuple(rows), tuple(measures))


def _rows(steps: Steps, name: str, experiment: Experiment) -> Iterator[RowPlan]:
    for teacher_name in experiment.teachers:
        found = steps.settings.teachers[teacher_name]
        train, evaluate = steps.teacher(teacher_name)
        views = min(steps.settings.stores[found.store].views, found.epochs)
        yield RowPlan(name, f"teacher {teacher_name}", None, found.epochs, views, train, evaluate)
    for seed in steps.settings.seeds:
        for arm, student_name in experiment.arms.items():
            student = steps.settings.students[student_name]
            train, evaluate = steps.student(student_name, seed)
            taught_by = steps.teacher_of(student.store) if steps.distils(student) else None
            teacher = steps.teacher(taught_by)[1] if taught_by else None
            views = _views_in_use(steps, student)
            yield RowPlan(name, arm, seed, student.epochs, views, train, evaluate, teacher)


def _measures(steps: Steps, name: str, experiment: Experiment) -> Iterator[MeasurePlan]:
    for seed in steps.settings.seeds:
        for arm, other in experiment.exactness.items():
            runs = [steps.student(experiment.arms[each], seed)[0] for each in (arm, other)]
            yield MeasurePlan(name, "losses", arm, seed, tuple(runs))
    for seed in steps.settings.seeds:
        for arm in experiment.taught:
            train, evaluate = steps.student(experiment.arms[arm], seed)
            yield MeasurePlan(name, "taught", arm, seed, (evaluate, train))
    checked = {steps.settings.students[experiment.arms[arm]].store for arm in experiment.exactness}
    for store in sorted(checked):
        yield MeasurePlan(name, "labels", store, None, (steps.check(store),))
    billed = {steps.settings.students[experiment.arms[arm]].store for arm in experiment.bill}
    for store in sorted(billed):
        yield MeasurePlan(name, "fill", store, None, (steps.store(store),))
    for store in experiment.bytes_of:
        yield MeasurePlan(name, "bytes", store, None, (steps.status(store),))
    for store in experiment.crops_of:
        yield MeasurePlan(name, "crops", store, None, (steps.audit(store),))


def _views_in_use(steps: Steps, student: Student) -> int:
    views = student.views_used or steps.settings.stores[student.store].views
    return min(views, num_views_read(student.epochs, steps.recipe_of(student).repeats))
