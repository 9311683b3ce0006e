"""A unit's values: padded to chunks, hashed, and refused where they are none."""

import numpy as np
import pytest
import xxhash

from teacher_cache.errors import StoreError
from teacher_cache.storage.opening import open_storage
from teacher_cache.store.chunks import Chunks, FilePerChunk, pad_values
from teacher_cache.store.topk import top_classes
from teacher_cache.store.unit import (
    NOT_LABELLED,
    SKIPPED,
    UnitValues,
    are_classes,
    hash_values,
    topk_fault,
)

NOWHERE = open_storage("nowhere")
CHUNKS = {
    "labels": Chunks(FilePerChunk(NOWHERE, "labels", 3), (1, 128, 2), np.dtype("<i2"), -1, 5),
    "digests": Chunks(FilePerChunk(NOWHERE, "digests", 3), (1, 2, 2), np.dtype("<u8"), 0, 5),
}
SOFT = CHUNKS | {
    "topk_classes": Chunks(FilePerChunk(NOWHERE, "topk_classes", 4), (1, 128, 2, 3), np.dtype("<i2"), -1, 5),
    "topk_probabilities": Chunks(FilePerChunk(NOWHERE, "topk_probabilities", 4), (1, 128, 2, 4), np.dtype("<f2"), 0, 5),
}


def values(samples: int = 70, *, soft: bool = False) -> UnitValues:
    rng = np.random.default_rng(samples)
    logits = rng.normal(0, 2, (samples * 2, 10)).astype(np.float32)
    digests = rng.integers(1, 2**64, (2, 2), np.uint64)
    labels = logits.argmax(axis=1).reshape(samples, 2)
    labels[3] = SKIPPED
    if not soft:
        return UnitValues(labels, digests)
    classes, probabilities = (part.reshape(samples, 2, -1) for part in top_classes(logits, 3, 2.0))
    classes[3], probabilities[3] = SKIPPED, 0
    return UnitValues(labels, digests, classes, probabilities)


@pytest.mark.parametrize("soft", [False, True])
def test_padding_fills_up_and_changes_nothing(soft: bool) -> None:
    chunks, given = SOFT if soft else CHUNKS, values(soft=soft)
    padded = pad_values(given, chunks, 70, 2, 10, "s")
    for name, array in chunks.items():
        found, own = getattr(padded, name), 2 if name == "digests" else 70
        assert (found.shape, found.dtype) == (array.shape[1:], array.dtype)
        np.testing.assert_array_equal(found[:own], getattr(given, name))
        assert (found[own:] == array.fill_value).all()
    again = pad_values(padded, chunks, 70, 2, 10, "s")
    assert hash_values(again) == hash_values(padded)
    assert (padded.topk_classes is None) != soft


def test_the_hash_is_of_the_padded_bytes_in_order() -> None:
    padded = pad_values(values(soft=True), SOFT, 70, 2, 10, "s")
    data = b"".join(getattr(padded, name).tobytes() for name in SOFT)
    assert hash_values(padded) == xxhash.xxh3_64_intdigest(data)
    swapped = UnitValues(padded.labels.astype(">i2"), padded.digests, padded.topk_classes, padded.topk_probabilities)
    assert hash_values(swapped) == hash_values(padded)


def test_what_does_not_fit_is_named() -> None:
    given = values()
    for labels, message in (
        (given.labels[:69], r"labels of s have shape \(69, 2\): expected \(70, 2\), or \(128, 2\) padded with -1"),
        (np.where(given.labels == 3, 10, given.labels), "labels of s are not all below its 10 classes"),
        (np.where(given.labels == 3, -3, given.labels), "labels of s are not all below its 10 classes"),
        (np.where(given.labels == 3, NOT_LABELLED, given.labels), "s has views without a label"),
    ):
        with pytest.raises(StoreError, match=message):
            pad_values(UnitValues(labels, given.digests), CHUNKS, 70, 2, 10, "s")
    with pytest.raises(StoreError, match="digests of s have shape"):
        pad_values(UnitValues(given.labels, given.digests[:1]), CHUNKS, 70, 2, 10, "s")
    soft = values(soft=True)
    assert soft.topk_probabilities is not None
    unequal = UnitValues(soft.labels, soft.digests, soft.topk_classes, soft.topk_probabilities * np.float16(0.5))
    with pytest.raises(StoreError, match="topk of s: the probabilities of a view do not sum to 1"):
        pad_values(unequal, SOFT, 70, 2, 10, "s")
    assert topk_fault(pad_values(soft, SOFT, 70, 2, 10, "s")) is None


def test_classes_are_told_from_others() -> None:
    assert are_classes(np.array([-2, -1, 0, 9]), 10)
    assert not are_classes(np.array([-3]), 10)
    assert not are_classes(np.array([10]), 10)
