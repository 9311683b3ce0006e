"""Arrays of views' largest probabilities, which a store has once its teacher gives any: made, lengthened, opened."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from teacher_cache.storage.cache import NodeCache
from teacher_cache.storage.held import HeldStorage
from teacher_cache.storage.storage import Storage
from teacher_cache.store.arrays import (
    ArrayShape,
    array_facts,
    document_name,
    facts_of,
    lengthen,
    read_shape,
    topk_documents,
)
from teacher_cache.store.chunks import Chunks, open_chunks
from teacher_cache.store.commit import Commits
from teacher_cache.store.published import read_published
from teacher_cache.store.schema import GROUPS
from teacher_cache.store.unit import TOPK_ARRAYS

TOPK_FACTS = "topk_arrays"  # in teacher/: what zarr.json says of these arrays


def topk_files(storage: Storage, dtype: np.dtype, topk: int) -> dict[str, bytes]:
    """topk_documents of the labels, of this dtype, as they are now: another process may have extended the store."""
    return topk_documents(read_shape(storage, "labels"), dtype, topk)


def topk_facts(files: Mapping[str, bytes]) -> dict[str, Any]:
    """What of them never changes, by array."""
    return {name: facts_of(json.loads(file), grows=True) for name, file in files.items()}


def make_topk(commits: Commits, files: Mapping[str, bytes]) -> None:
    """Make the arrays that are absent, and lengthen those that are shorter than labels."""
    for name, document in files.items():
        commits.commit(name, {document_name(name): document})
    lengthen_topk(commits.store)


def lengthen_topk(storage: Storage) -> None:
    """Let the arrays that are there have the views of labels. Who makes them looks at labels afterwards, and `extend`,
    which lengthens labels, at them afterwards: whoever is last sees what the other has done."""
    done = 0
    while (views := read_shape(storage, "labels").shape[2]) > done:
        for name in TOPK_ARRAYS:
            if storage.get(document_name(name)) is not None:
                lengthen(storage, name, views)
        done = views


def open_topk(
    storage: Storage,
    labels: ArrayShape,
    *,
    topk: int,
    views: int,
    num_classes: int,
    packing: str,
    cache: NodeCache | None,
) -> dict[str, Chunks]:
    """The arrays' chunks, by name; none where they are not made yet. ValueError, KeyError or TypeError where they are
    damaged, or not those of the store's teacher and labels."""
    held = HeldStorage(storage, map(document_name, TOPK_ARRAYS))
    if any(held.get(document_name(name)) is None for name in TOPK_ARRAYS):
        return {}
    facts = {name: array_facts(held, name, grows=True) for name in TOPK_ARRAYS}
    if facts != (read_published(storage, "teacher") or {}).get(TOPK_FACTS):
        raise ValueError(f"topk_classes, topk_probabilities are not those of the teacher's topk of {topk}")
    shapes = [read_shape(held, name) for name in TOPK_ARRAYS]
    lasts = zip(shapes, (topk, topk + 1), strict=True)
    if topk > num_classes or any(
        (array.shape[3:], array.chunks) != ((last,), (*labels.chunks, last)) for array, last in lasts
    ):
        raise ValueError(f"topk_classes, topk_probabilities are not of a topk of {topk}")
    if any(array.shape[:2] != labels.shape[:2] or array.shape[2] < views for array in shapes):
        raise ValueError("the shapes of topk_classes and topk_probabilities do not fit those of labels")
    chunks = {name: open_chunks(storage, name, cache) for name in TOPK_ARRAYS}
    if any(each.is_packed != (packing == GROUPS) for each in chunks.values()):
        raise ValueError(f"topk_classes, topk_probabilities are not packed as {packing}")
    return chunks
