"""A naive cache's labels in a store of the same views: what students of other caches learn from.

Views and digests are those of the store that is copied, so that a student sees the same pixels and every one of them
is checked; labels alone are others. They go through the store's own writer.
"""

from dataclasses import replace
from typing import Literal

import numpy as np

from teacher_cache.messages.shown import counted
from teacher_cache.replay.block import view_mix
from teacher_cache.replay.mix import LAMBDA_ONE, MixPlan, class_pairs
from teacher_cache.storage.place import as_place
from teacher_cache.store.agreement import count_agreement
from teacher_cache.store.labels import read_views
from teacher_cache.store.store import Store
from teacher_cache.store.unit import SKIPPED, Unit, UnitValues
from tools.evidence.errors import EvidenceError

Naive = Literal["one_label", "larger_crop"]


def rewrite(kind: Naive, source: Store, labels: Store, target: Store) -> int:
    """Fill `target`, an empty store like `source`, with source's digests and labels of another kind; units written.

    "one_label": all views of a sample have the label that `labels` has for its one view, the whole picture.
    "larger_crop": a mixed view has the label that `labels`, a store of the same views without mixing, has for the crop
    that covers most of it, its own on a tie. Killed at any point, it is run again. EvidenceError where the stores do
    not fit each other.
    """
    _check(kind, source, labels, target)
    given = read_views(labels)  # (N, views of `labels`)
    assert source.teacher is not None
    if target.teacher is None:
        target.publish_teacher(replace(source.teacher, name=f"{source.teacher.name}, {kind}", topk=0, tau=None))
    units = target.missing_units()
    for unit in units:
        _rewrite_unit(kind, source, given, target, unit)
    return len(units)


def _rewrite_unit(kind: Naive, source: Store, given: np.ndarray, target: Store, unit: Unit) -> None:
    layout = source.layout
    views, num_samples = layout.group_views(unit.group), len(layout.rows(unit))
    found = source.read_unit(unit)
    labels = np.full((num_samples, len(views)), SKIPPED, np.int32)
    pairs = np.zeros((num_samples, len(views), 2), np.int32)
    lambdas = np.full((num_samples, len(views)), LAMBDA_ONE, np.uint32)
    for block in layout.blocks(unit):
        span = layout.block(unit.shard, block)
        rows, samples = slice(span.rows.start, span.rows.stop), slice(span.samples.start, span.samples.stop)
        classes = source.index.classes[samples]
        for column, view in enumerate(views):
            skipped = frozenset(np.flatnonzero(found.labels[rows, column] == SKIPPED).tolist())
            mix = view_mix(
                source.policy,
                source.seed,
                shard=source.shard_name(unit.shard),
                block=block,
                num_samples=len(span.rows),
                skipped=skipped,
                view=view,
            )
            own = given[samples, 0] if kind == "one_label" else larger(given[samples, view], mix)
            labels[rows, column] = np.where(found.labels[rows, column] == SKIPPED, SKIPPED, own)
            pairs[rows, column] = class_pairs(classes, mix, skipped)
            lambdas[rows, column] = mix.lambdas
    counts = count_agreement(labels.reshape(-1), pairs.reshape(-1, 2), lambdas.reshape(-1))
    digests = found.digests[: len(layout.blocks(unit))]
    assert source.teacher is not None
    target.commit_unit(unit, UnitValues(labels, digests), counts, source.teacher.device)


def larger(labels: np.ndarray, mix: MixPlan) -> np.ndarray:
    """Of each position (n,) the label of the crop that covers most of its mixed view: its own or its partner's."""
    return np.where(2 * mix.lambdas.astype(np.int64) >= LAMBDA_ONE, labels, labels[mix.partners])


def _check(kind: Naive, source: Store, labels: Store, target: Store) -> None:
    """Refuse stores of other samples or views; every label that is copied must be there."""
    for store in (source, labels):
        if store.missing_units():
            raise EvidenceError(
                f"{store.path} is not filled to its end: run `teacher-cache fill {as_place(store.path)}`"
            )
    hashes = [[shard.hash for shard in store.index.shards] for store in (source, labels, target)]
    if any(other != hashes[0] for other in hashes[1:]):
        raise EvidenceError(f"{source.path}, {labels.path} and {target.path} index other shards: index the same ones")
    if (source.policy, source.seed, source.layout.views, source.group, source.unit_samples) != (
        *(target.policy, target.seed, target.layout.views, target.group, target.unit_samples),
    ):
        raise EvidenceError(f"{target.path} has other views than {source.path}: make it with `index --like`")
    unmixed = source.policy.model_copy(update={"mix": None})
    if kind == "one_label" and labels.views != 1:
        raise EvidenceError(
            f"{labels.path} has {counted(labels.views, 'view')}, one label an image is of one: index --views 1"
        )
    if kind == "larger_crop" and (labels.policy, labels.seed, labels.views) != (unmixed, source.seed, source.views):
        raise EvidenceError(
            f"{labels.path} does not hold the views of {source.path} before they are mixed: index with the same "
            "policy, seed and views, and --set mix=none"
        )
