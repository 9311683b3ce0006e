"""Recipe files: the shipped ones, overriding settings, and refusals that name the setting."""

from pathlib import Path

import pytest

from student.recipe import Recipe, load_recipe, shipped_recipes
from teacher_cache.errors import RecipeError
from teacher_cache.replay.policy import shipped_policies

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


def test_shipped_recipes() -> None:
    deit = {f"deit_{size}{distilled}" for size in ("tiny", "small", "base") for distilled in ("", "_distilled")}
    digits = {"digits_teacher", "digits_distilled", "digits_undistilled"}
    cifar = {"cifar_teacher", "cifar_tiny", "cifar_tiny_distilled"}
    assert set(shipped_recipes()) == deit | digits | cifar
    for name in shipped_recipes():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.policy in shipped_policies()
        assert recipe.distill == ("hard" if name.endswith("_distilled") else "none")


@pytest.mark.parametrize("distilled", ["", "_distilled"])
@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_deit_recipes_are_the_published_one(size: str, distilled: str) -> None:
    recipe = load_recipe(f"deit_{size}{distilled}")
    published = {
        "policy": "deit",
        "model": f"deit_{size}{distilled}_patch16_224",
        "drop_path": 0.1,
        "label_smoothing": 0.1,
        "epochs": 300,
        "batch_size": 1024,
        "repeats": 3,
        "repeats_order": "together",
        "optimizer": "adamw",
        "lr": 5e-4,
        "lr_batch": 512,
        "weight_decay": 0.05,
        "min_lr": 1e-5,
        "warmup_epochs": 5,
        "warmup_lr": 1e-6,
        "schedule_step": "epoch",
        "clip_grad": None,
        "ema": 0.99996,
        "crop_pct": 0.875,
        "val_interpolation": "bicubic",
    }
    assert {name: getattr(recipe, name) for name in published} == published
    assert recipe.distill_alpha == 0.5


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
        ("dropout=0.1", "unknown setting dropout"),
        ("epochs=0", r"epochs: .* \(got 0\)"),
        ("epochs=ten", r"epochs: .* \(got 'ten'\)"),
        ("lr=-1", r"lr: .* \(got -1\)"),
        ("lr=nan", r"lr: .*finite"),
        ("lr=none", r"lr: .* \(got None\)"),
        ("distill=medium", r"distill: .* \(got 'medium'\)"),
        ("compile=1", r"compile: .* \(got 1\)"),
        ("warmup_epochs=10", "warmup_epochs is 10, training has 10 epochs"),
        ("micro_batch=48", "micro_batch is 48, which does not divide the batch_size of 64"),
        ("min_lr=0.1", r"min_lr 0.1 is above 0.001 \(lr 0.001\)"),
        ("epochs", "setting 'epochs' is not of the form key=value"),
        ("epochs.many=3", "setting epochs.many: epochs is not a section"),
    ],
)
def test_impossible_settings_are_refused_by_name(minimal: str, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(minimal, [override])


def test_min_lr_is_compared_with_the_scaled_lr() -> None:
    with pytest.raises(RecipeError, match=r"min_lr 1e-05 is above 7.8125e-06 \(lr 0.0005 x batch_size / 512\)"):
        load_recipe("deit_tiny", ["batch_size=8"])


def test_what_is_no_recipe_is_refused(tmp_path: Path, minimal: str) -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'deit_huge': neither a file nor one of .*deit_tiny"):
        load_recipe("deit_huge")
    broken = tmp_path / "broken.toml"
    broken.write_text("epochs: 3\n")
    with pytest.raises(RecipeError, match=r"broken.toml cannot be read: .*line 1"):
        load_recipe(str(broken))
    broken.write_text(MINIMAL.replace("lr = 1e-3", ""))
    with pytest.raises(RecipeError, match="lr is missing"):
        load_recipe(str(broken))
