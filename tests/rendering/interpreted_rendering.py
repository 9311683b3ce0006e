"""Rendering on a device where Triton's interpreter is the device, at 8 x 8: tests that test_rendering.py runs in a
process of their own, with TRITON_INTERPRET=1, which Triton reads when it is imported."""

import json
import os
import re
import signal
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from student import validation
from student.cli import main
from student.loader import Batch, ViewLoader
from student.run import Run
from student.validation import Preprocessing, ValidationSet
from teacher_cache import open_store
from teacher_cache.device import RecycledMemory
from teacher_cache.errors import DriftError, ImageError, RenderError
from teacher_cache.estimate import estimate
from teacher_cache.fill import FillOptions
from teacher_cache.processes.signals import Stopped
from teacher_cache.rendering import device_pool
from teacher_cache.rendering.choice import ON_CPU, Rendering, render_all
from teacher_cache.rendering.crew import PoolSettings, RenderTask
from teacher_cache.rendering.device_pool import DeviceRenderPool
from teacher_cache.rendering.device_streams import Begun, Part
from teacher_cache.rendering.workers import RenderPool
from teacher_cache.replay.gpu.plan import RenderPlan
from teacher_cache.replay.gpu.render import INTERPRETED, Renderer
from teacher_cache.shards.classes import class_rule
from teacher_cache.shards.indexing import index_shards
from teacher_cache.store.store import Store
from teacher_cache.teacher.settings import TeacherSettings
from teacher_cache.verify import verify
from tests.student.test_train import check_same_run
from tests.support.bright_shards import bright_store, change_pixel, small_policy, spoil_image
from tests.support.filling import TEACHERS, fill_store, open_test_teacher
from tests.support.images import picture, png
from tests.support.interpreter import hasten
from tests.support.shard_files import write_shard
from tests.support.small_runs import student, train_small, validation_shard
from tools.inspect_cache import main as inspect

CPU = torch.device("cpu")
DEVICE = CPU if INTERPRETED else torch.device("cuda", 0)  # of the pools
UNTOUCHED = 77


@pytest.fixture(scope="module", autouse=True)
def _few_threads() -> None:
    assert INTERPRETED or DEVICE.type == "cuda"
    torch.set_num_threads(1)
    if INTERPRETED:
        hasten()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Blocks of four, three and two samples, 4 views. The interpreter takes 50 ms a view."""
    return bright_store(tmp_path_factory.mktemp("rows"), counts=(4, 3, 2))


def tasks_of(store: Store, views: tuple[int, ...], skipped: frozenset[int] = frozenset()) -> list[RenderTask]:
    return [
        RenderTask(shard, store.index.place(shard, 0, skipped if not shard else frozenset()), views)
        for shard in range(store.index.num_shards)
    ]


def replays(pool: RenderPool | DeviceRenderPool, tasks: list[RenderTask]) -> dict:
    """(task, view) -> pixels, and all else that is known of it."""
    return {
        (found.task.id, found.view): (
            found.pixels.cpu().clone().numpy(),
            found.block.class_pairs,
            found.block.lambdas,
            found.block.digest,
            found.block.skipped,
            found.block.damaged,
        )
        for found in render_all(pool, tasks)
    }


def same(one: dict, other: dict) -> bool:
    return (
        list(one)
        and sorted(one) == sorted(other)
        and all(
            np.array_equal(ours, theirs) if isinstance(ours, np.ndarray) else ours == theirs
            for key in one
            for ours, theirs in zip(one[key], other[key], strict=True)
        )
    )


def pools(store: Store, **options) -> tuple[Callable[[int], RenderPool], Callable[..., DeviceRenderPool]]:
    def on_cpu(workers: int, **more) -> RenderPool:
        return RenderPool(PoolSettings(store.policy, store.seed, workers=workers, **options, **more))

    def on_device(workers: int, *, skip_bad: bool = False, **more) -> DeviceRenderPool:
        settings = PoolSettings(store.policy, store.seed, workers=workers, skip_bad=skip_bad, **options)
        return DeviceRenderPool(settings, DEVICE, **{"warn": pytest.fail, **more})

    return on_cpu, on_device


def wait_for_device() -> None:
    """A pool's streams know nothing of what tests do with its rows."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def leave_untouched(pool: RenderPool | DeviceRenderPool) -> None:
    pool.rows[:] = UNTOUCHED
    wait_for_device()


@pytest.mark.parametrize("workers", [0, 2])
def test_views_and_digests_are_the_cpus(store: Store, workers: int) -> None:
    on_cpu, on_device = pools(store)
    tasks = tasks_of(store, (0, 3), frozenset({0, 3}))
    with on_cpu(0) as pool:
        expected = replays(pool, tasks)
    with on_device(workers) as pool:
        assert same(replays(pool, tasks), expected)
        assert pool.pending == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_views_go_into_the_rows_that_a_task_names(store: Store, workers: int) -> None:
    on_cpu, on_device = pools(store, num_rows=40)
    rng = np.random.default_rng(workers)
    free = [*(1 + rng.permutation(39)).tolist(), 0]
    tasks = []
    for task in tasks_of(store, (1, 2)):
        rows = np.full((2, len(task.place.keys)), -1, np.int64)
        for at in np.argwhere(rng.random(rows.shape) < 0.8):
            rows[tuple(at)] = free.pop()
        tasks.append(RenderTask(task.id, task.place, task.views, rows))
    held = []
    for opened in (on_cpu(0), on_device(workers)):
        with opened as pool:
            leave_untouched(pool)
            found = {(each.task.id, each.view): each.block.digest for each in render_all(pool, tasks)}
            gathered = pool.gather(np.array(free[:2] + tasks[0].rows.max(1).tolist()), RecycledMemory())
            held.append((torch.as_tensor(pool.rows).cpu().numpy().copy(), found, gathered.cpu().numpy().copy()))
    assert np.array_equal(held[0][0], held[1][0])
    assert held[0][1] == held[1][1]
    assert np.array_equal(held[0][2], held[1][2])
    assert (held[1][2][:2] == UNTOUCHED).all()
    assert (held[1][2][2:] != UNTOUCHED).any()


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_too_large_for_the_memory_are_rendered_by_the_worker(tmp_path: Path, workers: int) -> None:
    """Memory is never less than 64 views of 192 bytes, where one of these pictures takes 21 kB."""
    samples = [{"__key__": str(number), "png": png(picture(number, 80, 90)), "cls": b"0"} for number in range(3)]
    write_shard(tmp_path / "shards" / "train-0000.tar", samples)
    store = bright_store(tmp_path)
    on_cpu, on_device = pools(store)
    tasks = tasks_of(store, (0, 2))
    with on_cpu(0) as pool:
        expected = replays(pool, tasks)
    with on_device(workers, slot_bytes=1) as pool:
        assert same(replays(pool, tasks), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_undecodable_image_is_an_error_or_skipped(tmp_path: Path, workers: int) -> None:
    store = bright_store(tmp_path, counts=(5,))
    _, key = spoil_image(store, 2)
    on_cpu, on_device = pools(store)
    with on_device(workers) as pool:
        pool.submit(tasks_of(store, (0,))[0])
        with pytest.raises(ImageError, match=rf"train-0000\.tar, key {key}: .*--skip-bad"):
            pool.get()
    tasks = tasks_of(store, (0, 1))
    with on_cpu(0, skip_bad=True) as pool:
        expected = replays(pool, tasks)
    with on_device(workers, skip_bad=True) as pool:
        found = replays(pool, tasks)
    assert same(found, expected)
    assert found[0, 0][4] == {2}


def test_a_worker_that_dies_is_an_error_not_a_hang(store: Store) -> None:
    _, on_device = pools(store)
    with on_device(1) as pool:
        os.kill(pool._crew.processes.children[0].process.pid or 0, signal.SIGKILL)
        for task in tasks_of(store, (0,)):
            pool.submit(task)
        with pytest.raises(RenderError, match=r"rendering process 0 died \(exit code -9.*fewer --workers"):
            list(render_all(pool, []))


def test_what_only_decodes_brings_no_torch(store: Store) -> None:
    _, on_device = pools(store)
    with on_device(1) as pool:
        list(render_all(pool, tasks_of(store, (0,))))
        process = pool._crew.processes.children[0].process.pid
        assert "libtorch" not in Path(f"/proc/{process}/maps").read_text()


Begin = Callable[[Sequence[Part]], Begun]


class ShortOfRoom:
    """In the place of a pool's streams' begin: room for some views at a time, of those that the device has and gets."""

    def __init__(self, pool: DeviceRenderPool, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room, self.asked = room, list[tuple[int, int]]()  # views that the device has, and is given
        self._pool, self._begin = pool, pool._streams.begin
        self._held = list[weakref.ref[torch.Tensor]]()  # by attempts that failed
        monkeypatch.setattr(pool._streams, "begin", self)

    def __call__(self, parts: Sequence[Part]) -> Begun:
        has = sum(len(each.part.handed.views) for given in self._pool._given for each in given.waiting)
        more = sum(len(part.handed.views) for part in parts)
        self.asked.append((has, more))
        assert not any(reference() is not None for reference in self._held), "an earlier attempt's memory is not free"
        if has + more > self.room:
            held = torch.zeros(1)
            self._held.append(weakref.ref(held))
            raise torch.OutOfMemoryError("no memory")
        return self._begin(parts)


def handed_over(pool: DeviceRenderPool, tasks: list[RenderTask]) -> None:
    """Submit tasks, and wait until all is there that the device is to get."""
    for task in tasks:
        pool.submit(task)
    while sum(len(each.part.handed.views) for each in pool._waiting) < pool.pending:
        pool._take_parts(wait=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Blocks of two, one and one sample."""
    return bright_store(tmp_path_factory.mktemp("tiny"), counts=(2, 1, 1))


@pytest.mark.parametrize(
    ("room", "asked", "at_once"),
    [
        (6, [(0, 6)], None),  # all of it together
        (5, [(0, 6), (0, 6), (0, 2), (0, 2), (0, 2)], None),  # task by task
        (3, [(0, 2), (2, 2), (0, 2), (0, 2)], 1),  # one is there when the next comes
        (1, [(0, 6), (0, 6), *[(0, 2), (0, 1), (0, 1)] * 3], None),  # view by view
    ],
)
def test_a_device_with_little_room_gets_less_at_a_time(
    tiny: Store, monkeypatch: pytest.MonkeyPatch, room: int, asked: list[tuple[int, int]], at_once: int | None
) -> None:
    on_cpu, on_device = pools(tiny)
    tasks, warned = tasks_of(tiny, (0, 3)), list[str]()
    with on_cpu(0) as pool:
        expected = replays(pool, tasks)
    if at_once is not None:
        monkeypatch.setattr(device_pool, "AT_ONCE_BYTES", at_once)
    with on_device(2, warn=warned.append) as pool:
        short = ShortOfRoom(pool, room, monkeypatch)
        handed_over(pool, tasks)
        assert same(replays(pool, []), expected)
        assert short.asked == asked
        if room == 5:  # less is tried together from now on
            short.asked.clear()
            handed_over(pool, tasks)
            assert same(replays(pool, []), expected)
            assert max(more for _, more in short.asked) < 6
    assert warned == []


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("num_rows", [None, 9])
def test_a_device_without_room_leaves_views_to_the_cpu_and_says_so_once(
    tiny: Store, monkeypatch: pytest.MonkeyPatch, workers: int, num_rows: int | None
) -> None:
    on_cpu, on_device = pools(tiny, num_rows=num_rows)
    tasks = tasks_of(tiny, (0, 3), frozenset({1}))
    if num_rows is not None:
        free = np.random.default_rng(0).permutation(num_rows)[:8].reshape(2, 4)
        free[1, 0] = free[0, 2] = -1
        cuts = [free[:, :2], free[:, 2:3], free[:, 3:]]
        tasks = [RenderTask(task.id, task.place, task.views, rows) for task, rows in zip(tasks, cuts, strict=True)]
    found, rows, warned = [], [], list[str]()
    for opened in (on_cpu(0), on_device(workers, warn=warned.append)):
        with opened as pool:
            leave_untouched(pool)
            if isinstance(pool, DeviceRenderPool):
                short = ShortOfRoom(pool, 0, monkeypatch)
            found.append(replays(pool, tasks[:2]))
            if isinstance(pool, DeviceRenderPool):
                short.room = 100
            found[-1] |= replays(pool, tasks[2:])
            wait_for_device()
            rows.append(torch.as_tensor(pool.rows).cpu().numpy().copy())
    assert same(found[1], found[0])
    assert list(found[1]) == list(found[0])
    assert np.array_equal(rows[0], rows[1])
    assert warned == [
        f"warning: {DEVICE} has no room for rendering beside the model, so views are rendered on the CPU, which is "
        "slower: lower the batch, or give --render cpu"
    ]


def test_what_waits_is_rendered_by_as_few_launches_as_one_block(tiny: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three blocks of two views, one by one and together; resizing and hashing are two kernels each."""
    on_cpu, on_device = pools(tiny)
    tasks, launches = tasks_of(tiny, (0, 3)), list[int]()
    render = Renderer.render

    def counted(renderer: Renderer, plan: RenderPlan, *tensors: torch.Tensor) -> torch.Tensor:
        launches.append(len(plan.launches))
        return render(renderer, plan, *tensors)

    monkeypatch.setattr(Renderer, "render", counted)
    with on_cpu(0) as pool:
        expected = replays(pool, tasks)
    for at_once in (1, device_pool.AT_ONCE_BYTES):
        monkeypatch.setattr(device_pool, "AT_ONCE_BYTES", at_once)
        with on_device(2) as pool:
            handed_over(pool, tasks)
            assert same(replays(pool, []), expected)
    *alone, together = launches
    assert len(alone) == 3
    assert together == max(alone) < sum(alone)


def test_few_small_views_wait_for_more_until_they_are_wanted(tiny: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four workers three have handed a block over; the fourth's is the last, as each has room for one more."""
    on_cpu, on_device = pools(tiny)
    tasks = tasks_of(tiny, (0, 3))[:3]
    with on_cpu(0) as pool:
        expected = replays(pool, tasks)
    with on_device(4) as pool:
        handed_over(pool, tasks)
        assert not pool.ready()
        assert same(replays(pool, []), expected)
    monkeypatch.setattr(device_pool, "WORTH_BYTES", 1)
    with on_device(4) as pool:
        handed_over(pool, tasks)
        assert pool.ready()


def test_whole_policies_of_larger_pictures(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(4,), policy=small_policy("size=[20,16]", "rand_augment={num_ops=3}"))
    on_cpu, on_device = pools(store)
    with on_cpu(0) as one, on_device(0) as other:
        assert same(replays(other, tasks_of(store, (0, 1))), replays(one, tasks_of(store, (0, 1))))


# -- stage one -----------------------------------------------------------------------------------------------------


def bytes_of(store: Store) -> dict[str, bytes]:
    return {
        str(path.relative_to(store.path)): path.read_bytes() for path in sorted(store.path.rglob("*")) if path.is_file()
    }


@pytest.mark.parametrize("workers", [0, 1])
def test_a_store_does_not_know_who_rendered_what_it_holds(tmp_path: Path, workers: int) -> None:
    """Filled half on the CPU and half on the device, it is that of the CPU alone, file by file; each proves the other's
    pixels before it adds to them."""
    alone, shared = (bright_store(tmp_path, counts=(3, 1), name=name) for name in ("alone", "shared"))
    low = {"allow_low_agreement": True}
    fill_store(alone, render="cpu", **low)
    fill_store(shared, views=range(2), render="cpu" if workers else "gpu", workers=workers, **low)
    fill_store(shared, views=range(2, 4), render="gpu" if workers else "cpu", workers=workers, **low)
    assert bytes_of(shared) == bytes_of(alone)


def test_verify_finds_what_differs_on_the_device(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(3, 2), views=2)
    fill_store(store, render="cpu", allow_low_agreement=True)
    said: list[str] = []
    report = verify(store, 1.0, teacher=open_test_teacher(store), render="gpu", say=said.append)
    assert report.exact
    assert (report.block_views, report.labels) == (4, 10)
    assert said == ["views are rendered on Triton's interpreter"]
    shard, block = change_pixel(store, 4)
    report = verify(store, 1.0, render="gpu")
    assert not report.exact
    assert all(f"shard {shard}, block {block}, view" in line for line in report.differences)
    assert report.differences == verify(store, 1.0, render="cpu").differences


def test_skipped_samples_are_the_same_on_the_device(tmp_path: Path) -> None:
    stores = []
    for name in ("cpu", "gpu"):
        store = bright_store(tmp_path / name, counts=(4,), views=2)
        spoil_image(store, 2)
        fill_store(store, render=name, skip_bad=True, allow_low_agreement=True)
        stores.append({path: held for path, held in bytes_of(store).items() if "/c/" in path})
    assert stores[0] == stores[1] != {}
    assert verify(store, 1.0, render="gpu").exact


def test_the_cost_is_estimated_of_the_device_too(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(4,))
    lines = estimate(store, open_test_teacher(store), FillOptions(workers=0, render="gpu")).splitlines()
    assert lines[0] == "views are rendered on Triton's interpreter"
    assert "8 views in" in lines[1]


# -- stage two -----------------------------------------------------------------------------------------------------


def batches(store: Store, **options) -> tuple[ViewLoader, list[tuple]]:
    with ViewLoader(store, 4, **{"epochs": 2, "repeats": 2, "pool_batches": 1, "workers": 0, **options}) as loader:
        return loader, [
            (batch.epoch, batch.step, *(tensor.clone() for tensor in (*batch.tensors(), batch.samples, batch.view_ids)))
            for batch in loader
        ]


def equal(one: list[tuple], other: list[tuple]) -> bool:
    return len(one) == len(other) > 1 and all(
        torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs
        for a, b in zip(one, other, strict=True)
        for ours, theirs in zip(a, b, strict=True)
    )


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Eight samples, labelled."""
    store = bright_store(tmp_path_factory.mktemp("filled"), counts=(5, 3))
    fill_store(store, allow_low_agreement=True)
    return Store.open(store.path)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_the_cpus(filled: Store, workers: int) -> None:
    _, expected = batches(filled, render="cpu")
    loader, found = batches(filled, render="gpu", workers=workers)
    assert equal(found, expected)
    assert loader.views_checked > 0
    assert loader.views_drifted == 0
    assert loader.device == loader.rows_device == loader.rendering.device == CPU


def test_a_drift_is_told_as_on_the_cpu(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(5, 3))
    fill_store(store, allow_low_agreement=True)
    shard, block = change_pixel(store, 6)
    for render in ("cpu", "gpu"):
        with pytest.raises(DriftError, match=rf"shard {shard}, block {block}, view \d"):
            batches(store, render=render)


def test_the_pool_lies_in_memory_where_it_may_take_no_more_of_the_device(filled: Store) -> None:
    said: list[str] = []
    loader, found = batches(filled, render="gpu", device_pool_gb=0)
    loader.announce(said.append)
    assert any(re.search(r"the shuffle pool of 0\.\d+ GB lies in host memory: .*--device-pool", line) for line in said)
    assert equal(found, batches(filled, render="cpu")[1])


VIEWED = Preprocessing((12, 8), 0.9, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


@pytest.mark.parametrize("workers", [0, 1])
def test_validation_views_are_the_cpus(tmp_path: Path, workers: int) -> None:
    samples = [{"__key__": str(n), "png": png(picture(n, 20 + n, 31)), "cls": str(n % 3).encode()} for n in range(7)]
    parts = enumerate((samples[:4], samples[4:]))
    paths = [str(write_shard(tmp_path / f"val-{number}.tar", part)) for number, part in parts]
    index = index_shards(paths, class_rule(paths))
    seen = []
    for rendering, pool in ((ON_CPU, RenderPool), (Rendering(DEVICE), DeviceRenderPool)):
        with ValidationSet(index, VIEWED, workers=workers, rendering=rendering, warn=pytest.fail) as validation:
            assert isinstance(validation._pool, pool)
            seen.append(list(validation.batches(128)))
    assert [len(batch.samples) for batch in seen[0]] == [7]
    for ours, theirs in zip(*seen, strict=True):
        assert ours.views.any()
        for name in ("views", "classes", "samples"):
            assert torch.equal(getattr(ours, name).cpu(), getattr(theirs, name).cpu())


def test_a_run_goes_on_bit_equal_the_other_way(tmp_path: Path, filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ("batch_size=4", "pool_batches=1")
    shard = validation_shard(tmp_path / "val.tar", 8)
    opened: list[torch.device | None] = []
    open_pool = validation.open_render_pool
    monkeypatch.setattr(
        validation, "open_render_pool", lambda chosen, *words: opened.append(chosen.device) or open_pool(chosen, *words)
    )
    train_small(filled, tmp_path / "whole", *small, render="cpu", val=(shard,))
    for steps, render in ((1, "gpu"), (3, "cpu")):
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            with pytest.raises(Stopped):
                train_small(filled, tmp_path / "both", *small, render=render, val=(shard,))
    said: list[str] = []
    train_small(filled, tmp_path / "both", *small, render="gpu", said=said, val=(shard,))
    assert opened == [None, DEVICE, None, DEVICE]
    assert "views are rendered on Triton's interpreter" in said
    assert "going on from" in said[0]
    check_same_run(tmp_path / "whole", tmp_path / "both")
    told = []
    for render in ("cpu", "gpu"):
        words = [
            str(tmp_path / "both" / "checkpoint.pt"),
            "--val",
            shard,
            "--model",
            student("two_heads")[6:],
            "--json",
        ]
        done = CliRunner().invoke(main, ["evaluate", *words, "--workers", "0", "--device", "cpu", "--render", render])
        assert done.exit_code == 0, done.output
        told.append(json.loads(done.stdout))
        assert done.stderr == ("views are rendered on Triton's interpreter\n" if render == "gpu" else "")
    assert opened[4:] == [None, DEVICE]
    assert told[0] == told[1] != {}


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    step = Run.train_step

    def stopping(run: Run, batch: Batch) -> None:
        step(run, batch)
        if run.steps_done() == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Run, "train_step", stopping)


def test_a_teacher_that_runs_online_sees_the_devices_views(tmp_path: Path, filled: Store) -> None:
    small = ("batch_size=4", "pool_batches=1", "epochs=1")
    teacher = TeacherSettings(f"{TEACHERS}:brightness", batch_size=32)
    for render in ("cpu", "gpu"):
        train_small(filled, tmp_path / render, *small, render=render, teacher=teacher)
    assert (tmp_path / "cpu" / "steps.csv").read_text() == (tmp_path / "gpu" / "steps.csv").read_text()


# -- looking -------------------------------------------------------------------------------------------------------


def test_the_notebook_shows_the_devices_pixels(filled: Store) -> None:
    opened = open_store(str(filled.path))
    for mixed in (True, False):
        assert np.array_equal(
            opened.render(5, 1, mixed=mixed, render="gpu"), opened.render(5, 1, mixed=mixed, render="cpu")
        )


def test_a_view_is_inspected_on_the_device(tmp_path: Path, filled: Store) -> None:
    pictures = []
    for render in ("cpu", "gpu"):
        out = tmp_path / f"{render}.png"
        done = CliRunner().invoke(inspect, [str(filled.path), "view", "7", "2", "--render", render, "--out", str(out)])
        assert done.exit_code == 0, done.output
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1]
