"""What a store costs: bytes a view, looking labels up, and what its audits take. On a store of ImageNet's size."""

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from student.plan import EpochPlan, PlanSettings, epoch_plan, pass_blocks
from teacher_cache.messages.shown import counted
from teacher_cache.store.labels import LabelReader
from teacher_cache.store.status import status
from teacher_cache.store.store import Store
from tools.benchmarks.row import Bench, BenchmarkError, Measurement, RowPlan, UnavailableError
from tools.benchmarks.stores import simulated_store

ROOT = Path(__file__).parents[2]
BATCH = 1024
EPOCHS = 300  # whose labels the loader looks for before the first batch
TINYVIT_BYTES = 44.0  # a view of TinyViT's store of the 10 largest probabilities: 4 of seed, 40 of classes and values
BYTES_LIMIT = 1.5
AUDITS = {
    "teacher-cache status": ["-m", "teacher_cache", "status"],
    "tools/inspect_cache.py": ["tools/inspect_cache.py"],
}
# A process reports the largest memory of the one that it was forked from, too, so a small one forks it.
LAUNCHER = """
import os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
errors = process.stderr.read()
_, state, usage = os.wait4(process.pid, 0)
sys.stderr.buffer.write(errors)
print(time.perf_counter() - started, usage.ru_maxrss * 1024)
sys.exit(os.waitstatus_to_exitcode(state))
"""
FIRST_LABELS = """
import sys, time
from student.loader import ViewLoader
from teacher_cache.store.labels import LabelReader
from teacher_cache.store.store import Store
from tools.benchmarks.storage import BATCH, EPOCHS, label_plan
path = sys.argv[1]
plan = label_plan(Store.open(path))
wanted = plan.order[: plan.local_batch]
samples, views = plan.samples[wanted], plan.views[wanted]
started = time.perf_counter()
loader = ViewLoader(path, plan.local_batch, epochs=EPOCHS, repeats=3, order="together")
LabelReader(loader.store).labels(samples, views)
print(time.perf_counter() - started)
"""


class Cost(NamedTuple):
    """Of a process: seconds, and the largest resident memory in bytes."""

    seconds: float
    peak_bytes: float


def plans() -> list[RowPlan]:
    return [
        RowPlan(
            name="label look-up, an epoch of ImageNet",
            against="limit: 1 million labels/s",
            unit="labels/s",
            measure=label_rate,
            limit=1_000_000,
        ),
        RowPlan(
            name="first batch's labels after open",
            against="limit: 1 s, plan excluded",
            unit="s",
            measure=first_labels,
            lower=True,
            limit=1.0,
        ),
        RowPlan(
            name="bytes a view, simulated labels of 1,000 classes",
            against="TinyViT's store of 10 probabilities, 44 B; reach is 1.5 B",
            unit="B/view",
            measure=simulated_bytes,
            reach=TINYVIT_BYTES / BYTES_LIMIT,
            lower=True,
        ),
        RowPlan(
            name="bytes a view, a filled store",
            against="TinyViT's store of 10 probabilities, 44 B; reach is 1.5 B",
            unit="B/view",
            measure=filled_bytes,
            reach=TINYVIT_BYTES / BYTES_LIMIT,
            lower=True,
        ),
    ] + [plan for audit in AUDITS for plan in audit_plans(audit)]


def audit_plans(audit: str) -> list[RowPlan]:
    """What an audit of a store costs: its largest memory, and its time."""
    memory = RowPlan(
        name=f"{audit}: peak memory",
        against="limit: 2 GB",
        unit="GB",
        measure=partial(audit_cost, audit=audit, field="peak_bytes", scale=1e-9),
        lower=True,
        limit=2.0,
    )
    time = RowPlan(
        name=f"{audit}: time",
        against="limit: 60 s",
        unit="s",
        measure=partial(audit_cost, audit=audit, field="seconds", scale=1.0),
        lower=True,
        limit=60.0,
    )
    return [memory, time]


def label_plan(store: Store, epoch: int = 0) -> EpochPlan:
    """DeiT's epoch: batches of 1,024, three repeats together."""
    blocks = pass_blocks(store.counts)
    settings = PlanSettings(
        seed=0,
        batch_size=min(BATCH, blocks.num_samples // 3),
        world_size=1,
        rank=0,
        repeats=3,
        order="together",
        views_in_use=store.views,
        pool_batches=12,
    )
    return epoch_plan(settings, blocks, epoch)


def label_rate(bench: Bench) -> Measurement:
    """One epoch, batch by batch, from a new reader, once a turn; each turn another epoch of the plan."""
    store = Store.open(simulated_store(bench))
    rates = []
    for turn in range(bench.repeats):
        plan = label_plan(store, turn)
        started = time.perf_counter()
        reader = LabelReader(store)
        for step in range(plan.steps):
            wanted = plan.order[step * plan.local_batch : (step + 1) * plan.local_batch]
            reader.labels(plan.samples[wanted], plan.views[wanted])
        rates.append(plan.steps * plan.local_batch / (time.perf_counter() - started))
    return Measurement(
        tuple(rates), note=f"{counted(plan.steps * plan.local_batch, 'label')} of {_what(store)}, in the plan's order"
    )


def first_labels(bench: Bench) -> Measurement:
    """A process a turn: the store is opened anew; its files may be in the system's memory."""
    path = simulated_store(bench)
    seconds = [float(_output([sys.executable, "-c", FIRST_LABELS, str(path)])) for _ in range(bench.repeats)]
    return Measurement(
        tuple(seconds), note="open, the loader with its check of all records, one batch of labels; a process of its own"
    )


def simulated_bytes(bench: Bench) -> Measurement:
    return _bytes(Store.open(simulated_store(bench)))


def filled_bytes(bench: Bench) -> Measurement:
    if bench.filled is None:
        raise UnavailableError("give a filled store with --filled STORE (make: BENCH_FILLED=)")
    store = Store.open(bench.filled)
    if not store.committed().any():
        raise BenchmarkError(f"{bench.filled} is not filled yet: run `teacher-cache fill`, or leave --filled out")
    return _bytes(store)


def _bytes(store: Store) -> Measurement:
    found = status(store)
    per_view: float = found["bytes"]["per_view"]
    note = f"{_what(store)}; labels, digests and records, without the index; counted once, not timed"
    return Measurement((per_view,), (TINYVIT_BYTES,), note)


def audit_cost(bench: Bench, audit: str, field: str, scale: float) -> Measurement:
    path = simulated_store(bench)

    def run() -> list[Cost]:
        command = [sys.executable, *AUDITS[audit], str(path)]
        found = []
        for _ in range(bench.repeats):
            seconds, peak_bytes = _output([sys.executable, "-S", "-c", LAUNCHER, *command]).split()
            found.append(Cost(float(seconds), float(peak_bytes)))
        return found

    costs: list[Cost] = bench.shared(audit, run)
    return Measurement(
        tuple(scale * getattr(cost, field) for cost in costs), note="a process of its own, start included"
    )


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BenchmarkError(f"{json.dumps(command[-3:])} ended with {done.returncode}: {why}")
    return done.stdout


def _what(store: Store) -> str:
    return f"{counted(int(store.counts.sum()), 'sample')} x {counted(store.views, 'view')}"
