"""`index` where no store is: a new one over shards, or over the samples of another store."""

from dataclasses import dataclass

import numpy as np

from teacher_cache.errors import StoreError
from teacher_cache.replay.header import MAX_PIXELS
from teacher_cache.replay.operations import open_operations
from teacher_cache.replay.policy import Policy, change_policy, load_policy
from teacher_cache.shards.classes import read_class_names
from teacher_cache.shards.index import Index
from teacher_cache.store.layout import plan_layout
from teacher_cache.store.store import Store

UNIT_SAMPLES = 4096


@dataclass(frozen=True)
class IndexRequest:
    """What an `index` says of its store. None: it says nothing, and what the store has, or the default, is right."""

    policy: Policy
    views: int | None = None
    seed: int | None = None
    group: int | None = None
    unit_samples: int | None = None
    class_from: str | None = None
    image_from: str | None = None
    whole: bool = False  # fingerprints of whole images; without it either kind is right
    devices: str | None = None
    max_pixels: int | None = None


def choose_policy(name: str | None, overrides: tuple[str, ...], ops: str | None, base: Store | None) -> Policy:
    """The policy of this name, or without one that of the store `base`; with settings overridden, and with the
    operations of FILE.py:FUNCTION where it has its own."""
    operations = open_operations(ops) if ops is not None else None
    if name is not None:
        return load_policy(name, overrides, operations)
    assert base is not None
    return change_policy(base.policy, overrides, operations, f"the policy of {base.path}")


def check_grid(request: IndexRequest) -> None:
    """StoreError for views, groups or units that a store over no shards at all may have, before any is walked."""
    assert request.views is not None
    one_sample = np.ones(1, np.int64)
    plan_layout(one_sample, views=request.views, group=request.group, unit_samples=request.unit_samples or UNIT_SAMPLES)


def create_store(path: str, index: Index, request: IndexRequest) -> Store:
    """An empty store over indexed shards, with the defaults of what the request does not say; views it has to."""
    assert request.views is not None
    return Store.create(
        path,
        index,
        request.policy,
        views=request.views,
        seed=request.seed or 0,
        group=request.group,
        unit_samples=request.unit_samples or UNIT_SAMPLES,
        any_device=request.devices == "any",
        max_pixels=request.max_pixels or MAX_PIXELS,
    )


def create_alike(path: str, other: Store, request: IndexRequest, classes_file: str | None) -> Store:
    """An empty store over another's samples, with its seed; its views, groups and limits where the request does not
    say them. No shard is read: StoreError for a request that would read them otherwise than they were."""
    if request.seed is not None and request.seed != other.seed:
        raise StoreError(
            f"{other.path} has seed {other.seed}, --seed says {request.seed}: leave --seed out, or index shards"
        )
    _refuse_other_reading(other, request, classes_file)
    return Store.create(
        path,
        other.index,
        request.policy,
        views=request.views or other.views,
        seed=other.seed,
        group=request.group or other.group,
        unit_samples=request.unit_samples or other.unit_samples,
        any_device=request.devices == "any",
        max_pixels=request.max_pixels or other.max_pixels,
    )


def _refuse_other_reading(other: Store, request: IndexRequest, classes_file: str | None) -> None:
    index = other.index
    asked = (
        ("--class-from", request.class_from, index.class_from),
        ("--image-from", request.image_from, index.image_from),
        ("--classes", read_class_names(classes_file) if classes_file else None, other.class_names),
    )
    for option, given, held in asked:
        if given is not None and given != held:
            raise StoreError(f"{other.path} was indexed with another {option}: leave it out, or index shards")
    if request.whole and index.fingerprint != "whole":
        raise StoreError(f"{other.path} has fingerprints of images' tails: leave --whole out, or index shards")
