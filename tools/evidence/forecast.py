"""What is still to be run, and how many minutes it takes: of each row before any is run."""

from collections.abc import Iterator
from dataclasses import dataclass

from tools.evidence.plan import MeasurePlan, Plan, RowPlan
from tools.evidence.process import Places, Record, read_record
from tools.evidence.run import unfinished
from tools.evidence.steps import Step
from tools.evidence.table import Results


@dataclass(frozen=True)
class Forecast:
    """A row before it is run. minutes: of what no row before it needs too; state: "done", "to run", or "shared"."""

    experiment: str
    arm: str
    seed: int | None
    minutes: float
    state: str


def forecast(plan: Plan, places: Places, results: Results) -> Iterator[Forecast]:
    """The minutes of each row: measured ones of steps that are alike where there are any, else of the settings."""
    left = unfinished(plan, results)
    records = {name: read_record(places, step) for name, step in plan.steps.items()}
    counted = {name for name, record in records.items() if record is not None and record.done}
    every: list[RowPlan | MeasurePlan] = [*plan.rows, *plan.measures]
    for each in (each for name in plan.settings.experiments for each in every if each.experiment == name):
        steps = [step for name in each.ends for step in plan.needed(name)]
        new = [step for step in dict.fromkeys(steps) if step not in counted]
        there = each not in left
        seconds = 0.0 if there else sum(_seconds(plan.steps[step], records, plan) for step in new)
        counted |= set() if there else set(new)
        state = "done" if there else "to run" if new else "shared"
        arm = each.arm if isinstance(each, RowPlan) else f"{each.kind} of {each.arm}"
        yield Forecast(each.experiment, arm, each.seed, seconds / 60, state)


def _seconds(step: Step, records: dict[str, Record | None], plan: Plan) -> float:
    """What a step still takes."""
    alike = [
        record.wall_s
        for name, other in plan.steps.items()
        if step.like and other.like == step.like and (record := records[name]) is not None and record.done
    ]
    whole = sum(alike) / len(alike) if alike else step.estimate_s
    spent = record.wall_s if (record := records[step.name]) is not None else 0.0
    return max(0.0, whole - spent)
