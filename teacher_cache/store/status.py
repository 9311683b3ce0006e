"""What a store holds so far, summed from its records: coverage, agreement, bytes per view."""

from functools import partial
from typing import Any

import numpy as np

from teacher_cache.errors import StoreError
from teacher_cache.messages.shown import counted
from teacher_cache.storage.place import as_place
from teacher_cache.storage.storage import ask_each
from teacher_cache.store.labels import skipped_samples
from teacher_cache.store.layout import Layout
from teacher_cache.store.proof import device_hash
from teacher_cache.store.schema import SCHEMA
from teacher_cache.store.store import Store

SKIPS_LISTED = 100
NOBODYS_LABELS = "its teacher/ is absent, as in a copy that broke off: restore that, unless the labels are simulated"


def check_committed(store: Store) -> None:
    """StoreError where no unit is committed: there is nothing to check, or to tell of."""
    if not store.committed().any():
        num_units = len(store.units())
        fill = f"teacher-cache fill {as_place(store.path)}" + ("" if store.teacher is not None else " --teacher NAME")
        waiting = f"{counted(num_units, 'unit', 'waits')} for labels"
        raise StoreError(f"nothing is committed in {store.path}, {waiting}: run `{fill}`")


def nobodys_labels(store: Store) -> str | None:
    """What is worth to know of a store whose labels name no teacher; None where it names one, or has no labels."""
    teacher = store.teacher
    if teacher is not None or not store.committed().any():
        return None
    if store.teacher is not None:  # looked at again: a fill that has begun meanwhile names its teacher before any label
        return None
    return f"{store.path} does not say whose labels it holds: {NOBODYS_LABELS}"


def status(store: Store, units: np.ndarray | None = None) -> dict[str, Any]:
    """All of it as plain JSON. A view counts as committed when it is labelled or skipped in a committed unit. units
    (S, U, G) bool: what those hold that are among these, and no others.

    `coverage` has one row a group; `agreement` holds shares of the labels, None while there are none; `bytes` are
    those on disk under labels/, digests/, records/ and those of topk, `per_view` for each committed view (the index is
    left out). `builds` lists what the store was filled with, `labelled_on` how many views each device
    labelled, `damaged` counts views of images that a decoder warned of.
    `topk` is 0 and `tau` None where labels alone are stored.
    """
    sums, layout = store.records.sums(units), store.layout
    group_units = len(layout.group_units)
    labelled, skipped_views = sum(sums["labelled"]), sum(sums["skipped"])
    done = labelled + skipped_views
    teacher, names = store.teacher, store.array_names
    sizes = dict(zip(names, ask_each(store.storage, partial(_bytes_under, store), names), strict=True))
    return {
        "store": str(store.path),
        "schema": SCHEMA,
        "seed": store.seed,
        "samples": layout.num_samples,
        "shards": len(store.counts),
        "classes": store.num_classes,
        "views": store.views,
        "group": store.group,
        "unit_samples": store.unit_samples,
        "units": group_units * layout.num_groups,
        "units_committed": sum(sums["committed"]),
        "coverage": {"share": done / (layout.num_samples * layout.views), "groups": _group_rows(layout, sums)},
        "labelled": labelled,
        "skipped": {"views": skipped_views, **_skipped(store, any_view=skipped_views > 0)},
        "damaged": sum(sums["damaged"]),
        "agreement": {name: sum(sums[name]) / labelled for name in ("own", "larger", "either")} if labelled else None,
        "bytes": {**sizes, "per_view": sum(sizes.values()) / done if done else None},
        "topk": teacher.topk if teacher else 0,
        "tau": teacher.tau if teacher else None,
        "teacher": teacher.to_json() if teacher else None,
        "any_device": store.any_device,
        "devices": store.proofs.devices,
        "builds": store.proofs.builds,
        "labelled_on": _labelled_on(store, units),
        "policy": store.policy.to_json(),
        "libraries": store.libraries,
    }


def _group_rows(layout: Layout, sums: dict[str, list[int]]) -> list[dict[str, Any]]:
    """How far each group of views is filled."""
    rows = []
    for group, (committed, labelled, skips) in enumerate(
        zip(sums["committed"], sums["labelled"], sums["skipped"], strict=True)
    ):
        views = layout.group_views(group)
        rows.append(
            {
                "views": [views.start, views.stop],
                "units": len(layout.group_units),
                "units_committed": committed,
                "share": (labelled + skips) / (layout.num_samples * len(views)),
            }
        )
    return rows


def _labelled_on(store: Store, units: np.ndarray | None) -> dict[str, int]:
    """Device -> views. Records name it where any may fill the store, else it is the teacher's."""
    names = {device_hash(device): device for device in store.proofs.devices} if store.any_device else {}
    own = store.teacher.device if store.teacher else ""
    return {names.get(device, own): views for device, views in store.records.labelled_on(units).items()}


def _skipped(store: Store, *, any_view: bool) -> dict[str, Any]:
    """How many samples are skipped, and the first of them; labels are read only where any view is."""
    samples = skipped_samples(store) if any_view else np.zeros(0, np.int64)
    return {
        "samples": len(samples),
        "first": [
            {"shard": store.shard_name(store.index.shard_of(sample)), "key": store.index.key(sample)}
            for sample in samples[:SKIPS_LISTED].tolist()
        ],
    }


def _bytes_under(store: Store, name: str) -> int:
    return sum(entry.num_bytes for entry in store.storage.list(name))
