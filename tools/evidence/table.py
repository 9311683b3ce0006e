"""Rows of results, as files under docs/evidence/: written whole or not at all, read with every value checked."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from teacher_cache.files import replacing, sweep
from teacher_cache.messages.shown import counted
from tools.evidence.errors import EvidenceError


@dataclass(frozen=True)
class Row:
    """One training. Accuracies are shares in [0, 1] of `pictures` validation pictures, None where a model has no such
    head, or nobody taught it; views: of a sample, in use; hours: of the training alone, wall time of all attempts."""

    experiment: str
    arm: str
    seed: int
    epochs: int
    top1_class: float
    top1_distill: float | None
    top1_fused: float | None
    teacher_top1: float | None
    views: int
    device: str
    hours: float
    command: str
    commit: str
    pictures: int

    def top1(self, head: str) -> float:
        """By "class", "distill" or "fused"; a model with one head answers by that."""
        found = getattr(self, f"top1_{head}")
        return self.top1_class if found is None else float(found)


@dataclass(frozen=True)
class Measure:
    """A number beside accuracy. seed: None where it is no run's."""

    experiment: str
    arm: str
    seed: int | None
    measure: str
    value: float
    unit: str
    command: str
    commit: str


@dataclass(frozen=True)
class Results:
    """Where the rows of a scale are."""

    folder: Path
    name: str

    @property
    def rows(self) -> Path:
        return self.folder / f"{self.name}.csv"

    @property
    def measures(self) -> Path:
        return self.folder / f"{self.name}-measures.csv"


Line = TypeVar("Line", Row, Measure)


def read_lines(kind: type[Line], path: Path) -> list[Line]:
    """The file's rows, none where it is not there. EvidenceError, naming the line, for anything else than they are."""
    if not path.exists():
        return []
    names = [field.name for field in fields(kind)]
    with path.open(newline="") as file:
        reader = csv.reader(file, strict=True)
        header = next(reader, [])
        if header != names:
            raise EvidenceError(f"{path} has the columns {','.join(header)}: {','.join(names)} are expected")
        lines = []
        for number, cells in enumerate(reader, start=2):
            try:
                lines.append(_line(kind, cells))
            except ValueError as error:
                raise EvidenceError(f"{path}, line {number}: {error}: mend or remove the line") from None
    keys = [key(line) for line in lines]
    if several := sorted({each for each in keys if keys.count(each) > 1}, key=str):
        raise EvidenceError(f"{path} has {several[0]} more than once: remove one of the lines")
    return lines


def write_lines(kind: type[Line], path: Path, lines: Iterable[Line]) -> None:
    """Write all rows anew, aside, then in the file's place. DiskError."""
    sweep(path)
    with replacing(path) as aside, aside.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(kind)])
        writer.writerows([_cell(value) for value in asdict(line).values()] for line in lines)


def add_lines(kind: type[Line], path: Path, lines: Sequence[Line]) -> None:
    """Add rows, all or none, or put them in the places of those of the same key."""
    new = {key(line) for line in lines}
    kept: list[Line] = [line for line in read_lines(kind, path) if key(line) not in new]
    kept.extend(lines)
    write_lines(kind, path, kept)


def key(line: Row | Measure) -> tuple[Any, ...]:
    """What a row is of: there is one of each."""
    last = (line.measure,) if isinstance(line, Measure) else ()
    return (line.experiment, line.arm, line.seed, *last)


def _line(kind: type[Line], cells: Sequence[str]) -> Line:
    if len(cells) != len(fields(kind)):
        raise ValueError(f"it has {counted(len(cells), 'value')} for {counted(len(fields(kind)), 'column')}")
    values: dict[str, Any] = {}
    for field, cell in zip(fields(kind), cells, strict=True):
        optional = "None" in str(field.type)
        if not cell:
            if not optional:
                raise ValueError(f"{field.name} is missing")
            values[field.name] = None
        else:
            convert = next(type_ for type_ in (int, float, str) if type_.__name__ in str(field.type))
            values[field.name] = convert(cell)
    line = kind(**values)
    for name in ("top1_class", "top1_distill", "top1_fused", "teacher_top1"):
        share = getattr(line, name, None)
        if share is not None and not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}, a share of 0 to 1 is expected")
    return line


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
