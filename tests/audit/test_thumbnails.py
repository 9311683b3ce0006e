"""Pictures of samples for a page: the very pixels where they are few, and processes that die told."""

import base64
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from teacher_cache.audit.sample import render_views
from teacher_cache.audit.thumbnails import EXACT_SIDE, SIDE, SampleViews, data_uri, replay, replay_all
from teacher_cache.errors import RenderError
from teacher_cache.processes.threads import use_one_thread
from teacher_cache.store.store import Store
from tests.support.bright_shards import bright_store, change_pixel
from tests.support.drawn import drawn_store
from tests.support.filling import fill_store


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_a_samples_pictures_are_its_image_and_its_views(tmp_path: Path) -> None:
    store = drawn_store(tmp_path, mixed=True)
    found = replay(store, SampleViews(2, [3, 0]))
    image, views = render_views(store, 2, [3, 0])
    for uri, pixels in zip(found.uris, [image, *(view.mixed for view in views)], strict=True):
        assert (np.asarray(opened(uri)) == pixels).all()
    assert found.missing is None


def test_views_of_other_pixels_than_those_labelled_are_counted(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_store(store)
    assert replay(store, SampleViews(0, [0, 1])).differ == 0
    change_pixel(store, 0)
    assert replay(store, SampleViews(0, [0, 1])).differ == 2


def test_a_shard_that_is_gone_has_no_pictures_and_says_why(tmp_path: Path) -> None:
    store = drawn_store(tmp_path)
    Path(store.index.shards[0].path).unlink()
    found = replay(store, SampleViews(0, [0]))
    assert found.uris == []
    assert "train-0000.tar" in (found.missing or "")


def test_small_pictures_are_exact_and_large_ones_reduced() -> None:
    small = np.random.default_rng(0).integers(0, 256, (EXACT_SIDE, 3, 3), dtype=np.uint8)
    uri = data_uri(small)
    assert uri.startswith("data:image/png;base64,")
    assert (np.asarray(opened(uri)) == small).all()
    uri = data_uri(np.zeros((EXACT_SIDE + 1, 3, 3), np.uint8))
    assert uri.startswith("data:image/webp;base64,")
    uri = data_uri(np.zeros((300, 200, 3), np.uint8))
    assert opened(uri).size == (85, SIDE)


class Deadly:
    """A store that ends the process that it is sent to."""

    def __init__(self, store: Store) -> None:
        self.index, self.shard_name = store.index, store.shard_name

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (9,)


def test_a_process_that_dies_is_told_in_one_line(tmp_path: Path) -> None:
    store: Any = Deadly(drawn_store(tmp_path))
    message = (
        rf"^shard train-0000\.tar, key {store.index.key(0)}: the process that replayed it died \(exit code 9\), often "
        "for lack of memory: run again, with fewer --workers$"
    )
    with pytest.raises(RenderError, match=message):
        list(replay_all(store, [SampleViews(0, [0])], 2))


def test_a_process_has_one_thread_of_torch_now_or_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        use_one_thread()
        assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (1, "1")
    finally:
        torch.set_num_threads(threads)
