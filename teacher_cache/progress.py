"""Progress bars on standard error, where that is a terminal: in a file they would be lines beside what is said."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from teacher_cache.terminal import terminal

if TYPE_CHECKING:
    from teacher_cache.fill import FillProgress

SPEED_OVER_S = 300.0  # speed and time left are means of this long: units end in bursts


def counting_bar(what: str) -> Progress:
    """A bar that counts `what`, with time passed and time left."""
    console = terminal(err=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(what),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
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
    console = terminal(err=True)
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("views"),
        TextColumn("{task.fields[speed_text]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[agreement]}"),
        console=console,
        speed_estimate_period=SPEED_OVER_S,
        disable=not (shown and console.is_terminal),
    )
    task = bar.add_task("fill", total=None, speed_text="", agreement="")

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
