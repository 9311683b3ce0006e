"""Stores whose shards have moved."""

from collections.abc import Sequence

from teacher_cache.shards import ClassRule, check_shards, expand_shards
from teacher_cache.store import Store


def open_moved(path: str, patterns: Sequence[str], *, writable: bool = False) -> Store:
    """Open a store; with patterns, read its shards from there after checking them against the index.

    Raises StoreError, and ShardError for shards that are not those that were indexed.
    """
    store = Store.open(path, writable=writable)
    if not patterns:
        return store
    rule = ClassRule(store.index.class_from, store.class_names)
    return store.with_places(check_shards(store.index, expand_shards(patterns), rule))
