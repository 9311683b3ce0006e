"""Fine-tuning: other resolutions, other classes, students and convnets, with and without distillation."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor, nn

from student.checkpoint import NEWEST
from student.cli import main
from student.faults import refuse
from student.finetune import adapt, other_classes, with_model_of
from student.hub import export_hub
from student.model import build_model
from student.options import TrainOptions
from student.preflight import resolution_faults
from student.recipe import Recipe, load_recipe
from student.run import Run
from student.trained import TrainedModel, read_trained
from teacher_cache.cli import main as teacher_cache
from teacher_cache.errors import CheckpointError, RecipeError
from teacher_cache.job import Job
from teacher_cache.store.store import Store
from tests.support.bright_shards import bright_store, small_policy
from tests.support.filling import TEACHERS, fill_store
from tests.support.small_runs import (
    SMALL,
    STUDENTS,
    filled_store,
    read_own,
    rows,
    small_recipe,
    student,
    train_small,
    validation_shard,
)

DEIT = [
    "model=deit_tiny_distilled_patch16_224",
    "model_args={patch_size=4, embed_dim=24, depth=2, num_heads=3}",
]
COUNTS = (66, 31, 1, 32)  # of samples in the shards


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a filled store of 8 x 8 views in store/, and a small DeiT trained on it in run/."""
    folder = tmp_path_factory.mktemp("source")
    store = filled_store(folder, counts=COUNTS)
    train_small(store, folder / "run", *DEIT, "epochs=4", "lr=2e-3")
    return folder


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> str:
    return validation_shard(tmp_path_factory.mktemp("val") / "val.tar", 40)


def store_of_size(folder: Path, size: int | Sequence[int], *, filled: bool = False, **options: Any) -> Store:
    store = bright_store(folder, **{"counts": COUNTS, "policy": small_policy(f"size={size}"), **options})
    if filled:
        fill_store(store)
    return Store.open(store.path)


def fine_recipe(*overrides: str) -> Recipe:
    return load_recipe(SMALL, ["model=none", "epochs=1", "ema=none", *overrides])


def finetune(checkpoint: Path | str, store: Store, out: Path, *words: str, overrides: Sequence[str] = ()) -> str:
    """Run the command to its end; what it said."""
    settings = ["model=none", "epochs=1", "ema=none", *overrides]
    command = ["finetune", str(checkpoint), str(store.path), "--recipe", SMALL]
    command += ["--out", str(out), "--workers", "0", "--device", "cpu", *words]
    result = CliRunner().invoke(main, command + [word for setting in settings for word in ("--set", setting)])
    assert result.exit_code == 0, result.output
    return result.output


def deits_formula(pos_embed: Tensor, side: int, new_side: int, prefix: int) -> Tensor:
    """The released code's resizing, for square grids."""
    tokens, grid = pos_embed[:, :prefix], pos_embed[:, prefix:]
    grid = grid.reshape(-1, side, side, pos_embed.shape[-1]).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(new_side, new_side), mode="bicubic", align_corners=False)
    return torch.cat((tokens, grid.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)


# -- resolution ----------------------------------------------------------------------------------------------------


def test_position_embedding_is_resized_as_deits(source: Path, tmp_path: Path) -> None:
    trained = read_trained(str(source / "run" / NEWEST))
    torch.manual_seed(1)
    trained.state["pos_embed"] = torch.randn_like(trained.state["pos_embed"])
    store = store_of_size(tmp_path, 24)
    start = adapt(trained, fine_recipe(), store)
    assert start.state["pos_embed"].shape == (1, 2 + 6 * 6, 24)
    torch.testing.assert_close(start.state["pos_embed"], deits_formula(trained.state["pos_embed"], 2, 6, 2))
    assert torch.equal(start.state["pos_embed"][:, :2], trained.state["pos_embed"][:, :2])
    for name, value in start.state.items():
        assert name == "pos_embed" or torch.equal(value, trained.state[name]), name
    assert start.recipe.model == "deit_tiny_distilled_patch16_224"
    assert start.recipe.model_args == {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}


def test_a_folder_of_timms_is_brought_to_another_resolution_as_the_checkpoint_is(source: Path, tmp_path: Path) -> None:
    """timm notes classes and size among a model's arguments, where those of a store are not."""
    trained, store = read_trained(str(source / "run" / NEWEST)), store_of_size(tmp_path, 16)
    export_hub(trained, tmp_path / "hub")
    again = read_trained(f"local-dir:{tmp_path / 'hub'}")
    start, expected = (adapt(each, fine_recipe(), store) for each in (again, trained))
    assert start.state.keys() == expected.state.keys()
    for name, value in start.state.items():
        assert torch.equal(value, expected.state[name]), name


def test_the_recipes_drop_path_is_not_that_of_the_checkpoints_arguments(source: Path) -> None:
    trained, store = read_trained(str(source / "run" / NEWEST)), Store.open(source / "store")
    trained = replace(trained, model_args={**trained.model_args, "drop_path_rate": 0.4})
    for overrides, rate in (((), 0.4), (("drop_path=0.2",), 0.2), (("model_args.drop_path_rate=0.3",), 0.3)):
        recipe = with_model_of(trained, fine_recipe(*overrides))
        model = build_model(recipe, store.num_classes, store.policy.size)
        assert model.get_submodule("blocks.1.drop_path1").drop_prob == pytest.approx(rate)


def test_bicubic_keeps_the_norms_and_bilinear_shrinks_them(source: Path, tmp_path: Path) -> None:
    trained = read_trained(str(source / "run" / NEWEST))
    store = store_of_size(tmp_path, 16)
    norms = {}
    for kind in ("bicubic", "bilinear"):
        start = adapt(trained, fine_recipe(f"pos_embed_interpolation={kind}"), store)
        norms[kind] = start.state["pos_embed"][0, 2:].norm(dim=1).mean().item()
        (note,) = start.notes
        assert f"from 2 x 2 to 4 x 4 patches, {kind}; mean norm of a patch's vector: " in note
        assert f"{norms[kind]:.4f} after {kind}" in note
    assert norms["bilinear"] < norms["bicubic"]
    before = trained.state["pos_embed"][0, 2:].norm(dim=1).mean().item()
    assert f"{before:.4f} before, {norms['bicubic']:.4f} after bicubic, {norms['bilinear']:.4f} after bilinear" in note
    # timm's way has another bicubic coefficient, upwards too
    other, plain = (adapt(trained, fine_recipe(f"pos_embed_antialias={way}"), store) for way in ("true", "false"))
    assert not torch.allclose(other.state["pos_embed"], plain.state["pos_embed"])


def test_grids_need_not_be_square(source: Path, tmp_path: Path) -> None:
    trained = read_trained(str(source / "run" / NEWEST))
    wide = store_of_size(tmp_path, [8, 16], name="wide")
    start = adapt(trained, fine_recipe(), wide)
    assert start.state["pos_embed"].shape == (1, 2 + 2 * 4, 24)
    said = finetune(source / "run" / NEWEST, wide, tmp_path / "wide-run", overrides=["distill=none"])
    assert "from 2 x 2 to 2 x 4 patches" in said
    # as many patches, lying otherwise
    tall = store_of_size(tmp_path, [16, 8], name="tall")
    retrained = read_trained(str(tmp_path / "wide-run" / NEWEST))
    start = adapt(retrained, fine_recipe("distill=none"), tall)
    assert "from 2 x 4 to 4 x 2 patches" in start.notes[0]
    patches = retrained.state["pos_embed"][:, 2:].reshape(1, 2, 4, 24).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(patches, size=(4, 2), mode="bicubic").permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(start.state["pos_embed"][:, 2:], expected)


def test_distilled_fine_tuning_at_a_higher_resolution(source: Path, tmp_path: Path, val: str) -> None:
    """The paper's way, which its code refuses: a store filled at that resolution, labels through the token."""
    store = store_of_size(tmp_path, 16, filled=True)
    out = tmp_path / "out"
    words = ("--resolution", "16", "--val", val)
    said = finetune(source / "run" / NEWEST, store, out, *words, overrides=["epochs=4", "lr=1e-3"])
    lines = said.splitlines()
    assert lines[0].startswith("position embedding resized from 2 x 2 to 4 x 4 patches")
    assert "replayed views compared with the store's digests, 0 differ" in said
    before = next(line for line in lines if line.startswith("before the first step"))
    assert all(f" {head} " in before for head in ("class", "distillation", "fused"))
    losses = [float(row["distill_loss"]) for row in rows(out / "epochs.csv")]
    assert losses[-1] < losses[0]
    again = finetune(source / "run" / NEWEST, store, out, *words, overrides=["epochs=4", "lr=1e-3"])
    assert "before the first step" not in again  # it is finished: nothing is trained, the table is printed
    assert again.splitlines()[-3:] == lines[-3:]


def test_evaluation_before_the_first_step_is_of_the_checkpoint(source: Path, tmp_path: Path, val: str) -> None:
    store = Store.open(source / "store")
    said = finetune(source / "run" / NEWEST, store, tmp_path / "out", "--val", val)
    assert "position embedding" not in said
    assert "heads drawn anew" not in said
    evaluated = CliRunner().invoke(
        main, ["evaluate", str(source / "run" / NEWEST), "--val", val, "--workers", "0", "--json"]
    )
    assert evaluated.exit_code == 0, evaluated.output
    found = read_json(evaluated.output)["accuracy"]["class"]["top1"]
    assert f"before the first step  class {100 * found:.2f} %" in said


def read_json(text: str) -> dict[str, Any]:
    import json

    return dict(json.loads(text[text.index("{") :]))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_both_optimizers_fine_tune(source: Path, tmp_path: Path, optimizer: str) -> None:
    store = store_of_size(tmp_path, 16)
    overrides = [f"optimizer={optimizer}", "distill=none", "epochs=3", "lr=5e-6", "min_lr=5e-6", "weight_decay=1e-8"]
    finetune(source / "run" / NEWEST, store, tmp_path / "out", overrides=overrides)
    lrs = {float(row["lr"]) for row in rows(tmp_path / "out" / "steps.csv")}
    assert lrs == {5e-6}


def test_evaluation_mode_draws_nothing_and_keeps_batch_statistics(tmp_path: Path, source: Path, val: str) -> None:
    store = Store.open(source / "store")  # validation after the first epoch must not change the mode of the second
    train_small(store, tmp_path / "dropping", *DEIT, "drop_path=0.9", "train_mode=false", val=(val,))
    train_small(store, tmp_path / "plain", *DEIT, "train_mode=false")
    train_small(store, tmp_path / "training", *DEIT, "drop_path=0.9")
    steps = [(tmp_path / run / "steps.csv").read_bytes() for run in ("dropping", "plain", "training")]
    assert steps[0] == steps[1] != steps[2]  # both heads are trained in every case
    assert all(float(row["distill_loss"]) > 0 for row in rows(tmp_path / "plain" / "steps.csv"))

    for mode, moved in (("false", False), ("true", True)):
        train_small(store, tmp_path / f"norm-{mode}", student("two_heads"), f"train_mode={mode}", "epochs=1")
        state = read_own(tmp_path / f"norm-{mode}" / NEWEST).state
        assert bool(state["features.1.running_mean"].abs().max() > 0) == moved


def test_evaluation_mode_is_that_of_a_whole_that_drops_out_itself(source: Path, tmp_path: Path) -> None:
    options = TrainOptions(tmp_path, workers=0, device="cpu")
    recipe = small_recipe("model=mobilenetv3_small_050", "model_args.drop_rate=0.5", "train_mode=false")
    run = Run(Store.open(source / "store"), recipe, options, Job(0, 1, torch.device("cpu")))
    run.announce(lambda line: None)
    images = torch.randn(2, 3, *run.store.policy.size)
    assert torch.equal(run.forward(images), run.forward(images))


def test_evaluation_mode_leaves_the_whole_in_training_mode(source: Path, tmp_path: Path) -> None:
    """A DeiT as a whole in evaluation mode is not called itself to have both heads, so DDP would sync no gradients."""
    options = TrainOptions(tmp_path, workers=0, device="cpu")
    store = Store.open(source / "store")
    run = Run(store, small_recipe(*DEIT, "train_mode=false"), options, Job(0, 1, torch.device("cpu")))
    assert run.model.training
    assert not any(part.training for child in run.model.children() for part in child.modules())


# -- classes -------------------------------------------------------------------------------------------------------


def renamed(trained: TrainedModel, **changes: Any) -> TrainedModel:
    import dataclasses

    return dataclasses.replace(trained, **changes)


def test_heads_are_drawn_anew_for_other_classes_only(source: Path, tmp_path: Path) -> None:
    trained = read_trained(str(source / "run" / NEWEST))
    store = Store.open(source / "store")
    head = {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}

    def changed(start: Any) -> set[str]:
        return {name for name, value in start.state.items() if not torch.equal(value, trained.state[name])}

    same = adapt(trained, fine_recipe(), store)
    assert (changed(same), same.notes) == (set(), [])

    asked = adapt(trained, fine_recipe(), store, reset_heads=True)
    assert changed(asked) == head
    assert asked.notes == ["heads drawn anew: asked for"]

    names = ("cat", *store.class_names[1:])
    other = adapt(renamed(trained, class_names=names), fine_recipe(), store)
    assert changed(other) == head
    assert other.notes[0].startswith("heads drawn anew: class 0 is cat in ")

    nameless = adapt(renamed(trained, class_names=None), fine_recipe(), store)
    assert changed(nameless) == set()

    again = adapt(trained, fine_recipe(), store, reset_heads=True)
    assert all(torch.equal(value, asked.state[name]) for name, value in again.state.items())  # the same on every rank


def test_transfer_to_another_data_set_with_an_unfilled_store(source: Path, tmp_path: Path, val: str) -> None:
    state = read_trained(str(source / "run" / NEWEST)).state
    twelve = {
        name: torch.cat([value, value[:2]]) if name.startswith("head") else value for name, value in state.items()
    }
    save_file(twelve, tmp_path / "twelve.safetensors")
    store = store_of_size(tmp_path, 8)
    overrides = [*DEIT, "distill=none", "optimizer=sgd", "lr=0.01", "weight_decay=1e-4", "drop_path=none", "epochs=3"]
    words = ("--val", val, "--model", "deit_tiny_distilled_patch16_224")
    said = finetune(tmp_path / "twelve.safetensors", store, tmp_path / "out", *words, overrides=overrides)
    assert "heads drawn anew: 12 classes in " in said
    assert "warning: " in said  # timm's mean for that name is not the store's
    assert "before the first step" in said
    losses = [float(row["loss"]) for row in rows(tmp_path / "out" / "epochs.csv")]
    assert losses[-1] < losses[0]
    assert read_trained(str(tmp_path / "out" / NEWEST)).num_classes == 10


def test_a_convnet_is_brought_to_other_classes_before_it_fills(tmp_path: Path) -> None:
    """The line that stage one prints is the line that helps."""
    store = bright_store(tmp_path)
    torch.manual_seed(0)
    spec = f"{STUDENTS}:one_head"
    recipe = load_recipe(SMALL, [f"model={spec}", "distill=none"])
    torch.save(build_model(recipe, 13, (8, 8)).state_dict(), tmp_path / "thirteen.pt")
    fill = ["fill", str(store.path), "--teacher", spec, "--workers", "0", "--device", "cpu"]
    refused = CliRunner().invoke(teacher_cache, [*fill, "--checkpoint", str(tmp_path / "thirteen.pt")])
    assert refused.exit_code == 1
    assert f"`student finetune {tmp_path}/thirteen.pt STORE --recipe finetune_teacher" in refused.output
    assert refused.output.count("\n") == 1


def test_a_convnet_takes_the_same_command(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=COUNTS)
    small = store_of_size(tmp_path, 16, name="large")
    train_small(store, tmp_path / "teacher", "model=student.convnet:small_convnet", "distill=none", "epochs=1")
    overrides = ["distill=none", "epochs=1"]
    said = finetune(tmp_path / "teacher" / NEWEST, small, tmp_path / "adapted", overrides=overrides)
    assert "position embedding" not in said
    trained = read_trained(str(tmp_path / "adapted" / NEWEST))
    assert (trained.model, trained.preprocessing.size) == ("student.convnet:small_convnet", (16, 16))
    fill = ["fill", str(small.path), "--teacher", trained.model, "--workers", "0", "--device", "cpu"]
    filled = CliRunner().invoke(
        teacher_cache, [*fill, "--checkpoint", trained.source, "--allow-low-agreement", "--batch-size", "16"]
    )
    assert filled.exit_code == 0, filled.output


def test_a_teacher_of_too_many_classes_names_the_command(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill = ["fill", str(store.path), "--teacher", f"{TEACHERS}:too_many_classes", "--device", "cpu"]
    refused = CliRunner().invoke(teacher_cache, fill)
    assert refused.exit_code == 1
    assert (
        "gives 13 classes, the store has 10: bring it to the store's classes first, `student finetune" in refused.output
    )


# -- refusals ------------------------------------------------------------------------------------------------------


def test_another_resolution_than_the_stores_is_refused(source: Path, tmp_path: Path) -> None:
    store = Store.open(source / "store")
    refuse(resolution_faults(store, None))
    refuse(resolution_faults(store, (8, 8)))
    with pytest.raises(RecipeError, match=r"--resolution is 16 x 8, views of .* are 8 x 8: .*--set size=\[16,8\]"):
        refuse(resolution_faults(store, (16, 8)))
    command = ["finetune", str(source / "run" / NEWEST), str(store.path), "--out", "x"]
    bad = CliRunner().invoke(main, [*command, "--resolution", "big"])
    assert bad.exit_code == 2
    assert "'big' is neither one number nor HxW" in bad.output
    consent = ["--model", "tests/support/students.py:two_heads"]
    other = CliRunner().invoke(main, [*command, "--resolution", "16", "--recipe", SMALL, *consent])
    assert other.exit_code == 1
    assert "`teacher-cache index --like" in other.output


def test_checkpoints_that_do_not_fit_are_refused(source: Path, tmp_path: Path) -> None:
    trained = read_trained(str(source / "run" / NEWEST))
    store = Store.open(source / "store")
    deeper = fine_recipe("model_args.depth=3")
    with pytest.raises(CheckpointError, match=r"does not fit: 12 names are missing \(blocks.2"):
        adapt(trained, deeper, store)
    wider = fine_recipe("model_args.embed_dim=48")
    with pytest.raises(CheckpointError, match=r"does not fit: .*only patch grid and classes may differ"):
        adapt(trained, wider, store)
    odd = renamed(trained, state=trained.state | {"pos_embed": torch.zeros(1, 2 + 7, 24)})
    with pytest.raises(CheckpointError, match="has positions for 7 patches"):
        adapt(odd, fine_recipe(), store_of_size(tmp_path, 16))


def test_going_on_from_another_checkpoint_is_refused(source: Path, tmp_path: Path) -> None:
    store = Store.open(source / "store")
    finetune(source / "run" / NEWEST, store, tmp_path / "out")
    command = [
        "finetune",
        str(tmp_path / "out" / NEWEST),
        str(store.path),
        "--recipe",
        SMALL,
    ]
    command += ["--out", str(tmp_path / "out"), "--workers", "0", "--device", "cpu"]
    settings = ["model=none", "epochs=1", "ema=none"]
    result = CliRunner().invoke(main, command + [word for setting in settings for word in ("--set", setting)])
    assert result.exit_code == 1
    assert "was trained with weights initial = " in result.output
    assert np.unique([line.count("error: ") for line in result.output.splitlines() if "error" in line]).tolist() == [1]


# -- what is told --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize("held", ["distilled", "plain"])
def test_distilled_weights_and_plain_ones_are_told_apart(source: Path, tmp_path: Path, held: str, size: int) -> None:
    """Also where the grid is another, and the classes: before anything is resized or drawn anew."""
    names = {"distilled": "deit_tiny_distilled_patch16_224", "plain": "deit_tiny_patch16_224"}
    named = names["plain" if held == "distilled" else "distilled"]
    recipe = load_recipe(SMALL, [f"model={names[held]}", DEIT[1], "distill=none"])
    torch.save(build_model(recipe, 10, (8, 8)).state_dict(), tmp_path / "held.pt")
    trained = read_trained(str(tmp_path / "held.pt"), model=names[held])
    store = store_of_size(tmp_path, size)
    message = (
        rf"held\.pt holds the weights of a {held} model \(.*\), {named} is a .* one: name the model {names[held]}$"
    )
    for reset_heads in (False, True):
        with pytest.raises(CheckpointError, match=message):
            adapt(trained, fine_recipe(f"model={named}", DEIT[1]), store, reset_heads=reset_heads)
    assert adapt(trained, fine_recipe(f"model={names[held]}", DEIT[1]), store).state


def test_a_background_class_is_told_where_heads_are_drawn_anew(source: Path, tmp_path: Path) -> None:
    store = Store.open(source / "store")
    trained = renamed(read_trained(str(source / "run" / NEWEST)), num_classes=1001)
    thousand = other_classes(trained, store)
    assert thousand is not None
    assert "background" not in thousand
    reason = other_classes(trained, SimpleNamespace(num_classes=1000, path="store"))
    assert reason is not None
    assert "1,001 classes in " in reason
    assert "; 1,001 are probably ImageNet's 1,000 behind a background class" in reason


def test_weights_under_a_wrappers_names_are_fine_tuned(source: Path, tmp_path: Path) -> None:
    """A convnet's, as DataParallel saved it before batches were counted, its head under another name."""
    model = build_model(load_recipe(SMALL, ["model=resnet10t", "distill=none", "drop_path=none"]), 4, (8, 8))
    old = {
        f"module.{name.replace('fc.', 'classifier.')}": value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    torch.save(old, tmp_path / "old.pth")
    store = store_of_size(tmp_path, 8)
    overrides = ["distill=none", "epochs=1", "drop_path=none"]
    said = finetune(tmp_path / "old.pth", store, tmp_path / "out", "--model", "resnet10t", overrides=overrides)
    assert "its head is called classifier, the model's fc: taken as the same" in said
    assert "weights are stored as float16, the model runs in float32" in said
    assert "heads drawn anew: 4 classes in " in said
    assert said.count("float16") == 1
    trained = read_trained(str(tmp_path / "out" / NEWEST))
    assert trained.num_classes == 10
    assert not torch.equal(trained.state["bn1.num_batches_tracked"], torch.tensor(0))


def test_ruined_weights_are_refused_before_the_first_step(source: Path, tmp_path: Path, val: str) -> None:
    content = torch.load(source / "run" / NEWEST)
    store = Store.open(source / "store")
    for factor, message in (
        (
            1e30,
            "error: shard val.tar, key v10000: the class head's logits are not finite, so the weights are of no use",
        ),
        (torch.nan, f"error: checkpoint {tmp_path}/ruined.pt holds numbers that are not finite, first in norm.weight"),
    ):
        ruined = content["model"] | {name: content["model"][name] * factor for name in ("norm.weight", "head.weight")}
        torch.save(content | {"model": ruined}, tmp_path / "ruined.pt")
        command = [
            "finetune",
            str(tmp_path / "ruined.pt"),
            str(store.path),
            "--recipe",
            SMALL,
        ]
        command += ["--out", str(tmp_path / "out"), "--workers", "0", "--device", "cpu", "--val", val]
        command += ["--set", "model=none", "--set", "epochs=1", "--set", "ema=none"]
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 1
        assert done.output.splitlines()[-1].startswith(message)
        assert not list((tmp_path / "out").glob("*.pt"))


def test_an_older_recipe_is_told(source: Path, tmp_path: Path) -> None:
    content = torch.load(source / "run" / NEWEST)
    del content["recipe"]["hard_without_token"]
    torch.save(content, tmp_path / "old.pt")
    said = finetune(tmp_path / "old.pt", Store.open(source / "store"), tmp_path / "out")
    assert said.splitlines()[0] == (
        f"{tmp_path}/old.pt: its recipe lacks settings of today, which are taken at their defaults: "
        "hard_without_token = both"
    )
