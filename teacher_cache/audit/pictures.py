"""A sample's views on one sheet, and one view as a picture."""

import contextlib
import functools
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from teacher_cache.audit.names import ERASED_WITH, mix_text
from teacher_cache.audit.sample import Pictures, seen_edges, seen_pixels
from teacher_cache.errors import StoreError
from teacher_cache.files import replacing, writing
from teacher_cache.messages.shown import counted, escaped, shown
from teacher_cache.store.presence import check_outside

SHEET_WIDTH = 1200
COLUMNS = 8
MARGIN, GAP = 16, 10
LINE = 17  # pixels from one line of text to the next
ORIGINAL_SIDE = 400
FEW_CROPS = 6  # more of them over each other are a lattice
SEEN_LEAST, SEEN_MOST = np.array([0, 32, 76]), np.array([255, 234, 70])  # ends of the scale, as Cividis has them
TOP_VOTES = 12
# looked for on the system in this order, widest first; class names are of any language
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
FONTS = ("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf", "NotoSans-Regular.ttf", "arial.ttf")

PAPER, INK, FAINT = (255, 255, 255), (24, 24, 24), (105, 105, 105)
COLOURS = {  # of a label; told apart by the colour-blind too (Okabe and Ito 2008)
    "own": (0, 120, 90),
    "partner": (0, 95, 170),
    "neither": (200, 75, 0),
    None: (130, 130, 130),
}
MEANING = {
    "own": "label is the sample's class",
    "partner": "label is the partner's class",
    "neither": "another label",
    None: "not labelled",
}


def side_by_side(panes: Sequence[np.ndarray], scale: int = 1) -> Image.Image:
    """Pictures of one size, (H, W, 3) uint8, each pixel `scale` pixels wide, with a gap of paper between them."""
    height, width = panes[0].shape[:2]
    sheet = Image.new("RGB", ((len(panes) * width * scale) + (len(panes) - 1) * GAP, height * scale), PAPER)
    for number, pane in enumerate(panes):
        larger = Image.fromarray(pane).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        sheet.paste(larger, (number * (width * scale + GAP), 0))
    return sheet


def contact_sheet(sample: dict[str, Any], image: np.ndarray, views: Sequence[Pictures]) -> Image.Image:
    """The image, where its views look, the votes, and the views themselves with what each was called.

    Where they look is told by the boxes of their crops, or, of more than FEW_CROPS, by how often each pixel is seen.

    sample: of `describe_sample`; image (H, W, 3) uint8; views: those of sample["views"], in the same order.
    """
    columns = min(COLUMNS, max(1, len(views)))
    side = (SHEET_WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) // COLUMNS
    caption_lines = max((len(_caption(view)) for view in sample["views"]), default=0)
    original = _with_crops(image, sample["views"]) if len(views) <= FEW_CROPS else _with_seen(image, sample["views"])
    top = MARGIN + 2 * LINE + GAP
    votes_height = LINE * (
        5 + len(COLOURS) + len(_foreign_parts(sample["views"])) + min(TOP_VOTES, len(sample["votes"]))
    )
    grid = top + max(original.height, votes_height) + 2 * GAP
    tile = _tile_size(views[0].mixed.shape[:2], side) if views else (side, side)
    row_height = tile[0] + caption_lines * LINE + 2 * GAP
    rows = -(-len(views) // columns)
    sheet = Image.new("RGB", (SHEET_WIDTH, grid + rows * row_height + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    title = f"{drawable(sample['key'])}   class {drawable(sample['class'])}"
    draw.text((MARGIN, MARGIN), _fitted(title, SHEET_WIDTH - 2 * MARGIN, 17), INK, _font(17))
    height, width = image.shape[:2]
    shown = f"{len(views)} of {len(sample['labels'])} views" if len(views) < len(sample["labels"]) else "all views"
    line = f"{drawable(sample['shard'])}, block {sample['block']}, {width} x {height} pixels, {shown}"
    draw.text((MARGIN, MARGIN + 1.3 * LINE), _fitted(line, SHEET_WIDTH - 2 * MARGIN, 13), FAINT, _font(13))
    sheet.paste(original, (MARGIN, top))
    _draw_votes(draw, sample, MARGIN + original.width + 3 * GAP, top)
    for number, (view, pictures) in enumerate(zip(sample["views"], views, strict=True)):
        row, column = divmod(number, columns)
        left, above = MARGIN + column * (side + GAP), grid + row * row_height
        _draw_tile(sheet, draw, view, pictures, left=left, top=above, size=tile)
    return sheet


def _tile_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Height and width of a tile: whole multiples where pictures are small, so that pixels stay pixels."""
    longest = max(size)
    if longest <= side:
        return size[0] * (side // longest), size[1] * (side // longest)
    return max(1, size[0] * side // longest), max(1, size[1] * side // longest)


def _scaled(pixels: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Pixels at a height and width: enlarged to squares, made smaller smoothly."""
    larger = size[0] >= pixels.shape[0]
    how = Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS
    return Image.fromarray(pixels).resize((size[1], size[0]), how)


def _with_crops(image: np.ndarray, views: Sequence[dict[str, Any]]) -> Image.Image:
    """The image, enlarged or reduced, with the box and the number of every view."""
    drawn, scale = _original(image, ORIGINAL_SIDE)
    draw = ImageDraw.Draw(drawn)
    for view in views:
        top, left, bottom, right = (scale * edge for edge in seen_edges(view["params"]))
        box = (left, top, max(left, min(drawn.width, right) - 1), max(top, min(drawn.height, bottom) - 1))
        draw.rectangle(box, outline=PAPER, width=3)  # a pale line under the coloured one shows on any picture
        draw.rectangle(box, outline=COLOURS[view["agrees"]], width=2)
    for view in views:
        top, left, _, _ = (scale * edge for edge in seen_edges(view["params"]))
        number, colour = str(view["view"]), COLOURS[view["agrees"]]
        draw.text((left + 4, top + 3), number, colour, _font(13), stroke_width=2, stroke_fill=PAPER)
    return drawn


def _with_seen(image: np.ndarray, views: Sequence[dict[str, Any]]) -> Image.Image:
    """The image and, beside it, how often each of its pixels is seen: dark the seldomest, bright the most often."""
    side = 3 * ORIGINAL_SIDE // 4
    drawn, _ = _original(image, side)
    counts = seen_pixels(views, (image.shape[0], image.shape[1]))
    least, most = int(counts.min()), int(counts.max())
    level = ((counts - least) / max(1, most - least))[..., None]
    seen, _ = _original(np.round(SEEN_LEAST + level * (SEEN_MOST - SEEN_LEAST)).astype(np.uint8), side)
    both = Image.new("RGB", (2 * side + GAP, drawn.height + GAP // 2 + 2 * LINE), PAPER)
    both.paste(drawn, (0, 0))
    both.paste(seen, (drawn.width + GAP, 0))
    draw, below = ImageDraw.Draw(both), drawn.height + GAP // 2
    for number, text in enumerate(
        ("how often a pixel was seen:", f"{least} (dark) to {most} (bright) of {counted(len(views), 'view')}")
    ):
        draw.text((drawn.width + GAP, below + number * LINE), text, FAINT, _font(12))
    return both


def _original(image: np.ndarray, side: int) -> tuple[Image.Image, float]:
    """The image with its longer side so many pixels long, and how much larger it is."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    return _scaled(image, (max(1, round(height * scale)), max(1, round(width * scale)))), scale


def _draw_votes(draw: ImageDraw.ImageDraw, sample: dict[str, Any], left: int, top: int) -> None:
    font, width = _font(14), SHEET_WIDTH - MARGIN - left
    if not sample["num_labels"]:
        draw.text((left, top), "no view is labelled yet", INK, font)
        top += 2 * LINE
    else:
        summary = f"{counted(sample['num_labels'], 'label')}, own class {sample['own_share']:.0%}"
        draw.text((left, top), f"{summary}, entropy {sample['entropy_bits']:.2f} bits", INK, font)
        top += 3 * LINE // 2
    for vote in sample["votes"][:TOP_VOTES]:
        own = vote["label"] == sample["class"]
        name_width = min(260, width // 2)
        draw.text((left, top), _fitted(drawable(vote["label"]), name_width - GAP, 14), INK, font)
        bar = left + name_width
        longest = max(1, width - name_width - 110)
        draw.rectangle(
            (bar, top + 3, bar + max(1, round(longest * vote["share"])), top + 14),
            fill=COLOURS["own"] if own else COLOURS[None],
        )
        draw.text((bar + longest * vote["share"] + 8, top), f"{vote['votes']}  {vote['share']:.0%}", INK, font)
        top += LINE
    if len(sample["votes"]) > TOP_VOTES:
        draw.text((left, top), f"and {len(sample['votes']) - TOP_VOTES} more", FAINT, font)
    top += LINE
    present = {view["agrees"] for view in sample["views"]}
    for kind, colour in COLOURS.items():
        if kind in present:
            draw.rectangle((left, top + 3, left + 11, top + 14), outline=colour, width=3)
            draw.text((left + 20, top), MEANING[kind], INK, font)
            top += LINE
    for text in _foreign_parts(sample["views"]):
        top += LINE
        draw.text((left, top), _fitted(text, width, 12), FAINT, _font(12))


def _foreign_parts(views: Sequence[dict[str, Any]]) -> list[str]:
    """What there is in pictures of views beside the sample's own pixels, a line each."""
    erased = sorted({ERASED_WITH[mode] for view in views if (mode := view["params"]["erase_mode"]) is not None})
    kinds = {view["mix"]["kind"] for view in views if view["mix"] is not None}
    lines = [f"erased 20%: rectangles of {filling} over a fifth of the view" for filling in erased]
    if erased and kinds:
        lines.append("where no part is said to be erased, such a rectangle is the partner's")
    if "cutmix" in kinds:
        lines.append("cutmix, partner 20%: a fifth of the view is a rectangle of another sample")
    if "mixup" in kinds:
        lines.append("mixup, partner 20%: another sample shines through, by a fifth")
    return lines


def _draw_tile(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    view: dict[str, Any],
    pictures: Pictures,
    *,
    left: int,
    top: int,
    size: tuple[int, int],
) -> None:
    colour, side = COLOURS[view["agrees"]], (SHEET_WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) // COLUMNS
    sheet.paste(_scaled(pictures.mixed, size), (left, top))
    draw.rectangle((left - 2, top - 2, left + size[1] + 1, top + size[0] + 1), outline=colour, width=2)
    for number, text in enumerate(_caption(view)):
        font_size = 14 if number == 0 else 12
        draw.text(
            (left, top + size[0] + 5 + number * LINE),
            _fitted(text, side, font_size),
            colour if number == 0 else FAINT,
            _font(font_size),
        )


def _caption(view: dict[str, Any]) -> list[str]:
    """What stands under a view: its number and label, what it shows, how much of whom is mixed in, its operations."""
    label = "skipped" if view["skipped"] else "-" if view["label"] is None else drawable(view["label"])
    shown = f"shows {view['visible_share']:.0%}"
    if view["params"]["flip"]:
        shown += ", flipped"
    lines = [f"{view['view']}: {label}", shown]
    if view["mix"] is not None:
        lines += [mix_text(view["mix"]), f"with {drawable(view['mix']['partner']['class'])}"]
    operations = [operation["name"] for operation in view["params"]["operations"]]
    if view["erased_share"]:
        operations.append(f"erased {view['erased_share']:.0%}")
    return [*lines, *operations]


def drawable(text: str) -> str:
    """The text as `shown` has it, with escapes for letters that the sheets' font lacks: \\u732b, not a box."""
    return "".join(letter if _has_glyph(letter, FONTS) else escaped(letter) for letter in shown(text))


@functools.lru_cache(maxsize=4096)
def _has_glyph(letter: str, fonts: tuple[str, ...]) -> bool:
    if letter.isascii():
        return True
    font = _first_font(fonts, 14)
    try:
        drawn, missing = font.getmask(letter), font.getmask("\uffff")  # which is no character, so no font has it
    except UnicodeEncodeError:  # the bitmap font of a Pillow without FreeType knows Latin 1
        return False
    return drawn.size != missing.size or bytes(drawn) != bytes(missing)


def _font(size: int) -> Font:
    return _first_font(FONTS, size)


@functools.lru_cache(maxsize=16)
def _first_font(fonts: tuple[str, ...], size: int) -> Font:
    """The first of the fonts that the system has, else Pillow's own, which knows no more than ASCII."""
    for name in fonts:
        with contextlib.suppress(OSError, ImportError):  # not there; a Pillow without FreeType
            return ImageFont.truetype(name, size)
    try:
        return ImageFont.load_default(size)
    except ImportError:
        return ImageFont.load_default()


def _fitted(text: str, width: int, font_size: int) -> str:
    """The text, cut where it would be wider than so many pixels."""
    font = _font(font_size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def png_bytes(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "png")
    return stream.getvalue()


def save_png(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a PNG aside and rename it. StoreError where another file is there; the same one may be. DiskError."""
    path, content = Path(path), png_bytes(image)
    with writing(path):
        there = path.exists()
        if there and path.is_file() and path.read_bytes() == content:
            return
    if there:
        raise StoreError(f"{path} exists and is not this picture: remove it, or choose another --out")
    if not path.parent.is_dir():
        raise StoreError(f"there is no folder {path.parent} to write {path.name} into: make it")
    check_outside(path)
    with replacing(path) as aside:
        aside.write_bytes(content)
