"""The audit on a terminal: what its tables say of plain data."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from teacher_cache.audit.sample import describe_view
from teacher_cache.audit.summary import summarise
from teacher_cache.audit.tables import show_report, show_summary, show_view
from tests.support.bright_shards import bright_store
from tests.support.drawn import drawn_store


def printed(show: Callable[[dict[str, Any], Console], None], found: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=120)
    show(found, console)
    return str(console.file.getvalue())


def test_a_view_tells_whose_part_is_whose(tmp_path: Path) -> None:
    store = drawn_store(tmp_path, mixed=True, views=16)
    views = [
        describe_view(store, 2, view) | {"digest_equal": None, "png": "v.png", "unmixed": True} for view in range(16)
    ]
    mixes = {kind: next(v for v in views if v["mix"] and v["mix"]["kind"] == kind) for kind in ("cutmix", "mixup")}
    top, left, height, width = mixes["cutmix"]["mix"]["box"]
    box = f"; the partner's box: {height} rows from {top}, {width} columns from {left}\n"
    assert box in printed(show_view, mixes["cutmix"])
    assert "the partner's box" not in printed(show_view, mixes["mixup"])
    for found in mixes.values():
        text = printed(show_view, found)
        share = found["mix"]["lambda"]
        assert f"{found['mix']['kind']}, partner {1 - share:.0%}; lambda {share:.4f} is the sample's own share" in text
        assert "v.png: from left to right the mixed view, the sample's own before mixing, the partner's" in text
        assert "none stored: the view is not filled yet" in text


@pytest.mark.parametrize(
    ("equal", "told"),
    [(True, "equal to the stored one"), (False, "are not the pixels that were labelled: `teacher-cache verify`")],
)
def test_a_view_tells_whether_its_pixels_are_those_labelled(tmp_path: Path, equal: bool, told: str) -> None:
    found = describe_view(drawn_store(tmp_path), 2, 0) | {"digest_equal": equal, "png": "v.png", "unmixed": False}
    text = printed(show_view, found)
    assert told in text
    assert "none: this view is not mixed" in text


def test_an_unfilled_store_says_what_fills_it(tmp_path: Path) -> None:
    text = printed(show_summary, summarise(bright_store(tmp_path)))
    assert "0 of 14 units filled (0.0%)" in text
    assert "Nothing is filled yet: run `teacher-cache fill" in text
    assert "Agreement" not in text


def test_a_report_tells_what_is_left_out_and_why_pictures_are_missing() -> None:
    found = {
        "out": "r.html",
        "bytes": 5_234_567,
        "samples": 84,
        "pictures": 1428,
        "left_out": 0,
        "pictures_missing": None,
    }
    assert printed(show_report, found) == "r.html: 5.23 MB, 84 samples, 1,428 pictures\n"
    text = printed(show_report, found | {"left_out": 1200, "pictures_missing": "shard a.tar is absent"})
    assert text.endswith(
        "1,428 pictures, 1,200 left out for lack of room\npictures are missing: shard a.tar is absent\n"
    )
