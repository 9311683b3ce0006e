"""Progress bars on standard error, where that is a terminal; in a file a line a minute."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from teacher_cache.terminal import say, terminal

if TYPE_CHECKING:
    from teacher_cache.fill import FillProgress

SPEED_OVER_S = 300.0  # speed and time left are means of this long: units end in bursts
LINE_EVERY_S = 60.0


class CountedBar(Progress):
    """A bar of one task that counts `what`; where no terminal is, a line of it every LINE_EVERY_S."""

    def __init__(self, *columns: ProgressColumn, what: str, shown: bool = True, **how: Any) -> None:
        console = terminal(err=True)
        super().__init__(*columns, console=console, disable=not (shown and console.is_terminal), **how)
        self._what, self._tells = what, shown and not console.is_terminal
        self._told_at = time.monotonic()

    def update(self, *task: Any, **fields: Any) -> None:
        super().update(*task, **fields)
        if self._tells and time.monotonic() - self._told_at >= LINE_EVERY_S:
            self._told_at = time.monotonic()
            (bar,) = self.tasks
            speed = f", {bar.speed:.1f}/s" if bar.speed else ""
            left = f", {timedelta(seconds=int(bar.time_remaining))} left" if bar.time_remaining else ""
            say(f"{bar.description}: {bar.completed:,.0f} of {bar.total or 0:,.0f} {self._what}{speed}{left}", err=True)


def counting_bar(what: str) -> CountedBar:
    """A bar that counts `what`, with time passed and time left."""
    return CountedBar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(what),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        what=what,
    )


@contextmanager
def step_bars(*steps: str) -> Iterator[tuple[Callable[[int, int], None], ...]]:
    """A bar for each step of a command, which shows from its first call (done, total) on and goes when all is done."""
    console = terminal(err=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:

        def bar(step: str) -> Callable[[int, int], None]:
            task = progress.add_task(step, total=None, visible=False)
            return lambda done, total: progress.update(task, completed=done, total=total, visible=True)

        yield tuple(bar(step) for step in steps)


@contextmanager
def filling_bar(shown: bool) -> Iterator[tuple[Callable[[int], None], Callable[["FillProgress"], None]]]:
    """A bar with views/s, time left and agreement so far: (set the number of views, show progress) to call. It shows
    from when the number is first set."""
    bar = CountedBar(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("views"),
        TextColumn("{task.fields[speed_text]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[agreement]}"),
        what="views",
        shown=shown,
        speed_estimate_period=SPEED_OVER_S,
    )
    task = bar.add_task("labelling", total=None, speed_text="", agreement="")

    opened = ExitStack()

    def start(num_views: int) -> None:
        if bar.tasks[0].total is None:
            opened.enter_context(bar)
        bar.update(task, total=num_views)

    def show(progress: "FillProgress") -> None:
        speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
        bar.update(
            task,
            completed=progress.views,
            speed_text=f"{speed:.0f}/s" if speed else "",
            agreement=f"agreement {progress.agreement:.1%}" if progress.labelled else "",
        )

    with opened:
        yield start, show
