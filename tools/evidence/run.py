"""Running what is planned: steps in processes of their own, rows as they end. Killed at any moment, it is run again."""

import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from teacher_cache.processes.lock import alone
from teacher_cache.processes.signals import Stopped, stop_signals
from tools.evidence.errors import EvidenceError
from tools.evidence.measure import measure, row_of
from tools.evidence.plan import MeasurePlan, Plan, RowPlan
from tools.evidence.process import Attempt, Places, read_record
from tools.evidence.steps import ROOT
from tools.evidence.table import Measure, Results, Row, add_lines, key, read_lines

LOOK_S = 0.2


def run(
    plan: Plan,
    places: Places,
    results: Results,
    say: Callable[[str], None],
    *,
    device: str,
    jobs: int = 1,
) -> None:
    """Run every step that a row or measure still needs, `jobs` at a time, and write each row as it can be written.

    device: what is said of it in a row. Raises EvidenceError where a step fails, BusyError where another runner uses a
    folder; Stopped after a signal, when the steps that ran have stopped.
    """
    places.out.mkdir(parents=True, exist_ok=True)
    results.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        for path, what in (
            (places.out / ".lock", places.out),
            (results.folder / f".{results.name}.lock", results.rows),
        ):
            held.enter_context(alone(path, f"another run writes to {what}", "wait for its end, or stop it", say))
        stop_asked = held.enter_context(stop_signals())
        _Runner(plan, places, results, say, device, jobs, describe_commit()).run(stop_asked)


@dataclass(frozen=True)
class _Runner:
    plan: Plan
    places: Places
    results: Results
    say: Callable[[str], None]
    device: str
    jobs: int
    commit: str

    def run(self, stop_asked: Callable[[], bool]) -> None:
        wanted = unfinished(self.plan, self.results)
        steps = list(dict.fromkeys(step for each in wanted for name in each.ends for step in self.plan.needed(name)))
        records = {name: read_record(self.places, self.plan.steps[name]) for name in steps}
        done = {name for name, record in records.items() if record is not None and record.done}
        running: dict[str, Attempt] = {}
        failed: list[str] = []
        self.write(wanted, done)
        while not stop_asked() and not failed:
            self.start(steps, done, running)
            if not running:
                return
            time.sleep(LOOK_S)
            if ended := self.collect(running, failed):
                done |= ended
                self.write(wanted, done)
        self.stop(running)
        if failed:
            raise EvidenceError(failed[0])
        raise Stopped("stopped: what has ended is kept; the same command goes on")

    def start(self, steps: list[str], done: set[str], running: dict[str, Attempt]) -> None:
        for name in steps:
            if len(running) == self.jobs:
                return
            step = self.plan.steps[name]
            if name not in done and name not in running and done.issuperset(step.needs):
                self.say(step.command)
                running[name] = Attempt(self.places, step, self.commit, self.plan.settings.threads)

    def collect(self, running: dict[str, Attempt], failed: list[str]) -> set[str]:
        """The steps that have ended; those that failed are said in `failed`."""
        ended = set()
        for name, attempt in list(running.items()):
            code = attempt.poll()
            if code is None:
                continue
            del running[name]
            if code == 0:
                ended.add(name)
            else:
                log = self.places.log(name)
                failed.append(f"{name} ended with {code}: {attempt.said_last()} (all of it: {log})")
        return ended

    def stop(self, running: dict[str, Attempt]) -> None:
        for attempt in running.values():
            attempt.stop()
        while running:
            self.collect(running, [])
            time.sleep(LOOK_S)

    def write(self, wanted: "list[RowPlan | MeasurePlan]", done: set[str]) -> None:
        """Write the rows and measures whose steps have ended, and take them off the list."""
        for each in list(wanted):
            if not done.issuperset(each.ends):
                continue
            wanted.remove(each)
            if isinstance(each, RowPlan):
                add_lines(Row, self.results.rows, [row_of(each, self.plan, self.places, self.device)])
            else:
                add_lines(Measure, self.results.measures, list(measure(each, self.plan, self.places)))


def unfinished(plan: Plan, results: Results) -> list[RowPlan | MeasurePlan]:
    """Rows and measures that are not written yet, experiment by experiment. EvidenceError for a row that is there and
    was another command's."""
    rows = {key(row): row for row in read_lines(Row, results.rows)}
    measures = read_lines(Measure, results.measures)
    left: list[RowPlan | MeasurePlan] = []
    for experiment in plan.settings.experiments:
        for row in (row for row in plan.rows if row.experiment == experiment):
            there = rows.get((row.experiment, row.arm, row.seed or 0))
            if there is None:
                left.append(row)
            elif not (step := plan.steps[row.train]).is_done_by(there.command):
                raise EvidenceError(
                    f"{results.rows} has {row.experiment}, {row.arm}, seed {row.seed} of `{there.command}`, now it is "
                    f"`{step.command}`: restore the settings, or remove the row"
                )
        wanted = (wanted for wanted in plan.measures if wanted.experiment == experiment)
        left += [wanted for wanted in wanted if not any(_is_of(measure, wanted) for measure in measures)]
    return left


def _is_of(measure: Measure, plan: MeasurePlan) -> bool:
    return (measure.experiment, measure.arm, measure.seed, measure.measure.split(":")[0]) == (
        *(plan.experiment, plan.arm, plan.seed),
        plan.kind,
    )


def describe_commit() -> str:
    """The code's commit, with a + where a file of the code was changed since; "unknown" outside of git."""
    if not (head := _git("rev-parse", "--short=10", "HEAD")):
        return "unknown"
    changed = _git("status", "--porcelain", "--", "teacher_cache", "student", "tools")
    return f"{head}+" if changed else head


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
