"""Label every augmented view with the teacher once; replay the views, pixel for pixel, to train students."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from teacher_cache.store import Store


def open_store(path: str, *, ops: str | None = None) -> "Store":
    """Open a store for reading. StoreError when there is none at `path`, or another program version made it.

    ops: FILE.py:FUNCTION of the policy's own operations, if it has some and its views shall be rendered.
    """
    from teacher_cache.places import open_moved
    from teacher_cache.store import Store

    return Store.open(path) if ops is None else open_moved(path, (), ops=ops)


__all__ = ["open_store"]
