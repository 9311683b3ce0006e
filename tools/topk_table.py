"""What soft labels cost and lose: bytes a view of K = 0, 10, 100, and the error of the distillation loss.

python tools/topk_table.py [STORE]

A teacher is simulated (store/simulated.py), scaled so that the largest probability at tau 1 is 0.7 on average.
Its labels go through a real store and come back by its reader. The loss is tau^2 KL(teacher at tau || student at tau);
its error is the mean over views of |loss - loss against the full distribution| over the mean of the latter; its
gradient's, with respect to the student's logits, the same with Euclidean norms. The gradient is what trains: a tail
that is spread evenly changes the teacher's entropy, hence the loss, for every student alike. Two students: one that
knows nothing (logits of standard deviation 1), and one close to the teacher (the teacher's logits and noise of standard
deviation 1). With K = 0 the distribution is the label alone.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
from scipy.special import log_softmax, softmax

from student.losses import spread_tail
from teacher_cache.endings import one_line_errors
from teacher_cache.options import COUNT, NUMBER, optional_store_argument
from teacher_cache.replay.policy import load_policy
from teacher_cache.shards.index import Index, ShardEntry
from teacher_cache.store.labels import LabelReader
from teacher_cache.store.simulated import SimulatedTeacher, simulate
from teacher_cache.store.status import status
from teacher_cache.store.store import Store
from teacher_cache.store.topk import SoftLabels, top_classes
from teacher_cache.store.unit import Unit, UnitCounts, UnitValues
from teacher_cache.teacher.identity import TeacherIdentity
from teacher_cache.terminal import say

TOPKS, TAUS = (0, 10, 100), (1.0, 3.0)
STUDENT_NOISE = 1.0


class Row(NamedTuple):
    topk: int
    tau: float
    bytes_per_view: float
    errors: list[float]  # of the loss and of its gradient, student that knows nothing; the same, student close by


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@optional_store_argument
@click.option("--samples", default=4096, type=click.IntRange(1), metavar=COUNT, help="Simulated samples.")
@click.option("--views", default=16, type=click.IntRange(1), metavar=COUNT, help="How many views a sample has.")
@click.option("--classes", default=1000, type=click.IntRange(max(TOPKS)), metavar=COUNT, help="Of the teacher.")
@click.option("--seed", default=0, type=click.IntRange(0), metavar=NUMBER, help="Of all that is simulated.")
def main(samples: int, views: int, classes: int, seed: int, store_path: str | None) -> None:
    """Print bytes a view, and the error of the soft distillation loss, by K and tau; of STORE too its bytes a view."""
    with one_line_errors():
        found = status(Store.open(store_path)) if store_path else None
    say("| K | tau | bytes a view | student knows nothing: loss | gradient | student is close: loss | gradient |")
    say("| --- | --- | --- | --- | --- | --- | --- |")
    for row in table(simulate(samples, views, classes, seed)):
        errors = " | ".join(percent(error) for error in row.errors)
        say(f"| {row.topk} | {row.tau:g} | {row.bytes_per_view:.2f} | {errors} |")
    if found is not None:
        tau = "" if found["tau"] is None else f", tau {found['tau']:g}"
        per_view = found["bytes"]["per_view"]
        size = "nothing is filled" if per_view is None else f"{per_view:.2f} bytes a view"
        say("")
        say(f"{store_path}: K {found['topk']}{tau}, {size}")


def table(teacher: SimulatedTeacher) -> Iterator[Row]:
    """One row for each tau and K."""
    with tempfile.TemporaryDirectory() as folder:
        stores = {
            (tau, topk): make_store(Path(folder, f"{topk}-{tau}"), teacher, topk, tau) for tau in TAUS for topk in TOPKS
        }
        errors = loss_errors(teacher, stores)
        for (tau, topk), store in stores.items():
            yield Row(topk, tau, status(store)["bytes"]["per_view"], errors[tau, topk])


def make_store(path: Path, teacher: SimulatedTeacher, topk: int, tau: float) -> Store:
    """A store of one shard, filled by the simulated teacher."""
    store = Store.create(
        path, one_shard(teacher), load_policy("none"), views=teacher.views, group=teacher.views, seed=teacher.seed
    )
    store.publish_teacher(TeacherIdentity("simulated", topk=topk, tau=tau if topk else None))
    for unit in store.units():
        store.commit_unit(unit, label_unit(store, unit, teacher, topk, tau), counts(store, unit), device="")
    return store


def one_shard(teacher: SimulatedTeacher) -> Index:
    """The index of a shard that is nowhere: only labels are read."""
    numbers = np.arange(teacher.samples, dtype=np.int64)
    return Index(
        shards=(ShardEntry("simulated.tar", "simulated.tar", num_bytes=1024 * teacher.samples, hash=0),),
        counts=np.array([teacher.samples], np.int64),
        key_bytes=np.frombuffer(b"".join(b"%08d" % number for number in numbers), np.uint8),
        key_ends=8 * (numbers + 1),
        classes=(numbers % teacher.classes).astype(np.int32),
        offsets=1024 * numbers,
        sizes=np.full(teacher.samples, 512, np.int64),
        fingerprints=np.zeros(teacher.samples, np.uint64),
        class_names=tuple(str(number) for number in range(teacher.classes)),
    )


def label_unit(store: Store, unit: Unit, teacher: SimulatedTeacher, topk: int, tau: float) -> UnitValues:
    """What `fill` would commit; digests are random, as hashes are."""
    blocks = store.layout.blocks(unit)
    digests = np.random.default_rng([teacher.seed, unit.unit, 1]).integers(
        0, 2**64, (len(blocks), store.group), np.uint64
    )
    labels, classes, probabilities = [], [], []
    for block in blocks:
        logits = teacher.logits(block)
        labels.append(logits.argmax(axis=-1))
        if topk:
            largest, parts = top_classes(logits.reshape(-1, teacher.classes), topk, tau)
            classes.append(largest.reshape(*logits.shape[:2], -1))
            probabilities.append(parts.reshape(*logits.shape[:2], -1))
    if not topk:
        return UnitValues(np.concatenate(labels), digests)
    return UnitValues(np.concatenate(labels), digests, np.concatenate(classes), np.concatenate(probabilities))


def counts(store: Store, unit: Unit) -> UnitCounts:
    return UnitCounts(labelled=store.layout.num_views(unit), own=0, larger=0, either=0, skipped=0)


def loss_errors(
    teacher: SimulatedTeacher, stores: dict[tuple[float, int], Store]
) -> dict[tuple[float, int], list[float]]:
    """For each store the errors of the loss and of its gradient, for either student."""
    readers = {key: LabelReader(store) for key, store in stores.items()}
    differences = {key: np.zeros((2, 2)) for key in stores}
    sums = {tau: np.zeros((2, 2)) for tau in TAUS}
    for block in teacher.blocks:
        rng = np.random.default_rng([teacher.seed, block, 2])
        all_logits = teacher.logits(block)
        for view in range(teacher.views):
            logits = all_logits[:, view]
            noise = rng.standard_normal((2, *logits.shape), np.float32)
            students = (noise[0], logits + np.float32(STUDENT_NOISE) * noise[1])
            for tau in TAUS:
                exact = softmax(logits / tau, axis=-1)
                log_shares = [log_softmax(student / tau, axis=-1) for student in students]
                losses = [soft_loss(exact, shares, tau) for shares in log_shares]
                for number, shares in enumerate(log_shares):
                    sums[tau][number] += losses[number].sum(), length(np.exp(shares) - exact)
                for key in ((tau, topk) for topk in TOPKS):
                    read = whole(read_soft(readers[key], stores[key], block, view, len(logits)), teacher.classes)
                    for number, shares in enumerate(log_shares):
                        error = abs(soft_loss(read, shares, tau) - losses[number]).sum()
                        differences[key][number] += error, length(read - exact)
    return {(tau, topk): (differences[tau, topk] / sums[tau]).reshape(-1).tolist() for tau, topk in stores}


def read_soft(reader: LabelReader, store: Store, block: int, view: int, num_samples: int) -> SoftLabels[np.ndarray]:
    """What the store says of a block at a view; of labels alone, all the mass on them."""
    positions = np.arange(num_samples)
    if store.topk:
        return reader.soft(0, block, view, positions)
    samples = store.layout.block(0, block).samples.start + positions
    labels = reader.labels(samples, np.full(num_samples, view))
    return SoftLabels(labels[:, None], np.ones((num_samples, 1), np.float32), np.zeros(num_samples, np.float32))


def whole(soft: SoftLabels[np.ndarray], num_classes: int) -> np.ndarray:
    """The distribution that training makes of soft labels. -> (B, num_classes) float32."""
    classes, probabilities, tail = map(torch.from_numpy, (soft.classes, soft.probabilities, soft.tail))
    return spread_tail(classes, probabilities, tail, num_classes).numpy()


def soft_loss(distribution: np.ndarray, log_shares: np.ndarray, tau: float) -> np.ndarray:
    """tau^2 KL(distribution || student), the student's log-probabilities at tau given. (B, C), (B, C) -> (B,)."""
    logs = np.log(distribution, where=distribution > 0, out=np.zeros_like(distribution))
    return tau**2 * (distribution * (logs - log_shares)).sum(axis=1)


def length(gradients: np.ndarray) -> float:
    """Sum over the views of the Euclidean norm; the factor tau of the gradient drops out."""
    return float(np.linalg.norm(gradients, axis=1).sum())


def percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


if __name__ == "__main__":
    main()
