"""Opening a store to render it: where its shards are now, and the file of its policy's own operations."""

from collections.abc import Sequence

from teacher_cache.replay.operations import open_operations
from teacher_cache.replay.policy import bind_operations
from teacher_cache.storage.cache import NodeCache
from teacher_cache.store.store import Store


def open_moved(
    path: str,
    patterns: Sequence[str] | str,
    *,
    ops: str | None = None,
    writable: bool = False,
    cache: NodeCache | None = None,
) -> Store:
    """Open a store, as `Store.open`; with patterns, read its shards from there after checking them against the index.

    ops is the FILE.py:FUNCTION of the policy's own operations, which a policy that has some needs to be rendered.
    Raises StoreError, ShardError for shards that are not those that were indexed, and PolicyError for operations that
    are missing or not the policy's.
    """
    store = Store.open(path, writable=writable, cache=cache)
    operations = open_operations(ops) if ops is not None else None
    store = store.with_policy(bind_operations(store.policy, operations, f"the policy of {path}"))
    if not patterns:
        return store
    # which brings what starts processes
    from teacher_cache.shards.check import check_shards
    from teacher_cache.shards.classes import ClassRule
    from teacher_cache.shards.find import expand_shards

    patterns = (patterns,) if isinstance(patterns, str) else patterns
    rule = ClassRule(store.index.class_from, store.class_names, store.index.image_from)
    return store.with_places(check_shards(store.index, expand_shards(patterns), rule, scratch=cache))
