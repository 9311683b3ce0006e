"""What `status` and `fill` print of a store's state."""

from typing import Any

from teacher_cache.messages.shown import MESSAGE, counted, shown
from teacher_cache.store.proof import describe_build
from teacher_cache.store.status import NOBODYS_LABELS
from teacher_cache.terminal import line, say, table, terminal, warn

State = dict[str, Any]  # as store.status has it


def print_filled(found: State, filled: int) -> None:
    """One line after so many units were filled, and another where samples are skipped."""
    say(
        f"{found['store']}: {counted(filled, 'unit')} filled now; {found['labelled']:,} of "
        f"{counted(found['samples'] * found['views'], 'view')} labelled, {_size(found)}, {_agreement(found)}"
    )
    if found["skipped"]["samples"]:
        warn(f"{counted(found['skipped']['samples'], 'sample')} skipped: {_skipped(found)}")


def print_status(found: State) -> None:
    """Everything as a table, and the coverage of each group."""
    console = terminal()
    console.print(line(found["store"], "italic"), soft_wrap=True)
    limits = {"what": MESSAGE}
    console.print(table(("name", "what"), _rows(found), limits=limits, box=None, show_header=False))
    groups = [
        (f"{first}-{stop - 1}", f"{group['units_committed']}/{group['units']}", f"{group['share']:.1%}")
        for group in found["coverage"]["groups"]
        for first, stop in [group["views"]]
    ]
    headings = ("views", "units", "share")
    console.print(table(headings, groups, right=headings, box=None))


def _rows(found: State) -> list[tuple[str, str]]:
    committed = f"{found['units_committed']:,} of {counted(found['units'], 'unit')}"
    builds = [f"{describe_build(build)}: logits: {build['logits']}" for build in found["builds"]] or ["nothing yet"]
    rows = [
        (
            "samples",
            f"{found['samples']:,} in {counted(found['shards'], 'shard')}, {counted(found['classes'], 'class')}",
        ),
        ("views", f"{found['views']} in groups of {found['group']}, seed {found['seed']}"),
        ("coverage", f"{100 * found['coverage']['share']:.1f} % ({committed})"),
        ("agreement", _agreement(found).removeprefix("agreement ")),
        ("size", _size(found)),
        ("soft labels", _soft(found)),
        ("teacher", _teacher(found)),
        *(("" if number else "filled with", build) for number, build in enumerate(builds)),
        ("policy", f"{found['policy']['name']} at {found['policy']['size'][0]} x {found['policy']['size'][1]}"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in found["libraries"].items())),
    ]
    if found["damaged"]:
        damaged = counted(found["damaged"], "view")
        rows.append(("damaged", f"{damaged} of images that a decoder warned of; their pixels are Pillow's"))
    if found["skipped"]["samples"]:
        rows.append(("skipped", f"{counted(found['skipped']['samples'], 'sample')}: {_skipped(found)}"))
    return rows


def _size(found: State) -> str:
    per_view = found["bytes"]["per_view"]
    return "no bytes yet" if per_view is None else f"{per_view:.2f} bytes a view"


def _soft(found: State) -> str:
    if not found["topk"]:
        return "none"
    megabytes = sum(found["bytes"][name] for name in ("topk_classes", "topk_probabilities")) / 1e6
    largest = counted(found["topk"], "largest probability")
    return f"the {largest} of a view at tau {found['tau']:g}, {megabytes:.2f} MB"


def _agreement(found: State) -> str:
    if found["agreement"] is None:
        return "no labels yet"
    own, larger, either = (f"{100 * found['agreement'][name]:.1f} %" for name in ("own", "larger", "either"))
    return f"agreement with the ground truth {larger} (own class {own}, either of the pair {either})"


def _skipped(found: State) -> str:
    first = [shown(f"{sample['shard']} {sample['key']}") for sample in found["skipped"]["first"][:20]]
    more = found["skipped"]["samples"] - len(first)
    return ", ".join(first) + (f" and {more} more (status --json lists 100)" if more else "")


def _teacher(found: State) -> str:
    identity = found["teacher"]
    if identity is None:
        return NOBODYS_LABELS if found["units_committed"] else "none yet"
    return (
        f"{identity['name']}, weights {identity['weights_sha256'][:12]}, {identity['dtype']}, batches of "
        f"{identity['batch_size']} on {identity['device']}, torch {identity['torch']}"
    )
