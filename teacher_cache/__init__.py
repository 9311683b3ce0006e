"""Label every augmented view with the teacher once; replay the views, pixel for pixel, to train students."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from teacher_cache.store import Store


def open_store(path: str) -> "Store":
    """Open a store for reading. StoreError when there is none at `path`, or another program version made it."""
    from teacher_cache.store import Store

    return Store.open(path)


__all__ = ["open_store"]
