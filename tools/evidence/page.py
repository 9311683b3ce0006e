"""docs/evidence/index.md, made of settings and rows alone: no number of it is written by hand."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from teacher_cache.files import replacing
from teacher_cache.messages.shown import counted
from tools.evidence.compare import LEAST_SEEDS, Estimate, difference, mean_of, verdict
from tools.evidence.plan import MeasurePlan, Plan, RowPlan, make_plan
from tools.evidence.run import unfinished
from tools.evidence.settings import Comparison, Experiment, Head, Settings, load_settings
from tools.evidence.table import Measure, Results, Row, read_lines

SCALES = ("full", "small")
FIRST = (4, 5)  # experiments that a reader wants first
HEADS: tuple[Head, ...] = ("class", "distill", "fused")
HEAD_NAMES = {"class": "class head", "distill": "distillation head", "fused": "fused"}
INTRODUCTION = f"""# Evidence

What cached hard labels buy, on real pictures. This page is made from the rows of the CSV files beside it, by
`python -m tools.evidence page`; a test makes it again and compares. `make evidence` runs what has no row yet:

```
make evidence EVIDENCE=small DATA=FOLDER PLAN=1    # the minutes of each row; nothing is run
make evidence EVIDENCE=small DATA=FOLDER           # runs, and goes on where it was stopped or killed
```

DATA is a folder of WebDataset shards, named as the settings in `tools/evidence/` say. A row is a training. A command in
a CSV file is what was run, with `$DATA` and `$OUT` for folders; rows with the same command are one training, which
several experiments share. Accuracies are top-1 in per cent with 95 % intervals over seeds and validation pictures, of a
single seed over pictures alone. A difference's interval takes the pictures of two arms for different ones, which makes
it wider than it might be. Under {LEAST_SEEDS} seeds of either arm nothing is compared. Intervals are not corrected for
the number of comparisons: of twenty without any difference, one shows one.
"""


@dataclass(frozen=True)
class Scale:
    """A scale's settings and what there is of it."""

    settings: Settings
    plan: Plan
    rows: Sequence[Row]
    measures: Sequence[Measure]
    unfinished: Sequence[RowPlan | MeasurePlan]

    def arm(self, experiment: str, arm: str) -> list[Row]:
        return [row for row in self.rows if (row.experiment, row.arm) == (experiment, arm)]

    def measured(self, experiment: str, kind: str) -> list[Measure]:
        return [each for each in self.measures if (each.experiment, each.measure.split(":")[0]) == (experiment, kind)]


def write_page(folder: Path) -> None:
    """Write index.md of the rows in a folder. DiskError."""
    text = page(folder)
    with replacing(folder / "index.md") as aside:
        aside.write_text(text)


def page(folder: Path) -> str:
    """The page of the rows in a folder."""
    scales = [read_scale(folder, name) for name in SCALES]
    return "\n".join([INTRODUCTION, *(line for scale in scales for line in _scale(scale))]).rstrip() + "\n"


def read_scale(folder: Path, name: str) -> Scale:
    settings = load_settings(name)
    results, plan = Results(folder, settings.name), make_plan(settings)
    rows, measures = read_lines(Row, results.rows), read_lines(Measure, results.measures)
    return Scale(settings, plan, rows, measures, unfinished(plan, results))


def _scale(scale: Scale) -> Iterator[str]:
    settings = scale.settings
    yield f"## Scale: {settings.name}\n"
    yield f"{_capital(settings.what)}. Data: {settings.data.what}.\n"
    planned = len(scale.plan.rows)
    if not scale.rows:
        yield f"No row has been run yet, of {counted(planned, 'row')}.\n"
        yield from _left_out(scale)
        return
    runs = {row.command: row for row in scale.rows}
    hours = sum(row.hours for row in runs.values())
    devices = ", ".join(sorted({row.device for row in scale.rows}))
    commits = ", ".join(sorted({f"`{row.commit}`" for row in scale.rows}))
    yield (
        f"Run so far: {len(scale.rows)} of {counted(planned, 'row')}, {counted(len(runs), 'training')}, {hours:.1f} "
        "hours of wall time, "
        f"on {devices}; commit {commits}. [Rows]({settings.name}.csv)"
        + (f", [other measures]({settings.name}-measures.csv).\n" if scale.measures else ".\n")
    )
    yield f"What they do not show: {_small(settings.not_shown)}\n"
    for name, experiment in sorted(settings.experiments.items(), key=lambda each: each[1].number not in FIRST):
        yield from _experiment(scale, name, experiment)
    yield from _left_out(scale)


def _experiment(scale: Scale, name: str, experiment: Experiment) -> Iterator[str]:
    arms = [*(f"teacher {teacher}" for teacher in experiment.teachers), *experiment.arms]
    there = [arm for arm in arms if scale.arm(name, arm)]
    measures = [each for each in scale.measures if each.experiment == name]
    if not there and not measures:
        return
    yield f"### {experiment.number}. {experiment.title}\n"
    yield experiment.question + (f" {experiment.paper}" if experiment.paper else "") + "\n"
    if drawable(scale, name, experiment):
        yield f"![Top-1 against {experiment.axis}]({scale.settings.name}-{name}.png)\n"
    if there:
        yield from _accuracies(scale, name, there)
    if experiment.comparisons:
        yield from _comparisons(scale, name, experiment.comparisons)
    yield from _taught(scale, name)
    if experiment.reasons:
        yield f"{experiment.reasons}\n"
    yield from _exactness(scale, name)
    yield from _bill(scale, name, experiment)
    yield from _bytes(scale, name)
    yield from _crops(scale, name)


def drawable(scale: Scale, name: str, experiment: Experiment) -> bool:
    """Whether there are two points of a curve."""
    return any(sum(bool(scale.arm(name, arm)) for arm in curve.arms) > 1 for curve in experiment.curves)


def _accuracies(scale: Scale, name: str, arms: Sequence[str]) -> Iterator[str]:
    yield "| arm | seeds | epochs | views | class head | distillation head | fused | its teacher | hours a training |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for arm in arms:
        rows = scale.arm(name, arm)
        cells = [arm, str(len(rows)), _all(row.epochs for row in rows), _all(row.views for row in rows)]
        for head in HEADS:
            has = all(getattr(row, f"top1_{head}") is not None for row in rows)
            cells.append(_share(mean_of(rows, head)) if has else "")
        cells.append(_all(f"{100 * row.teacher_top1:.1f}" for row in rows if row.teacher_top1 is not None))
        cells.append(f"{sum(row.hours for row in rows) / len(rows):.2f}")
        yield f"| {' | '.join(cells)} |"
    yield ""


def _comparisons(scale: Scale, name: str, comparisons: Sequence[Comparison]) -> Iterator[str]:
    yield "| compared | difference, points | what it shows |"
    yield "| --- | --- | --- |"
    for comparison in comparisons:
        one, two = (scale.arm(name, arm) for arm in comparison.arms)
        said = _described(comparison)
        seeds = min(len(one), len(two))
        if seeds < LEAST_SEEDS:
            yield f"| {said} | | not compared: {seeds} of {LEAST_SEEDS} seeds |"
            continue
        found = difference(one, two, comparison.heads)
        yield f"| {said} | {_points(found)} | {verdict(found, comparison.claim)} |"
    yield ""


def _described(comparison: Comparison) -> str:
    first, second = comparison.arms
    heads = comparison.heads
    if heads == ("fused", "fused"):
        return f"{first} - {second}"
    if first == second:
        return f"{first}: {HEAD_NAMES[heads[0]]} - {HEAD_NAMES[heads[1]]}"
    return f"{first} ({HEAD_NAMES[heads[0]]}) - {second}"


def _taught(scale: Scale, name: str) -> Iterator[str]:
    found = scale.measured(name, "taught")
    if not found:
        return
    yield "| arm | answers as its teacher, views of its last epoch, % | cosine of its two tokens after the last block |"
    yield "| --- | --- | --- |"
    for arm in dict.fromkeys(each.arm for each in found):
        own = [each for each in found if each.arm == arm]
        shares = [100 * each.value for each in own if each.unit == "share"]
        yield f"| {arm} | {_range(shares, 1)} | {_range([each.value for each in own if each.unit == 'cosine'], 2)} |"
    yield "\nThese are means of seeds, with their range.\n"


def _exactness(scale: Scale, name: str) -> Iterator[str]:
    losses, labels = scale.measured(name, "losses"), scale.measured(name, "labels")
    if losses:
        compared, differ = (_sum(losses, what) for what in ("steps compared", "steps that differ"))
        seeds = len({each.seed for each in losses})
        yield (
            f"Losses of {seeds} pair{'s' if seeds > 1 else ''} of trainings, compared step by step as they are logged, "
            f"all digits: {differ:,.0f} of {compared:,.0f} steps differ.\n"
        )
    if labels:
        given, differ = _sum(labels, "labels given once more"), _sum(labels, "labels that differ")
        yield f"Labels that the teacher gave once more: {differ:,.0f} of {given:,.0f} differ.\n"


def _bill(scale: Scale, name: str, experiment: Experiment) -> Iterator[str]:
    """The total of one, two ... students from a store, its filling with it, and of as many online, as far as measured.

    Of one pair of arms the students are its seeds; of several pairs, the arms at the first seed.
    """
    arms, seeds = list(experiment.bill), scale.settings.seeds
    students = [(arms[0], seed) for seed in seeds] if len(arms) == 1 else [(arm, seeds[0]) for arm in arms]
    losses, fills = scale.measured(name, "losses"), scale.measured(name, "fill")
    for clock in ("wall time", "processor time"):
        fill = [each.value for each in fills if each.measure == f"fill: {clock}"]
        spent = []
        for arm, seed in students:
            own = [each for each in losses if (each.arm, each.seed) == (arm, seed)]
            pair = [_value(own, f"{clock} {of}") for of in ("of this", "of the other")]
            if pair[0] is None or pair[1] is None:
                break
            spent.append((pair[0], pair[1]))
        if len(fill) == 1 and spent:
            yield from _bill_table(clock, fill[0], spent)


def _bill_table(clock: str, fill_s: float, spent: Sequence[tuple[float, float]]) -> Iterator[str]:
    yield f"| students | filling the store and training from it, minutes of {clock} | training online | ratio |"
    yield "| --- | --- | --- | --- |"
    for count in range(1, len(spent) + 1):
        one = (fill_s + sum(first for first, _ in spent[:count])) / 60
        two = sum(second for _, second in spent[:count]) / 60
        yield f"| {count} | {one:.1f} | {two:.1f} | {one / two:.2f} |"
    yield ""


def _bytes(scale: Scale, name: str) -> Iterator[str]:
    found = scale.measured(name, "bytes")
    for store in dict.fromkeys(each.arm for each in found):
        of = {each.measure.partition(": ")[2]: each.value for each in found if each.arm == store}
        agreement = 100 * of["agreement with the larger class"]
        yield (
            f"Store `{store}`: {of['of a view']:.2f} bytes a view, {of['of a view, labels alone']:.2f} of them for "
            f"labels, digests and records; {of['views labelled']:,.0f} views labelled, {agreement:.1f} % of them as "
            "the class of the larger lambda.\n"
        )


def _crops(scale: Scale, name: str) -> Iterator[str]:
    found = {(each.arm, each.measure.partition(": ")[2]): each.value for each in scale.measured(name, "crops")}
    if not found:
        return
    yield "| store | views with | labels that are the own class, % |"
    yield "| --- | --- | --- |"
    for (store, what), share in found.items():
        if not what.endswith(("lowest", "highest")):
            low, high = (found[store, f"{what}, {end}"] for end in ("lowest", "highest"))
            yield f"| {store} | {what} | {100 * share:.1f} ({100 * low:.1f} to {100 * high:.1f}) |"
    yield ""


def _left_out(scale: Scale) -> Iterator[str]:
    """What has no row: of this scale's plan, and what its settings leave out."""
    yield "### Not run\n"
    listed = 0
    for name, experiment in scale.settings.experiments.items():
        said = _waiting(scale, name)
        if experiment.left_out:
            said.append(_small(experiment.left_out).rstrip("."))
        if said:
            listed += 1
            yield f"- {experiment.number}. {experiment.title}: {'; '.join(said)}."
    if not listed:
        yield "- Every row of this scale's plan has been run."
    yield ""


def _waiting(scale: Scale, name: str) -> list[str]:
    """An experiment's arms and measures that have no row; seeds are named where others of the arm have one."""
    seeds_of: dict[str, list[int]] = {}
    for each in (each for each in scale.unfinished if each.experiment == name):
        arm = each.arm if isinstance(each, RowPlan) else f"{each.kind} of {each.arm}"
        seeds_of.setdefault(arm, []).extend([] if each.seed is None else [each.seed])
    return [
        f"{arm} (seed {', '.join(map(str, seeds))})" if 0 < len(seeds) < len(scale.settings.seeds) else arm
        for arm, seeds in seeds_of.items()
    ]


# -- words -----------------------------------------------------------------------------------------------------------


def _share(found: Estimate) -> str:
    return f"{100 * found.value:.1f} ± {100 * found.half:.1f}"


def _points(found: Estimate) -> str:
    return f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _range(values: Sequence[float], digits: int) -> str:
    """Mean, least and most."""
    if not values:
        return ""
    return f"{sum(values) / len(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _all(values: Iterator[object]) -> str:
    """Each different value once."""
    return ", ".join(dict.fromkeys(map(str, values)))


def _sum(measures: Sequence[Measure], what: str) -> float:
    return sum(each.value for each in measures if each.measure.endswith(f": {what}"))


def _value(measures: Sequence[Measure], what: str) -> float | None:
    return next((each.value for each in measures if each.measure.endswith(f": {what}")), None)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _small(text: str) -> str:
    return text[:1].lower() + text[1:]
