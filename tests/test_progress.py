"""Bars: what they show, and where they show nothing."""

import io
import re

import pytest
from rich.console import Console

from teacher_cache import progress
from teacher_cache.fill import FillProgress
from teacher_cache.progress import counting_bar, filling_bar, step_bars


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a file, or a pipe, is sent."""
    sent = io.StringIO()
    monkeypatch.setattr(progress, "terminal", lambda err: Console(file=sent, force_terminal=False, width=100))
    return sent


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal of 100 columns is sent."""
    sent = io.StringIO()
    console = Console(file=sent, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(progress, "terminal", lambda err: console)
    return sent


def test_a_counting_bar_says_what_it_counts(screen: io.StringIO) -> None:
    with counting_bar("shards") as bar:
        task = bar.add_task("walk", total=3)
        bar.advance(task, 2)
    assert "2/3 shards" in screen.getvalue()


def test_a_step_shows_from_its_first_call_on(screen: io.StringIO) -> None:
    with step_bars("reading", "weighing") as (reading, _):
        reading(1, 4)
    assert "reading" in screen.getvalue()
    assert "weighing" not in screen.getvalue()


@pytest.mark.parametrize("shown", [True, False])
def test_a_filling_shows_views_and_agreement(screen: io.StringIO, shown: bool) -> None:
    with filling_bar(shown) as (start, show):
        start(8)
        show(FillProgress(views=4, labelled=4, larger=3))
    sent = screen.getvalue()
    assert ("4/8 views" in sent, "agreement 75.0%" in sent) == (shown, shown)
    assert bool(sent) == shown


def test_a_filling_that_never_began_shows_nothing(screen: io.StringIO) -> None:
    with pytest.raises(ValueError, match="no teacher"), filling_bar(True):
        raise ValueError("no teacher")
    assert screen.getvalue() == ""


def test_a_file_is_sent_a_line_now_and_then(
    file: io.StringIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    with filling_bar(True) as (start, show):
        start(8000)
        show(FillProgress(views=4000, labelled=4, larger=3))
    with filling_bar(False) as (start, _):
        start(8)  # another rank's
    with counting_bar("shards") as bar:
        bar.update(bar.add_task("walking", total=3), completed=2)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "labelling: 0 of 8,000 views"
    assert re.fullmatch(r"labelling: 4,000 of 8,000 views(, [\d.]+/s)?(, 0:0\d:\d\d left)?", said[1])
    assert said[2].startswith("walking: 2 of 3 shards")
    assert said[3:] == []


def test_a_file_is_sent_no_bar(file: io.StringIO) -> None:
    with counting_bar("shards") as bar:
        bar.add_task("walk", total=3)
    with step_bars("reading") as (reading,):
        reading(1, 4)
    with filling_bar(True) as (start, show):
        start(8)
        show(FillProgress(views=4, labelled=4, larger=3))
    assert file.getvalue() == ""
