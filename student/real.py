"""ImageNet-ReaL: the true classes of ImageNet's validation images (arXiv 2006.07159)."""

import re

import torch
from torch import Tensor

from teacher_cache.errors import ShardError
from teacher_cache.settings import read_json
from teacher_cache.shards.index import Index

IMAGENET_CLASSES = 1000
_NUMBER = re.compile(r"ILSVRC2012_val_([0-9]{8})")


def read_real(path: str, index: Index, num_classes: int) -> Tensor:
    """Which classes are true of each sample: (samples, 1000) bool; none for an image without a true class.

    path is the published real.json: entry i has the classes of ILSVRC2012_val_(i + 1), by which a sample is found in
    its key. Classes are numbered in the standard order, which the model's must be. Raises ShardError.
    """
    if num_classes != IMAGENET_CLASSES:
        raise ShardError(f"--real has ImageNet's {IMAGENET_CLASSES} classes, the model {num_classes}: leave it out")
    entries = read_entries(path)
    truths = torch.zeros((index.num_samples, IMAGENET_CLASSES), dtype=torch.bool)
    for sample in range(index.num_samples):
        key = index.key(sample)
        found = _NUMBER.search(key)
        if found is None or not 1 <= int(found[1]) <= len(entries):
            shard = index.shards[index.shard_of(sample)].name
            why = "no ILSVRC2012_val_ number" if found is None else f"a number beyond the {len(entries)} of {path}"
            raise ShardError(f"shard {shard}, key {key!r} has {why}: --real is for ImageNet's own validation images")
        truths[sample, entries[int(found[1]) - 1]] = True
    return truths


def read_entries(path: str) -> list[list[int]]:
    """The true classes of each image, as real.json has them. Raises ShardError."""
    entries = read_json(path, f"--real {path}", ShardError, "give real.json")
    good = isinstance(entries, list) and all(
        isinstance(entry, list) and all(type(number) is int and 0 <= number < IMAGENET_CLASSES for number in entry)
        for entry in entries
    )
    if not good:
        raise ShardError(f"--real {path} is not a list of lists of classes 0 to {IMAGENET_CLASSES - 1}: give real.json")
    return entries
