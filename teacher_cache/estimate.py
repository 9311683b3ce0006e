"""What a fill would cost: one unit timed, nothing committed."""

import tempfile
import time
from pathlib import Path

from teacher_cache.fill import FillOptions, may_differ, open_pool
from teacher_cache.labelling import LabelledUnit, describe, label_units
from teacher_cache.messages.shown import counted
from teacher_cache.processes.threads import share_cores
from teacher_cache.rendering.choice import choose_rendering
from teacher_cache.store.status import status
from teacher_cache.store.store import Store
from teacher_cache.teacher.identity import check_same_teacher
from teacher_cache.teacher.teacher import Teacher


def estimate(store: Store, teacher: Teacher, options: FillOptions) -> str:
    """Label the store's first unit; hours, bytes and files for 16, 32, 64 ... views, and the store's, at this speed, in
    lines.

    TeacherError for another teacher than the store's.
    """
    if store.teacher is not None:
        check_same_teacher(store.teacher, teacher.identity, may_differ=may_differ(store))
    unit = store.units()[0]
    share_cores(options.workers)
    rendering = choose_rendering(options.render, store.policy, teacher.device)
    noted = [] if rendering.said is None else [rendering.said]
    with open_pool(store, options, rendering, noted.append) as pool:
        start = time.perf_counter()
        (labelled,) = label_units(store, teacher, pool, [unit], lambda views: None)
        wall_s = time.perf_counter() - start
    views = store.layout.num_views(unit)
    unit_bytes, unit_files = _on_disk(store, labelled, teacher)
    lines = [
        *noted,
        f"{describe(store, unit)}: {counted(views, 'view')} in {wall_s:.1f} s, {views / wall_s:.0f} views/s with "
        f"this process alone, {unit_bytes / views:.2f} bytes a view; nothing was committed",
        f"{'views':>6} {'hours':>9} {'MB':>9} {'files':>9}",
    ]
    most = max(512, store.views)
    for num_views in sorted({store.views, *(16 << power for power in range(most.bit_length() - 4))}):
        total = num_views * store.index.num_samples
        files = unit_files * len(store.layout.group_units) * store.layout.groups_holding(num_views)
        hours, megabytes = total * wall_s / views / 3600, total * unit_bytes / views / 1e6
        lines.append(f"{num_views:>6} {hours:>9.2f} {megabytes:>9.2f} {files:>9}")
    return "\n".join(lines)


def _on_disk(store: Store, labelled: LabelledUnit, teacher: Teacher) -> tuple[int, int]:
    """Bytes and files that one unit takes: committed to a store of the same shape that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        tried = Store.create(
            Path(folder, "store"),
            store.index,
            store.policy,
            views=store.group,
            seed=store.seed,
            group=store.group,
            unit_samples=store.unit_samples,
            max_pixels=store.max_pixels,
        )
        tried.publish_teacher(teacher.identity)  # which makes the arrays of its topk
        before = sum(status(tried)["bytes"][name] for name in tried.array_names)
        tried.commit_unit(labelled.unit._replace(group=0), labelled.values(), labelled.counts(), device="")
        after = sum(status(tried)["bytes"][name] for name in tried.array_names)
        return after - before, len(tried.array_names)  # a chunk of each array is a file
