"""Rows and measures from what finished steps have left: answers of commands, and logs of runs."""

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from teacher_cache.settings import read_json
from tools.evidence.errors import EvidenceError
from tools.evidence.plan import MeasurePlan, Plan, RowPlan
from tools.evidence.process import Places, Record, read_record
from tools.evidence.table import Measure, Row

AGAIN = "remove the step's record under steps/, and it is run again"


def row_of(row: RowPlan, plan: Plan, places: Places, device: str) -> Row:
    """A row whose steps have ended. EvidenceError where what they left is not there."""
    record = record_of(row.train, plan, places)
    answer = answer_of(row.evaluate, plan, places)
    teacher = answer_of(row.teacher, plan, places) if row.teacher else None
    accuracy, fusion = answer["accuracy"], answer["fusion"]
    return Row(
        experiment=row.experiment,
        arm=row.arm,
        seed=row.seed or 0,
        epochs=row.epochs,
        top1_class=accuracy["class"]["top1"],
        top1_distill=accuracy.get("distillation", {}).get("top1"),
        top1_fused=accuracy.get(f"fused_{fusion}", {}).get("top1"),
        teacher_top1=teacher["accuracy"]["class"]["top1"] if teacher else None,
        views=row.views,
        device=device,
        hours=record.wall_s / 3600,
        command=record.command,
        commit=record.commit,
        pictures=answer["samples"],
    )


def measure(each: MeasurePlan, plan: Plan, places: Places) -> Iterator[Measure]:
    """What is measured, each kind by its own function. Names are KIND: WHAT."""
    (*_, last) = each.needs
    record = record_of(last, plan, places)
    for what, value, unit in MEASURERS[each.kind](each, plan, places):
        name = f"{each.kind}: {what}"
        yield Measure(each.experiment, each.arm, each.seed, name, float(value), unit, record.command, record.commit)


Found = Iterator[tuple[str, float, str]]  # what, value, unit


def _losses(each: MeasurePlan, plan: Plan, places: Places) -> Found:
    """Losses of two runs, step by step: those of all steps, to the last bit that a log keeps."""
    one, two = (_steps_of(places, step) for step in each.needs)
    if len(one) != len(two):
        raise EvidenceError(f"{each.needs[0]} has {len(one)} steps, {each.needs[1]} {len(two)}: they are other runs")
    yield "steps compared", len(one), "steps"
    yield "steps that differ", sum(first != second for first, second in zip(one, two, strict=True)), "steps"
    names = ("of this", "of the other")
    for name, step in zip(names, each.needs, strict=True):
        record = record_of(step, plan, places)
        yield f"wall time {name}", record.wall_s, "s"
        if record.cpu_s is not None:
            yield f"processor time {name}", record.cpu_s, "s"


def _steps_of(places: Places, train: str) -> list[tuple[str, ...]]:
    path = places.out / Path(train).parent / "steps.csv"
    with path.open(newline="") as file:
        return [
            tuple(row[name] for name in ("step", "loss", "class_loss", "distill_loss")) for row in csv.DictReader(file)
        ]


def _labels(each: MeasurePlan, plan: Plan, places: Places) -> Found:
    answer = answer_of(each.needs[0], plan, places)
    yield "labels given once more", answer["labels"], "labels"
    yield "labels that differ", answer["differences"], "labels"


def _fill(each: MeasurePlan, plan: Plan, places: Places) -> Found:
    record = record_of(each.needs[0], plan, places)
    yield "wall time", record.wall_s, "s"
    if record.cpu_s is not None:
        yield "processor time", record.cpu_s, "s"


def _taught(each: MeasurePlan, plan: Plan, places: Places) -> Found:
    """How often a student answers as its teacher on the views of its last epoch, as its log says; how alike its tokens
    are at the end, where it has two."""
    evaluate, train = each.needs
    path = places.out / Path(train).parent / "epochs.csv"
    with path.open(newline="") as file:
        *_, last = csv.DictReader(file)
    if not last["teacher_agreement"]:
        raise EvidenceError(f"{path} has no teacher_agreement: {each.arm} has no teacher, leave it out of `taught`")
    yield "answers as its teacher", float(last["teacher_agreement"]), "share"
    if cosines := answer_of(evaluate, plan, places).get("token_cosine"):
        yield "cosine of its tokens after the last block", cosines[-1], "cosine"


def _bytes(each: MeasurePlan, plan: Plan, places: Places) -> Found:
    answer = answer_of(each.needs[0], plan, places)
    sizes, views = answer["bytes"], answer["labelled"] + answer["skipped"]["views"]
    yield "of a view", sizes["per_view"], "B"
    yield "of a view, labels alone", sum(sizes[name] for name in ("labels", "digests", "records")) / views, "B"
    yield "views labelled", answer["labelled"], "views"
    yield "agreement with the larger class", answer["agreement"]["larger"], "share"


def _crops(each: MeasurePlan, plan: Plan, places: Places) -> Found:
    """Agreement with the own class by the crop's area and by lambda, each with both ends of its interval."""
    sampled = answer_of(each.needs[0], plan, places)["sampled"]
    shares = [(f"area {row['from']:g} to {row['to']:g}", row) for row in sampled["by_visible_share"]]
    shares += [(f"{row['mix']}, lambda {row['from']:g} to {row['to']:g}", row["own"]) for row in sampled["by_lambda"]]
    for what, found in shares:
        if found["share"] is not None:
            low, high = found["interval"]
            yield what, found["share"], "share"
            yield f"{what}, lowest", low, "share"
            yield f"{what}, highest", high, "share"


MEASURERS: Mapping[str, Callable[[MeasurePlan, Plan, Places], Found]] = {
    "losses": _losses,
    "labels": _labels,
    "fill": _fill,
    "taught": _taught,
    "bytes": _bytes,
    "crops": _crops,
}


def record_of(step: str, plan: Plan, places: Places) -> Record:
    record = read_record(places, plan.steps[step])
    if record is None or not record.done:
        raise EvidenceError(f"{step} has not ended: run it first")
    return record


def answer_of(step: str, plan: Plan, places: Places) -> Any:
    """What a step printed as JSON."""
    made = plan.steps[step].makes
    assert made is not None, f"{step} answers nothing"
    return read_json(places.out / made, str(places.out / made), EvidenceError, AGAIN)
