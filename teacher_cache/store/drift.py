"""What is said when replayed pixels are not those of the store's digests."""

from teacher_cache.replay.libraries import pixel_libraries
from teacher_cache.store.store import Store


def drift_message(store: Store, shard: int, block: int, view: int) -> str:
    """Shard, block, view, both library lists, and what to do."""
    then, now = store.teacher.libraries if store.teacher else {}, pixel_libraries()
    changed = [name for name in now if then.get(name) != now[name]]
    cause = f"changed: {', '.join(changed)}" if changed else "same libraries, so an image file or the processor differs"
    if store.policy.own_operations is not None:
        cause += ", or an operation of --ops gives other pixels each time"
    return (
        f"shard {store.index.shards[shard].name}, block {block}, view {view}: the replayed pixels are not those that "
        f"the teacher labelled ({cause}; filled with {_listed(then)}; here {_listed(now)}): "
        "install what it was filled with, restore the shard, or fill a new store"
    )


def unsteady_message(store: Store, shard: int, block: int, view: int) -> str:
    """The same of pixels that came out otherwise in one process, before any are the store's."""
    own = store.policy.own_operations is not None
    advice = (
        "an operation of --ops gives other pixels each time: take random numbers, the clock and what it remembers out "
        "of it, and index a new store"
        if own
        else "the shard was changed meanwhile, or this machine's memory is not sound: run it again"
    )
    return (
        f"shard {store.index.shards[shard].name}, block {block}, view {view}: rendered twice, the pixels differ, and "
        f"nothing was written: {advice}"
    )


def _listed(libraries: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in libraries.items())
