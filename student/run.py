"""A run's state: the student, what trains it, its place in the plan, and what of it a checkpoint keeps."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from student.answers import open_answers
from student.checkpoint import NEWEST, is_proven, write_checkpoint
from student.ema import Ema
from student.evaluate import Accuracy, evaluate_all
from student.loader import Batch, ViewLoader
from student.log import RunLog
from student.losses import StudentLoss, TeacherAnswers, describe_way, mixed_target, student_loss
from student.meter import Meter, Piece, Step, describe_speed, epoch_means
from student.model import Heads, build_model, heads, set_train_mode, unchanged
from student.optim import build_optimizer, load_optimizer
from student.options import TrainOptions
from student.parallel import all_used, averaging, without_averaging
from student.ranks import check_same
from student.recipe import Recipe
from student.schedule import learning_rate
from student.validation import Preprocessing, ValidationSet
from teacher_cache.device import Normalise, Upload, memory_format
from teacher_cache.errors import TrainingError
from teacher_cache.job import Job, meeting
from teacher_cache.messages.shown import counted
from teacher_cache.store.store import Store
from teacher_cache.teacher.models import images_dtype
from teacher_cache.teacher.state_dict import first_not_finite, infinite_by_design
from teacher_cache.teacher.weights import state_sha256

LEAST_SCALE = 2.0**-24  # of a loss in fp16, whose smallest number it is: gradients that it scales are 0


class Run:
    """A student in training: model, optimiser, average, and the position in the plan.

    Raises TrainingError for a model whose first weights are not finite.
    """

    def __init__(
        self,
        store: Store,
        recipe: Recipe,
        options: TrainOptions,
        job: Job,
        initial: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.store, self.recipe, self.options, self.job = store, recipe, options, job
        self.epoch, self.step = 0, 0  # of the next batch
        self.views_drifted = self._drifted_before = 0  # replayed so far, over all ranks, as the last checkpoint says
        self.curve: str | None = None  # its id where a tracking library logs
        self.answers = open_answers(
            store, recipe, options.teacher, job.device, options.render
        )  # before the seed: building one draws
        self._initial_sha256 = None if initial is None else state_sha256(initial)
        self._saved = "no checkpoint was written yet"  # the last good checkpoint, for people
        self._proven: tuple[int, float] | None = None  # steps done, and the loss that the weights after them gave
        torch.manual_seed(recipe.seed)
        policy = store.policy
        self.preprocessing = Preprocessing(
            size=policy.size,
            crop_pct=recipe.crop_pct,
            interpolation=recipe.val_interpolation,
            mean=policy.mean,
            std=policy.std,
        )
        self.model = build_model(recipe, store.num_classes, policy.size)
        if initial is not None:
            self.model.load_state_dict(initial)
        self._unbounded = _check_start(self.model)
        self.model = self.model.to(job.device).to(memory_format=memory_format(job.device))
        set_train_mode(self.model, self.recipe.train_mode)
        self.ema = Ema(self.model, recipe.ema) if recipe.ema is not None else None
        self.optimizer = build_optimizer(self.model, recipe)
        self.scaler = torch.amp.GradScaler(job.device.type, enabled=self._dtype() is torch.float16)
        given = images_dtype(recipe.model, self._dtype(), job.device)
        self.normalise = Normalise(policy.mean, policy.std, job.device, given)
        self.upload = Upload(job.device)
        self.loader = self._make_loader()
        shapes = [(name, tuple(value.shape)) for name, value in self.model.state_dict().items()]
        check_same(job, {**self.identity(), "model": {"weights": shapes}})
        self._unused: list[str] = []
        self.forward = self._wrapped()
        self._meter = Meter()
        torch.manual_seed(recipe.seed + 1 + job.rank)  # stochastic depth differs between ranks, weights do not

    # -- what a step is ------------------------------------------------------------------------------------------

    def train_step(self, batch: Batch) -> None:
        """Train on this rank's part of a global batch, in pieces of micro_batch views, and move on."""
        recipe = self.recipe
        lr = self._learning_rate(batch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        batch = batch.with_tensors(self.upload(batch.tensors()))
        answers = self.answers.of(batch)
        num_views = len(batch.views)
        pieces = []
        for rows in self._pieces(batch):
            with (
                meeting("a step's gradients"),
                all_used(),
                nullcontext() if rows.stop >= num_views else without_averaging(self.forward),
            ):
                pieces.append(self._backward(batch, answers, rows))
        self.scaler.unscale_(self.optimizer)
        if recipe.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update()
        self._meter.add(Step(self.steps_done(), batch.epoch, batch.step, lr, pieces))
        self.epoch, self.step = batch.epoch, batch.step + 1
        if self.step == self.loader.steps(self.epoch):
            self.epoch, self.step = self.epoch + 1, 0

    def _learning_rate(self, batch: Batch) -> float:
        return learning_rate(self.recipe, batch.epoch, batch.step, self.loader.steps(batch.epoch))

    def _pieces(self, batch: Batch) -> list[slice]:
        """The rows of a rank's batch that go through the model at once."""
        piece = self.recipe.micro_batch or len(batch.views)
        return [slice(start, start + piece) for start in range(0, len(batch.views), piece)]

    def _backward(self, batch: Batch, answers: TeacherAnswers | None, rows: slice) -> Piece:
        """Gradients of some rows of a batch, and what they gave."""
        outputs, loss, taught = self._loss(self.forward, batch, answers, rows)
        count = len(outputs.class_logits)
        self.scaler.scale(loss.total * (count / len(batch.views))).backward()
        values = [loss.total, loss.class_loss, loss.distill_loss]
        if taught is not None:
            answer = outputs.class_logits if outputs.distill_logits is None else outputs.distill_logits
            values.append((answer.argmax(1) == taught.labels).sum(dtype=torch.float32))
        else:
            values.append(torch.zeros_like(loss.total))
        return Piece(count, torch.stack([value.detach() for value in values]))

    def _loss(
        self, model: nn.Module, batch: Batch, answers: TeacherAnswers | None, rows: slice
    ) -> tuple[Heads, StudentLoss, TeacherAnswers | None]:
        """What a model says of some rows of a batch on the device, its loss, and the teacher's answers to them."""
        images = self.normalise(batch.views[rows])
        target = mixed_target(
            batch.class_pairs[rows], batch.lambdas[rows], self.store.num_classes, self.recipe.label_smoothing
        )
        taught = None if answers is None else answers.rows(rows)
        with self._autocast():
            outputs = heads(model, images)
        return outputs, student_loss(self.recipe, outputs, target, taught), taught

    # -- whether it is worth keeping -----------------------------------------------------------------------------

    def prove(self, batch: Batch) -> None:
        """Raise TrainingError, on all ranks, unless all that a checkpoint would hold is finite, and so is the loss that
        the weights give on this batch; TeacherError for answers of a teacher that runs online. Every rank must call it,
        before save().

        A step's loss is that of the weights before it; this one is of those after it. Nothing is changed.
        """
        own = (self._not_finite(), self._own_loss(batch))
        with self.job.told_to_all("a checkpoint"):
            self.answers.check()
        found = self.job.gather(own)
        if problem := next((problem for problem, _ in found if problem is not None), None):
            raise TrainingError(self._ruined(problem, batch.epoch, batch.step, self._learning_rate(batch)))
        loss = sum(loss for _, loss in found) / len(found)
        if not math.isfinite(loss):
            problem = f"the loss that the new weights give is {loss}"
            raise TrainingError(self._ruined(problem, batch.epoch, batch.step, self._learning_rate(batch)))
        self._proven = (self.steps_done(), loss)

    @torch.no_grad()
    def _own_loss(self, batch: Batch) -> float:
        """The loss of a step that would come next, on a batch that has been trained on."""
        total = torch.zeros((), device=self.job.device)
        with unchanged(self.model, self.job.device):
            batch = batch.with_tensors(self.upload(batch.tensors()))
            answers = self.answers.of(batch)
            for rows in self._pieces(batch):
                outputs, loss, _ = self._loss(self.model, batch, answers, rows)
                total += loss.total * len(outputs.class_logits)
        return float(total / len(batch.views))

    def _not_finite(self) -> str | None:
        """What is no longer finite, for people; None where everything is."""
        parts: dict[str, Any] = {"model": self.model.state_dict()}
        if self.ema is not None:
            parts["model_ema"] = self.ema.module.state_dict()
        besides = {f"{part}.{name}" for part in parts for name in self._unbounded}
        if name := first_not_finite({**parts, "optimizer": self.optimizer.state_dict()}, besides):
            return f"{name} is no longer finite"
        if self.scaler.is_enabled() and self.scaler.get_scale() < LEAST_SCALE:
            return "no step was taken for long, as fp16 gradients are not finite however small the loss is scaled,"
        return None

    def _ruined(self, what: str, epoch: int, step: int, lr: float) -> str:
        return (
            f"{what} at epoch {epoch + 1}, step {step}, learning rate {lr:.3g}: {self._saved}; "
            "lower --set lr, or set clip_grad, and start anew in another --out"
        )

    # -- logs ----------------------------------------------------------------------------------------------------

    def unlogged(self) -> int:
        """Steps whose losses no log has yet."""
        return self._meter.num_unlogged

    def flush_steps(self, log: RunLog | None) -> None:
        """Write the losses of the last steps. Raises, on all ranks, TeacherError where an answer of a teacher that runs
        online was not finite, and TrainingError where a loss is not. Every rank must call it."""
        rows = []
        with self.job.told_to_all("the end of some steps"):
            self.answers.check()
            for step in self._meter.take_steps():
                row = step.row()
                if not math.isfinite(row["loss"]):
                    raise TrainingError(self._ruined(f"the loss is {row['loss']}", step.epoch, step.step, step.lr))
                rows.append(row)
        with self.job.told_to_all("the end of some steps"):
            if log is not None:
                log.write_steps(rows)

    def describe_position(self) -> str:
        """How far the epoch is, and how fast it goes."""
        speed = self._meter.speed(self.loader.wait_s, self.job.world_size)
        step = f"step {self.step:,} of {self.loader.steps(self.epoch):,}"
        return f"epoch {self.epoch + 1}/{self.recipe.epochs}  {step}  {describe_speed(speed)}"

    def begin_epoch(self) -> None:
        """Count time and views from here on: what comes before an epoch is not its own."""
        self._meter.begin_epoch(self.loader.wait_s)

    def end_epoch(self) -> dict[str, Any]:
        """The row of the epoch that has just ended, over all ranks; the next one's sums begin."""
        sums = self._meter.take_sums()
        if dist.is_initialized():
            summed = torch.from_numpy(sums).to(self.job.device)
            with meeting("an epoch's end"):
                dist.all_reduce(summed)
            sums = summed.cpu().numpy()
        row = {"epoch": self.epoch - 1, "lr": self.optimizer.param_groups[0]["lr"]}
        row |= epoch_means(sums, labelled=self.recipe.distill != "none")
        return row | self._meter.speed(self.loader.wait_s, self.job.world_size)

    def accuracy(self, validation: ValidationSet | None) -> Accuracy:
        """Validation accuracy by head, and of the EMA under "ema_..."; empty without validation shards."""
        if validation is None:
            return {}
        self._share_statistics()
        models = [self.model] if self.ema is None else [self.model, self.ema.module]
        found, *averaged = evaluate_all(models, validation, self.job.device, fusion=self.recipe.fusion)
        set_train_mode(self.model, self.recipe.train_mode)
        return found | {f"ema_{head}": values for each in averaged for head, values in each.items()}

    def _share_statistics(self) -> None:
        """Give every rank the first one's buffers, which the checkpoint holds: batch normalisation counts its own."""
        if self.job.world_size > 1:
            for model in (self.model, *([self.ema.module] if self.ema is not None else [])):
                with meeting("an evaluation"):
                    for buffer in model.buffers():
                        dist.broadcast(buffer, 0)

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def steps_done(self) -> int:
        """Steps trained so far, over all epochs."""
        repeats = self.loader.settings.repeats
        of_pass = [self.loader.steps(epoch) for epoch in range(repeats)]  # the same in each pass
        passes, rest = divmod(self.epoch, repeats)
        return passes * sum(of_pass) + sum(of_pass[:rest]) + self.step

    def is_finished(self) -> bool:
        return self.epoch >= self.recipe.epochs

    def describe_resumption(self) -> str:
        """Where it goes on, for people."""
        if self.is_finished():
            end = f"{self.options.out} is trained to the end of its {counted(self.recipe.epochs, 'epoch')}"
            return f"{end}, and evaluated again" if self.options.val else f"{end}; without --val nothing is evaluated"
        return f"going on from {self.options.out}: epoch {self.epoch + 1}, step {self.step}"

    def identity(self) -> dict[str, dict[str, Any]]:
        """What a resumed run must have in common with this one."""
        store = self.store
        shards = [[shard.name, shard.hash] for shard in store.index.shards]
        index = hashlib.sha256(json.dumps([shards, list(store.class_names)]).encode()).hexdigest()
        return {
            "recipe": self.recipe.to_json(),
            "plan": {**asdict(self.loader.settings), "rank": 0, "skipped": _hash(self.loader.skipped)},
            "store": {"seed": store.seed, "index": index, "policy": json.dumps(store.policy.to_json(), sort_keys=True)},
            "weights": {"teacher": self.answers.weights_sha256, "initial": self._initial_sha256},
            "answers": {"topk": self.answers.topk},
        }

    def weights_sha256(self) -> dict[str, str]:
        """SHA-256 of the "raw" weights, and of their average, "ema", where the recipe keeps one."""
        models = {"raw": self.model} | ({} if self.ema is None else {"ema": self.ema.module})
        return {weights: state_sha256(model.state_dict()) for weights, model in models.items()}

    def save(self) -> None:
        """Write a checkpoint of what prove() has passed. Every rank must call it, and comes back when it is written."""
        assert self._proven is not None, "nothing is proven"
        assert self._proven[0] == self.steps_done(), "these weights are not proven"
        generators = self.job.gather(_random_state(self.job.device))
        sums = self.job.gather(self._meter.sums.tolist())
        self.views_drifted = self._drifted_before + sum(self.job.gather(self.loader.views_drifted))
        with self.job.told_to_all("a checkpoint"):  # torchrun ends the others once one rank has stopped
            if self.job.first:
                self._write(generators, sums, self._proven[1])
        self._saved = f"the last good checkpoint is {self._place()}"

    def _write(self, generators: list[Any], sums: list[Any], loss: float) -> None:
        content = {
            **self.identity(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "position": {"epoch": self.epoch, "step": self.step},
            "generators": generators,
            "sums": sums,
            "loss": loss,
            "views_drifted": self.views_drifted,
            "size": list(self.preprocessing.size),
            "mean": list(self.preprocessing.mean),
            "std": list(self.preprocessing.std),
            "crop_pct": self.preprocessing.crop_pct,
            "interpolation": self.preprocessing.interpolation,
            "class_names": list(self.store.class_names),
            "class_from": self.store.index.class_from,
            "image_from": self.store.index.image_from,
        }
        if self.ema is not None:
            content["model_ema"] = self.ema.module.state_dict()
        if self.curve is not None:
            content["curve"] = self.curve
        write_checkpoint(self.options.out, content)

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Take up everything that save() wrote."""
        self.model.load_state_dict(checkpoint["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(checkpoint["model_ema"])
        load_optimizer(self.optimizer, checkpoint["optimizer"])
        self.scaler.load_state_dict(checkpoint["scaler"])
        self.epoch, self.step = checkpoint["position"]["epoch"], checkpoint["position"]["step"]
        if len(checkpoint["generators"]) == self.job.world_size:
            _set_random_state(checkpoint["generators"][self.job.rank], self.job.device)
            self._meter.load_sums(checkpoint["sums"][self.job.rank])
        self.loader.start = (self.epoch, self.step)
        self.curve = checkpoint.get("curve")
        self.views_drifted = self._drifted_before = int(checkpoint.get("views_drifted", 0))
        if is_proven(checkpoint):
            self._saved = f"the last good checkpoint is {self._place()}"
        else:
            self._saved = f"{self._place()}, where it went on, was written before it had given a finite loss"

    def _place(self) -> str:
        return f"{self.options.out / NEWEST} (epoch {self.epoch + 1}, step {self.step})"

    # -- parts ---------------------------------------------------------------------------------------------------

    def announce(self, say: Callable[[str], None]) -> None:
        """Say what the training will read, of whom it will learn, and by which head."""
        self.loader.announce(say)
        if self._unused:
            say(
                f"the loss does not use {counted(len(self._unused), 'parameter')} of {self.recipe.model} "
                f"({self._unused[0]} first): they stay as they are"
            )
        for line in (self.answers.describe(), describe_way(self.recipe, token=self._has_token())):
            if line is not None:
                say(line)

    @torch.no_grad()
    def _has_token(self) -> bool:
        """Whether the model answers by a distillation head, too."""
        self.model.eval()
        with unchanged(self.model, self.job.device):
            outputs = heads(self.model, torch.zeros(1, 3, *self.preprocessing.size, device=self.job.device))
        set_train_mode(self.model, self.recipe.train_mode)
        return outputs.distill_logits is not None

    def _make_loader(self) -> ViewLoader:
        recipe, options = self.recipe, self.options
        return ViewLoader(
            self.store,
            recipe.batch_size,
            rank=self.job.rank,
            world_size=self.job.world_size,
            epochs=recipe.epochs,
            repeats=recipe.repeats,
            order=recipe.repeats_order,
            seed=recipe.seed,
            views_in_use=options.views_in_use,
            pool_batches=recipe.pool_batches,
            workers=options.workers,
            labels=self.answers.labels,
            soft=self.answers.soft,
            on_drift=options.on_drift,
            render=options.render,
            device=self.job.device,
            device_pool_gb=options.device_pool_gb,
            worker_timeout_s=options.worker_timeout_s,
            cache=options.cache,
        )

    def _wrapped(self) -> nn.Module:
        model: nn.Module = self.model
        if self.recipe.compile:
            model = torch.compile(model)  # type: ignore[assignment]
        if self.job.world_size > 1:
            local_batch = self.loader.settings.local_batch
            num_views = min(self.recipe.micro_batch or local_batch, local_batch)
            model, self._unused = averaging(model, self.model, self.job, self._rehearse, num_views)
        return model

    def _rehearse(self, model: nn.Module, num_views: int) -> None:
        """Give parameters the gradients of black views, and change nothing else."""
        device, num_classes = self.job.device, self.store.num_classes
        views = torch.zeros((num_views, *self.store.policy.size, 3), dtype=torch.uint8, device=device)
        zeros = torch.zeros(num_views, dtype=torch.int64, device=device)
        pairs, lambdas = torch.stack([zeros, zeros], 1), torch.ones(num_views, device=device)
        batch = Batch(0, 0, views, pairs, lambdas, None, zeros, zeros)
        answers = None
        if self.recipe.distill != "none":
            answers = TeacherAnswers(zeros, torch.full((num_views, num_classes), 1 / num_classes, device=device))
        with unchanged(self.model, self.job.device):
            _, loss, _ = self._loss(model, batch, answers, slice(0, num_views))
            loss.total.backward()

    def _dtype(self) -> torch.dtype:
        amp = {"bf16": torch.bfloat16, "fp16": torch.float16, "none": torch.float32}[self.recipe.amp]
        return amp if self.job.device.type == "cuda" else torch.float32

    def _autocast(self) -> torch.autocast:
        dtype = self._dtype()
        return torch.autocast(self.job.device.type, dtype, enabled=dtype is not torch.float32)


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _check_start(model: nn.Module) -> frozenset[str]:
    """The names of buffers that are not finite by design, as a mask of -inf is. TrainingError for such weights."""
    if name := first_not_finite(dict(model.named_parameters())):
        raise TrainingError(f"training would start from weights that are not finite ({name} first): give other weights")
    return infinite_by_design(model)


def _hash(samples: np.ndarray) -> str:
    return hashlib.sha256(samples.astype("<i8").tobytes()).hexdigest()
