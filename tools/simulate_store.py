"""A store of any size without pictures and without a teacher, and how fast such a store is read.

python tools/simulate_store.py OUT [--samples 1281167 --shards 1024 --views 304 --classes 1000 --seed 0]
python tools/simulate_store.py OUT --measure

Labels are drawn. The simulated teacher of teacher_cache/simulated.py sees a thousand samples, 128 views each; a sample
of the store takes one of them with its labels renamed, so that the commonest is its own class for 85 %, and each of its
views one of those labels. Then views are mixed: samples of a block are paired anew at every view, half of the pairs
show the partner more, and then the label is the one that the partner's own view would have. Digests are random, as
hashes are. Nothing waits for the disk, and a run that was stopped is begun anew.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from student.loader import ViewLoader
from student.plan import Order, PlanSettings, epoch_plan, pass_blocks
from teacher_cache.errors import TeacherCacheError
from teacher_cache.labels import LabelReader
from teacher_cache.progress import counting_bar
from teacher_cache.replay.block import BLOCK_SAMPLES
from teacher_cache.replay.policy import load_policy
from teacher_cache.shards import Index, ShardEntry
from teacher_cache.simulated import Simulated
from teacher_cache.status import status
from teacher_cache.store import Store, Unit, UnitCounts, UnitValues

PROTOTYPES, DRAWS = 1024, 128  # samples that the teacher sees, and views of each
TOP1 = 0.85  # share of the samples whose commonest label is their own class
BATCH, EPOCHS = 1024, 300
TAR_BLOCK = 512


class ShardLabels(NamedTuple):
    """A shard's labels (n, views) int16 or int32, and which equal the own class, the class that is shown more, either
    class of the pair; all (n, views) bool."""

    labels: np.ndarray
    own: np.ndarray
    larger: np.ndarray
    either: np.ndarray


@click.command(context_settings={"show_default": True})
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--samples", default=1_281_167, type=click.IntRange(1))
@click.option("--shards", default=1024, type=click.IntRange(1))
@click.option("--views", default=304, type=click.IntRange(1))
@click.option("--classes", default=1000, type=click.IntRange(2))
@click.option("--seed", default=0, type=click.IntRange(0))
@click.option("--measure", "measured", is_flag=True, help="Make nothing: print as JSON how fast the store OUT is read.")
def main(out: Path, samples: int, shards: int, views: int, classes: int, seed: int, measured: bool) -> None:
    """Make the simulated store OUT."""
    try:
        if measured:
            click.echo(json.dumps(measure(out), indent=2))
            return
        with counting_bar("shards") as bar:
            task = bar.add_task("labels", total=shards)
            store = make_store(out, samples, shards, views, classes, seed, lambda: bar.advance(task))
        found = status(store)
    except TeacherCacheError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    size = f"{found['samples']} samples in {found['shards']} shards x {found['views']} views, {found['units']} units"
    click.echo(f"{out}: {size}; {found['bytes']['per_view']:.3f} bytes a view")


# -- making a store --------------------------------------------------------------------------------------------------


def make_store(
    path: Path, samples: int, shards: int, views: int, classes: int, seed: int, progress: Callable[[], None]
) -> Store:
    """The whole store; progress() is called after each shard."""
    index = simulated_index(samples, shards, classes, seed)
    store = Store.create(path, index, load_policy("deit"), views=views, seed=seed)
    store.publish_teacher(
        {
            "name": f"simulated, seed {seed}",
            **dict.fromkeys(("weights_sha256", "dtype", "batch_size", "device", "torch"), "none"),
        }
    )
    offsets = label_offsets(classes, seed)
    for shard in range(shards):
        rng = np.random.default_rng([seed, shard, 2])
        own_classes = index.classes[index.starts[shard] : index.starts[shard + 1]]
        drawn = draw_labels(rng, offsets, own_classes, store.views, classes)
        for group in range(store.num_groups):
            for number in range(store.num_units(shard)):
                commit(store, Unit(shard, number, group), drawn, rng)
        progress()
    return store


def commit(store: Store, unit: Unit, drawn: ShardLabels, rng: np.random.Generator) -> None:
    """Write a unit with the labels of its shard that are its own."""
    first, num_samples = store.unit_rows(unit)
    views = store.group_views(unit.group)
    part = ShardLabels(*(array[first : first + num_samples, views.start : views.stop] for array in drawn))
    digests = rng.integers(0, 2**64, (len(store.unit_blocks(unit)), store.group), np.uint64)
    own, larger, either = (int(equal.sum()) for equal in part[1:])
    counts = UnitCounts(labelled=part.labels.size, own=own, larger=larger, either=either, skipped=0)
    store.commit_unit(unit, UnitValues(part.labels, digests), counts, device="", durable=False)


def simulated_index(samples: int, shards: int, classes: int, seed: int) -> Index:
    """Shards that are nowhere, named and filled as ImageNet's: an image, then its class, each after a tar header."""
    rng = np.random.default_rng([seed, 0, 1])
    counts = np.full(shards, samples // shards, np.int64)
    counts[: samples % shards] += 1
    sample_classes = rng.permutation(np.arange(samples, dtype=np.int32) % classes)
    keys = [f"n{truth:08d}_{number}".encode() for number, truth in enumerate(sample_classes.tolist())]
    sizes = np.clip(rng.lognormal(np.log(100_000), 0.5, samples), 2_000, 4_000_000).astype(np.int64)
    members = -(-sizes // TAR_BLOCK) * TAR_BLOCK + 3 * TAR_BLOCK
    ends = np.cumsum(members)
    shard_ends = np.concatenate([[0], ends])[np.concatenate([[0], np.cumsum(counts)])]
    shard_bytes = np.diff(shard_ends) + 2 * TAR_BLOCK
    width = len(str(shards - 1))
    entries = tuple(
        ShardEntry(name=name, path=f"/simulated/{name}", num_bytes=num_bytes, hash=shard_hash)
        for name, num_bytes, shard_hash in zip(
            (f"simulated-train-{shard:0{width}d}.tar" for shard in range(shards)),
            shard_bytes.tolist(),
            rng.integers(0, 2**64, shards, np.uint64).tolist(),
            strict=True,
        )
    )
    return Index(
        shards=entries,
        counts=counts,
        key_bytes=np.frombuffer(b"".join(keys), np.uint8),
        key_ends=np.cumsum([len(key) for key in keys], dtype=np.int64),
        classes=sample_classes,
        offsets=ends - members - np.repeat(shard_ends[:-1], counts) + TAR_BLOCK,
        sizes=sizes,
        class_names=tuple(f"n{truth:08d}" for truth in range(classes)),
    )


def label_offsets(classes: int, seed: int) -> np.ndarray:
    """What the teacher says of PROTOTYPES samples at DRAWS views, counted from each sample's commonest label on.

    (PROTOTYPES, DRAWS) int32 in [0, classes).
    """
    teacher = Simulated(PROTOTYPES, DRAWS, classes, seed)
    labels = np.concatenate([teacher.logits(block).argmax(axis=-1) for block in teacher.blocks])
    commonest = np.array([np.bincount(row).argmax() for row in labels])
    return ((labels - commonest[:, None]) % classes).astype(np.int32)


def draw_labels(
    rng: np.random.Generator, offsets: np.ndarray, own_classes: np.ndarray, views: int, classes: int
) -> ShardLabels:
    """Labels of a shard's samples, own_classes (n,), at mixed views."""
    n = len(own_classes)
    commonest = np.where(rng.random(n) < TOP1, own_classes, rng.integers(0, classes, n)).astype(np.int32)
    draws = rng.integers(0, DRAWS, (n, views), np.uint8)
    unmixed = offsets[rng.integers(0, len(offsets), n)[:, None], draws] + commonest[:, None]
    unmixed -= np.where(unmixed >= classes, np.int32(classes), np.int32(0))
    partners, shows_partner = draw_pairs(rng, n, views)
    rows = np.arange(n)[:, None]
    shown = np.where(shows_partner, partners, rows)
    labels = np.take_along_axis(unmixed, shown, axis=0)
    own = labels == own_classes[:, None]
    return ShardLabels(labels, own, labels == own_classes[shown], own | (labels == own_classes[partners]))


def draw_pairs(rng: np.random.Generator, n: int, views: int) -> tuple[np.ndarray, np.ndarray]:
    """Partners of a shard's n samples at each view, (n, views) int64, an odd one's itself; and where the partner is
    shown more, (n, views) bool, the same for both of a pair.

    Position p of a block meets p ^ r, r in 1..63 drawn for each block and view.
    """
    rows = np.arange(n)[:, None]
    blocks = rows[:, 0] // BLOCK_SAMPLES
    partners = rows ^ rng.integers(1, BLOCK_SAMPLES, (-(-n // BLOCK_SAMPLES), views))[blocks]
    partners = np.where(partners < n, partners, rows)
    shows_partner = rng.integers(0, 2, (n, views), np.uint8).astype(bool)
    return partners, np.take_along_axis(shows_partner, np.minimum(partners, rows), axis=0) & (partners != rows)


# -- measuring how fast it is read -----------------------------------------------------------------------------------


def measure(path: Path) -> dict[str, float]:
    """All figures of a filled store. The first batch and the two audits have a process each."""
    store = Store.open(path)
    figures = {
        "labels_per_s_repeats_3_together": labels_per_s(store, 3, "together"),
        "labels_per_s_repeats_1": labels_per_s(store, 1, "apart"),
    }
    script = Path(__file__).resolve()
    code = f"import sys; sys.path.insert(0, {str(script.parent)!r}); import simulate_store as s; "
    first = subprocess.run(
        [sys.executable, "-c", code + f"print(s.first_labels_s({str(path)!r}))"], check=True, capture_output=True
    )
    figures["first_labels_s"] = float(first.stdout)
    for name, command in (
        ("status", ["-m", "teacher_cache", "status", str(path)]),
        ("inspect_cache", [str(script.with_name("inspect_cache.py")), str(path)]),
    ):
        figures[f"{name}_s"], figures[f"{name}_peak_gb"] = run(command)
    return figures


def labels_per_s(store: Store, repeats: int, order: Order, epoch: int = 0) -> float:
    """Labels of an epoch in the plan's order, over the time that a new LabelReader takes for them; plan left out."""
    settings = PlanSettings(
        seed=0,
        batch_size=BATCH,
        world_size=1,
        rank=0,
        repeats=repeats,
        order=order,
        views_in_use=store.views,
        pool_batches=12,
    )
    plan = epoch_plan(settings, pass_blocks(store.counts), epoch)
    spent = 0.0
    started = time.perf_counter()
    reader = LabelReader(store)
    spent += time.perf_counter() - started
    for step in range(plan.steps):
        wanted = plan.order[step * plan.local_batch : (step + 1) * plan.local_batch]
        samples, views = plan.samples[wanted], plan.views[wanted]
        started = time.perf_counter()
        reader.labels(samples, views)
        spent += time.perf_counter() - started
    return plan.steps * plan.local_batch / spent


def first_labels_s(path: str) -> float:
    """Seconds that a training of EPOCHS epochs takes for its first batch's labels: opening the store, the loader, its
    check of all labels that it needs, and the batch; the plan left out."""
    started = time.perf_counter()
    loader = ViewLoader(path, BATCH, epochs=EPOCHS, repeats=3, order="together")
    spent = time.perf_counter() - started
    plan = epoch_plan(loader.settings, pass_blocks(loader.store.counts, loader.skipped), 0)
    wanted = plan.order[: plan.local_batch]
    samples, views = plan.samples[wanted], plan.views[wanted]
    started = time.perf_counter()
    LabelReader(loader.store).labels(samples, views)
    return spent + time.perf_counter() - started


def run(command: list[str]) -> tuple[float, float]:
    """Run a Python command to its end: seconds, and the largest memory that it held, in GB."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, state, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(state)
    assert state == 0, f"{' '.join(command)} ended with {state}"
    return time.perf_counter() - started, usage.ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
