"""What a store of a whole data set takes: seconds, memory, files and bytes of every step, without its pictures.

    python tools/simulate_scale.py runs/imagenet-1k
    python tools/simulate_scale.py runs/imagenet-22k --samples 14197122 --shards 4096 --views 96 --classes 21841

Each step is a process of its own, whose largest memory the system tells. No shards are there: the index is drawn as
tools/simulate_store.py does it, and so are labels and digests, which are committed as `teacher-cache fill` commits
them, but for the disk, which nothing waits for. How fast shards are walked, from memory and by HTTP (which wants the
extra `objects`), is measured on a few that are written in the same sizes. What was measured is kept in OUT/scale.json,
and a run that was stopped goes on after it.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # run as a script: what it shares is in the package `tools`
    sys.path.insert(0, str(ROOT))

import click  # noqa: E402
import numpy as np  # noqa: E402

from teacher_cache.endings import one_line_errors  # noqa: E402
from teacher_cache.errors import TeacherCacheError  # noqa: E402
from teacher_cache.files import check_local, replacing  # noqa: E402
from teacher_cache.messages.shown import counted  # noqa: E402
from teacher_cache.options import COUNT, NUMBER, Folder  # noqa: E402
from teacher_cache.terminal import say, say_lines  # noqa: E402

REPORTS = ("summary", "confusions", "disagreements")
WALKED_SHARDS = 4  # that are written to be walked
BATCH, REPEATS, POOL_BATCHES = 1024, 3, 12  # of the epoch whose labels are read: DeiT's
COLUMNS = ("step", "seconds", "peak memory, MB", "files", "MB", "what it was")


class ScaleError(TeacherCacheError):
    """A step did not end as it should."""


@dataclass(frozen=True)
class Size:
    """Of a data set, and how it is labelled. processes: that fill."""

    samples: int
    shards: int
    views: int
    classes: int
    seed: int
    processes: int

    @property
    def words(self) -> list[str]:
        """What a process is told of it."""
        return [word for name, value in asdict(self).items() for word in (f"--{name}", str(value))]


@dataclass(frozen=True)
class Step:
    """words: of the process, after `python`. made: the folder whose files are counted after it, if any."""

    name: str
    words: Sequence[str]
    made: Path | None = None


@dataclass(frozen=True)
class Measured:
    """seconds: of the whole process, its start included. peak_bytes: the largest memory that it, or one that it
    started, has held; never less than this program's own, from which it was forked (getrusage). files, num_bytes: of
    what it made; None where it only reads. note: what it says of itself."""

    name: str
    seconds: float
    peak_bytes: int
    files: int | None
    num_bytes: int | None
    note: str


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("out", type=Folder(path_type=Path, file_okay=False))
@click.option("--samples", default=1_281_167, type=click.IntRange(1), metavar=COUNT, help="Simulated samples.")
@click.option("--shards", default=1024, type=click.IntRange(1), metavar=COUNT, help="That the samples lie in.")
@click.option("--views", default=304, type=click.IntRange(1), metavar=COUNT, help="How many views a sample has.")
@click.option("--classes", default=1000, type=click.IntRange(2), metavar=COUNT, help="Of samples and teacher.")
@click.option("--seed", default=0, type=click.IntRange(0), metavar=NUMBER, help="Of all that is simulated.")
@click.option("--processes", default=2, type=click.IntRange(1), metavar=COUNT, help="That fill.")
@click.option("--own-step", hidden=True, help="Do this step in this process.")
def main(
    out: Path, samples: int, shards: int, views: int, classes: int, seed: int, processes: int, own_step: str | None
) -> None:
    """Measure every step of a store of this size, in the folder OUT."""
    if samples < shards:
        raise click.UsageError(f"--samples {samples} lie in --shards {shards}: a shard holds one or more")
    size = Size(samples, shards, views, classes, seed, processes)
    with one_line_errors():
        check_local(out)
        out = out.absolute()
        if own_step is not None:
            name, _, part = own_step.partition(":")
            say(OWN_STEPS[name](out, size, int(part or 0)))
            return
        say_lines(markdown_table(measure_all(out, size)).rstrip())


def steps(out: Path, size: Size) -> list[Step]:
    """All of them, in their order."""
    store, packed = out / "store", out / "packed"
    opened = [__file__, str(out), *size.words, "--own-step"]
    program, inspect = ["-m", "teacher_cache"], [str(ROOT / "tools" / "inspect_cache.py"), str(store)]
    more = str(size.views + 16)
    return [
        Step("index: a few shards walked", [*opened, "walk"]),
        Step("index: the same shards by HTTP", [*opened, "walk far"]),
        Step("index: drawn, the store created", [*opened, "create"], store),
        Step("teacher simulated", [*opened, "offsets"]),
        Step("fill: units committed", [*opened, "fill"], store),
        Step("open, and the index read", [*opened, "open"]),
        Step("train: an epoch's plan and labels", [*opened, "epoch"]),
        Step("teacher-cache status", [*program, "status", str(store), "--json"]),
        *(Step(f"inspect_cache.py {report}", [*inspect, report, "--json"]) for report in REPORTS),
        Step("teacher-cache publish", [*program, "publish", str(store), str(packed)], packed),
        Step(f"teacher-cache extend --views {more}", [*program, "extend", str(store), "--views", more], store),
    ]


def measure_all(out: Path, size: Size) -> list[Measured]:
    """Every step that was not measured before. ScaleError where OUT is of another size, or a step fails."""
    kept = out / "scale.json"
    found: dict[str, Any] = {"size": asdict(size), "steps": []}
    if kept.exists():
        found = json.loads(kept.read_text())
    if found["size"] != asdict(size):
        raise ScaleError(f"{kept} is of {found['size']}: give another folder")
    rows = [Measured(**row) for row in found["steps"]]
    for step in steps(out, size):
        if step.name not in [row.name for row in rows]:
            say(f"{step.name} ...", err=True)
            rows.append(measure(step))
            with replacing(kept) as aside:
                aside.write_text(json.dumps(found | {"steps": [asdict(row) for row in rows]}, indent=2) + "\n")
    return rows


def measure(step: Step) -> Measured:
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, *step.words], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise ScaleError(f"{step.name} ended with exit code {process.returncode}: see what it said above")
    files = [path.stat() for path in step.made.rglob("*") if path.is_file()] if step.made else None
    return Measured(
        name=step.name,
        seconds=seconds,
        peak_bytes=used.ru_maxrss * 1024,
        files=None if files is None else len(files),
        num_bytes=None if files is None else sum(file.st_size for file in files),
        note=said.strip() if "--own-step" in step.words else "",
    )


def markdown_table(rows: Sequence[Measured]) -> str:
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(cells(row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cells(row: Measured) -> tuple[str, ...]:
    files, num_mb = "" if row.files is None else f"{row.files:,}", ""
    if row.num_bytes is not None:
        num_mb = f"{row.num_bytes / 1e6:,.1f}"
    return row.name, f"{row.seconds:,.1f}", f"{row.peak_bytes / 1e6:,.0f}", files, num_mb, row.note


# -- steps of this program's own: each says in one line what it did ----------------------------------------------------


def walk(out: Path, size: Size, part: int) -> str:
    """Write a few shards, with images of the simulated sizes and random bytes in them, and walk them."""
    with _few_shards(out, size) as paths:
        samples, walked_s, _ = _walk(list(map(str, paths)), size)
    rate = samples / walked_s
    return (
        f"{counted(samples, 'sample')} in {counted(len(paths), 'shard')} walked in {walked_s:.2f} s, "
        f"{rate:,.0f} samples/s by one process from memory: {size.samples / rate:,.0f} s for all"
    )


def walk_far(out: Path, size: Size, part: int) -> str:
    """The same by HTTP, from a server on this machine."""
    from tools.range_server import serving

    with _few_shards(out, size) as paths, serving(paths[0].parent) as url:
        num_gb = sum(path.stat().st_size for path in paths) / 1e9
        _, walked_s, cpu_s = _walk([f"{url}/{path.name}" for path in paths], size)
    return (
        f"{num_gb:.2f} GB in {counted(len(paths), 'shard')} by HTTP from this machine in {walked_s:.2f} s, "
        f"{1000 * num_gb / walked_s:,.0f} MB/s by one process, {cpu_s / num_gb:.2f} s of a core for 1 GB"
    )


@contextmanager
def _few_shards(out: Path, size: Size) -> Iterator[list[Path]]:
    """A few shards, which are removed afterwards."""
    from tools.simulate_store import simulated_index

    shards = min(WALKED_SHARDS, size.shards)
    drawn = simulated_index(size.samples // size.shards * shards, shards, size.classes, size.seed)
    paths = [out / "walked" / entry.name for entry in drawn.shards]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([size.seed, 3])
    for path, samples in zip(paths, np.split(np.arange(drawn.num_samples), drawn.starts[1:-1]), strict=True):
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in samples.tolist():
                for ending, content in (
                    ("jpg", rng.bytes(int(drawn.sizes[sample]))),
                    ("cls", str(drawn.classes[sample]).encode()),
                ):
                    member = tarfile.TarInfo(f"{drawn.key(sample)}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, BytesIO(content))
    yield paths
    shutil.rmtree(paths[0].parent)


def _walk(names: list[str], size: Size) -> tuple[int, float, float]:
    """How many samples these shards hold, the seconds that it took to walk them, and those of a core."""
    from teacher_cache.shards.classes import ClassRule
    from teacher_cache.shards.indexing import index_shards

    started, cpu_started = time.perf_counter(), time.process_time()
    index = index_shards(names, ClassRule(), num_classes=size.classes)
    return index.num_samples, time.perf_counter() - started, time.process_time() - cpu_started


def create(out: Path, size: Size, part: int) -> str:
    from tools.simulate_store import create_simulated, simulated_index

    started = time.perf_counter()
    index = simulated_index(size.samples, size.shards, size.classes, size.seed)
    drawn_s = time.perf_counter() - started
    store = create_simulated(out / "store", index, size.views, size.seed)
    created_s = time.perf_counter() - started - drawn_s
    return f"{counted(len(store.units()), 'unit')}; drawing {drawn_s:.1f} s, creating {created_s:.1f} s"


def offsets(out: Path, size: Size, part: int) -> str:
    from tools.simulate_store import label_offsets

    np.save(out / "offsets.npy", label_offsets(size.classes, size.seed))
    return "no step of a real store"


def fill(out: Path, size: Size, part: int) -> str:
    started = time.perf_counter()
    words = [sys.executable, __file__, str(out), *size.words, "--own-step"]
    parts = [
        subprocess.Popen([*words, f"fill part:{number}"], stdout=subprocess.DEVNULL) for number in range(size.processes)
    ]
    codes = [process.wait() for process in parts]
    if any(codes):
        raise ScaleError("a process that fills has failed: run the same command again, which goes on")
    filled_s = time.perf_counter() - started
    labels = size.samples * size.views
    return (
        f"{counted(size.processes, 'process')}, {labels / filled_s / 1e6:.1f} million labels/s, drawing them included"
    )


def fill_part(out: Path, size: Size, part: int) -> str:
    """Fill every shard whose number is `part` modulo the processes; whole ones are there already."""
    from teacher_cache.store.store import Store
    from tools.simulate_store import fill_shard

    store, drawn = Store.open(out / "store", writable=True, durable=False), np.load(out / "offsets.npy")
    missing = sorted({unit.shard for unit in store.missing_units()})
    for shard in missing:
        if shard % size.processes == part:
            fill_shard(store, shard, drawn, size.seed)
    return counted(len(missing), "shard")


def open_whole(out: Path, size: Size, part: int) -> str:
    from teacher_cache.store.store import Store

    started = time.perf_counter()
    store = Store.open(out / "store")
    opened_s = time.perf_counter() - started
    samples = store.index.num_samples
    return (
        f"opening {opened_s:.2f} s, its index of {samples:,} samples {time.perf_counter() - started - opened_s:.2f} s"
    )


def epoch(out: Path, size: Size, part: int) -> str:
    """Read the labels of an epoch's every batch, in the order in which one rank trains."""
    from student.plan import PlanSettings, epoch_plan, pass_blocks
    from teacher_cache.store.labels import LabelReader
    from teacher_cache.store.store import Store

    store = Store.open(out / "store")
    started = time.perf_counter()
    repeats = min(REPEATS, store.views)
    settings = PlanSettings(
        seed=0,
        batch_size=min(BATCH, max(1, size.samples // repeats * repeats)),
        world_size=1,
        rank=0,
        repeats=repeats,
        order="together",
        views_in_use=store.views,
        pool_batches=POOL_BATCHES,
    )
    plan = epoch_plan(settings, pass_blocks(store.counts), 0)
    planned_s = time.perf_counter() - started
    reader = LabelReader(store)
    for order in np.split(plan.order, plan.steps):
        reader.labels(plan.samples[order], plan.views[order])
    labels_s = time.perf_counter() - started - planned_s
    read = f"{counted(len(plan.order), 'label')} in {counted(plan.steps, 'batch')}"
    return f"plan {planned_s:.1f} s; {read} {labels_s:.1f} s"


OWN_STEPS: dict[str, Callable[[Path, Size, int], str]] = {
    "walk": walk,
    "walk far": walk_far,
    "create": create,
    "offsets": offsets,
    "fill": fill,
    "fill part": fill_part,
    "open": open_whole,
    "epoch": epoch,
}


if __name__ == "__main__":
    main()
