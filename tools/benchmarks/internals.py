"""The few places where the benchmark reaches behind the public functions."""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from student.loader import ViewLoader
from teacher_cache.rendering.workers import RenderPool
from teacher_cache.replay import block, render
from teacher_cache.replay.jpeg_parts import Restarts
from teacher_cache.replay.native import views


@contextmanager
def without_digests(loader: ViewLoader) -> Iterator[None]:
    """The loader neither computes digests nor compares them. Only where the calling process renders."""

    def none(*arguments: Any) -> int:
        return 0

    patched = [mock.patch.object(block, name, none) for name in ("sample_digest", "block_digest")]
    with patched[0], patched[1], mock.patch.object(loader, "_check_drift", none):
        yield


def private_bytes(pool: RenderPool) -> int:
    """What a pool's only process holds that it shares with no other: not what it has of the process it was forked from,
    nor memory for views. Where the system says (Linux)."""
    (worker,) = pool._crew.workers
    rollup = Path(f"/proc/{worker.child.process.pid}/smaps_rollup").read_text()
    return sum(1024 * int(kilobytes) for kilobytes in re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB$", rollup, re.M))


STEPS: tuple[tuple[Any, str, str], ...] = (
    (block, "decode_and_judge", "decoding"),
    (block, "decode_part", "decoding"),
    (block, "restarts_of", "restart markers"),
    (Restarts, "part", "restart markers"),
    (block, "draw_blocks", "drawing view parameters"),
    (block, "view_mix", "drawing view parameters"),
    (block, "sample_digest", "digests"),
    (block, "block_digest", "digests"),
    (views.NativeViews, "render", "the native library"),
    (render, "resize", "resizing"),
    (render, "mirror", "mirroring"),
    (render, "warp", "shears, translations"),
    (render, "recolour", "colours"),
)


@contextmanager
def timed_steps() -> Iterator[dict[str, float]]:
    """Seconds of the processor that each step of rendering takes, while this holds; "all" is everything inside."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(function: Callable[..., Any], step: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            started = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                rotates = function is warp and arguments[1] == "rotate"
                seconds["rotations" if rotates else step] += time.process_time() - started

        return call

    warp = render.warp
    with ExitStack() as patches:
        for module, name, step in STEPS:
            patches.enter_context(mock.patch.object(module, name, timed(getattr(module, name), step)))
        started = time.process_time()
        yield seconds
    seconds["all"] = time.process_time() - started
