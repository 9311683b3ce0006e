"""What a training needs besides its store and recipe."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from student.arguments import TrackingLibrary
from teacher_cache.errors import RecipeError
from teacher_cache.processes.timeouts import RANK_TIMEOUT_S, TIMEOUT_S
from teacher_cache.rendering.choice import RENDER_DEFAULT, Render
from teacher_cache.storage.cache import NodeCache
from teacher_cache.teacher.settings import TeacherSettings


@dataclass(frozen=True)
class TrainOptions:
    """What a run needs besides its store and recipe. Only views_in_use, and another teacher, change what is trained."""

    out: Path
    val: tuple[str, ...] = ()
    views_in_use: int | None = None
    workers: int = 2
    device: str | None = None
    on_drift: Literal["stop", "warn"] = "stop"
    checkpoint_every_s: float = 600
    render: Render = RENDER_DEFAULT  # where views are: see choose_rendering
    device_pool_gb: float | None = None  # of a device that renders, for the shuffle pool; None: a quarter of its memory
    teacher: TeacherSettings | None = None  # one that runs online, instead of the store's labels
    worker_timeout_s: float = TIMEOUT_S
    rank_timeout_s: float = RANK_TIMEOUT_S
    cache: NodeCache | None = None  # where blocks of shards, and a published store's files, far away are kept
    log: TrackingLibrary | None = None  # where curves go, beside the logs in `out`

    def __post_init__(self) -> None:
        if not self.checkpoint_every_s >= 0:  # nan is no number of seconds either
            raise RecipeError(
                f"--checkpoint-every is {self.checkpoint_every_s:g}: give the seconds between checkpoints"
            )
