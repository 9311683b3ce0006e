"""A run's state: what a step changes, what is proven before it is kept, and what a checkpoint gives back to the bit."""

import csv
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm.optim
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from student.answers import OnlineAnswers
from student.checkpoint import find_checkpoint
from student.loader import Batch
from student.log import STEPS, RunLog
from student.model import unchanged
from student.options import TrainOptions
from student.recipe import MOST_RATE
from student.run import Run
from student.train import resume, train
from teacher_cache.errors import ModelError, TeacherError, TrainingError
from teacher_cache.job import Job
from teacher_cache.settings import LARGEST, SMALLEST
from teacher_cache.store.store import Store
from tests.support.convnet_stores import convnet_store, online
from tests.support.small_runs import filled_store, small_recipe, student
from tests.support.unwaited import not_waited_for

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """260 samples, 4 views, all labelled; 8 steps an epoch. Tests leave it as it is."""
    return filled_store(tmp_path_factory.mktemp("filled"))


def open_run(store: Store, out: Path, *overrides: str) -> Run:
    return Run(store, small_recipe(*overrides), TrainOptions(out, workers=0), Job(0, 1, CPU))


def make_run(store: Store, out: Path, *overrides: str) -> tuple[Run, Batch]:
    """A run after its first step, and the batch of that."""
    run = open_run(store, out, *overrides)
    batch = next(iter(run.loader))
    run.train_step(batch)
    return run, batch


@pytest.mark.parametrize(
    "place",
    ["model.heads.0.bias", "model.features.1.running_var", "model_ema.heads.1.weight", "optimizer.state.0.exp_avg_sq"],
)
def test_nothing_of_a_checkpoint_may_be_infinite(tmp_path: Path, store: Store, place: str) -> None:
    run, batch = make_run(store, tmp_path)
    run.prove(batch)
    assert run.ema is not None
    part, _, name = place.partition(".")
    if part == "optimizer":
        run.optimizer.state[run.optimizer.param_groups[0]["params"][0]]["exp_avg_sq"].flatten()[0] = torch.inf
    else:
        model = run.model if part == "model" else run.ema.module
        model.state_dict()[name].flatten()[0] = torch.inf
    with pytest.raises(TrainingError, match=rf"^{place} is no longer finite at epoch 1, step 0, learning rate"):
        run.prove(batch)


def test_a_teachers_answers_are_looked_at_where_weights_are_proven(tmp_path: Path) -> None:
    """Those of a run's last batch are asked for again, and nobody comes after that."""
    options = TrainOptions(tmp_path / "out", workers=0, teacher=online())
    run = Run(convnet_store(tmp_path), small_recipe(), options, Job(0, 1, CPU))
    with run.loader:
        batch = next(iter(run.loader))
    run.train_step(batch)
    run.flush_steps(None)
    assert isinstance(run.answers, OnlineAnswers)
    run.answers._teacher._run = lambda views: torch.full((len(views), 10), torch.nan)
    with pytest.raises(TeacherError, match=r"^shard .*, key .*, view \d: .* not finite"):
        run.prove(batch)


def test_proving_changes_nothing(tmp_path: Path, store: Store) -> None:
    run, batch = make_run(store, tmp_path)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    random = torch.get_rng_state()
    run.prove(batch)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert run.model.training


def test_what_is_not_proven_is_not_saved(tmp_path: Path, store: Store) -> None:
    run, batch = make_run(store, tmp_path)
    run.prove(batch)
    run.train_step(replace(batch, step=1))
    with pytest.raises(AssertionError, match="these weights are not proven"):
        run.save()


def test_fp16_that_never_takes_a_step_is_told(tmp_path: Path, store: Store) -> None:
    run, batch = make_run(store, tmp_path)
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-24)
    run.prove(batch)
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-25)
    with pytest.raises(TrainingError, match=r"^no step was taken for long, as fp16 gradients are not finite"):
        run.prove(batch)


def state(run: Run) -> dict[str, Any]:
    """Everything that decides how it goes on, as bytes and plain values."""
    assert run.ema is not None
    tensors = {**run.model.state_dict(), **{f"ema {key}": value for key, value in run.ema.module.state_dict().items()}}
    found: dict[str, Any] = {key: value.numpy().tobytes() for key, value in tensors.items()}
    for number, values in run.optimizer.state_dict()["state"].items():
        found |= {f"{number} {key}": torch.as_tensor(value).numpy().tobytes() for key, value in values.items()}
    found |= {"random": torch.get_rng_state().numpy().tobytes(), "position": (run.epoch, run.step)}
    return found


# -- what a step is ------------------------------------------------------------------------------------------------


def test_steps_are_counted_over_the_epochs(tmp_path: Path, store: Store) -> None:
    run = open_run(store, tmp_path)
    assert (run.epoch, run.step, run.steps_done(), run.is_finished()) == (0, 0, 0, False)
    positions = []
    with run.loader:
        for batch in run.loader:
            run.train_step(batch)
            positions.append((run.epoch, run.step))
    assert positions == [divmod(step, 8) for step in range(1, 17)]
    assert (run.steps_done(), run.is_finished()) == (16, True)


def test_steps_of_long_trainings_are_those_of_all_their_epochs(tmp_path: Path, store: Store) -> None:
    run = open_run(store, tmp_path, "repeats=3", "batch_size=20", "epochs=1000000")
    steps = [run.loader.steps(epoch) for epoch in range(8)]
    assert len(set(steps)) > 1
    for run.epoch in range(8):
        run.step = 2
        assert run.steps_done() == sum(steps[: run.epoch]) + 2
    assert [run.loader.steps(epoch) for epoch in (300_000, 300_001, 300_002)] == steps[:3]


def test_a_step_logs_the_loss_of_the_weights_before_it(tmp_path: Path, store: Store) -> None:
    run = open_run(store, tmp_path, "model_args.dropout=0")
    with run.loader:
        batch = next(iter(run.loader))
        run.prove(batch)
        before = run._proven
        run.train_step(batch)
    assert before is not None
    assert run.unlogged() == 1
    with RunLog(tmp_path, steps_done=0, epochs_done=0) as log:
        run.flush_steps(log)
    assert run.unlogged() == 0
    with (tmp_path / STEPS).open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["step"], row["epoch"]) == ("0", "0")
    assert float(row["loss"]) == pytest.approx(before[1], rel=1e-5)


class Asked(TorchDispatchMode):
    """Which operations torch was asked for meanwhile, and the dtypes of what they gave."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        self.dtypes |= {tensor.dtype for tensor in tree_leaves(given) if isinstance(tensor, torch.Tensor)}
        return given


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(
    "setting",
    ["momentum=0", "momentum=0.99999994", f"lr={MOST_RATE}", f"lr={SMALLEST}", "lr=1e-37", f"weight_decay={LARGEST}"],
)
def test_a_recipe_that_is_taken_can_take_its_steps(tmp_path: Path, store: Store, optimizer: str, setting: str) -> None:
    """With numbers at the edge of what a setting may be, of any optimiser. What comes of it need not be finite."""
    run = open_run(
        store, tmp_path, f"optimizer={optimizer}", setting, "min_lr=0", "schedule_step=epoch", student("plain")
    )
    for batch, _ in zip(run.loader, range(2), strict=False):
        run.train_step(batch)
    assert run.step == 2


def test_a_model_of_which_nothing_would_be_trained_is_refused(tmp_path: Path, store: Store) -> None:
    said = r"^model: .*:frozen has no parameter that takes a gradient \(requires_grad\), so there is nothing to train"
    with pytest.raises(ModelError, match=said):
        open_run(store, tmp_path, student("frozen"))


@pytest.mark.parametrize("settings", [[], ["micro_batch=8", "clip_grad=1"], ["distill=none", "optimizer=sgd"]])
def test_a_step_waits_for_no_value_and_adds_nothing_up_in_float64(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, settings: list[str]
) -> None:
    """What a value of the device's would be asked by; the optimiser is one that a GPU takes."""
    run = open_run(store, tmp_path, *settings)
    for group in run.optimizer.param_groups:
        group["fused"] = True
    with run.loader:
        batches = iter(run.loader)
        run.train_step(next(batches))
        batch = next(batches)
        with Asked() as asked:
            run.train_step(batch)
    assert {"convolution", "convolution_backward", "stack", "_foreach_lerp_"} <= asked.names
    waiting = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique_dim", "_unique2"}
    assert asked.names & waiting == set()
    assert torch.float64 not in asked.dtypes


# -- checkpoints ---------------------------------------------------------------------------------------------------


def test_a_loaded_run_is_the_saved_one_and_goes_on_to_the_same_bits(tmp_path: Path, store: Store) -> None:
    settings = ("model_args.dropout=0.1", "clip_grad=1")
    run = open_run(store, tmp_path, *settings)
    with run.loader:
        batches = iter(run.loader)
        for _ in range(3):
            run.train_step(batch := next(batches))
        run.prove(batch)
        run.save()
        saved, described = state(run), run.identity()
        run.train_step(next(batches))
    expected = state(run)

    other = open_run(store, tmp_path, *settings)
    assert state(other) != saved
    checkpoint = find_checkpoint(tmp_path, 1)
    assert checkpoint is not None
    other.load(checkpoint)
    assert state(other) == saved
    assert other.identity() == described
    assert other.loader.start == (0, 3)
    assert other.describe_resumption() == f"going on from {tmp_path}: epoch 1, step 3"
    with other.loader:
        batch = next(iter(other.loader))
        assert (batch.epoch, batch.step) == (0, 3)
        other.train_step(batch)
    assert state(other) == expected


def ordered(tensor: torch.Tensor) -> bool:
    """Whether a weight of a convolution has its channels last, and not first too."""
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights with channels last, and a fused optimiser, as far as a CPU can."""
    monkeypatch.setattr("student.run.memory_format", lambda device: torch.channels_last)
    create = timm.optim.create_optimizer_v2
    monkeypatch.setattr(
        timm.optim, "create_optimizer_v2", lambda *args, **named: create(*args, **named | {"fused": True})
    )


def convolution(run: Run) -> torch.nn.Parameter:
    return next(parameter for parameter in run.model.parameters() if parameter.ndim == 4 and parameter.shape[1] > 1)


def test_a_run_of_a_gpu_goes_on_to_the_same_bits(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_a_gpu(monkeypatch)
    run = open_run(store, tmp_path)
    with run.loader:
        batches = iter(run.loader)
        for _ in range(2):
            run.train_step(batch := next(batches))
        run.prove(batch)
        run.save()
        saved = state(run)
        batch = next(batches)
        run.train_step(batch)
    other = open_run(store, tmp_path)
    checkpoint = find_checkpoint(tmp_path, 1)
    assert checkpoint is not None
    other.load(checkpoint)
    assert state(other) == saved
    other.train_step(batch)
    assert state(other) == state(run)
    for each in (run, other):
        weight = convolution(each)
        assert each.ema is not None
        averaged = [value for value in each.ema.module.parameters() if value.shape == weight.shape]
        moments = [each.optimizer.state[weight][name] for name in ("exp_avg", "exp_avg_sq")]
        assert all(ordered(tensor) for tensor in (weight, *averaged, *moments))
        assert len(averaged) > 0


@pytest.mark.parametrize("there", [True, False])
def test_a_checkpoint_of_another_kind_of_device_is_taken_up_in_this_ones_way(
    tmp_path: Path, store: Store, there: bool
) -> None:
    """there: whether it was written on a GPU, else it is taken up there."""
    with pytest.MonkeyPatch.context() as patch:
        if there:
            as_on_a_gpu(patch)
        run, batch = make_run(store, tmp_path, "model_args.dropout=0")
    run.prove(batch)
    run.save()
    with pytest.MonkeyPatch.context() as patch:
        if not there:
            as_on_a_gpu(patch)
        other = open_run(store, tmp_path, "model_args.dropout=0")
    checkpoint = find_checkpoint(tmp_path, 1)
    assert checkpoint is not None
    other.load(checkpoint)
    assert state(other) == state(run)
    assert {group["fused"] for group in other.optimizer.param_groups} == {None if there else True}
    weight = convolution(other)
    assert [ordered(tensor) for tensor in (weight, other.optimizer.state[weight]["exp_avg"])] == [not there] * 2
    other.train_step(replace(batch, step=1))
    run.train_step(replace(batch, step=1))
    for one, another in zip(run.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(one, another, atol=1e-4, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
def test_steps_on_a_gpu_do_not_wait_and_go_on_to_the_same_bits(tmp_path: Path, store: Store, amp: str) -> None:
    cuda = torch.device("cuda", 0)
    runs = [
        Run(store, small_recipe(f"amp={amp}", "clip_grad=1"), TrainOptions(tmp_path, workers=0), Job(0, 1, cuda))
        for _ in range(2)
    ]
    run, other = runs
    with run.loader:
        batches = iter(run.loader)
        run.train_step(batch := next(batches))
        with not_waited_for():
            run.train_step(batch := next(batches))
        run.prove(batch)
        run.save()
        batch = next(batches)
    run.train_step(batch)
    checkpoint = find_checkpoint(tmp_path, 1)
    assert checkpoint is not None
    other.load(checkpoint)
    other.train_step(batch)
    for one, another in zip(*(each.model.state_dict().values() for each in runs), strict=True):
        assert torch.equal(one, another)
    assert all(ordered(convolution(each)) for each in runs)
    assert all(group["fused"] for each in runs for group in each.optimizer.param_groups)


def test_what_was_saved_is_gone_on_from_and_nothing_else(tmp_path: Path, store: Store) -> None:
    run, batch = make_run(store, tmp_path)
    said: list[str] = []
    assert not resume(open_run(store, tmp_path), said.append)
    run.prove(batch)
    run.save()
    assert resume(open_run(store, tmp_path), said.append)
    assert said == [f"going on from {tmp_path}: epoch 1, step 1"]


def test_an_epochs_row_is_that_of_a_run_that_was_never_left(tmp_path: Path, store: Store) -> None:
    """Its sums are in the checkpoint."""
    rows = []
    for leaving in (False, True):
        out = tmp_path / str(leaving)
        run = open_run(store, out)
        out.mkdir()
        for step in range(8):
            with run.loader:
                run.loader.start = (0, step)
                run.train_step(batch := next(iter(run.loader)))
            if leaving and step == 4:
                run.prove(batch)
                run.save()
                run = open_run(store, out)
                checkpoint = find_checkpoint(out, 1)
                assert checkpoint is not None
                run.load(checkpoint)
        row = run.end_epoch()
        rows.append({name: value for name, value in row.items() if name not in ("images_per_s", "wait_share")})
    assert rows[0] == rows[1]
    assert rows[0]["epoch"] == 0
    assert 0 <= rows[0]["teacher_agreement"] <= 1


def test_who_a_run_is_changes_with_recipe_plan_and_first_weights(tmp_path: Path, store: Store) -> None:
    run = open_run(store, tmp_path)
    own = run.identity()
    assert own["weights"]["teacher"] is not None
    assert open_run(store, tmp_path).identity() == own
    for changed, part in (("lr=0.1", "recipe"), ("pool_batches=3", "plan"), ("distill=none", "weights")):
        assert open_run(store, tmp_path, changed).identity()[part] != own[part]
    initial = Run(
        store, small_recipe(), TrainOptions(tmp_path, workers=0), Job(0, 1, CPU), initial=run.model.state_dict()
    )
    assert initial.identity()["weights"]["initial"] is not None
    assert {**initial.identity(), "weights": None} == {**own, "weights": None}


# -- looking without touching --------------------------------------------------------------------------------------


def test_a_look_leaves_buffers_and_random_numbers_as_they_were(tmp_path: Path, store: Store) -> None:
    run = open_run(store, tmp_path)
    before = state(run)
    with suppress(RuntimeError), unchanged(run.model, CPU):
        run.model(torch.randn(4, 3, 8, 8))
        torch.rand(3)
        assert state(run) != before
        raise RuntimeError("whatever it is")
    assert state(run) == before


def test_a_buffer_that_is_assigned_anew_knows_of_steps_and_not_of_looks(tmp_path: Path, store: Store) -> None:
    run = open_run(store, tmp_path, student("counting"))
    looked = [
        lambda: run.announce(lambda line: None),
        lambda: run.prove(batch),
        lambda: run.prove(batch),
    ]
    with run.loader:
        for batch, look in zip(run.loader, looked, strict=False):
            last = run.model.get_buffer("last") if run.steps_done() else None
            look()
            assert run.model._buffers["last"] is last
            run.train_step(batch)
    assert run.model.get_buffer("count") == 3


# -- where it starts -----------------------------------------------------------------------------------------------


def test_weights_that_are_not_finite_start_no_training(tmp_path: Path, store: Store) -> None:
    run, _ = make_run(store, tmp_path)
    initial = run.model.state_dict()
    initial["heads.1.bias"] = torch.full_like(initial["heads.1.bias"], torch.nan)
    options = TrainOptions(tmp_path / "out", workers=0, device="cpu")
    with pytest.raises(TrainingError, match=r"start from weights that are not finite \(heads\.1\.bias first\)"):
        train(store, small_recipe(), options, lambda line: None, initial=initial)
