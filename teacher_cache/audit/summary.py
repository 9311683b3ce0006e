"""A store at a glance: coverage, agreement, confusions, stability, and what the crops have to do with it."""

from typing import Any

import numpy as np

from teacher_cache.audit import VIEWS_SAMPLED
from teacher_cache.audit.conditions import sampled_agreement
from teacher_cache.audit.confusions import LISTED, confusions, ratio
from teacher_cache.audit.names import place
from teacher_cache.audit.votes import LabelStatistics, OnProgress, Votes, read_statistics
from teacher_cache.errors import ShardError
from teacher_cache.store.status import status
from teacher_cache.store.store import Store

SHARE_BINS = 10
BITS_PER_BIN = 0.5


def summarise(
    store: Store,
    *,
    views_sampled: int = VIEWS_SAMPLED,
    seed: int = 0,
    statistics: LabelStatistics | None = None,
    on_labels: OnProgress | None = None,
    on_params: OnProgress | None = None,
) -> dict[str, Any]:
    """All statistics of a store's committed units as plain JSON: what `status` says, with these entries added.

    coverage.shards   [{"shard": "train-0000.tar", "samples": 5000, "share": 1.0}, ...]   share None: no samples
    mixed             true where views are mixed; agreement (own, larger, either) is of all labels, from the records
    agreement_by_group   [{"views": [0, 16], "labels": 160000, "own": 0.5, "larger": 0.6, "either": 0.7}, ...]
    agreement_by_class   [{"class": "cat", "labels": 16000, "own": 0.5}, ...]    own None: no labels
    confused          [{"class": "cat", "label": "dog", "count": 3121, "share": 0.19, ...}, ...]: as `confusions` has it
    stability         None where no sample has two labels; else {"samples": 10000, "unanimous": 4100,
                      "mean_share": 0.8, "mean_entropy_bits": 0.7, "share_bins": {"edges": [...], "samples": [...]},
                      "entropy_bins": {"edges": [...], "samples": [...]}}
    contradictions    {"samples": 812, "first": [{"shard": ..., "key": ..., "sample": 17, "class": "cat",
                      "label": "dog", "share": 1.0, "labels": 16}, ...]}: commonest label not the class
    skipped.all       [{"shard": ..., "key": ..., "sample": 17}, ...]
    sampled           what `conditions.sampled_agreement` gives; None where views_sampled is 0, nothing is labelled, or
                      the shards are not where the store says: then sampled_missing says why, in one line
    """
    statistics = read_statistics(store, on_labels) if statistics is None else statistics
    result, votes = status(store), statistics.votes
    of_classes = confusions(store, statistics=statistics)
    result["coverage"]["shards"] = [
        {"shard": store.shard_name(shard), "samples": count, "share": ratio(done, count * store.views)}
        for shard, (count, done) in enumerate(zip(store.counts.tolist(), statistics.views_done.tolist(), strict=True))
    ]
    result["mixed"] = store.policy.mix is not None
    result["agreement_by_group"] = _by_group(store)
    result["agreement_by_class"] = [
        {name: row[name] for name in ("class", "labels", "own")} for row in of_classes["classes"]
    ]
    result["confused"] = of_classes["confused"]
    result["stability"] = stability(votes, min(store.views, store.num_classes))
    result["contradictions"] = _contradictions(store, votes)
    result["skipped"]["all"] = [place(store, sample) for sample in np.flatnonzero(votes.skipped).tolist()]
    result["sampled"], result["sampled_missing"] = None, None
    if views_sampled:
        try:
            result["sampled"] = sampled_agreement(
                store, statistics.committed, views=views_sampled, seed=seed, on_progress=on_params
            )
        except ShardError as error:
            result["sampled_missing"] = str(error)
    return result


def _by_group(store: Store) -> list[dict[str, Any]]:
    sums = store.records.sums()
    return [
        {
            "views": [store.layout.group_views(group).start, store.layout.group_views(group).stop],
            "labels": labels,
            **{name: ratio(sums[name][group], labels) for name in ("own", "larger", "either")},
        }
        for group, labels in enumerate(sums["labelled"])
    ]


def stability(votes: Votes, different: int) -> dict[str, Any] | None:
    """Over samples with two labels or more: share of the commonest label, entropy of the labels. None of no sample.

    different: how many labels of one sample can differ, which bounds the entropy; the last bin of it ends there.
    """
    several = votes.num_labels >= 2
    if not several.any():
        return None
    share, entropy = votes.share[several], votes.entropy[several]
    most_bits = np.log2(different) if different > 1 else BITS_PER_BIN
    bit_edges = np.append(np.arange(0, most_bits, BITS_PER_BIN), most_bits)
    # In whole numbers: 3 votes of 10 belong to the bin that starts at 0.3. The last bin holds 1.0 too.
    bins = votes.votes[several].astype(np.int64) * SHARE_BINS // votes.num_labels[several]
    return {
        "samples": int(several.sum()),
        "unanimous": int((share == 1).sum()),
        "mean_share": float(share.mean()),
        "mean_entropy_bits": float(entropy.mean(dtype=np.float64)),
        "share_bins": {
            "edges": [number / SHARE_BINS for number in range(SHARE_BINS + 1)],
            "samples": np.bincount(np.minimum(bins, SHARE_BINS - 1), minlength=SHARE_BINS).tolist(),
        },
        "entropy_bins": {
            "edges": bit_edges.tolist(),
            "samples": np.histogram(np.minimum(entropy, most_bits), bit_edges)[0].tolist(),
        },
    }


def _contradictions(store: Store, votes: Votes) -> dict[str, Any]:
    """Samples whose commonest label is not their class: how many, and those with the largest share of their labels."""
    against = np.flatnonzero((votes.label >= 0) & (votes.label != store.index.classes))
    first = against[np.lexsort((-votes.num_labels[against], -votes.share[against]))[:LISTED]]
    return {
        "samples": len(against),
        "first": [
            {
                **place(store, sample),
                "class": store.class_names[store.index.classes[sample]],
                "label": store.class_names[votes.label[sample]],
                "share": float(votes.share[sample]),
                "labels": int(votes.num_labels[sample]),
            }
            for sample in first.tolist()
        ],
    }
