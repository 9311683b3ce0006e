"""Recipe files: the shipped ones, overriding settings, and refusals that name the setting."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from student.cli import main
from student.plan import num_views_read
from student.recipe import Recipe, load_recipe, load_sourced_recipe, relation_faults, shipped_recipes
from teacher_cache.errors import RecipeError
from teacher_cache.replay.policy import OPERATIONS, load_policy, shipped_policies

MINIMAL = """
model = "resnet10t"
distill = "none"
epochs = 10
batch_size = 64
lr = 1e-3
weight_decay = 0.05
"""


@pytest.fixture
def minimal(tmp_path: Path) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL)
    return str(path)


SIZES = ("tiny", "small", "base")
TRANSFERS = ("cifar10", "cars", "cifar100", "flowers", "inat")


def test_shipped_recipes() -> None:
    deit = {f"deit_{size}{way}" for size in SIZES for way in ("", "_distilled", "_hard", "_soft")}
    finer = {
        "deit_base_384",
        "deit_base_distilled_384",
        "finetune_teacher",
        *(f"transfer_{name}" for name in TRANSFERS),
    }
    digits = {"digits_teacher", "digits_distilled", "digits_undistilled"}
    cifar = {"cifar_teacher", "cifar_tiny", "cifar_tiny_distilled", "cifar_tiny_hard", "cifar_tiny_soft"}
    assert set(shipped_recipes()) == deit | finer | digits | cifar
    for name in shipped_recipes():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.policy in [*shipped_policies(), None]
        ways = {"distilled": "hard", "hard": "hard", "soft": "soft"}
        assert recipe.distill == next((ways[part] for part in name.split("_") if part in ways), "none")


@pytest.mark.parametrize("way", ["", "_distilled", "_hard", "_soft"])
@pytest.mark.parametrize("size", SIZES)
def test_deit_recipes_are_the_published_one(size: str, way: str) -> None:
    recipe = load_recipe(f"deit_{size}{way}")
    published = {
        "policy": "deit",
        "model": f"deit_{size}{'_distilled' if way == '_distilled' else ''}_patch16_224",
        "model_args": {},
        "drop_path": 0.1,
        "token_init_std": 0.02,
        "label_smoothing": 0.1,
        "fusion": "softmax_sum",
        "epochs": 300,
        "batch_size": 1024,
        "repeats": 3,
        "repeats_order": "together",
        "optimizer": "adamw",
        "lr": 5e-4,
        "lr_batch": 512,
        "weight_decay": 0.05,
        "decay_dist_token": True,
        "min_lr": 1e-5,
        "warmup_epochs": 5,
        "warmup_lr": 1e-6,
        "schedule_step": "epoch",
        "schedule_lag": True,
        "clip_grad": None,
        "ema": 0.99996,
        "train_mode": True,
        "crop_pct": 0.875,
        "val_interpolation": "bicubic",
    }
    assert {name: getattr(recipe, name) for name in published} == published
    ways = {
        "": ("none", 0.5, 1.0),
        "_distilled": ("hard", 0.5, 1.0),
        "_hard": ("hard", 0.5, 1.0),
        "_soft": ("soft", 0.1, 3.0),
    }
    assert (recipe.distill, recipe.distill_alpha, recipe.distill_tau) == ways[way]
    assert recipe.hard_without_token == "both"  # whatever table 3 prints: deit issues 174 and 215
    assert recipe.soft_mean == "views"


def test_the_policy_that_deit_recipes_expect_is_the_published_one() -> None:
    policy = load_policy("deit")
    assert (policy.size, policy.flip, policy.jitter) == ((224, 224), 0.5, None)
    assert policy.rand_augment is not None
    assert policy.erase is not None
    assert policy.mix is not None
    assert (policy.crop.kind, policy.crop.scale, policy.crop.interpolation) == (
        "random_resized",
        (0.08, 1.0),
        "bicubic",
    )
    augment, mix = policy.rand_augment, policy.mix
    assert (augment.num_ops, augment.magnitude, augment.magnitude_std, augment.probability) == (2, 9, 0.5, 0.5)
    assert (augment.operations, augment.interpolation) == (OPERATIONS, "bicubic")
    assert (policy.erase.probability, policy.erase.mode, policy.erase.count) == (0.25, "pixel", 1)
    assert (mix.mixup_alpha, mix.cutmix_alpha, mix.probability, mix.switch_probability) == (0.8, 1.0, 1.0, 0.5)
    transfer = load_policy("transfer").to_json()
    assert transfer == policy.to_json() | {"name": "transfer", "erase": None}


@pytest.mark.parametrize("way", ["", "_distilled"])
def test_fine_tuning_recipes_are_the_published_one(way: str) -> None:
    recipe = load_recipe(f"deit_base{way}_384")
    published = {
        "model": None,
        "epochs": 30,
        "batch_size": 512,
        "lr": 5e-6,
        "lr_batch": 512,
        "min_lr": 5e-6,
        "warmup_epochs": 5,
        "weight_decay": 1e-8,
        "drop_path": 0.1,
        "pos_embed_interpolation": "bicubic",
        "pos_embed_antialias": False,
        "train_mode": True,
        "distill": "hard" if way else "none",
    }
    assert {name: getattr(recipe, name) for name in published} == published
    assert load_recipe(f"deit_base{way}_384", ["epochs=25", "optimizer=sgd", "train_mode=false"]).epochs == 25


@pytest.mark.parametrize("name", TRANSFERS)
def test_transfer_recipes(name: str) -> None:
    recipe = load_recipe(f"transfer_{name}")
    authors = {
        "optimizer": "sgd",
        "lr": 0.01,
        "lr_batch": None,
        "weight_decay": 1e-4,
        "epochs": 1000,
        "drop_path": None,
    }
    if name == "inat":
        authors = {"optimizer": "adamw", "lr": 7.5e-5, "weight_decay": 0.05, "epochs": 360, "drop_path": 0.1}
    authors |= {"policy": "transfer", "batch_size": 768, "model": None, "distill": "none"}
    assert {setting: getattr(recipe, setting) for setting in authors} == authors
    ours = "these are ours" in load_sourced_recipe(f"transfer_{name}").header
    assert ours == (name in ("cifar100", "flowers"))


def test_a_thousand_epochs_are_one_setting() -> None:
    recipe = load_recipe("deit_base_distilled", ["epochs=1000"])
    assert num_views_read(recipe.epochs, recipe.repeats) == 1002
    assert num_views_read(300, 3) == 300


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name.startswith(("deit_", "transfer_"))])
def test_every_setting_of_a_published_recipe_has_a_source(name: str) -> None:
    sourced = load_sourced_recipe(name, ["seed=3"])
    assert sourced.sources["seed"] == ("", "--set")
    for setting, source in sourced.sources.items():
        if setting != "name" and source.place not in ("default", "--set"):
            assert source.comment, f"{setting}, set by {source.place}"
    assert sourced.sources.keys() == Recipe.model_fields.keys()


@pytest.mark.parametrize("name", ["deit_base_distilled_384", "digits_distilled", "transfer_cars"])
def test_a_shown_recipe_is_a_file_that_reads_back(name: str, tmp_path: Path) -> None:
    shown = CliRunner().invoke(main, ["recipes", "show", name, "--set", "model_args.depth=3"])
    assert shown.exit_code == 0, shown.output
    path = tmp_path / "copy.toml"
    path.write_text(shown.output)
    assert load_recipe(str(path)) == load_recipe(name, ["model_args.depth=3"])
    assert "model_args = " in shown.output
    line = next(line for line in shown.output.splitlines() if line.startswith("model_args"))
    assert line.endswith("# --set")


def test_recipes_are_listed_with_the_views_that_they_need() -> None:
    listed = CliRunner().invoke(main, ["recipes"])
    assert listed.exit_code == 0
    lines = listed.output.splitlines()
    assert [line.split()[0] for line in lines[1:]] == shipped_recipes()
    tiny = next(line for line in lines if line.startswith("deit_tiny_soft "))
    assert tiny.split()[1:5] == ["deit", "soft", "300", "300"]
    assert tiny.endswith("72.2 % top-1 on ImageNet (arXiv 2012.12877, table 3)")  # whole, where it is no terminal's


def test_a_base_is_overridden_and_undone(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "deit_tiny"\nema = "none"\ndistill = "none"\nlr = 1e-3  # tried\n')
    recipe = load_recipe(str(path))
    assert (recipe.name, recipe.ema, recipe.lr, recipe.distill, recipe.weight_decay) == (
        "mine",
        None,
        1e-3,
        "none",
        0.05,
    )
    sources = load_sourced_recipe(str(path)).sources
    assert sources["lr"] == ("tried", str(path))
    assert sources["weight_decay"] == ("table 9", "deit_tiny")
    assert sources["seed"] == ("", "default")


def test_bases_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'base = "{path}"\n')
    with pytest.raises(RecipeError, match="is based on itself"):
        load_recipe(str(path))
    path.write_text("base = 3\n")
    with pytest.raises(RecipeError, match="base is the name of a recipe, not 3"):
        load_recipe(str(path))
    path.write_text('base = "deit_giant"\n')
    with pytest.raises(RecipeError, match="no recipe 'deit_giant'"):
        load_recipe(str(path))


def test_overrides(minimal: str) -> None:
    overrides = [
        "epochs=20",
        "lr = 2e-3",
        "ema=0.999",
        "amp=fp16",
        "model_args.width=2",
        'name="other"',
        "compile=true",
    ]
    recipe = load_recipe(minimal, overrides)
    assert (recipe.epochs, recipe.lr, recipe.ema, recipe.amp) == (20, 2e-3, 0.999, "fp16")
    assert (recipe.model_args, recipe.name, recipe.compile) == ({"width": 2}, "other", True)


def test_none_makes_a_setting_absent_or_is_its_word() -> None:
    recipe = load_recipe(
        "deit_tiny_distilled", ["ema=none", "lr_batch=none", "drop_path=none", "distill=none", "amp=none"]
    )
    assert (recipe.ema, recipe.lr_batch, recipe.drop_path, recipe.distill, recipe.amp) == (
        None,
        None,
        None,
        "none",
        "none",
    )


def test_a_file_is_named_by_its_stem_and_defaults_are_off(minimal: str) -> None:
    recipe = load_recipe(minimal)
    assert (recipe.name, recipe.policy, recipe.repeats, recipe.repeats_order) == ("mine", None, 1, "apart")
    assert (recipe.ema, recipe.clip_grad, recipe.micro_batch, recipe.drop_path) == (None, None, None, None)


def test_json_round_trip() -> None:
    for name in shipped_recipes():
        recipe = load_recipe(name)
        assert Recipe.from_json(recipe.to_json()) == recipe
    with pytest.raises(RecipeError, match="recipe deit_tiny: unknown setting dropout"):
        Recipe.from_json(load_recipe("deit_tiny").to_json() | {"dropout": 0.1})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dropout=0.1", "unknown setting dropout: did you mean 'drop_path'"),
        ("epoch=3", "unknown setting epoch: did you mean 'epochs'. `student recipes show NAME` has"),
        ("epochs=0", r"epochs: .* \(got 0\)"),
        ("epochs=ten", r"epochs: .* \(got 'ten'\)"),
        ("lr=-1", r"lr: .* \(got -1\)"),
        ("lr=nan", r"lr: .*finite"),
        ("lr=none", r"lr: .* \(got None\)"),
        ("distill=medium", r"distill: .* \(got 'medium'\)"),
        ("compile=1", r"compile: .* \(got 1\)"),
        ("warmup_epochs=10", "warmup_epochs is 10, training has 10 epochs"),
        ("micro_batch=48", "micro_batch is 48, which does not divide the batch_size of 64"),
        ("distill_tau=1e30", r"distill_tau: .*less than or equal to 10000 \(got 1e\+30\)"),
        ("distill_tau=1e-30", r"distill_tau: .*greater than or equal to 0\.0001"),
        ("crop_pct=1e-30", r"crop_pct: .*greater than or equal to 0\.01"),
        ("min_lr=0.1", r"min_lr 0.1 is above 0.001 \(lr 0.001\)"),
        ("epochs", "setting 'epochs' is not of the form key=value"),
        ("epochs.many=3", "setting epochs.many: epochs is not a section"),
    ],
)
def test_impossible_settings_are_refused_by_name(minimal: str, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(minimal, [override])


@pytest.mark.parametrize(
    "override",
    [
        *("lr=1e39", "lr=1e-50", "min_lr=1e39", "warmup_lr=1e39", "weight_decay=1e300", "weight_decay=1e-60"),
        *("clip_grad=1e39", "clip_grad=1e-300", "token_init_std=1e50", "distill_alpha=1e-300", "label_smoothing=1e-99"),
    ],
)
def test_numbers_that_no_float32_holds_are_refused_by_name(minimal: str, override: str) -> None:
    name = override.partition("=")[0]
    with pytest.raises(RecipeError, match=rf"{name}: is no number that a float32 holds, 1\.2e-38 to 3\.4e\+38 \(got "):
        load_recipe(minimal, [override])


@pytest.mark.parametrize("name", ["ema", "momentum", "label_smoothing", "drop_path"])
def test_shares_that_are_one_on_a_device_are_refused_by_name(minimal: str, name: str) -> None:
    with pytest.raises(RecipeError, match=rf"{name}: is 1 as a float32; at most 0\.99999994 \(got 0\.9999999999\)"):
        load_recipe(minimal, [f"{name}=0.9999999999"])
    assert getattr(load_recipe(minimal, [f"{name}=0.9999999"]), name) == 0.9999999


def test_a_rate_with_which_float32_computes_no_step_is_refused(minimal: str) -> None:
    message = "with which no step can be computed in float32"
    with pytest.raises(
        RecipeError, match=rf"the rate is 6\.4e\+38 \(lr 1e\+38 x batch_size / 10\), {message}: lower lr"
    ):
        load_recipe(minimal, ["lr=1e38", "lr_batch=10"])
    with pytest.raises(RecipeError, match=rf"the rate is 3\.4e\+37 \(lr 3\.4e\+37\), {message}: lower lr"):
        load_recipe(minimal, ["lr=3.4e37"])
    with pytest.raises(RecipeError, match=rf"warmup_lr is 3\.4e\+37, {message}: lower warmup_lr"):
        load_recipe(minimal, ["warmup_lr=3.4e37", "warmup_epochs=1"])


def test_a_lower_rate_is_offered_that_is_one(minimal: str) -> None:
    for lr in ("1e-3", "1.2e-38"):
        overrides = [f"lr={lr}", "min_lr=0.1"]
        (fault,) = relation_faults(load_recipe(minimal, overrides, loose=True))
        assert load_recipe(minimal, [*overrides, fault.mend[1]]).min_lr < float(lr)


def test_every_number_of_a_recipe_has_bounds(minimal: str) -> None:
    """A setting that is added without bounds is met here."""
    floats = [name for name, field in Recipe.model_fields.items() if "float" in str(field.annotation)]
    floats += [name for name, field in Recipe.model_fields.items() if isinstance(field.default, float)]
    assert len(set(floats)) >= 12
    for name in set(floats):
        for value in ("1e39", "-1e39", "1e300", "nan", "inf"):
            with pytest.raises(RecipeError, match=name):
                load_recipe(minimal, [f"{name}={value}"])


def test_min_lr_is_compared_with_the_scaled_lr() -> None:
    with pytest.raises(RecipeError, match=r"min_lr 1e-05 is above 7.8125e-06 \(lr 0.0005 x batch_size / 512\)"):
        load_recipe("deit_tiny", ["batch_size=8"])


def test_what_is_no_recipe_is_refused(tmp_path: Path, minimal: str) -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'deit_tny', neither .* one: did you mean 'deit_tiny'") as refused:
        load_recipe("deit_tny")
    assert str(refused.value).count("'") == 8
    assert str(refused.value).endswith("? `student recipes` lists them all")
    with pytest.raises(RecipeError, match=r"no recipe 'resnet', .* one: `student recipes` lists them all"):
        load_recipe("resnet")
    broken = tmp_path / "broken.toml"
    broken.write_text("epochs: 3\n")
    with pytest.raises(RecipeError, match=r"broken.toml cannot be read: .*line 1"):
        load_recipe(str(broken))
    broken.write_text(MINIMAL.replace("lr = 1e-3", ""))
    with pytest.raises(RecipeError, match="lr is missing"):
        load_recipe(str(broken))
