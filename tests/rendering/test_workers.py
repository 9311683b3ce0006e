"""Rendering processes that write into rows of one pool: what was asked for, where it was asked for, nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from student.loader import ViewLoader
from teacher_cache.errors import ImageError, PlanError, RenderError
from teacher_cache.rendering.choice import render_all
from teacher_cache.rendering.crew import PoolSettings
from teacher_cache.rendering.workers import RenderPool, RenderTask
from teacher_cache.replay.block import replay
from teacher_cache.shards.read import read_block
from teacher_cache.store.store import Store
from tests.support.bright_shards import bright_store
from tests.support.images import jpeg, picture
from tests.support.shard_files import write_shard

UNTOUCHED = 77


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Ten whole blocks and one of five samples, 16 views."""
    return bright_store(tmp_path_factory.mktemp("rows"), counts=(645,), views=16, group=16)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_views_are_rendered_into_the_rows_that_a_task_names(store: Store, workers: int) -> None:
    rng = np.random.default_rng(workers)
    expected: dict[int, np.ndarray] = {}  # row -> pixels
    tasks = []
    with RenderPool(PoolSettings(store.policy, store.seed, workers=workers, num_rows=900, tasks_ahead=3)) as pool:
        pool.rows[:] = UNTOUCHED
        free = rng.permutation(900).tolist()
        for number in (0, 3, 9, 10):
            place, views = store.index.place(0, number), (2, 5, 11)
            rows = np.full((3, len(place.keys)), -1, np.int64)
            for (line, position), wanted in np.ndenumerate(rng.random(rows.shape) < 0.8):
                rows[line, position] = free.pop() if wanted else -1
            tasks.append(RenderTask(number, place, views, rows))
            for block, line in zip(replay(store.policy, store.seed, read_block(place), views), rows, strict=True):
                expected |= {row: block.pixels[at] for at, row in enumerate(line.tolist()) if row >= 0}
        digests = {(r.task.id, r.view): r.block.digest for r in render_all(pool, tasks)}
        for row in range(900):
            assert np.array_equal(pool.rows[row], expected.get(row, np.full_like(pool.rows[row], UNTOUCHED)))
    assert len(expected) > 400
    for task in tasks:
        for block in replay(store.policy, store.seed, read_block(task.place), task.views):
            assert digests[task.id, block.view] == block.digest


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_and_the_limit_in_pixels_reach_the_processes(tmp_path: Path, workers: int) -> None:
    whole = jpeg(picture(0, 40, 50))
    samples = [
        {"__key__": "whole", "jpg": whole, "cls": b"0"},
        {"__key__": "cut", "jpg": whole[: len(whole) * 9 // 10] + b"\xff\xd9", "cls": b"1"},
    ]
    write_shard(tmp_path / "shards" / "train-0000.tar", samples)
    store = bright_store(tmp_path)
    task = RenderTask(0, store.index.place(0, 0), (0, 1))
    with RenderPool(PoolSettings(store.policy, store.seed, workers=workers, max_pixels=2000)) as pool:
        told = {rendered.view: rendered.block.damaged for rendered in render_all(pool, [task])}
    assert told == dict.fromkeys((0, 1), ((1, "Corrupt JPEG data: premature end of data segment"),))
    with RenderPool(PoolSettings(store.policy, store.seed, workers=workers, max_pixels=1999)) as pool:
        pool.submit(task)
        with pytest.raises(ImageError, match=r"train-0000\.tar, key whole: the image is 40 x 50 .* the 1999 that"):
            pool.get()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_parent_that_gives_much_and_reads_late_is_served(store: Store, workers: int) -> None:
    views = tuple(range(16))
    tasks = [
        RenderTask(number, store.index.place(0, 10), views, np.full((16, 5), -1, np.int64)) for number in range(150)
    ]
    with RenderPool(PoolSettings(store.policy, store.seed, workers=workers, num_rows=1, tasks_ahead=1000)) as pool:
        for task in tasks:
            pool.submit(task)
        first = pool.get()  # both ways of the pipe fill up meanwhile
        seen = [(first.task.id, first.view)]
        while pool.pending:
            rendered = pool.get()
            seen.append((rendered.task.id, rendered.view))
    assert sorted(seen) == [(number, view) for number in range(150) for view in views]


def test_a_worker_that_dies_while_training_is_an_error_not_a_hang(store: Store) -> None:
    with ViewLoader(store, 32, epochs=16, workers=1, pool_batches=1, labels=False) as loader:
        batches = iter(loader)
        next(batches)
        assert loader._pool is not None
        loader._pool._crew.processes.children[0].process.kill()
        with pytest.raises(RenderError, match=r"rendering process 0 died \(exit code -9"):
            list(batches)


def test_too_little_memory_is_refused_with_its_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("teacher_cache.processes.memory", "student.pool"):
        monkeypatch.setattr(f"{module}.available_memory", lambda: 20_000)
    with pytest.raises(PlanError, match=r"the shuffle pool needs 0\.0 GB of memory in this rank, 0\.0 GB are"):
        ViewLoader(store, 32, epochs=1, workers=1, pool_batches=2, labels=False)
    with pytest.raises(RenderError, match=r"a shuffle pool of 300 views needs .*: lower pool_batches or the batch"):
        RenderPool(PoolSettings(store.policy, 0, workers=1, num_rows=300))
    with pytest.raises(RenderError, match=r"rendering in 2 processes needs .*: use fewer --workers$"):
        RenderPool(PoolSettings(store.policy, 0, workers=2))


def test_slots_of_all_ranks_have_to_fit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of this rank's alone have to: the loader has counted those of all before any took theirs."""
    view_bytes = 3 * store.policy.size[0] * store.policy.size[1]
    monkeypatch.setattr("teacher_cache.processes.memory.available_memory", lambda: 400 * view_bytes)
    settings = PoolSettings(store.policy, 0, workers=1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(RenderError, match=r"rendering in 1 process .* in each of 3 ranks here, .*fewer --workers$"):
        RenderPool(settings)
    RenderPool(replace(settings, num_rows=300)).close()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    RenderPool(settings).close()


def test_a_dead_worker_is_an_error_not_a_hang(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(640,), views=16, group=16)
    with RenderPool(PoolSettings(store.policy, store.seed, workers=1)) as pool:
        for number in range(store.index.num_blocks(0)):
            pool.submit(RenderTask(number, store.index.place(0, number), tuple(range(16))))
        views = iter(lambda: pool.get().release(), "never")
        next(views)
        pool._crew.processes.children[0].process.kill()
        with pytest.raises(RenderError, match=r"exit code -9.*fewer --workers"):
            list(views)


def test_views_come_whole_from_any_number_of_workers(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    tasks = [RenderTask(n, store.index.place(0, n), (0, 3)) for n in range(store.index.num_blocks(0))]
    digests = []
    for workers in (0, 2):
        with RenderPool(PoolSettings(store.policy, store.seed, workers=workers)) as pool:
            found = {(r.task.id, r.view): (r.block.digest, r.block.pixels.sum()) for r in render_all(pool, tasks)}
        digests.append(found)
    assert digests[0] == digests[1]
    assert len(digests[0]) == 6
