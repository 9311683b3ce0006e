"""How agreement depends on what was drawn for a view: what its crop shows, its mix, its operations, what is erased.

View parameters need the image's size alone, which its header tells: images are not decoded. Whole (block, view)s are
drawn at random: one chunk of labels and one mix plan serve 64 views. The same pictures then come in several views,
and the two of a pair share their lambda, so intervals take blocks for clusters (audit/intervals.py).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from teacher_cache.audit import VIEWS_SAMPLED
from teacher_cache.audit.intervals import CONFIDENCE, HOW, measured
from teacher_cache.audit.votes import OnProgress
from teacher_cache.errors import ImageError
from teacher_cache.replay.block import draw_samples, view_mix
from teacher_cache.replay.decode import decode
from teacher_cache.replay.header import MAX_PIXELS, image_size
from teacher_cache.replay.mix import LAMBDA_ONE, class_pairs
from teacher_cache.replay.params import Box, ViewParams
from teacher_cache.replay.seeds import Stream, derive
from teacher_cache.shards.index import BlockPlace
from teacher_cache.shards.read import check_image, open_shard
from teacher_cache.shards.source import Read
from teacher_cache.store.agreement import larger_class
from teacher_cache.store.labels import read_committed
from teacher_cache.store.store import Store
from teacher_cache.store.unit import SKIPPED, Unit

VISIBLE_EDGES = tuple(number / 10 for number in range(11))
LAMBDA_EDGES = VISIBLE_EDGES
ERASED_EDGES = (0.0, 0.05, 0.1, 0.2, 0.3, 1.0)
SMALL_CROP, LARGE_CROP = 1 / 3, 2 / 3
MIXES = ("none", "mixup", "cutmix")

_HEADER = 4096  # bytes of an image that are read first


# Image sizes


def image_sizes(place: BlockPlace, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Height and width of a block's images, (n, 2) int64, from their headers; zeros for skipped ones.

    ShardError where the shard cannot be read, or is not the one indexed; ImageError where what lies there is no image.
    """
    sizes = np.zeros((len(place.keys), 2), np.int64)
    with open_shard(place) as read:
        for position, (offset, length) in enumerate(zip(place.offsets.tolist(), place.sizes.tolist(), strict=True)):
            check_image(place, position, read)
            if position in place.skipped:
                continue
            try:
                sizes[position] = _image_size(read, offset, length, max_pixels)
            except ImageError as error:
                raise ImageError(f"shard {place.shard}, key {place.keys[position]}: {error}") from error
    return sizes


def _image_size(read: Read, offset: int, length: int, max_pixels: int) -> tuple[int, int]:
    found = image_size(read(offset, min(_HEADER, length)), max_pixels)
    if found is None:  # a long header, or another format
        image = read(offset, length)
        found = image_size(image, max_pixels) or decode(image, max_pixels).shape[:2]
    return found


# Shares of a view


def visible_share(params: ViewParams, image_size: tuple[int, int]) -> float:
    """The share of the image's area that the view shows, before anything is erased or shifted out."""
    crop, window, (height, width) = params.crop, params.window, params.resized
    shown = window.height * window.width / (height * width)
    return crop.height * crop.width / (image_size[0] * image_size[1]) * min(1.0, shown)


def erased_share(erased: tuple[Box, ...], size: tuple[int, int]) -> float:
    """The share of the view's area that is erased; where boxes overlap it counts once."""
    if len(erased) < 2:
        return sum(box.height * box.width for box in erased) / (size[0] * size[1])
    covered = np.zeros(size, bool)
    for box in erased:
        covered[box.top : box.top + box.height, box.left : box.left + box.width] = True
    return float(covered.mean())


# Drawing views


class BlockView(NamedTuple):
    """A committed (block, view); block counts within the shard."""

    shard: int
    block: int
    view: int


def draw_block_views(store: Store, committed: np.ndarray, views: int, seed: int) -> tuple[list[BlockView], int]:
    """Committed (block, view)s at random, none twice, until they hold so many views or there is none left, in the
    store's order; and how many there are to draw from. The same seed draws the same ones.
    """
    units = [Unit(*row) for row in np.argwhere(committed).tolist()]
    lengths = [len(store.layout.blocks(unit)) * len(store.layout.group_views(unit.group)) for unit in units]
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    stream, drawn, held = Stream(derive(seed, "audit")), dict[int, None](), 0
    chosen: list[BlockView] = []
    for number in _draw_without_repeats(stream, total):
        if held >= views:
            break
        at = int(np.searchsorted(ends, number, side="right"))
        unit, views_of = units[at], store.layout.group_views(units[at].group)
        block, column = divmod(number - int(ends[at] - lengths[at]), len(views_of))
        drawn[number] = None
        chosen.append(BlockView(unit.shard, store.layout.blocks(unit)[block], views_of[column]))
        held += len(store.layout.block(unit.shard, chosen[-1].block).rows)
    return sorted(chosen), total


def _draw_without_repeats(stream: Stream, total: int) -> Iterator[int]:
    if total <= 1 << 20:
        yield from stream.permutation(total).tolist()
        return
    seen: set[int] = set()
    while len(seen) < total:
        number = stream.integer(total)
        if number not in seen:
            seen.add(number)
            yield number


# Facts of the views drawn


@dataclass(frozen=True)
class ViewFacts:
    """One entry a labelled view, all (n,) but operations.

    blocks int64: equal for views of the same block; lambdas float64: the own share of the mix; mixes int64: an index
    into MIXES; operations (n, len(names)) bool: which are applied.
    """

    blocks: np.ndarray
    classes: np.ndarray
    labels: np.ndarray
    own: np.ndarray
    larger: np.ndarray
    either: np.ndarray
    lambdas: np.ndarray
    mixes: np.ndarray
    visible: np.ndarray
    erased: np.ndarray
    operations: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def read_facts(store: Store, chosen: list[BlockView], on_progress: OnProgress | None = None) -> ViewFacts:
    """Parameters, mix and label of every labelled view of these (block, view)s, in the order given. Decodes nothing.

    ShardError where a shard is not where the store says.
    """
    parts: list[dict[str, np.ndarray]] = []
    applied: list[list[tuple[str, ...]]] = []
    chunk: tuple[Unit, np.ndarray] | None = None
    held: tuple[tuple[int, int, frozenset[int]], BlockPlace, np.ndarray] | None = None
    for done, (shard, block, view) in enumerate(chosen):
        unit, span = store.layout.unit_of(shard, block, view), store.layout.block(shard, block)
        if chunk is None or chunk[0] != unit:
            chunk = unit, read_committed(store, unit)
        labels = chunk[1][span.rows.start : span.rows.stop, store.layout.locate_view(view)[1]].astype(np.int64)
        skipped = frozenset(np.flatnonzero(labels == SKIPPED).tolist())
        if held is None or held[0] != (shard, block, skipped):
            place = store.index.place(shard, block, skipped)
            held = (shard, block, skipped), place, image_sizes(place, store.max_pixels)
        part, operations = _facts(store, held[1], held[2], view, labels)
        parts.append(part | {"blocks": np.full(len(operations), span.samples.start)})
        applied.append(operations)
        if on_progress is not None:
            on_progress(done + 1, len(chosen))
    rows = [names for part_rows in applied for names in part_rows]
    names = tuple(sorted({name for row in rows for name in row}))
    table = np.array([[name in row for name in names] for row in rows], bool).reshape(len(rows), len(names))
    return ViewFacts(
        **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, operations=table, names=names
    )


def _facts(
    store: Store, place: BlockPlace, sizes: np.ndarray, view: int, labels: np.ndarray
) -> tuple[dict[str, np.ndarray], list[tuple[str, ...]]]:
    """ViewFacts of one (block, view), and of each view the names of its operations."""
    plan = view_mix(
        store.policy,
        store.seed,
        shard=place.shard,
        block=place.number,
        num_samples=len(labels),
        skipped=place.skipped,
        view=view,
    )
    kept = np.flatnonzero(labels >= 0)
    visible, erased, operations = [], [], []
    ids = [(place.shard, place.keys[position], view) for position in kept.tolist()]
    drawn = draw_samples(store.policy, store.seed, ids, sizes[kept])
    for params, (height, width) in zip(drawn, sizes[kept].tolist(), strict=True):
        visible.append(visible_share(params, (height, width)))
        erased.append(erased_share(params.erased, store.policy.size))
        operations.append(tuple(operation.name for operation in params.operations))
    pairs, lambdas, given = class_pairs(place.classes, plan, place.skipped)[kept], plan.lambdas[kept], labels[kept]
    return {
        "classes": pairs[:, 0].astype(np.int64),
        "labels": given,
        "own": given == pairs[:, 0],
        "larger": given == larger_class(pairs, lambdas),
        "either": (given[:, None] == pairs).any(axis=1),
        "lambdas": lambdas / LAMBDA_ONE,
        "mixes": np.where(plan.partners[kept] == kept, 0, np.where(plan.boxes[kept, 2] > 0, 2, 1)),
        "visible": np.array(visible, float),
        "erased": np.array(erased, float),
    }, operations


# Tables


def sampled_agreement(
    store: Store,
    committed: np.ndarray,
    *,
    views: int = VIEWS_SAMPLED,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> dict[str, Any] | None:
    """How agreement depends on what was drawn, on a random sample of views; None where nothing is labelled.

    MEASURED is what `intervals.measured` gives: {"views": 640, "blocks": 10, "share": 0.6, "interval": [0.5, 0.7]}.

        {"views": 100032, "block_views": 1563, "block_views_committed": 380608, "seed": 0,
         "confidence": 0.95, "interval": "how intervals are made, one sentence",
         "dominant": "which views by_visible_share, by_operation, by_erased_share and by_class.*_crops count",
         "own": MEASURED, "larger": MEASURED, "either": MEASURED,
         "by_visible_share": [{"from": 0.0, "to": 0.1, **MEASURED}, ...],   label is the own class
         "by_operation": [{"operation": "rotate", **MEASURED}, ...],        None: no operation; the lowest share first
         "by_erased_share": [{"from": 0.0, "to": 0.0, **MEASURED}, ...],    the first: nothing erased
         "by_lambda": [{"mix": "cutmix", "from": 0.0, "to": 0.1, "own": MEASURED, "partner": MEASURED}, ...],
         "by_class": [{"class": "cat", "own": MEASURED, "larger": MEASURED, "either": MEASURED,
                       "small_crops": MEASURED, "large_crops": MEASURED}, ...]}

    Bins hold from < x <= to, the first one 0 too. Raises as `read_facts` does.
    """
    chosen, total = draw_block_views(store, committed, views, seed)
    if not chosen:
        return None
    return {
        "views": 0,
        "block_views": len(chosen),
        "block_views_committed": total,
        "seed": seed,
        "confidence": CONFIDENCE,
        "interval": HOW,
        **tabulate(read_facts(store, chosen, on_progress), store.class_names),
    }


def tabulate(facts: ViewFacts, class_names: tuple[str, ...]) -> dict[str, Any]:
    """The tables of `sampled_agreement`."""
    everything = np.ones(len(facts), bool)

    def share(which: np.ndarray, hits: np.ndarray = facts.own) -> dict[str, Any]:
        return measured(hits[which], facts.blocks[which])

    dominant = facts.lambdas >= 0.5
    partner = facts.either & ~facts.own
    plain = dominant & ~facts.operations.any(axis=1)
    operations = [{"operation": None, **share(plain)}] + [
        {"operation": name, **share(dominant & facts.operations[:, number])} for number, name in enumerate(facts.names)
    ]
    mixed = [(name, facts.mixes == number) for number, name in enumerate(MIXES) if name != "none"]
    order = np.argsort(facts.classes, kind="stable")
    cuts = np.searchsorted(facts.classes[order], np.arange(len(class_names) + 1)).tolist()
    small, large = dominant & (facts.visible <= SMALL_CROP), dominant & (facts.visible > LARGE_CROP)
    return {
        "views": len(facts),
        "dominant": "all views"
        if not facts.mixes.any()
        else "views in which the sample's own share of the mix is at least half",
        "own": share(everything),
        "larger": share(everything, facts.larger),
        "either": share(everything, facts.either),
        "by_visible_share": [
            {"from": low, "to": high, **share(dominant & inside)}
            for low, high, inside in _bins(facts.visible, VISIBLE_EDGES)
        ],
        "by_operation": sorted(operations, key=lambda row: (row["share"] is None, row["share"])),
        "by_erased_share": [
            {"from": 0.0, "to": 0.0, **share(dominant & (facts.erased == 0))},
            *[
                {"from": low, "to": high, **share(dominant & inside & (facts.erased > 0))}
                for low, high, inside in _bins(facts.erased, ERASED_EDGES)
            ],
        ],
        "by_lambda": [
            {"mix": name, "from": low, "to": high, "own": share(inside & of), "partner": share(inside & of, partner)}
            for name, of in mixed
            if of.any()
            for low, high, inside in _bins(facts.lambdas, LAMBDA_EDGES)
        ],
        "by_class": [
            {
                "class": name,
                "own": share(rows),
                "larger": share(rows, facts.larger),
                "either": share(rows, facts.either),
                "small_crops": share(rows[small[rows]]),
                "large_crops": share(rows[large[rows]]),
            }
            for name, rows in zip(class_names, (order[low:high] for low, high in itertools.pairwise(cuts)), strict=True)
        ],
    }


def _bins(values: np.ndarray, edges: tuple[float, ...]) -> Iterator[tuple[float, float, np.ndarray]]:
    """(low, high, which are inside: low < value <= high) of each bin; 0 is in the first."""
    numbers = np.maximum(0, np.searchsorted(edges, values, side="left") - 1)
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        yield low, high, numbers == number
