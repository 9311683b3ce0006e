"""One row of the benchmark: what is compared, what was measured, and the ratio.

Two sides are measured in turns (ours, peer, ours, peer ...). The ratio is that of the medians, so that a reader can
divide the two columns; the spread is that of the paired turns.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from teacher_cache.errors import TeacherCacheError
from tools.benchmarks.scale import Scale


class BenchmarkError(TeacherCacheError):
    """The benchmark cannot run as it was asked to."""


class UnavailableError(Exception):
    """A row cannot be measured here; its text is the row's note."""


@dataclass(frozen=True)
class Measurement:
    """Figures of every turn. peer is None where a row has no peer, or it is not installed; note says what is in it."""

    ours: tuple[float, ...]
    peer: tuple[float, ...] | None = None
    note: str = ""


@dataclass(frozen=True)
class Bench:
    """What every row is given. made: what rows share, by name, made by whoever asks first. row_s: seconds after which a
    row begins no further turn, None for no limit; ends_s: when that is, on the clock of time.perf_counter."""

    scale: Scale
    repeats: int
    scratch: Path
    shards: tuple[str, ...] = ()
    filled: str | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    made: dict[str, Any] = field(default_factory=dict)
    timm_train: Path | None = None
    row_s: float | None = None
    ends_s: float | None = None

    def begin_row(self) -> "Bench":
        """The same, with the time that a row has counted from now on."""
        return self if self.row_s is None else replace(self, ends_s=time.perf_counter() + self.row_s)

    def turns(
        self, ours: Callable[[int], float], peer: Callable[[int], float] | None
    ) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
        """`in_turns`, as many as there is time for."""
        return in_turns(self.repeats, ours, peer, ends_s=self.ends_s)

    def processes(self, wanted: int) -> int:
        """Rendering processes of a row."""
        return wanted if self.scale.rendering_processes is None else self.scale.rendering_processes

    def shared(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]


@dataclass(frozen=True)
class RowPlan:
    """A row before it is measured. against: what the peer is, or which limit holds.

    lower: smaller figures are better, so the ratio is peer / ours. limit: there is no peer, and the ratio says how far
    inside the limit the figure is. reach: the ratio that is aimed at, 1 where there is a limit. prepare: makes what the
    row shares with others, whose time is not its own.
    """

    name: str
    against: str
    unit: str
    measure: Callable[[Bench], Measurement]
    prepare: Callable[[Bench], object] = lambda bench: None
    reach: float = 1.0
    lower: bool = False
    limit: float | None = None


@dataclass(frozen=True)
class Row:
    """A row as it is printed and written: medians, their ratio (larger is better), and the range of paired ratios."""

    name: str
    against: str
    unit: str
    ours: float | None
    peer: float | None
    limit: float | None
    ratio: float | None
    reach: float
    spread: tuple[float, float] | None
    repeats: int
    lower_is_better: bool
    elapsed_s: float
    note: str


def measure_row(plan: RowPlan, bench: Bench) -> Row:
    """Measure a row; where that is not possible here its figures are None and the note says why."""
    started = time.perf_counter()
    ours = peer = ratio = spread = None
    repeats, note = 0, ""
    try:
        plan.prepare(bench)
        started = time.perf_counter()
        measured = plan.measure(bench.begin_row())
    except UnavailableError as why:
        note = str(why)
    else:
        repeats, note = len(measured.ours), measured.note
        ours = statistics.median(measured.ours)
        peer = None if measured.peer is None else statistics.median(measured.peer)
        if plan.limit is not None:
            ratio = ratio_of(ours, plan.limit, plan.lower)
            pairs = [ratio_of(figure, plan.limit, plan.lower) for figure in measured.ours]
            spread = min(pairs), max(pairs)
        elif measured.peer is not None and peer is not None:
            ratio = ratio_of(ours, peer, plan.lower)
            pairs = [ratio_of(a, b, plan.lower) for a, b in zip(measured.ours, measured.peer, strict=True)]
            spread = min(pairs), max(pairs)
    return Row(
        name=plan.name,
        against=plan.against,
        unit=plan.unit,
        ours=ours,
        peer=peer,
        limit=plan.limit,
        ratio=ratio,
        reach=plan.reach,
        spread=spread,
        repeats=repeats,
        lower_is_better=plan.lower,
        elapsed_s=time.perf_counter() - started,
        note=note,
    )


def ratio_of(ours: float, other: float, lower: bool) -> float:
    """How many times better ours is than the other, a peer's figure or a limit."""
    return other / ours if lower else ours / other


def in_turns(
    repeats: int,
    ours: Callable[[int], float],
    peer: Callable[[int], float] | None,
    *,
    warm_up: bool = True,
    ends_s: float | None = None,
) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    """Measure ours, peer, ours, peer ...; each gets the number of its turn, from 1. warm_up: turn 0 counts not.
    ends_s: when time.perf_counter is past it, the turn that is going on is the last; there is one at least."""
    if warm_up:
        ours(0)
        if peer is not None:
            peer(0)
    found: list[float] = []
    others: list[float] = []
    for turn in range(1, repeats + 1):
        if found and ends_s is not None and time.perf_counter() >= ends_s:
            break
        found.append(ours(turn))
        if peer is not None:
            others.append(peer(turn))
    return tuple(found), tuple(others) if peer is not None else None


@contextmanager
def one_pinned_core() -> Iterator[int]:
    """Run on one core, this thread and those that it starts, with one thread of torch; the core's number."""
    allowed, threads = os.sched_getaffinity(0), torch.get_num_threads()
    core = max(allowed)
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    try:
        yield core
    finally:
        os.sched_setaffinity(0, allowed)
        torch.set_num_threads(threads)


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def now_s(device: torch.device) -> float:
    """A clock that has waited for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def steady_rate(arrived: list[tuple[float, int]], settle: float = 0.0) -> float:
    """Views a second. arrived: seconds and views so far; what came before the share `settle` of all is left out."""
    first_s, first = next(entry for entry in arrived if entry[1] >= settle * arrived[-1][1])
    last_s, last = arrived[-1]
    return (last - first) / (last_s - first_s)


def cores() -> int:
    return len(os.sched_getaffinity(0))
