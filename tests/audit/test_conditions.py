"""Image sizes from headers, and the sampled statistics against the whole population, one view at a time."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from teacher_cache.audit.conditions import (
    BlockView,
    draw_block_views,
    erased_share,
    image_sizes,
    read_facts,
    sampled_agreement,
    visible_share,
)
from teacher_cache.errors import ImageError, ShardError
from teacher_cache.replay.block import view_mix, view_params
from teacher_cache.replay.header import image_size
from teacher_cache.replay.mix import LAMBDA_ONE
from teacher_cache.replay.params import Box
from teacher_cache.replay.policy import load_policy
from teacher_cache.shards.fingerprint import image_fingerprint
from tests.support.bright_shards import bright_store, spoil_image
from tests.support.drawn import all_labels, drawn_store
from tests.support.images import jpeg, picture, webp


def test_a_header_that_is_long_is_read_on(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    long, short = jpeg(picture(2, height=40, width=50), exif=exif), webp(picture(3, height=20, width=30))
    assert image_size(long[:4096]) is None
    store = bright_store(tmp_path, counts=(3,))
    images = (long, short, b"")
    (tmp_path / "x.tar").write_bytes(long + short + b"junk")
    place = replace(
        store.index.place(0, 0, frozenset({2})),
        path=str(tmp_path / "x.tar"),
        num_bytes=(tmp_path / "x.tar").stat().st_size,
        fingerprints=np.array([image_fingerprint(image, "tail") for image in images], np.uint64),
        offsets=np.array([0, len(long), 0]),
        sizes=np.array([len(long), len(short), 0]),
    )
    assert image_sizes(place).tolist() == [[40, 50], [20, 30], [0, 0]]
    with pytest.raises(ImageError, match=r"key s0000\d: the image is 40 x 50 pixels large, more than the 1999 that"):
        image_sizes(place, max_pixels=1999)


def test_a_shard_that_is_gone_and_an_image_that_is_none(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(5,))
    shard, key = spoil_image(store, 2)
    with pytest.raises(ImageError, match=f"shard {shard}, key {key}"):
        image_sizes(store.index.place(0, 0))
    (tmp_path / "shards" / "train-0000.tar").unlink()
    with pytest.raises(ShardError, match=r"train-0000\.tar cannot be read at key .* --shards"):
        image_sizes(store.index.place(0, 0))


def test_shares_of_a_view() -> None:
    policy = load_policy("none", ["size=10"])
    params = view_params(policy, 0, "s", "k", 0, (20, 40))  # resized to 10 x 20, the middle 10 x 10 of it
    assert visible_share(params, (20, 40)) == pytest.approx(0.5)
    assert erased_share((Box(0, 0, 2, 5), Box(1, 0, 2, 5)), (10, 10)) == pytest.approx(0.15)
    assert erased_share((Box(0, 0, 2, 5),), (10, 10)) == pytest.approx(0.1)
    assert erased_share((), (10, 10)) == 0


def test_draws_are_seeded_and_never_repeat(tmp_path: Path) -> None:
    store = drawn_store(tmp_path)
    committed = store.committed()
    every, total = draw_block_views(store, committed, 10**9, 0)
    blocks = [(shard, block) for shard in range(4) for block in range(store.index.num_blocks(shard))]
    assert every == [BlockView(*place, view) for place in blocks for view in range(4)]
    assert total == len(every) == 28
    some = draw_block_views(store, committed, 200, 5)[0]
    assert some == draw_block_views(store, committed, 200, 5)[0] != draw_block_views(store, committed, 200, 6)[0]
    assert 200 <= sum(len(store.index.place(s, b).keys) for s, b, _ in some) < 264
    committed[0] = False
    committed[:, :, 1] = False
    assert all(place.shard > 0 and place.view < 2 for place in draw_block_views(store, committed, 10**9, 0)[0])


@pytest.mark.parametrize("mixed", [False, True])
def test_sampled_tables_of_everything_equal_loops_over_single_views(tmp_path: Path, mixed: bool) -> None:
    overrides = ("rand_augment.num_ops=2", "rand_augment.probability=0.5")
    store = drawn_store(tmp_path, mixed=mixed, overrides=overrides)
    found = sampled_agreement(store, store.committed(), views=10**9)
    assert found is not None
    labels, index = all_labels(store), store.index
    tables: dict[str, dict[object, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for sample, view in np.argwhere(labels >= 0).tolist():
        shard = index.shard_of(sample)
        block, position = divmod(sample - int(index.starts[shard]), 64)
        place = index.place(shard, block)
        skipped = frozenset(np.flatnonzero(labels[sample - position :, view][: len(place.keys)] == -2).tolist())
        plan = view_mix(
            store.policy,
            store.seed,
            shard=place.shard,
            block=block,
            num_samples=len(place.keys),
            skipped=skipped,
            view=view,
        )
        params = view_params(store.policy, store.seed, place.shard, place.keys[position], view, (12, 10))
        label, lam, partner = int(labels[sample, view]), int(plan.lambdas[position]), int(plan.partners[position])
        own, other = int(place.classes[position]), int(place.classes[partner])
        tables["own"][None].append(label == own)
        tables["either"][None].append(label in (own, other))
        tables["larger"][None].append(label == (own if 2 * lam >= LAMBDA_ONE else other))
        tables["class"][own].append(label == own)
        if partner != position:
            kind = "cutmix" if plan.boxes[position, 2] else "mixup"
            number = next(n for n in range(10) if lam / LAMBDA_ONE <= (n + 1) / 10)
            tables["lambda own"][kind, number].append(label == own)
            tables["lambda partner"][kind, number].append(label == other != own)
        if 2 * lam < LAMBDA_ONE:
            continue
        visible = params.crop.height * params.crop.width / 120
        tables["visible"][next(n for n in range(10) if visible <= (n + 1) / 10)].append(label == own)
        for name in {operation.name for operation in params.operations} or {None}:
            tables["operation"][name].append(label == own)
        tables["erased"][bool(params.erased)].append(label == own)

    def same(row: dict, expected: list[bool]) -> None:
        assert row["views"] == len(expected)
        assert row["share"] == (pytest.approx(np.mean(expected)) if expected else None)

    for name in ("own", "larger", "either"):
        same(found[name], tables[name][None])
    assert found["views"] == len(tables["own"][None]) == int((labels >= 0).sum())
    for number, row in enumerate(found["by_visible_share"]):
        same(row, tables["visible"][number])
    assert {row["operation"] for row in found["by_operation"]} == set(tables["operation"])
    for row in found["by_operation"]:
        same(row, tables["operation"][row["operation"]])
    same(found["by_erased_share"][0], tables["erased"][False])
    assert sum(row["views"] for row in found["by_erased_share"][1:]) == len(tables["erased"][True]) > 0
    assert bool(found["by_lambda"]) == mixed
    for row in found["by_lambda"]:
        same(row["own"], tables["lambda own"][row["mix"], round(row["from"] * 10)])
        same(row["partner"], tables["lambda partner"][row["mix"], round(row["from"] * 10)])
    for number, row in enumerate(found["by_class"]):
        same(row["own"], tables["class"][number])


def test_a_sample_is_near_the_population(tmp_path: Path) -> None:
    """Intervals of samples hold the share of all views about as often as they say, here nearly always: the sample is a
    good part of all."""
    store = drawn_store(tmp_path, views=8)
    whole = sampled_agreement(store, store.committed(), views=10**9)
    assert whole is not None
    inside = 0
    for seed in range(20):
        part = sampled_agreement(store, store.committed(), views=600, seed=seed)
        assert part is not None
        assert part["views"] < whole["views"]
        inside += part["own"]["interval"][0] <= whole["own"]["share"] <= part["own"]["interval"][1]
    assert inside >= 18


def test_a_sample_skipped_in_some_views_has_facts_of_the_others(tmp_path: Path) -> None:
    store = drawn_store(tmp_path)
    facts = read_facts(store, [BlockView(1, 0, 0)])
    assert len(facts) == 63
    assert len(facts.names) == facts.operations.shape[1]
