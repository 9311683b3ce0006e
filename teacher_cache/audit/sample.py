"""One sample, one view: what was drawn, what the teacher said, and the pixels that it saw."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from teacher_cache.audit.conditions import erased_share, image_sizes, visible_share
from teacher_cache.audit.names import place
from teacher_cache.audit.votes import count_votes
from teacher_cache.errors import ShardError
from teacher_cache.rendering.choice import Render, open_replay
from teacher_cache.replay.block import (
    Block,
    DecodedBlock,
    ReplayedBlock,
    decode_block,
    view_mix,
    view_params,
)
from teacher_cache.replay.mix import LAMBDA_ONE, MixPlan
from teacher_cache.replay.render import render_pixels
from teacher_cache.shards.read import read_block
from teacher_cache.store.labels import LabelReader, no_view, read_unit_row
from teacher_cache.store.layout import Location
from teacher_cache.store.store import Store
from teacher_cache.store.unit import SKIPPED, Unit

if TYPE_CHECKING:  # which is imported where a device may render
    import torch


class BlockLabels:
    """All labels of the block that holds a sample, (n, views): -1 where its unit is not committed, -2 where skipped."""

    def __init__(self, store: Store, spot: Location) -> None:
        units = [Unit(spot.shard, spot.unit, group) for group in range(store.layout.num_groups)]
        committed = np.array([store.records.is_committed(unit) for unit in units])
        row = read_unit_row(store, spot.shard, spot.unit, committed)
        rows = store.layout.block(spot.shard, spot.block).rows
        self.labels = row.labels[rows.start : rows.stop]

    def skipped(self, view: int) -> frozenset[int]:
        return frozenset(np.flatnonzero(self.labels[:, view] == SKIPPED).tolist())


def describe_sample(store: Store, sample: int, *, limit: int | None = None) -> dict[str, Any]:
    """A sample with its labels and, where its shard can be read, the parameters of its first `limit` views.

    {"store": "runs/store", "shard": "train-0000.tar", "key": "00017", "sample": 17, "class": "cat",
     "block": 0, "position": 17, "image_size": [32, 32], "mixed": true,
     "labels": ["cat", null, ...],            of every view; null: not labelled, or skipped
     "skipped": [],                           views in which it was skipped
     "votes": [{"label": "cat", "votes": 12, "share": 0.75}, ...],    the commonest first
     "num_labels": 16, "own_share": 0.75, "entropy_bits": 0.8,
     "views": [VIEW, ...],                    "view" to "mix" of `describe_view`, partners without theirs
     "views_missing": null}                   why there are no image_size and views, in one line
    """
    spot = store.layout.locate(sample)
    held = BlockLabels(store, spot)
    labels = held.labels[spot.position]
    names, truth = store.class_names, int(store.index.classes[sample])
    votes = count_votes(labels[None], np.array([truth]))
    kinds, counts = np.unique(labels[labels >= 0], return_counts=True)
    ranked = sorted(
        zip(kinds.tolist(), counts.tolist(), strict=True), key=lambda kind: (-kind[1], kind[0] != truth, kind[0])
    )
    num_labels = int(votes.num_labels[0])
    found: dict[str, Any] = {
        "store": str(store.path),
        **place(store, sample),
        "class": names[truth],
        "block": spot.block,
        "position": spot.position,
        "image_size": None,
        "mixed": store.policy.mix is not None,
        "labels": [names[label] if label >= 0 else None for label in labels.tolist()],
        "skipped": np.flatnonzero(labels == SKIPPED).tolist(),
        "votes": [{"label": names[label], "votes": n, "share": n / num_labels} for label, n in ranked],
        "num_labels": num_labels,
        "own_share": float(votes.own_share[0]) if num_labels else None,
        "entropy_bits": float(votes.entropy[0]) if num_labels else None,
        "views": [],
        "views_missing": None,
    }
    try:
        size = image_size(store, spot)
    except ShardError as error:
        return found | {"views_missing": str(error)}
    shown = range(store.views if limit is None else min(limit, store.views))
    return found | {
        "image_size": list(size),
        "views": [_describe(store, spot, held, size, view)[0] for view in shown],
    }


def describe_view(store: Store, sample: int, view: int) -> dict[str, Any]:
    """One view of a sample: what was drawn for it, whom it is mixed with, what the teacher said.

        {"store": "runs/store", "shard": "train-0000.tar", "key": "00017", "sample": 17, "class": "cat",
         "block": 0, "position": 17, "image_size": [32, 32], "num_views": 16,
         "view": 3, "label": "dog", "skipped": false,    label null: not labelled, or skipped
         "agrees": "partner",                            own, partner, neither; null without a label
         "params": {"crop": {"top": 0, "left": 4, "height": 20, "width": 24}, "flip": true, ...},   `ViewParams.to_json`
         "visible_share": 0.47, "erased_share": 0.0,     of the image's area, of the view's
         "mix": {"kind": "cutmix", "lambda": 0.43, "box": [3, 0, 20, 18],    null: unmixed; box null: Mixup
                 "partner": {"shard": ..., "key": ..., "sample": 40, "class": "dog", "image_size": [32, 32],
                             "params": {...}, "visible_share": 0.8, "erased_share": 0.0}},
         "probabilities": [{"class": "dog", "probability": 0.7}, ...], "other": 0.1, "tau": 1.0}

    lambda is the sample's own share of the mix; box is top, left, height, width in the view, of the partner's pixels.
    probabilities and other (the mass of all other classes) are null where the store keeps labels alone.
    StoreError for a view that the store does not have, ShardError where the shard is not where the store says.
    """
    if not 0 <= view < store.views:
        raise no_view(store, view)
    spot = store.layout.locate(sample)
    held = BlockLabels(store, spot)
    size = image_size(store, spot)
    described, plan = _describe(store, spot, held, size, view)
    if described["mix"] is not None:
        partner = store.layout.locate(sample - spot.position + int(plan.partners[spot.position]))
        partner_size = image_size(store, partner)
        described["mix"]["partner"] |= {"image_size": list(partner_size), **_params(store, partner, partner_size, view)}
    return {
        "store": str(store.path),
        **place(store, sample),
        "class": store.class_names[store.index.classes[sample]],
        "block": spot.block,
        "position": spot.position,
        "image_size": list(size),
        "num_views": store.views,
        **described,
        **_probabilities(store, spot, held, view),
    }


def seen_pixels(views: Sequence[dict[str, Any]], size: tuple[int, int]) -> np.ndarray:
    """How many of the views of `describe_sample` show each pixel of an image, (height, width) int64.

    Crops alone count: not what is turned out of the picture, erased or covered by the partner.
    """
    counts = np.zeros(size, np.int64)
    for view in views:
        top, left, bottom, right = seen_edges(view["params"])
        counts[math.floor(top) : math.ceil(bottom), math.floor(left) : math.ceil(right)] += 1
    return counts


def seen_edges(params: dict[str, Any]) -> tuple[float, float, float, float]:
    """Top, left, bottom and right, in pixels of the image, of what a view's window keeps of its crop."""
    crop, window, (height, width) = params["crop"], params["window"], params["resized"]
    rows, columns = crop["height"] / height, crop["width"] / width
    top, left = crop["top"] + window["top"] * rows, crop["left"] + window["left"] * columns
    return top, left, top + window["height"] * rows, left + window["width"] * columns


def image_size(store: Store, spot: Location) -> tuple[int, int]:
    """Height and width of a sample's image, from its header. ShardError where it cannot be read."""
    everything = store.index.place(spot.shard, spot.block)
    others = frozenset(range(len(everything.keys))) - {spot.position}
    height, width = image_sizes(replace(everything, skipped=others), store.max_pixels)[spot.position].tolist()
    return height, width


def _params(store: Store, spot: Location, size: tuple[int, int], view: int) -> dict[str, Any]:
    key = store.index.key(spot.sample)
    params = view_params(store.policy, store.seed, store.shard_name(spot.shard), key, view, size)
    return {
        "params": params.to_json(),
        "visible_share": visible_share(params, size),
        "erased_share": erased_share(params.erased, store.policy.size),
    }


def _describe(
    store: Store, spot: Location, held: BlockLabels, size: tuple[int, int], view: int
) -> tuple[dict[str, Any], MixPlan]:
    """A view without its sample, and the mix plan of its block."""
    plan = view_mix(
        store.policy,
        store.seed,
        shard=store.shard_name(spot.shard),
        block=spot.block,
        num_samples=len(held.labels),
        skipped=held.skipped(view),
        view=view,
    )
    label, at = int(held.labels[spot.position, view]), spot.position
    partner = spot.sample - at + int(plan.partners[at])
    truth = [store.class_names[store.index.classes[sample]] for sample in (spot.sample, partner)]
    mix = None
    if partner != spot.sample:
        cut = plan.boxes[at, 2] > 0
        mix = {
            "kind": "cutmix" if cut else "mixup",
            "lambda": int(plan.lambdas[at]) / LAMBDA_ONE,
            "box": plan.boxes[at].tolist() if cut else None,
            "partner": place(store, partner) | {"class": truth[1]},
        }
    name = store.class_names[label] if label >= 0 else None
    return {
        "view": view,
        "label": name,
        "skipped": label == SKIPPED,
        "agrees": None if name is None else ("own", "partner", "neither")[[*truth, name].index(name)],
        **_params(store, spot, size, view),
        "mix": mix,
    }, plan


def _probabilities(store: Store, spot: Location, held: BlockLabels, view: int) -> dict[str, Any]:
    found: dict[str, Any] = {"probabilities": None, "other": None, "tau": store.tau}
    if not store.topk or held.labels[spot.position, view] < 0:
        return found
    classes, probabilities = LabelReader(store).topk(spot.shard, spot.block, view, np.array([spot.position]))
    parts = [float(part) for part in probabilities[0]]
    pairs = zip(classes[0].tolist(), parts[:-1], strict=True)
    return found | {
        "probabilities": [{"class": store.class_names[number], "probability": part} for number, part in pairs],
        "other": parts[-1],
    }


# Pixels


@dataclass(frozen=True)
class Pictures:
    """A view as pixels, all (H, W, 3) uint8: mixed is what the teacher saw. digest_equal: whether the whole block's
    pixels are those that the store labelled; None where its unit is not filled. What it was made of is rendered when it
    is asked for.
    """

    view: int
    mixed: np.ndarray
    digest_equal: bool | None
    _position: int
    _partner: int
    _render: Callable[[int], np.ndarray]  # of the sample at a position of the block

    @cached_property
    def unmixed(self) -> np.ndarray:
        """The sample's own view, before mixing."""
        return self._render(self._position)

    @cached_property
    def partner(self) -> np.ndarray | None:
        """The view that is mixed in, before mixing; None where it is mixed with nobody."""
        return None if self._partner == self._position else self._render(self._partner)


def render_views(
    store: Store,
    sample: int,
    views: Sequence[int],
    *,
    render: Render = "cpu",
    device: "str | torch.device | None" = None,
    say: Callable[[str], None] = lambda message: None,
) -> tuple[np.ndarray, Iterator[Pictures]]:
    """The sample's image, (H, W, 3) uint8, and its views, replayed with their block as both stages do it.

    render, device: where blocks are replayed, see choose_rendering; say hears of it. For a few views a device is not
    worth its start.
    Raises ShardError, ImageError, PolicyError and DeviceError.
    """
    replay = open_replay(render, store.policy, store.seed, device, say)
    spot = store.layout.locate(sample)
    held = BlockLabels(store, spot)
    block = read_block(store.index.place(spot.shard, spot.block, held.skipped(views[0]) if len(views) else frozenset()))
    decoded = decode_block(block, max_pixels=store.max_pixels)
    return decoded.image(spot.position), _render(store, spot, held, block, decoded, views, replay)


def _render(
    store: Store,
    spot: Location,
    held: BlockLabels,
    block: Block,
    decoded: DecodedBlock,
    views: Sequence[int],
    replay: Callable[[DecodedBlock, int], ReplayedBlock],
) -> Iterator[Pictures]:
    reader = LabelReader(store)
    for view in views:
        if held.skipped(view) != decoded.skipped:
            decoded = decode_block(replace(block, skipped=held.skipped(view)), max_pixels=store.max_pixels)
        replayed = replay(decoded, view)
        plan = view_mix(
            store.policy,
            store.seed,
            shard=block.shard,
            block=block.number,
            num_samples=decoded.num_samples,
            skipped=decoded.skipped,
            view=view,
        )
        stored = reader.digest(spot.shard, spot.block, view)
        yield Pictures(
            view=view,
            mixed=replayed.pixels[spot.position].copy(),
            digest_equal=None if stored is None else stored == replayed.digest,
            _position=spot.position,
            _partner=int(plan.partners[spot.position]),
            _render=partial(_unmixed, store, decoded, view),
        )


def _unmixed(store: Store, decoded: DecodedBlock, view: int, position: int) -> np.ndarray:
    image, block = decoded.image(position), decoded.block
    params = view_params(store.policy, store.seed, block.shard, block.keys[position], view, image.shape[:2])
    return render_pixels(image, params, store.policy.own_functions)
