"""`index` on a store that is there: as asked, to be widened or moved, or refused by what differs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from teacher_cache.errors import ShardError, StoreError
from teacher_cache.messages.shown import counted, listed
from teacher_cache.shards.classes import ClassRule
from teacher_cache.shards.index import Index
from teacher_cache.shards.source import ShardFacts, look_all, place_text
from teacher_cache.storage.place import as_place
from teacher_cache.store.create import IndexRequest
from teacher_cache.store.layout import fitting_unit
from teacher_cache.store.store import Store

_LISTED = 3  # settings in a message


def check_request(store: Store, request: IndexRequest) -> None:
    """StoreError, naming what is another, where a store was indexed otherwise than is requested."""
    differing = list(_differences(store, request))
    if differing:
        raise StoreError(
            f"{store.path} was indexed otherwise: it has {listed(differing, limit=None)}; leave that as it is, or "
            "choose another --store"
        )


def widen(store: Store, request: IndexRequest) -> str:
    """Add the views that a store lacks, which has passed all checks. What was done, for people."""
    before = store.views
    if request.views is None or request.views <= before:
        fewer = request.views is not None and store.layout.widened(request.views).views < before
        return f"indexed already, as asked{', and keeps its ' + counted(before, 'view') if fewer else ''}"
    store = Store.open(store.path, writable=True)
    store.extend(request.views)
    return f"{before} -> {counted(store.views, 'view')}; `teacher-cache fill {as_place(store.path)}` labels them"


def check_same_index(store: Store, other: Store) -> None:
    """StoreError where a store has not the samples and the seed of the one that it shall be like."""
    one, two = (
        [entry.seed, entry.index.image_from, *((s.name, s.hash) for s in entry.index.shards)]
        for entry in (store, other)
    )
    if one != two:
        raise StoreError(
            f"{store.path} is not like {other.path}, it has other shards, other images of them or another seed: choose "
            "another --store"
        )


def are_in_place(index: Index, paths: Sequence[str], rule: ClassRule) -> bool:
    """Whether these are the shards of an index, by place, size and ETag, and their class names its own.

    What they hold is not read: whenever a block is, its images' fingerprints are compared.
    """
    if sorted(map(place_text, paths)) != sorted(entry.path for entry in index.shards):
        return False
    if rule.names not in (None, index.class_names):
        return False
    try:
        found = look_all([entry.path for entry in index.shards])
    except ShardError:
        return False
    return found == [ShardFacts(entry.num_bytes, entry.etag) for entry in index.shards]


def _differences(store: Store, request: IndexRequest) -> Iterator[str]:
    """'what it has (not what is asked)', setting by setting."""
    has, wanted = _flat(store.policy.to_json()), _flat(request.policy.to_json())
    for name in {**has, **wanted}:
        there, asked = has.get(name), wanted.get(name)
        if there != asked:
            begin = _first_told(there, asked)
            yield f"the policy's {name} {_told(there, begin)} (not {_told(asked, begin)})"
    settings: dict[str, tuple[Any, Any]] = {
        "seed": (store.seed, request.seed),
        "group": (store.group, request.group),
        "unit-samples": (store.unit_samples, _unit_samples(store, request)),
        "class-from": (store.index.class_from, request.class_from),
        "image-from": (store.index.image_from, request.image_from),
        "devices": ("any" if store.any_device else "one", request.devices),
        "max-pixels": (store.max_pixels, request.max_pixels),
        "fingerprints": (store.index.fingerprint, "whole" if request.whole else None),
    }
    for name, (there, given) in settings.items():
        if given is not None and given != there:
            yield f"{name} {_told(there)} (not {given})"


def _unit_samples(store: Store, request: IndexRequest) -> int | None:
    """A unit as long as the longest shard is what a larger setting makes, too."""
    return None if request.unit_samples is None else fitting_unit(store.counts, request.unit_samples)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name, as --set has them."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _first_told(one: Any, two: Any) -> int:
    """From where on two settings are told: of long lists from the last that both begin with."""
    if not (isinstance(one, list) and isinstance(two, list)) or max(len(one), len(two)) <= _LISTED:
        return 0
    alike = (number for number, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1])
    return max(0, next(alike, min(len(one), len(two))) - 1)


def _told(value: Any, begin: int = 0) -> str:
    if isinstance(value, list):
        more = len(value) > begin + _LISTED
        parts = [*["..."][:begin], *map(str, value[begin : begin + _LISTED]), *["..."][:more]]
        return f"[{', '.join(parts)}]"
    return "none" if value is None else str(value)
