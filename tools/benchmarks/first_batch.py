"""Seconds from the end of a training's imports until its first batch is trained.

python -m tools.benchmarks.first_batch STORE RECIPE BATCH WORKERS DEVICE [SETTING=VALUE ...]
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from teacher_cache.processes.threads import wait_asleep
from teacher_cache.terminal import say


def first_batch_s(
    store: str, recipe: str, *, batch: int, workers: int, device: str, settings: Sequence[str], out: Path
) -> float:
    """Open a store, begin a training and train one batch. What a run does besides, to its folder, is left out."""
    wait_asleep()  # as the commands do, before torch is imported

    from student.options import TrainOptions
    from student.recipe import load_recipe
    from student.run import Run
    from teacher_cache.job import join_job
    from teacher_cache.store.store import Store
    from tools.benchmarks.row import now_s

    started = time.perf_counter()
    options = TrainOptions(out=out, workers=workers, device=device)
    overrides = [f"batch_size={batch}", "warmup_epochs=0", "lr_batch=none", *settings]
    with join_job(device, workers=workers) as job:
        run = Run(Store.open(store), load_recipe(recipe, overrides), options, job)
        with run.loader:
            run.train_step(next(iter(run.loader)))
            return now_s(job.device) - started


def main() -> None:
    store, recipe, batch, workers, device, *settings = sys.argv[1:]
    with tempfile.TemporaryDirectory() as out:
        seconds = first_batch_s(
            store,
            recipe,
            batch=int(batch),
            workers=int(workers),
            device=device,
            settings=settings,
            out=Path(out),
        )
    say(str(seconds))


if __name__ == "__main__":
    main()
