"""Stores with labels drawn at random, for statistics."""

from dataclasses import fields
from pathlib import Path

import numpy as np

from teacher_cache.replay.block import view_mix
from teacher_cache.replay.mix import class_pairs
from teacher_cache.store.agreement import count_agreement
from teacher_cache.store.store import Store
from teacher_cache.store.unit import SKIPPED, Unit, UnitCounts, UnitValues
from tests.support.bright_shards import bright_store, small_policy


def commit_labels(store: Store, unit: Unit, labels: np.ndarray) -> None:
    """Commit a unit with these labels and digests that are none."""
    start = store.layout.samples(unit).start
    counts = [0] * len(fields(UnitCounts))
    for block in store.layout.blocks(unit):
        span = store.layout.block(unit.shard, block)
        rows = slice(span.rows.start, span.rows.stop)
        for column, view in enumerate(store.layout.group_views(unit.group)):
            given = labels[rows, column]
            skipped = frozenset(np.flatnonzero(given == SKIPPED).tolist())
            plan = view_mix(
                store.policy,
                store.seed,
                shard=store.shard_name(unit.shard),
                block=block,
                num_samples=len(given),
                skipped=skipped,
                view=view,
            )
            pairs = class_pairs(store.index.classes[start:][rows], plan, skipped)
            found = count_agreement(given, pairs, plan.lambdas)
            counts = [a + b for a, b in zip(counts, vars(found).values(), strict=True)]
    values = UnitValues(labels, np.ones((len(store.layout.blocks(unit)), store.group), np.uint64))
    store.commit_unit(unit, values, UnitCounts(*counts), "cpu")


def drawn_store(
    folder: Path,
    *,
    mixed: bool = False,
    seed: int = 0,
    views: int = 4,
    own: float = 0.6,
    name: str = "store",
    overrides: tuple[str, ...] = (),
) -> Store:
    """A filled store over bright shards whose labels are the class with probability `own`, else any; one skipped."""
    policy = small_policy(*overrides, *(() if mixed else ("mix=none",)))
    store = bright_store(folder, policy=policy, views=views, name=name)
    rng = np.random.default_rng(seed)
    for unit in store.units():
        samples = store.layout.samples(unit)
        truth = store.index.classes[samples.start : samples.stop, None]
        any_class = rng.integers(0, store.num_classes, (len(samples), store.group))
        labels = np.where(rng.random(any_class.shape) < own, truth, any_class)
        if unit.shard == 1:
            labels[5] = SKIPPED
        commit_labels(store, unit, labels)
    return store


def all_labels(store: Store) -> np.ndarray:
    """(samples, views), read unit by unit; -1 where nothing is committed."""
    found = np.full((store.index.num_samples, store.views), -1, np.int64)
    committed = store.committed()
    for unit in store.units():
        if committed[unit]:
            samples, views = store.layout.samples(unit), store.layout.group_views(unit.group)
            labels = store.read_labels(unit)[: len(samples)]
            found[samples.start : samples.stop, views.start : views.stop] = labels
    return found
