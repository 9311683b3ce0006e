"""A store of any size without pictures and without a teacher, to measure on how fast such a store is read.

python tools/simulate_store.py OUT [--samples 1281167 --shards 1024 --views 304 --classes 1000 --seed 0]

Labels are drawn. The simulated teacher of store/simulated.py sees a thousand samples, 128 views each; a sample
of the store takes one of them with its labels renamed, so that the commonest is its own class for 85 %, and each of its
views one of those labels. Then views are mixed: samples of a block are paired anew at every view, half of the pairs
show the partner more, and then the label is the one that the partner's own view would have. Digests are random, as
hashes are. Nothing waits for the disk, and a run that was stopped is begun anew.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from teacher_cache.endings import one_line_errors
from teacher_cache.messages.shown import counted
from teacher_cache.options import COUNT, NUMBER, Folder
from teacher_cache.progress import counting_bar
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.replay.policy import load_policy
from teacher_cache.shards.index import Index, ShardEntry
from teacher_cache.store.simulated import SimulatedTeacher
from teacher_cache.store.status import status
from teacher_cache.store.store import Store
from teacher_cache.store.unit import Unit, UnitCounts, UnitValues
from teacher_cache.teacher.identity import TeacherIdentity
from teacher_cache.terminal import say

PROTOTYPES, DRAWS = 1024, 128  # samples that the teacher sees, and views of each
TOP1 = 0.85  # share of the samples whose commonest label is their own class
TAR_BLOCK = 512


class ShardLabels(NamedTuple):
    """A shard's labels (n, views) int16 or int32, and which equal the own class, the class that is shown more, either
    class of the pair; all (n, views) bool."""

    labels: np.ndarray
    own: np.ndarray
    larger: np.ndarray
    either: np.ndarray


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("out", type=Folder(path_type=Path, readable=False))
@click.option("--samples", default=1_281_167, type=click.IntRange(1), metavar=COUNT, help="Simulated samples.")
@click.option("--shards", default=1024, type=click.IntRange(1), metavar=COUNT, help="That the samples lie in.")
@click.option("--views", default=304, type=click.IntRange(1), metavar=COUNT, help="How many views a sample has.")
@click.option("--classes", default=1000, type=click.IntRange(2), metavar=COUNT, help="Of samples and teacher.")
@click.option("--seed", default=0, type=click.IntRange(0), metavar=NUMBER, help="Of all that is simulated.")
def main(out: Path, samples: int, shards: int, views: int, classes: int, seed: int) -> None:
    """Make the simulated store OUT."""
    with one_line_errors():
        with counting_bar("shards") as bar:
            task = bar.add_task("labels", total=shards)
            store = make_store(out, samples, shards, views, classes, seed, lambda: bar.advance(task))
        found = status(store)
    size = (
        f"{counted(found['samples'], 'sample')} in {counted(found['shards'], 'shard')} x "
        f"{counted(found['views'], 'view')}, {counted(found['units'], 'unit')}"
    )
    say(f"{out}: {size}; {found['bytes']['per_view']:.3f} bytes a view")


# -- making a store --------------------------------------------------------------------------------------------------


def make_store(
    path: Path, samples: int, shards: int, views: int, classes: int, seed: int, progress: Callable[[], None]
) -> Store:
    """The whole store; progress() is called after each shard."""
    store = create_simulated(path, simulated_index(samples, shards, classes, seed), views, seed)
    offsets = label_offsets(classes, seed)
    for shard in range(shards):
        fill_shard(store, shard, offsets, seed)
        progress()
    return store


def create_simulated(path: Path, index: Index, views: int, seed: int) -> Store:
    """An empty store that is bound to the simulated teacher."""
    store = Store.create(path, index, load_policy("deit"), views=views, seed=seed, durable=False)
    store.publish_teacher(TeacherIdentity(f"simulated, seed {seed}"))
    return store


def fill_shard(store: Store, shard: int, offsets: np.ndarray, seed: int) -> None:
    """Commit a shard's units, which depend on seed and shard alone; offsets: label_offsets of the same seed."""
    index, rng = store.index, np.random.default_rng([seed, shard, 2])
    own_classes = index.classes[index.starts[shard] : index.starts[shard + 1]]
    drawn = draw_labels(rng, offsets, own_classes, store.views, store.num_classes)
    for group in range(store.layout.num_groups):
        for number in range(store.layout.num_units(shard)):
            commit(store, Unit(shard, number, group), drawn, rng)


def commit(store: Store, unit: Unit, drawn: ShardLabels, rng: np.random.Generator) -> None:
    """Write a unit with the labels of its shard that are its own."""
    rows, views = store.layout.rows(unit), store.layout.group_views(unit.group)
    part = ShardLabels(*(array[rows.start : rows.stop, views.start : views.stop] for array in drawn))
    digests = rng.integers(0, 2**64, (len(store.layout.blocks(unit)), store.group), np.uint64)
    own, larger, either = (int(equal.sum()) for equal in part[1:])
    counts = UnitCounts(labelled=part.labels.size, own=own, larger=larger, either=either, skipped=0)
    store.commit_unit(unit, UnitValues(part.labels, digests), counts, device="")


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
        fingerprints=rng.integers(0, 2**64, samples, np.uint64),
        class_names=tuple(f"n{truth:08d}" for truth in range(classes)),
    )


def label_offsets(classes: int, seed: int) -> np.ndarray:
    """What the teacher says of PROTOTYPES samples at DRAWS views, counted from each sample's commonest label on.

    (PROTOTYPES, DRAWS) int32 in [0, classes).
    """
    teacher = SimulatedTeacher(PROTOTYPES, DRAWS, classes, seed)
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


if __name__ == "__main__":
    main()
