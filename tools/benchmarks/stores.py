"""Shards and stores that the rows share, made once in the scratch folder."""

import importlib
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from teacher_cache.files import new_folder
from teacher_cache.fill import FillOptions, FillProgress, fill
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.replay.policy import Policy, load_policy
from teacher_cache.shards.classes import class_rule
from teacher_cache.shards.indexing import index_shards
from teacher_cache.store.store import Store
from teacher_cache.teacher.settings import TeacherSettings
from teacher_cache.teacher.teacher import Teacher, open_teacher
from tools.benchmarks.photographs import make_photographs
from tools.benchmarks.row import Bench, UnavailableError, steady_rate
from tools.benchmarks.scale import MODELS
from tools.make_shards import Sample, write_shard

CLASSES = 1000
NEGLIGIBLE = f"{MODELS}:one_layer"


def make_store(
    bench: Bench,
    name: str,
    images: Sequence[bytes],
    *,
    shard_samples: int,
    views: int,
    group: int,
    policy: Policy | None = None,
) -> Store:
    """An empty store over shards of these images, of DeiT's policy or another; what was there under this name goes."""
    folder = bench.scratch / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    paths = []
    for number, first in enumerate(range(0, len(images), shard_samples)):
        samples = [
            Sample(f"{first + place:06d}", (first + place) % CLASSES, partial(lambda image: ("jpg", image), image))
            for place, image in enumerate(images[first : first + shard_samples])
        ]
        paths.append(folder / f"train-{number:04d}.tar")
        write_shard(paths[-1], samples)
    (folder / "classes.json").write_text("[" + ", ".join(f'"{number}"' for number in range(CLASSES)) + "]")
    shards = [str(path) for path in paths]
    index = index_shards(shards, class_rule(shards))
    policy = policy or load_policy("deit", [f"size={bench.scale.view_px}"])
    return Store.create(folder / "store", index, policy, views=views, group=group, seed=0)


def small_store(bench: Bench) -> Store:
    """An empty store of one block, in one shard."""

    def make() -> Store:
        images = make_photographs(BLOCK_SAMPLES, bench.scale.image_size, bench.scale.image_bytes)
        return make_store(bench, "small", images, shard_samples=BLOCK_SAMPLES, views=16, group=16)

    store: Store = bench.shared("small", make)
    return store


def open_model(bench: Bench, store: Store, spec: str, batch: int, *, compiled: bool = False) -> Teacher:
    """A network as a store's teacher, at this batch shape."""
    settings = TeacherSettings(spec=spec, device=str(bench.device), batch_size=batch, compile=compiled)
    return open_teacher(settings, num_classes=store.num_classes, view_size=store.policy.size, stored=None)


def fill_views(
    store: Store,
    teacher: Teacher,
    views: range,
    workers: int,
    on_progress: Callable[[FillProgress], None] = lambda progress: None,
) -> None:
    """Stage one as the command runs it. Random weights agree with nothing."""
    options = FillOptions(workers=workers, allow_low_agreement=True)
    fill(store, teacher, options, views, on_progress=on_progress)


def fill_rate(store: Store, teacher: Teacher, views: range, workers: int, settle: float = 0.0) -> float:
    """Views a second of stage one, from the first labels on: starting processes is not in it, committing is."""
    arrived: list[tuple[float, int]] = []
    fill_views(store, teacher, views, workers, lambda progress: arrived.append((time.perf_counter(), progress.views)))
    return steady_rate(arrived, settle)


def training_store(
    bench: Bench,
    images: Sequence[bytes],
    workers: int = 0,
    *,
    shard_samples: int | None = None,
    batch: int | None = None,
) -> Store:
    """A store filled for training, six views of a sample, in shards of one block each where nothing else is said.
    batch: the shape of the teacher that fills it."""

    def make() -> Store:
        samples = bench.scale.block_samples
        whole = images[: len(images) // (3 * samples) * (3 * samples)]  # an epoch of three repeats is a third: blocks
        store = make_store(bench, "training", whole, shard_samples=shard_samples or samples, views=6, group=6)
        teacher = open_model(bench, store, NEGLIGIBLE, batch or bench.scale.teacher_batch)
        fill_views(store, teacher, range(store.views), workers)
        return store

    store: Store = bench.shared("training store", make)
    return store


def simulated_store(bench: Bench) -> Path:
    """A filled store without pictures, of ImageNet's size; it is kept in the scratch folder for the next time.

    UnavailableError where tools/simulate_store.py is not there.
    """

    def make() -> Path:
        try:
            simulate = importlib.import_module("tools.simulate_store").make_store
        except ModuleNotFoundError as error:
            raise UnavailableError("tools/simulate_store.py, which makes the simulated store, is not there") from error
        samples, shards, views, classes = bench.scale.simulated
        path = bench.scratch / f"simulated-{samples}x{views}"
        if not path.exists():
            with new_folder(path, durable=False) as aside:
                simulate(
                    aside,
                    samples=samples,
                    shards=shards,
                    views=views,
                    classes=classes,
                    seed=0,
                    progress=lambda: None,
                )
        return path

    path: Path = bench.shared("simulated store", make)
    return path
