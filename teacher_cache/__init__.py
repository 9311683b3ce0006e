"""Label every augmented view with the teacher once; replay the views, pixel for pixel, to train students."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from teacher_cache.audit.notebook import OpenStore


def open_store(path: str, *, shards: Sequence[str] | str = (), ops: str | None = None) -> "OpenStore":
    """Open a store for reading: labels as arrays, views as pictures. StoreError when there is none at `path`, or
    another program version made it.

    shards: where the indexed shards are now, if they moved; ops: FILE.py:FUNCTION of the policy's own operations, if it
    has some and its views shall be rendered.
    """
    from teacher_cache.audit.notebook import OpenStore
    from teacher_cache.store.places import open_moved
    from teacher_cache.store.store import Store

    return OpenStore(Store.open(path) if ops is None and not shards else open_moved(path, shards, ops=ops))


__all__ = ["open_store"]
