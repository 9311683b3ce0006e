"""Stage two's steps, timed: from the loader, and on one batch that stays where it is."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from student.loader import Batch
from student.options import TrainOptions
from student.recipe import load_recipe
from student.run import Run
from student.train import LOG_STEPS
from teacher_cache.job import Job
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.store.store import Store
from teacher_cache.teacher.settings import TeacherSettings
from tools.benchmarks.row import Bench, now_s

FEW = 5  # steps, by which a step is timed
EPOCHS = 1_000_000  # never to end while it is measured


class Training:
    """A student in training, step by step. Nothing is evaluated or saved. recipe: None for the scale's."""

    def __init__(
        self,
        bench: Bench,
        store: Store,
        batch: int,
        workers: int,
        *,
        teacher: TeacherSettings | None = None,
        compiled: bool = False,
        recipe: str | None = None,
        repeats: int = 3,
        settings: Sequence[str] | None = None,
    ) -> None:
        """settings: over the recipe, and instead of the scale's."""
        scale = bench.scale
        overrides = [
            f"batch_size={batch}",
            "pool_batches=2",
            f"epochs={EPOCHS}",
            f"repeats={repeats}",
            "warmup_epochs=0",
            "lr_batch=none",
            f"compile={str(compiled).lower()}",
            *(scale.student if settings is None else settings),
        ]
        self._device = bench.device
        options = TrainOptions(out=bench.scratch / "run", workers=workers, device=str(bench.device), teacher=teacher)
        self.run = Run(store, load_recipe(recipe or scale.recipe, overrides), options, Job(0, 1, bench.device))
        ahead = (workers + 2) * BLOCK_SAMPLES * self.run.recipe.repeats  # rendered besides the pool
        self._settling = -(-ahead // batch) + 1 if workers else 0
        self._batches: Iterator[Batch] = iter(self.run.loader)
        self._resident = self._on_device(self._step())

    def steps_within(self, seconds: float) -> int:
        """Steps on a resident batch that take so long, five at least."""
        self.resident_s(FEW)  # kernels are chosen
        return max(FEW, round(seconds / self.resident_s(FEW)))

    def loader_s(self, steps: int) -> float:
        """Seconds of a step on the loader's batches; what rendering processes had ready beforehand is trained first."""
        for _ in range(self._settling):
            self._step()
        started = now_s(self._device)
        for _ in range(steps):
            self._step()
        return (now_s(self._device) - started) / steps

    def resident_s(self, steps: int) -> float:
        """Seconds of a step on one batch that is on the device, with its labels."""
        started = now_s(self._device)
        for _ in range(steps):
            self.run.train_step(self._resident)
        seconds = (now_s(self._device) - started) / steps
        self.run.flush_steps(None)
        return seconds

    def close(self) -> None:
        self.run.loader.close()

    def _step(self) -> Batch:
        batch = next(self._batches)
        self.run.train_step(batch)
        if self.run.unlogged() >= LOG_STEPS:  # as a training does, which waits for the device no more often
            self.run.flush_steps(None)
        return batch

    def _on_device(self, batch: Batch) -> Batch:
        moved: dict[str, Any] = {
            name: getattr(batch, name).to(self._device, copy=True)
            for name in ("views", "class_pairs", "lambdas", "labels")
            if getattr(batch, name) is not None
        }
        return replace(batch, **moved)
