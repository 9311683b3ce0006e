"""One sample, one view: what is told is what was replayed, to the pixel."""

from pathlib import Path

import numpy as np
import pytest

import teacher_cache
from teacher_cache.audit.sample import describe_sample, describe_view, render_views, seen_pixels
from teacher_cache.errors import ImageError, ShardError, StoreError
from teacher_cache.replay.block import decode_block, replay_view, view_params
from teacher_cache.replay.mix import LAMBDA_ONE
from teacher_cache.replay.render import decode, render_pixels
from teacher_cache.shards.read import read_block
from teacher_cache.store.store import Store
from tests.support.bright_shards import bright_store, change_pixel, small_policy, spoil_image
from tests.support.drawn import all_labels, drawn_store
from tests.support.filling import fill_store


def test_a_view_is_the_replayed_blocks_pixels(soft_labels: Store) -> None:
    for sample in (0, 63, 64, 129, 130, 194, 195):
        shard = soft_labels.index.shard_of(sample)
        block, position = divmod(sample - int(soft_labels.index.starts[shard]), 64)
        decoded = decode_block(read_block(soft_labels.index.place(shard, block)))
        image, views = render_views(soft_labels, sample, range(4))
        assert (image == decoded.image(position)).all()
        for view, pictures in enumerate(views):
            replayed = replay_view(soft_labels.policy, soft_labels.seed, decoded, view)
            found = describe_view(soft_labels, sample, view)
            assert (pictures.view, pictures.digest_equal) == (view, True)
            assert (pictures.mixed == replayed.pixels[position]).all()
            params = view_params(
                soft_labels.policy, soft_labels.seed, decoded.block.shard, found["key"], view, (12, 10)
            )
            assert found["params"] == params.to_json()
            assert (pictures.unmixed == render_pixels(decoded.image(position), params)).all()
            label = int(all_labels(soft_labels)[sample, view])
            assert found["label"] == soft_labels.class_names[label]
            assert found["probabilities"][0]["class"] == found["label"]
            assert found["other"] + sum(each["probability"] for each in found["probabilities"]) == pytest.approx(
                1, abs=2e-3
            )
            lam, (own, other) = int(replayed.lambdas[position]), replayed.class_pairs[position].tolist()
            assert found["agrees"] == ("own" if label == own else "partner" if label == other else "neither")
            if found["mix"] is None:
                assert (lam, pictures.partner) == (LAMBDA_ONE, None)
                continue
            partner = found["mix"]["partner"]
            assert found["mix"]["lambda"] == lam / LAMBDA_ONE
            assert partner["class"] == soft_labels.class_names[other]
            (back,) = render_views(soft_labels, partner["sample"], [view])[1]
            assert (back.unmixed == pictures.partner).all()
            assert describe_view(soft_labels, partner["sample"], view)["params"] == partner["params"]
            if found["mix"]["kind"] == "cutmix":
                top, left, height, width = found["mix"]["box"]
                expected = pictures.unmixed.copy()
                cut = slice(top, top + height), slice(left, left + width)
                expected[cut] = back.unmixed[cut]
                assert (pictures.mixed == expected).all()
            else:
                assert found["mix"]["box"] is None


def test_a_sample_lists_its_labels_and_views(soft_labels: Store) -> None:
    labels = all_labels(soft_labels)[70]
    found = describe_sample(soft_labels, 70)
    assert found["labels"] == [soft_labels.class_names[label] for label in labels.tolist()]
    assert {vote["label"]: vote["votes"] for vote in found["votes"]} == {
        soft_labels.class_names[label]: int((labels == label).sum()) for label in set(labels.tolist())
    }
    assert found["own_share"] == (labels == soft_labels.index.classes[70]).mean()
    assert found["image_size"] == [12, 10]
    for view, described in enumerate(found["views"]):
        whole = describe_view(soft_labels, 70, view)
        if described["mix"] is not None:
            assert set(described["mix"]["partner"]) == {"shard", "key", "sample", "class"}
            whole["mix"]["partner"] = described["mix"]["partner"]
        assert described == {name: whole[name] for name in described}
    assert len(describe_sample(soft_labels, 70, limit=2)["views"]) == 2


def test_skipped_and_unfilled_views(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    spoil_image(store, 3)
    fill_store(store, skip_bad=True, views=range(2))
    found = describe_view(store, 5, 3)
    assert (found["label"], found["agrees"], found["probabilities"]) == (None, None, None)
    pictures = list(render_views(store, 5, range(2))[1])
    assert [each.digest_equal for each in pictures] == [True, True]
    with pytest.raises(ImageError):  # nothing says yet that sample 3 is skipped there
        list(render_views(store, 5, [3])[1])
    skipped = describe_sample(store, 3)
    assert skipped["skipped"] == [0, 1]
    assert (skipped["num_labels"], skipped["own_share"], skipped["views"]) == (0, None, [])
    assert f"key {skipped['key']}" in skipped["views_missing"]
    with pytest.raises(StoreError, match="views 0 to 3, there is no view 4"):
        describe_view(store, 5, 4)


def test_other_pixels_are_told(tmp_path: Path) -> None:
    path = bright_store(tmp_path, policy=small_policy("mix=none")).path
    store = Store.open(path, writable=True)
    fill_store(store)
    change_pixel(store, 7)
    (pictures,) = render_views(store, 7, [1])[1]
    assert pictures.digest_equal is False
    with pytest.raises(StoreError, match="not the pixels"):
        teacher_cache.open_store(str(path)).render(7, 1)


def test_without_shards_labels_are_told(tmp_path: Path) -> None:
    store = drawn_store(tmp_path)
    for shard in (tmp_path / "shards").glob("*.tar"):
        shard.unlink()
    found = describe_sample(store, 9)
    assert found["num_labels"] == 4
    assert found["views"] == []
    assert "cannot be read" in found["views_missing"]
    with pytest.raises(ShardError):
        describe_view(store, 9, 0)


@pytest.mark.parametrize("crop", [(), ("crop.kind=center", "crop.crop_pct=0.5", "crop.scale=none", "crop.ratio=none")])
def test_pixels_are_counted_as_often_as_they_are_seen(tmp_path: Path, crop: tuple[str, ...]) -> None:
    views = describe_sample(drawn_store(tmp_path, views=20, overrides=crop), 2)["views"]
    expected = np.zeros((12, 10), int)
    for view in views:
        box, window, (height, width) = (view["params"][name] for name in ("crop", "window", "resized"))
        resized = np.zeros((height, width))
        resized[window["top"] :, window["left"] :][: window["height"], : window["width"]] = 1
        rows = box["top"] + (np.arange(height * box["height"]) // height)
        columns = box["left"] + (np.arange(width * box["width"]) // width)
        seen = np.zeros((12, 10), bool)
        fine = resized.repeat(box["height"], 0).repeat(box["width"], 1) > 0
        np.logical_or.at(seen, (rows[:, None], columns[None]), fine)
        expected += seen
    assert (seen_pixels(views, (12, 10)) == expected).all()
    assert 0 < expected.max() <= 20
    assert expected.min() < expected.max()


def test_decode_is_the_rule(soft_labels: Store) -> None:
    block = read_block(soft_labels.index.place(0, 0))
    assert (render_views(soft_labels, 4, [])[0] == decode(block.images[4])).all()
