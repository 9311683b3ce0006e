"""A pool on a CUDA device whose memory is really short, and a training that takes a device by itself. All else of the
pool is in interpreted_rendering.py, on Triton's interpreter and on a device."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from teacher_cache.rendering.choice import render_all
from teacher_cache.rendering.crew import PoolSettings, RenderTask
from teacher_cache.rendering.workers import RenderPool
from teacher_cache.replay.policy import load_policy
from teacher_cache.store.store import Store
from tests.support.bright_shards import bright_store
from tests.support.filling import fill_store
from tests.support.small_runs import column, train_small, validation_shard

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or importlib.util.find_spec("triton") is None,
        reason="needs a CUDA device and Triton",
    ),
]
VIEWS = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A block of 64 samples, whose views at 224 pixels take 10 MB each."""
    return bright_store(tmp_path_factory.mktemp("large"), counts=(64,), policy=load_policy("deit"))


@pytest.fixture
def limit() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def found_of(pool: object, store: Store) -> dict[int, tuple[np.ndarray, int]]:
    task = RenderTask(0, store.index.place(0, 0), VIEWS)
    return {each.view: (each.pixels.cpu().clone().numpy(), each.block.digest) for each in render_all(pool, [task])}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("room", "on_cpu"), [(None, False), (128 << 20, False), (8 << 20, True)])
def test_where_memory_is_short_the_bytes_are_the_same(
    store: Store, limit: None, workers: int, room: int | None, on_cpu: bool
) -> None:
    """All four views together take 155 MB at least, two of them 100, one of them 30."""
    from teacher_cache.rendering.device_pool import DeviceRenderPool

    device, warned = torch.device("cuda", torch.cuda.current_device()), list[str]()
    with RenderPool(PoolSettings(store.policy, store.seed, workers=0)) as pool:
        expected = found_of(pool, store)
    settings = PoolSettings(store.policy, store.seed, workers=workers)
    with DeviceRenderPool(settings, device, warned.append) as pool:
        if room is not None:
            torch.cuda.empty_cache()
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + room) / total, device)
        found = found_of(pool, store)
    assert list(found) == list(expected) == list(VIEWS)
    for view, (pixels, digest) in expected.items():
        assert digest == found[view][1]
        assert np.array_equal(pixels, found[view][0])
    assert [("no room for rendering" in line) for line in warned] == [True] * on_cpu


def test_a_training_takes_the_device_by_itself_and_says_so(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(64, 64))
    fill_store(store, render="cpu")
    said: list[str] = []
    shard = validation_shard(tmp_path / "val.tar", 10)
    for render in ("auto", "cpu"):
        words = {"device": "cuda", "render": render, "val": (shard,), "workers": 2}
        train_small(Store.open(store.path), tmp_path / render, "epochs=1", said=said, **words)
        device = torch.device("cuda", torch.cuda.current_device())
        told = f"views are rendered on {device} ({torch.cuda.get_device_name(device)})"
        assert (told in said) == (render == "auto"), said
        assert "compared with the store's digests, 0 differ" in said[-1]
        said.clear()
    losses = [column(tmp_path / render / "steps.csv", "loss") for render in ("auto", "cpu")]
    np.testing.assert_allclose(*losses, rtol=1e-4)
