"""Pictures of samples for a page, as data URIs: replayed in processes of their own, as many as there is room for."""

import base64
import io
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from teacher_cache.audit.pictures import png_bytes
from teacher_cache.audit.sample import render_views
from teacher_cache.audit.votes import OnProgress
from teacher_cache.errors import RenderError, ShardError
from teacher_cache.processes.pool import Child, ProcessDiedError, in_processes
from teacher_cache.processes.threads import available_cores, use_one_thread
from teacher_cache.processes.timeouts import TIMEOUT_S
from teacher_cache.store.store import Store

EXACT_SIDE = 64  # pixels: up to here a picture is a PNG, pixel for pixel; larger ones are reduced to SIDE, as WebP
SIDE, QUALITY = 128, 75
SAMPLES_PER_WORKER = 16  # fewer are replayed sooner than a process has started


class SampleViews(NamedTuple):
    """The views of a sample of which pictures are wanted."""

    sample: int
    views: list[int]


class Thumbnails(NamedTuple):
    """Data URIs of a sample's image and then its views; differ counts views whose block has other pixels than those
    that were labelled. missing says in one line why there are none."""

    uris: list[str]
    differ: int = 0
    missing: str | None = None


def add_pictures(
    store: Store,
    data: dict[str, Any],
    room: int,
    *,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Put pictures into the data of `report.collect`, the first samples first, while there is room (bytes).

    The sample whose pictures do not all fit keeps those that do; later ones have none. workers: processes; by default
    as many as there are cores and work for. RenderError where one dies, or none has done anything for timeout_s.
    """
    state = data["pictures"]
    shown = [sample for sample in data["samples"] if sample["detail"]["views_missing"] is None]
    wanted = [
        SampleViews(sample["detail"]["sample"], [view["view"] for view in sample["detail"]["views"]])
        for sample in shown
    ]
    if workers is None:
        workers = min(available_cores(), len(wanted) // SAMPLES_PER_WORKER)
    done = 0
    with closing(replay_all(store, wanted, workers, timeout_s)) as made:
        for sample, found in zip(shown, made, strict=False):
            done += 1
            state["differ"] += found.differ
            state["missing"] = state["missing"] or found.missing
            fitting: list[str | None] = []
            for uri in found.uris:
                room -= len(uri) + 2
                fitting.append(uri if room >= 0 else None)
            if fitting:
                sample["image"], sample["views"] = fitting[0], fitting[1:]
            state["left_out"] += fitting.count(None)
            state["shown"] += len(fitting) - fitting.count(None)
            if on_progress is not None:
                on_progress(done, len(shown))
            if room < 0:
                break
    state["left_out"] += sum(1 + len(sample["views"]) for sample in shown[done:])


def replay_all(
    store: Store, wanted: Sequence[SampleViews], workers: int, timeout_s: float = TIMEOUT_S
) -> Generator[Thumbnails, None, None]:
    """The thumbnails of every sample, in order; with fewer than two workers this process makes them.

    RenderError where a process dies, or none has made any for timeout_s.
    """
    if workers < 2:
        yield from (replay(store, each) for each in wanted)
        return

    def refuse(doing: Mapping[int, Child]) -> None:
        named = ", ".join(f"{_name(store, wanted[task])} ({child.state()})" for task, child in sorted(doing.items()))
        raise RenderError(
            f"no picture has come for {timeout_s:g} s; being replayed: {named}: run the same command again; if "
            "pictures are very large or their disk very slow, raise --worker-timeout"
        )

    made = in_processes(
        _replay_alone, store, wanted, workers=workers, name="replay", timeout_s=timeout_s, on_silence=refuse
    )
    early: dict[int, Thumbnails] = {}
    turn = 0
    with closing(made):
        try:
            for number, thumbnails in made:
                early[number] = thumbnails
                while turn in early:
                    yield early.pop(turn)
                    turn += 1
        except ProcessDiedError as error:
            raise RenderError(
                f"{_name(store, wanted[error.task])}: the process that replayed it died (exit code {error.exit_code}), "
                "often for lack of memory: run again, with fewer --workers"
            ) from None


def _name(store: Store, wanted: SampleViews) -> str:
    return f"shard {store.shard_name(store.index.shard_of(wanted.sample))}, key {store.index.key(wanted.sample)}"


def replay(store: Store, wanted: SampleViews) -> Thumbnails:
    """A sample's pictures, or why there are none."""
    try:
        image, rendered = render_views(store, wanted.sample, wanted.views)
        uris, differ = [data_uri(image)], 0
        for view in rendered:
            uris.append(data_uri(view.mixed))
            differ += view.digest_equal is False
    except ShardError as error:
        return Thumbnails([], missing=str(error))
    return Thumbnails(uris, differ)


def _replay_alone(store: Store, wanted: SampleViews) -> Thumbnails:
    use_one_thread()
    return replay(store, wanted)


def data_uri(pixels: np.ndarray) -> str:
    """(H, W, 3) uint8 -> a PNG of these very pixels where they are few, else a WebP of at most SIDE pixels a side."""
    picture = Image.fromarray(pixels)
    if max(picture.size) <= EXACT_SIDE:
        kind, content = "png", png_bytes(picture)
    else:
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        picture.save(stream, "webp", quality=QUALITY)
        kind, content = "webp", stream.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
