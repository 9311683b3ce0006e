"""Samples about which teacher and ground truth differ, the most convincing first: likely label errors, pictures of two
classes, and pictures that the teacher calls something else in every view.

The shares of the labels over a sample's views serve as its class probabilities; a likely error is ranked by its
normalised margin (Northcutt, Jiang and Chuang 2021, "Confident learning"; cleanlab's label quality score of that name):
half of 1 + share of the own class - share of the most frequent other one. cleanlab itself would want all samples'
probabilities of all classes at once (10 GB for ImageNet's training set), and brings pandas for this one line.

A mixed view is evidence about its own class in proportion to its own share of the mix, and none at all where the label
is the partner's class: then the teacher saw the partner.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from teacher_cache.audit.confusions import class_number
from teacher_cache.audit.names import place
from teacher_cache.audit.votes import LabelStatistics, OnProgress, Votes, read_statistics
from teacher_cache.errors import StoreError
from teacher_cache.messages.nearest import did_you_mean
from teacher_cache.messages.shown import counted
from teacher_cache.replay.block import view_mix
from teacher_cache.replay.mix import LAMBDA_ONE
from teacher_cache.replay.seeds import Stream, derive
from teacher_cache.storage.place import as_place
from teacher_cache.store.labels import unit_rows
from teacher_cache.store.store import Store
from teacher_cache.store.unit import SKIPPED

LISTED = 50
MIN_LABELS = 4  # fewer say nothing about stability; a store of fewer views wants them all
SECOND_SHARE, BOTH_SHARES = 0.25, 0.9  # two stable labels: what the second has at least, and both together
UNSTABLE_SHARE = 0.5  # the commonest label has less
PLANS = 40_000  # mix plans, of two thirds of a millisecond each, that are drawn at most
VIEWS_WEIGHED = 64  # of each sample, where there are too many samples for all: fewer samples rather than fewer views


@dataclass(frozen=True)
class Evidence:
    """What labels say of samples, (n,) each: their weight in views, and the shares of it. entropy is in bits."""

    samples: np.ndarray
    labels: np.ndarray  # how many labels were looked at
    weight: np.ndarray
    label: np.ndarray
    share: np.ndarray
    second: np.ndarray  # -1: there is one label only
    second_share: np.ndarray
    own_share: np.ndarray
    entropy: np.ndarray

    def other(self, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The label with most evidence but the own class, -1 where there is none, and its share."""
        is_own = self.label == classes[self.samples]
        return np.where(is_own, self.second, self.label), np.where(is_own, self.second_share, self.share)

    def margins(self, classes: np.ndarray) -> np.ndarray:
        """The share of that label less the own class's, in [-1, 1]."""
        margins: np.ndarray = self.other(classes)[1] - self.own_share
        return margins


def disagreements(
    store: Store,
    *,
    limit: int = LISTED,
    of_class: str | None = None,
    shard: str | None = None,
    margin: float | None = None,
    plans: int = PLANS,
    seed: int = 0,
    statistics: LabelStatistics | None = None,
    on_labels: OnProgress | None = None,
    on_plans: OnProgress | None = None,
) -> dict[str, Any]:
    """Likely label errors, pictures of two classes and unstable samples, each ranked, the first `limit` of each.

        {"store": "runs/store", "mixed": true, "class": null, "shard": null, "margin": null, "min_labels": 4,
         "evidence": "what counts, one sentence", "samples": 10000, "weighed": 6000, "views_weighed": 16,
         "label_errors": {"samples": 812, "rows": [ROW, ...]},
         "multi_label": {"samples": 90, "rows": [ROW, ...]},
         "unstable": {"samples": 300, "rows": [ROW, ...]}}

        ROW {"shard": "train-0000.tar", "key": "00017", "sample": 17, "class": "cat", "label": "dog", "share": 0.9,
             "second": "cat", "second_share": 0.1, "own_share": 0.1, "margin": 0.8, "score": 0.1,
             "entropy_bits": 0.5, "labels": 16, "evidence": 7.2}

    label and second have the largest shares of the evidence, second is null where there is one label only; margin is
    the share of the largest other label less that of the own class, score = (1 - margin) / 2: 0 is a sure error.
    evidence is in views, labels counts those looked at. Samples of fewer than min_labels labels are left out, and rows
    of less than half as much evidence.

    samples of each list counts all that belong to it, of those weighed: where views are mixed, the most suspicious ones
    by plain votes; views_weighed views of each are looked at, so that no more than `plans` mix plans are drawn.
    of_class (a name) and shard narrow the samples, margin the rows: those of at least that.
    """
    statistics = read_statistics(store, on_labels) if statistics is None else statistics
    votes, classes = statistics.votes, store.index.classes
    least = min(MIN_LABELS, store.views)
    samples = np.flatnonzero((votes.num_labels >= least) & _narrowed(store, of_class, shard))
    found, views_weighed = _plain(votes, samples), store.views
    if store.policy.mix is not None:
        weighed = samples
        if _num_plans(store, samples) > plans:
            weighed = _candidates(found, classes, max(5 * limit, plans // (3 * VIEWS_WEIGHED)))
        found, views_weighed = weigh(store, weighed, plans, seed, on_plans)
    result: dict[str, Any] = {
        "store": str(store.path),
        "mixed": store.policy.mix is not None,
        "class": of_class,
        "shard": shard,
        "margin": margin,
        "min_labels": least,
        "evidence": _what_counts(store, len(found.samples), len(samples), views_weighed),
        "samples": len(samples),
        "weighed": len(found.samples),
        "views_weighed": views_weighed,
    }
    margins = found.margins(classes)
    wanted = (found.weight >= least / 2) & (np.ones(len(margins), bool) if margin is None else margins >= margin)
    for name, (belongs, order) in _lists(statistics, found, classes).items():
        members = np.flatnonzero(wanted & belongs)
        ranked = members[np.lexsort(tuple(key[members] for key in order))][:limit]
        rows = [_row(store, found, number, float(margins[number])) for number in ranked.tolist()]
        result[name] = {"samples": len(members), "rows": rows}
    return result


def _lists(
    statistics: LabelStatistics, found: Evidence, classes: np.ndarray
) -> dict[str, tuple[np.ndarray, tuple[np.ndarray, ...]]]:
    """By name: which samples belong to a list, (n,) bool, and what they are ranked by, the last key first."""
    truth, (other, _) = classes[found.samples], found.other(classes)
    rarity = _confusion_of(statistics, truth, other)
    return {
        "label_errors": (
            found.label != truth,
            (found.samples, rarity, -found.weight, -found.margins(classes)),
        ),
        "multi_label": (
            (found.second_share >= SECOND_SHARE) & (found.share + found.second_share >= BOTH_SHARES),
            (found.samples, -found.share - found.second_share, -found.second_share),
        ),
        "unstable": (found.share < UNSTABLE_SHARE, (found.samples, found.share, -found.entropy)),
    }


def _narrowed(store: Store, of_class: str | None, shard: str | None) -> np.ndarray:
    """Samples of this class and of this shard, where they are named, (n,) bool."""
    inside = np.ones(store.index.num_samples, bool)
    if of_class is not None:
        inside &= store.index.classes == class_number(store, of_class)
    if shard is not None:
        inside &= _in_shard(store, shard)
    return inside


def _what_counts(store: Store, weighed: int, samples: int, views: int) -> str:
    if store.policy.mix is None:
        return f"all labels of {counted(samples, 'sample')}; no view is mixed"
    which = "all" if weighed == samples else f"the {weighed:,} most suspicious by plain votes"
    return (
        f"views are mixed: each counts by the sample's own share of the mix, and not at all where the label is the "
        f"partner's class; weighed were {views} of {counted(store.views, 'view')} of {which} "
        f"of {counted(samples, 'sample')}"
    )


def _in_shard(store: Store, shard: str) -> np.ndarray:
    numbers = [number for number, entry in enumerate(store.index.shards) if entry.name == shard]
    if not numbers:
        names = [entry.name for entry in store.index.shards]
        listing = f"`inspect_cache.py {as_place(store.path)}` lists all {len(names)}"
        raise StoreError(f"{store.path} has no shard {shard!r}: {did_you_mean(shard, names, listing)}")
    starts, inside = store.index.starts, np.zeros(store.index.num_samples, bool)
    inside[starts[numbers[0]] : starts[numbers[0] + 1]] = True
    return inside


def _plain(votes: Votes, samples: np.ndarray) -> Evidence:
    """Votes as evidence: every label counts one."""
    return Evidence(
        samples=samples,
        labels=votes.num_labels[samples],
        weight=votes.num_labels[samples].astype(float),
        label=votes.label[samples],
        share=votes.share[samples],
        second=votes.second[samples],
        second_share=votes.second_share[samples],
        own_share=votes.own_share[samples],
        entropy=votes.entropy[samples].astype(float),
    )


def _num_plans(store: Store, samples: np.ndarray) -> int:
    """How many mix plans weighing all views of these samples takes."""
    return len(list(store.layout.block_runs(samples))) * store.views


def _candidates(plain: Evidence, classes: np.ndarray, each: int) -> np.ndarray:
    """The samples that plain votes make most suspicious, of each kind so many, sorted."""
    if len(plain.samples) <= each:
        return plain.samples
    _, other_share = plain.other(classes)
    chosen = [
        plain.samples[np.argsort(key, kind="stable")[:each]]
        for key in (plain.own_share - other_share, -plain.second_share, -plain.entropy)
    ]
    return np.unique(np.concatenate(chosen))


def weigh(
    store: Store, samples: np.ndarray, plans: int = PLANS, seed: int = 0, on_progress: OnProgress | None = None
) -> tuple[Evidence, int]:
    """The evidence of mixed views about these samples (n,), sorted; and how many views of each were looked at.

    All views, or so many at random, the same ones for all samples, that no more than `plans` mix plans are drawn.
    """
    index, committed = store.index, store.committed()
    runs = list(store.layout.block_runs(samples))
    filled_groups = np.flatnonzero(committed.any(axis=(0, 1))).tolist()
    filled = np.array([view for group in filled_groups for view in store.layout.group_views(group)], np.int64)
    number = min(len(filled), max(1, plans // max(1, len(runs))))
    views = np.sort(filled[Stream(derive(seed, "audit views")).permutation(len(filled))[:number]])
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # labels, weights (n, views) of a block's samples
    places = list(dict.fromkeys((span.shard, span.unit) for span, _ in runs))
    rows, row = unit_rows(store, committed, places=places), None
    for done, (span, entries) in enumerate(runs):
        if row is None or (row.shard, row.unit) != (span.shard, span.unit):
            row = next(rows)
        labels = row.labels[span.rows.start : span.rows.stop][:, views].astype(np.int64)
        classes = index.classes[span.samples.start : span.samples.stop]
        weights = _weights(store, span.shard, span.block, classes, labels, views)
        members = samples[entries] - span.samples.start
        parts.append((labels[members], weights[members], samples[entries]))
        if on_progress is not None:
            on_progress(done + 1, len(runs))
    return _collect(store.index.classes, parts), number


def _weights(
    store: Store, shard: int, block: int, classes: np.ndarray, labels: np.ndarray, views: np.ndarray
) -> np.ndarray:
    """What each label of a block says about its sample, in views. labels (n, views) -> (n, views) float."""
    weights = np.zeros(labels.shape)
    for column, view in enumerate(views.tolist()):
        given = labels[:, column]
        if not (given >= 0).any():
            continue
        skipped = frozenset(np.flatnonzero(given == SKIPPED).tolist())
        plan = view_mix(
            store.policy,
            store.seed,
            shard=store.shard_name(shard),
            block=block,
            num_samples=len(labels),
            skipped=skipped,
            view=view,
        )
        partners = (given == classes[plan.partners]) & (given != classes)
        weights[:, column] = np.where((given >= 0) & ~partners, plan.lambdas / LAMBDA_ONE, 0)
    return weights


def _collect(classes: np.ndarray, parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Evidence:
    rows: list[tuple[float, ...]] = []
    for labels, weights, samples in parts:
        for given, weight_of, sample in zip(labels, weights, samples.tolist(), strict=True):
            rows.append((sample, int((given >= 0).sum()), *_shares(given, weight_of, int(classes[sample]))))
    samples_of, labels_of, weight, label, share, second, second_share, own_share, entropy = (
        np.array(rows, float).reshape(len(rows), 9).T
    )
    return Evidence(
        samples=samples_of.astype(np.int64),
        labels=labels_of.astype(np.int64),
        weight=weight,
        label=label.astype(np.int64),
        share=share,
        second=second.astype(np.int64),
        second_share=second_share,
        own_share=own_share,
        entropy=entropy,
    )


def _shares(labels: np.ndarray, weights: np.ndarray, own: int) -> tuple[float, ...]:
    """weight, label, share, second, second_share, own_share, entropy of one sample's labels."""
    counted = weights > 0
    kinds, numbers = np.unique(labels[counted], return_inverse=True)
    total = float(weights.sum())
    if not len(kinds):
        return 0.0, -1, 0.0, -1, 0.0, 0.0, 0.0
    shares = np.bincount(numbers, weights[counted]) / total
    order = np.lexsort((kinds, kinds != own, -shares))
    second = order[1] if len(order) > 1 else None
    return (
        total,
        int(kinds[order[0]]),
        float(shares[order[0]]),
        -1 if second is None else int(kinds[second]),
        0.0 if second is None else float(shares[second]),
        float(shares[kinds == own].sum()),
        max(0.0, -float((shares * np.log2(shares)).sum())),
    )


def _confusion_of(statistics: LabelStatistics, truth: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How often the teacher gives samples of the class `truth` the label, over the whole store, (n,) int64."""
    return np.where(labels < 0, 0, statistics.confusions.counts_of(truth, np.maximum(labels, 0)))


def _row(store: Store, found: Evidence, number: int, margin: float) -> dict[str, Any]:
    sample, second, names = int(found.samples[number]), int(found.second[number]), store.class_names
    return {
        **place(store, sample),
        "class": names[store.index.classes[sample]],
        "label": names[int(found.label[number])],
        "share": float(found.share[number]),
        "second": names[second] if second >= 0 else None,
        "second_share": float(found.second_share[number]),
        "own_share": float(found.own_share[number]),
        "margin": margin,
        "score": (1 - margin) / 2,
        "entropy_bits": float(found.entropy[number]),
        "labels": int(found.labels[number]),
        "evidence": float(found.weight[number]),
    }
