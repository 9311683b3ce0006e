"""How far labels agree with the ground truth of mixed views. Pure functions over one unit's arrays.

Throughout: labels (N,) int, -2 where the sample was skipped; class_pairs (N, 2) int32, own class first;
lambdas (N,) on mix.LAMBDA_ONE's grid.
"""

import numpy as np

from teacher_cache.replay.mix import LAMBDA_ONE
from teacher_cache.store.unit import UnitCounts

NEAR_CHANCE = 0.02  # chance-corrected agreement; a shuffled class list gives 0, the weakest real teacher far more
RENAMING_GAIN = 0.10


def larger_class(class_pairs: np.ndarray, lambdas: np.ndarray) -> np.ndarray:
    """The class that most of each view shows, its own on a tie. -> (N,)."""
    return np.where(lambdas.astype(np.int64) * 2 >= LAMBDA_ONE, class_pairs[:, 0], class_pairs[:, 1])


def count_agreement(labels: np.ndarray, class_pairs: np.ndarray, lambdas: np.ndarray) -> UnitCounts:
    """A unit's counts, as its record keeps them."""
    labelled = labels >= 0
    return UnitCounts(
        labelled=int(labelled.sum()),
        own=int((labelled & (labels == class_pairs[:, 0])).sum()),
        larger=int((labelled & (labels == larger_class(class_pairs, lambdas))).sum()),
        either=int((labelled & (labels[:, None] == class_pairs).any(1)).sum()),
        skipped=int((labels == -2).sum()),
    )


def agreement_above_chance(labels: np.ndarray, class_pairs: np.ndarray, num_classes: int) -> float:
    """(a - c) / (1 - c): a, the share of labels in their class pair; c, its mean over all permutations of the pairs.

    1 is perfect, 0 what labels without any relation to the pictures give. Nothing labelled, or every pair holding
    every label, gives 1: there is nothing to tell chance from.
    """
    labelled = labels >= 0
    labels, class_pairs = labels[labelled], class_pairs[labelled]
    if not len(labels):
        return 1.0
    agreed = float((labels[:, None] == class_pairs).any(1).mean())
    given = np.bincount(labels, minlength=num_classes) / len(labels)
    shown = np.bincount(class_pairs[:, 0], minlength=num_classes).astype(float)
    twofold = class_pairs[:, 1] != class_pairs[:, 0]
    shown += np.bincount(class_pairs[twofold, 1], minlength=num_classes)
    chance = float((given * shown / len(labels)).sum())
    return 1.0 if chance >= 1 else (agreed - chance) / (1 - chance)


def renaming_gain(labels: np.ndarray, class_pairs: np.ndarray, lambdas: np.ndarray, num_classes: int) -> float:
    """How much agreement would rise if every class took the name that the teacher mostly gives it, no name twice.

    The names are learnt on every second sample's views and tried on the others, so that a teacher that is wrong
    in its own way about each sample gains nothing; nor does one that gives a single label, since a name is given
    once. A class list that is shifted or sorted otherwise gains much. labels and the rest are (samples, views)
    here, pairs with a last axis of 2. Takes memory for what the unit holds, and 8 bytes a class.
    """
    shape = labels.shape
    truth = larger_class(class_pairs.reshape(-1, 2), lambdas.reshape(-1)).reshape(shape)
    learn, judge = (slice(0, None, 2), slice(1, None, 2))
    kept = labels[learn] >= 0
    names = best_names(truth[learn][kept], labels[learn][kept], num_classes)
    kept = labels[judge] >= 0
    if not kept.any():
        return 0.0
    truth, labels = truth[judge][kept], labels[judge][kept]
    return float((labels == names[truth]).mean() - (labels == truth).mean())


def best_names(truth: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The class that each class is mostly called, no name twice: (num_classes,) int64, -1 where all names are taken.

    truth, labels (N,) in [0, num_classes). The names of the largest sum of votes; a class has a vote of a half for its
    own name, which it thus keeps where nothing speaks for another.
    """
    # half a second, which a fill that finds its store bound need not spend
    from scipy.sparse import coo_array, eye_array, hstack
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    rows, votes_for = np.unique(truth, return_inverse=True)
    pairs, votes = np.unique(np.stack([votes_for, labels], axis=1), axis=0, return_counts=True)
    # A matching of the classes that are seen with names: those given, their own, and for each a place without a name.
    # Weights are half votes. A class that is not seen keeps its own name, half a vote, unless another takes it.
    columns = np.unique(np.concatenate([labels, rows]))
    weights = 2 * votes - np.isin(pairs[:, 1], rows, invert=True)
    places = np.arange(len(rows))
    ends = np.searchsorted(columns, pairs[:, 1]), np.searchsorted(columns, rows)
    edges = coo_array(
        (np.concatenate([weights, np.ones(len(rows))]), (np.concatenate([pairs[:, 0], places]), np.concatenate(ends))),
        shape=(len(rows), len(columns)),
    ).tocsr()
    edges.data += 1  # all alike: a weight of zero would be no edge
    found = min_weight_full_bipartite_matching(hstack([edges, eye_array(len(rows))], "csr"), maximize=True)[1]
    names = np.arange(num_classes)
    names[rows] = -1
    named = found < len(columns)
    taken = columns[found[named]]
    names[np.setdiff1d(taken, rows)] = -1
    names[rows[named]] = taken
    return names
