"""One sample, one view: what is told is what was replayed, to the pixel."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import teacher_cache
from teacher_cache.audit import pictures as sheets
from teacher_cache.audit.pictures import SHEET_WIDTH, contact_sheet, png_bytes, save_png, side_by_side
from teacher_cache.audit.sample import describe_sample, describe_view, render_views, seen_pixels
from teacher_cache.errors import ImageError, ShardError, StoreError
from teacher_cache.replay.block import decode_block, replay_view, view_params
from teacher_cache.replay.mix import LAMBDA_ONE
from teacher_cache.replay.render import decode, render_pixels
from teacher_cache.shards.read import read_block
from teacher_cache.store.store import Store
from teacher_cache.store.unit import Unit
from tests.support.bright_shards import bright_store, change_pixel, small_policy, spoil_image
from tests.support.drawn import all_labels, commit_labels, drawn_store
from tests.support.filling import fill_store


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = bright_store(tmp_path_factory.mktemp("filled"))
    fill_store(store, topk=3)
    return store


def test_a_view_is_the_replayed_blocks_pixels(filled: Store) -> None:
    for sample in (0, 63, 64, 129, 130, 194, 195):
        shard = filled.index.shard_of(sample)
        block, position = divmod(sample - int(filled.index.starts[shard]), 64)
        decoded = decode_block(read_block(filled.index.place(shard, block)))
        image, views = render_views(filled, sample, range(4))
        assert (image == decoded.image(position)).all()
        for view, pictures in enumerate(views):
            replayed = replay_view(filled.policy, filled.seed, decoded, view)
            found = describe_view(filled, sample, view)
            assert (pictures.view, pictures.digest_equal) == (view, True)
            assert (pictures.mixed == replayed.pixels[position]).all()
            params = view_params(filled.policy, filled.seed, decoded.block.shard, found["key"], view, (12, 10))
            assert found["params"] == params.to_json()
            assert (pictures.unmixed == render_pixels(decoded.image(position), params)).all()
            label = int(all_labels(filled)[sample, view])
            assert found["label"] == filled.class_names[label]
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
            assert partner["class"] == filled.class_names[other]
            (back,) = render_views(filled, partner["sample"], [view])[1]
            assert (back.unmixed == pictures.partner).all()
            assert describe_view(filled, partner["sample"], view)["params"] == partner["params"]
            if found["mix"]["kind"] == "cutmix":
                top, left, height, width = found["mix"]["box"]
                expected = pictures.unmixed.copy()
                cut = slice(top, top + height), slice(left, left + width)
                expected[cut] = back.unmixed[cut]
                assert (pictures.mixed == expected).all()
            else:
                assert found["mix"]["box"] is None


def test_a_sample_lists_its_labels_and_views(filled: Store) -> None:
    labels = all_labels(filled)[70]
    found = describe_sample(filled, 70)
    assert found["labels"] == [filled.class_names[label] for label in labels.tolist()]
    assert {vote["label"]: vote["votes"] for vote in found["votes"]} == {
        filled.class_names[label]: int((labels == label).sum()) for label in set(labels.tolist())
    }
    assert found["own_share"] == (labels == filled.index.classes[70]).mean()
    assert found["image_size"] == [12, 10]
    for view, described in enumerate(found["views"]):
        whole = describe_view(filled, 70, view)
        if described["mix"] is not None:
            assert set(described["mix"]["partner"]) == {"shard", "key", "sample", "class"}
            whole["mix"]["partner"] = described["mix"]["partner"]
        assert described == {name: whole[name] for name in described}
    assert len(describe_sample(filled, 70, limit=2)["views"]) == 2


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


def test_notebook(filled: Store) -> None:
    store, labels = teacher_cache.open_store(str(filled.path)), all_labels(filled)
    assert (store.labels() == labels).all()
    assert store.labels().dtype == np.int16
    assert (store.labels([3, 0]) == labels[:, [3, 0]]).all()
    assert (store.labels(range(1, 3)) == labels[:, 1:3]).all()
    assert (store.labels(2) == labels[:, 2]).all()
    assert (store.votes().own == (labels == filled.index.classes[:, None]).sum(axis=1)).all()
    key = filled.index.key(66)
    (pictures,) = render_views(filled, 66, [1])[1]
    for name in (66, key, f"train-0000.tar/{key}"):
        assert (store.render(name, 1) == pictures.mixed).all()
        assert (store.render(name, 1, mixed=False) == pictures.unmixed).all()
        assert (store.image(name) == render_views(filled, 66, [])[0]).all()
        assert store.view(name, 1) == describe_view(filled, 66, 1)
        assert store.sample(name) == describe_sample(filled, 66)
    for number in (-1, 260):
        with pytest.raises(StoreError, match="samples 0 to 259"):
            store.render(number, 0)
    with pytest.raises(StoreError, match="there is no view 4"):
        store.render(0, 4)


def test_a_notebook_is_offered_nothing_that_writes(filled: Store) -> None:
    store = teacher_cache.open_store(str(filled.path))
    assert (store.path, store.views, store.seed) == (filled.path, filled.views, filled.seed)
    assert (store.policy, store.class_names, store.teacher) == (filled.policy, filled.class_names, filled.teacher)
    assert (store.index.classes == filled.index.classes).all()
    offered = {name for name in dir(store) if not name.startswith("_")}
    assert not offered & {"commit_unit", "extend", "move", "bind", "create", "publish_teacher", "publish_proof"}
    assert offered == {
        *("store", "path", "views", "seed", "policy", "teacher", "class_names", "index", "labels", "votes", "number"),
        *("sample", "view", "image", "render"),
    }
    assert not store.store.writable


def test_labels_of_what_is_not_filled(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    commit_labels(store, Unit(0, 1, 1), np.full((64, 2), 7))
    assert (teacher_cache.open_store(str(store.path)).labels() == all_labels(store)).all()


@pytest.mark.parametrize(("limit", "size"), [(1, (12, 10)), (20, (300, 400)), (20, (7, 900))])
def test_the_sheet_has_every_view(tmp_path: Path, limit: int, size: tuple[int, int]) -> None:
    store = drawn_store(tmp_path, mixed=True, views=20)
    found = describe_sample(store, 2, limit=limit)
    _, views = render_views(store, 2, range(limit))
    pictures = list(views)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found["class"] = "[bold]" + "long name " * 30 + "\x1b[2J\n"
    sheet = contact_sheet(found, image, pictures)
    assert sheet.width == SHEET_WIDTH
    pixels = np.asarray(sheet)
    for each in pictures:
        tile = np.kron(each.mixed, np.ones((17, 17, 1), np.uint8))  # 8 pixels at 17 times their size
        corner = tile[:17, :17].reshape(-1, 3)[0]
        assert (pixels == corner).all(axis=2).sum() >= 17 * 17


def test_the_sheet_counts_a_mix_by_the_partners_part_and_explains_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = drawn_store(tmp_path, mixed=True, views=8)
    found = describe_sample(store, 2)
    assert {view["params"]["erase_mode"] for view in found["views"]} == {"pixel", None}
    written: list[str] = []
    text = sheets.ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        sheets.ImageDraw.ImageDraw,
        "text",
        lambda self, at, said, *more, **options: written.append(said) or text(self, at, said, *more, **options),
    )
    image, views = render_views(store, 2, range(8))
    contact_sheet(found, image, list(views))
    mixed = [view["mix"] for view in found["views"] if view["mix"] is not None]
    assert mixed
    for mix in mixed:
        line = f"{mix['kind']}, partner {1 - mix['lambda']:.0%}"
        assert line in written
        assert written[written.index(line) + 1] == f"with {mix['partner']['class']}"
    assert "erased 20%: rectangles of noise over a fifth of the view" in written
    assert "where no part is said to be erased, such a rectangle is the partner's" in written
    for kind in ("cutmix", "mixup"):
        assert any(said.startswith(f"{kind}, partner 20%: ") for said in written) == (
            kind in {m["kind"] for m in mixed}
        )


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


def test_few_crops_are_boxes_and_many_are_a_map(tmp_path: Path) -> None:
    store = drawn_store(tmp_path, views=sheets.FEW_CROPS + 1)
    image, views = render_views(store, 2, range(store.views))
    pictures = list(views)
    top = sheets.MARGIN + 2 * sheets.LINE + sheets.GAP
    side = 3 * sheets.ORIGINAL_SIDE // 4
    many = np.asarray(contact_sheet(describe_sample(store, 2), image, pictures))
    plain = np.asarray(sheets._scaled(image, (side, side * 10 // 12)))
    assert (many[top:, sheets.MARGIN :][: plain.shape[0], : plain.shape[1]] == plain).all()
    seen = many[top:, sheets.MARGIN + plain.shape[1] + sheets.GAP :][: plain.shape[0], : plain.shape[1]]
    counts = seen_pixels(describe_sample(store, 2)["views"], (12, 10))
    centres = seen[12::25, 12::25][:12, :10]
    assert (centres[counts == counts.max()] == sheets.SEEN_MOST).all()
    assert (centres[counts == counts.min()] == sheets.SEEN_LEAST).all()
    few = describe_sample(store, 2, limit=sheets.FEW_CROPS)
    boxed = np.asarray(contact_sheet(few, image, pictures[: sheets.FEW_CROPS]))
    colours = {sheets.COLOURS[view["agrees"]] for view in few["views"]}
    drawn = boxed[top:, sheets.MARGIN :][: sheets.ORIGINAL_SIDE, : sheets.ORIGINAL_SIDE * 10 // 12]
    assert all((drawn == colour).all(axis=2).sum() > 50 for colour in colours)


def test_letters_that_no_font_has_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "FONTS", ())  # as on a machine without fonts: Pillow's own
    for cached in (sheets._font, sheets._has_glyph):
        cached.cache_clear()
    try:
        assert sheets.drawable("cat \u732b\U0001f600\x1b") == "cat \\u732b\\U0001f600\\x1b"
    finally:
        for cached in (sheets._font, sheets._has_glyph):
            cached.cache_clear()


def test_a_picture_is_the_pixels(tmp_path: Path) -> None:
    panes = [np.random.default_rng(n).integers(0, 256, (5, 7, 3), dtype=np.uint8) for n in range(2)]
    image = side_by_side(panes[:1])
    assert (np.asarray(Image.open(io.BytesIO(png_bytes(image)))) == panes[0]).all()
    large = np.asarray(side_by_side(panes, scale=3))
    assert (large[::3, :21:3] == panes[0]).all()
    assert (large[::3, -21::3] == panes[1]).all()
    file = tmp_path / "a.png"
    save_png(image, file)
    save_png(image, file)  # the same may be there
    with pytest.raises(StoreError, match="is not this picture"):
        save_png(side_by_side(panes), file)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (np.asarray(Image.open(file)) == panes[0]).all()
    with pytest.raises(StoreError, match=r"there is no folder \S+/none to write a.png into: make it"):
        save_png(image, tmp_path / "none" / "a.png")


def test_decode_is_the_rule(filled: Store) -> None:
    block = read_block(filled.index.place(0, 0))
    assert (render_views(filled, 4, [])[0] == decode(block.images[4])).all()
