"""A sample's views on one sheet, and single views as pictures."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from teacher_cache.audit import pictures as sheets
from teacher_cache.audit.pictures import SHEET_WIDTH, contact_sheet, png_bytes, save_png, side_by_side
from teacher_cache.audit.sample import describe_sample, render_views, seen_pixels
from teacher_cache.errors import StoreError
from tests.support.drawn import drawn_store


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


def test_few_crops_are_boxes_and_many_are_a_map(tmp_path: Path) -> None:
    store = drawn_store(tmp_path, views=sheets.FEW_CROPS + 1)
    image, views = render_views(store, 2, range(store.views))
    pictures = list(views)
    top = sheets.MARGIN + 2 * sheets.LINE + sheets.GAP
    side = 3 * sheets.ORIGINAL_SIDE // 4
    many = np.asarray(contact_sheet(describe_sample(store, 2), image, pictures))
    plain = np.asarray(Image.fromarray(image).resize((side * 10 // 12, side), Image.Resampling.NEAREST))
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
    assert sheets.drawable("cat \u732b\U0001f600\x1b") == "cat \\u732b\\U0001f600\\x1b"


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
