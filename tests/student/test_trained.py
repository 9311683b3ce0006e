"""Trained models in every layout: what a file or a name says, and the same logits as the model that was written."""

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from student.model import heads
from student.trained import TrainedModel, build_trained, describe_trained, read_trained
from student.validation import Preprocessing
from teacher_cache.errors import CheckpointError, ModelError
from teacher_cache.teacher.names import GivenModel
from tests.support.small_runs import read_own, small_recipe, student
from tests.support.trained_files import DEIT, DEIT_SETTINGS, NAMES, checkpoint, filled, pth, safetensors

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@torch.no_grad()
def assert_same(model: nn.Module, expected: nn.Module, size: tuple[int, int]) -> None:
    assert not model.training
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    found, wanted = heads(model, images), heads(expected, images)
    assert torch.equal(found.class_logits, wanted.class_logits)
    if wanted.distill_logits is None:
        assert found.distill_logits is None
    else:
        assert found.distill_logits is not None
        assert torch.equal(found.distill_logits, wanted.distill_logits)
        assert not torch.allclose(found.class_logits, found.distill_logits), "heads are alike: the test shows little"


# -- files that say no model ---------------------------------------------------------------------------------------

LAYOUTS = {
    "released": pth("model"),
    "bare": pth(None),
    "training": pth("model", "module.", optimizer={"lr": 1}, epoch=3, args=Namespace(lr=1)),
    "timm": pth("state_dict", arch=DEIT),
    "safetensors": safetensors,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_others_with_a_timm_name(tmp_path: Path, layout: str) -> None:
    model = filled(timm.create_model(DEIT, num_classes=7))
    path = LAYOUTS[layout](model.state_dict(), tmp_path)
    found = read_trained(str(path), model=DEIT)
    assert found.preprocessing == Preprocessing((224, 224), 0.875, "bicubic", **IMAGENET)
    assert (found.source, found.model, found.model_args, found.num_classes) == (str(path), DEIT, {}, 7)
    assert (found.recipe, found.class_names, found.class_from) == (None, None, None)
    assert_same(build_trained(found), model, (224, 224))


def test_a_convnet_and_a_model_of_one_head(tmp_path: Path) -> None:
    for name, size in (("resnet10t", 176), ("deit_tiny_patch16_224", 224)):
        model = timm.create_model(name, num_classes=3).eval()
        found = read_trained(str(safetensors(model.state_dict(), tmp_path)), model=name)
        assert (found.num_classes, found.preprocessing.size) == (3, (size, size))
        assert (found.preprocessing.crop_pct, found.preprocessing.interpolation) == (0.875, "bicubic")
        assert_same(build_trained(found), model, (size, size))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        (DEIT, 160),  # 2 + 10 x 10 positions
        ("deit_tiny_patch16_224", 64),
        ("deit3_small_patch16_224", 96),  # tokens without positions
        ("deit_base_distilled_patch16_384", 224),
    ],
)
def test_the_position_embedding_tells_the_size(tmp_path: Path, name: str, size: int) -> None:
    depth = {"depth": 1} if name != DEIT else {}
    model = filled(timm.create_model(name, num_classes=3, img_size=size, **depth))
    found = read_trained(str(pth("model")(model.state_dict(), tmp_path)), model=name)
    assert found.preprocessing.size == (size, size)
    if not depth:
        assert_same(build_trained(found), model, (size, size))


def test_weights_of_half_precision_are_taken_to_float(tmp_path: Path) -> None:
    model = filled(timm.create_model(DEIT, num_classes=3)).half()
    built = build_trained(read_trained(str(safetensors(model.state_dict(), tmp_path)), model=DEIT))
    assert_same(built, model.float(), (224, 224))


def test_the_average_of_a_file_of_others(tmp_path: Path) -> None:
    model = filled(timm.create_model(DEIT, num_classes=3))
    raw = {name: value.clone() for name, value in model.state_dict().items()}
    average = filled(model, seed=1).state_dict()

    def assert_read(path: Path, ema: bool, expected: dict[str, Tensor]) -> None:
        found = read_trained(str(path), model=DEIT, ema=ema)
        assert found.weights == ("raw" if expected is raw else "ema")
        assert found.state.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in found.state.items())

    path = pth("model", model_ema=average)(raw, tmp_path)
    assert_read(path, False, raw)
    assert_read(path, True, average)
    assert_same(build_trained(read_trained(str(path), model=DEIT, ema=True)), model, (224, 224))
    assert_read(pth("state_dict", state_dict_ema=average)(raw, tmp_path), True, average)
    wrapped = {f"module.{name}": value for name, value in average.items()}
    assert_read(pth("model", ema_state_dict=wrapped)(raw, tmp_path), True, average)
    assert_read(pth("model_ema")(average, tmp_path), False, average)  # the file has no others
    for more in ({}, {"model_ema": None}):
        path = pth("model", **more)(raw, tmp_path)
        with pytest.raises(CheckpointError, match=r"has no EMA weights \(model_ema, .*\): leave out --ema"):
            read_trained(str(path), model=DEIT, ema=True)


# -- our own -------------------------------------------------------------------------------------------------------


def assert_ours(found: TrainedModel) -> None:
    assert found.recipe is not None
    assert found.recipe.name == "small"
    assert (found.class_names, found.num_classes, found.class_from) == (tuple(NAMES), 5, "json:label")
    assert found.preprocessing == Preprocessing((16, 24), 0.95, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


@pytest.mark.parametrize("settings", [DEIT_SETTINGS, (student("two_heads"),), (student("one_head"), "distill=none")])
def test_our_checkpoints_say_everything(tmp_path: Path, settings: tuple[str, ...]) -> None:
    path, raw, average = checkpoint(tmp_path, *settings, ema=True)
    for ema, expected in ((False, raw), (True, average)):
        found = read_own(path, ema=ema)
        assert_ours(found)
        assert found.weights == ("ema" if ema else "raw")
        assert_same(build_trained(found), expected, (16, 24))


@pytest.mark.parametrize("settings", [DEIT_SETTINGS, (student("plain"),)])
def test_our_safetensors_say_everything(tmp_path: Path, settings: tuple[str, ...]) -> None:
    path, _, average = checkpoint(tmp_path, *settings, ema=True)
    trained = read_own(path, ema=True)
    save_file(trained.state, tmp_path / "out.safetensors", metadata=describe_trained(trained))
    for ema in (False, True):
        found = read_trained(str(tmp_path / "out.safetensors"), model=trained.model, ema=ema)
        assert_ours(found)
        assert found.weights == "ema"
        assert (found.model, found.model_args, found.recipe) == (trained.model, trained.model_args, trained.recipe)
        assert_same(build_trained(found), average, (16, 24))
    raw = replace(trained, weights="raw")
    save_file(trained.state, tmp_path / "out.safetensors", metadata=describe_trained(raw))
    with pytest.raises(CheckpointError, match="holds the weights without averaging: leave out --ema"):
        read_trained(str(tmp_path / "out.safetensors"), ema=True)


def test_a_foreign_model_is_described_without_recipe_and_names(tmp_path: Path) -> None:
    model = timm.create_model(DEIT, num_classes=3)
    trained = read_trained(str(pth("model")(model.state_dict(), tmp_path)), model=DEIT)
    metadata = describe_trained(trained)
    assert json.loads(metadata["size"]) == [224, 224]
    assert not {"recipe", "class_names", "class_from"} & metadata.keys()
    save_file(trained.state, tmp_path / "out.safetensors", metadata=metadata)
    found = read_trained(str(tmp_path / "out.safetensors"))
    assert (found.preprocessing, found.num_classes, found.class_names) == (trained.preprocessing, 3, None)


def test_a_function_that_has_moved(tmp_path: Path) -> None:
    path, raw, _ = checkpoint(tmp_path)
    moved = small_recipe().to_json() | {"model": "gone/students.py:two_heads"}
    content = torch.load(path) | {"recipe": moved}
    torch.save(content, path)
    with pytest.raises(ModelError, match=r"checkpoint\.pt: model: model file gone/students\.py is absent"):
        build_trained(read_own(path))
    assert_same(build_trained(read_trained(str(path), model=small_recipe().model)), raw, (16, 24))


# -- timm's pretrained weights -------------------------------------------------------------------------------------


def test_a_timm_name_brings_timms_pretrained_weights(tmp_path: Path) -> None:
    """From a folder in the layout of timm's hub: the same call as for a name, without a network."""
    args = {"embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": [32, 32]}
    model = filled(timm.create_model(DEIT, num_classes=6, **args))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    seen = {
        "input_size": [3, 32, 32],
        "crop_pct": 0.8,
        "interpolation": "bilinear",
        "mean": [0.5] * 3,
        "std": [0.1] * 3,
    }
    config = {"architecture": DEIT, "num_classes": 6, "model_args": args, "pretrained_cfg": {**seen, "num_classes": 6}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read_trained(f"local-dir:{tmp_path}")
    assert (found.model, found.num_classes, found.class_names) == (DEIT, 6, None)
    assert found.preprocessing == Preprocessing((32, 32), 0.8, "bilinear", (0.5,) * 3, (0.1,) * 3)
    assert_same(build_trained(found), model, (32, 32))


# -- refusals ------------------------------------------------------------------------------------------------------


def test_what_is_none_of_these(tmp_path: Path) -> None:
    model = timm.create_model("deit_tiny_patch16_224", num_classes=3)
    plain = str(pth("model")(model.state_dict(), tmp_path))
    (tmp_path / "torn.pt").write_bytes(b"half a file")
    (tmp_path / "torn.safetensors").write_bytes(b"half a file")
    torch.save({"epoch": 3, "weights": {}}, tmp_path / "other.pt")
    refusals: list[tuple[str, str | None, str]] = [
        (plain, None, "does not say which model it is .*name it with --model, a timm name"),
        (plain, "deit_tiny_patch8", "timm has no model deit_tiny_patch8: did you mean 'deit_tiny_patch16_224'"),
        (plain, f"{DEIT}.nonsense", f"timm has no {DEIT}.nonsense: did you mean '{DEIT}.fb_in1k'"),
        (plain, "resnet10t", r"holds no fc\.weight, from which .* of resnet10t is read: check --model"),
        (f"{tmp_path}/nothing.pt", None, r"nothing\.pt is absent \(.* has other\.pt\): check the path"),
        *((f"nothing{end}", None, rf"nothing{end} is absent: check the path") for end in (".pth", ".pth.tar", ".ckpt")),
        (f"{tmp_path}/torn.pt", None, r"torn\.pt cannot be read"),
        (f"{tmp_path}/torn.safetensors", None, r"torn\.safetensors cannot be read"),
        (f"{tmp_path}/other.pt", DEIT, r"holds no state dict, .*\(found epoch, weights\)"),
        (str(tmp_path), None, r"is a folder: name a file in it, checkpoint\.pt"),
        ("deit_tiny_patch8", None, "timm has no model deit_tiny_patch8: .*or give the path of a checkpoint"),
        (DEIT, DEIT, "is no file: --model and --ema are for files"),
    ]
    for source, name, message in refusals:
        with pytest.raises(ModelError if "timm has no" in message else CheckpointError, match=message) as refused:
            read_trained(source, model=name)
        assert "\n" not in str(refused.value)
    with pytest.raises(
        CheckpointError,
        match=rf"of a plain model \(without .*, dist_token\), {DEIT} is a distilled one: name the model "
        "deit_tiny_patch16_224$",
    ):
        build_trained(read_trained(plain, model=DEIT))


def test_pretrained_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network\nsecond line")

    monkeypatch.setattr("timm.create_model", fail)
    message = rf"timm could not load pretrained weights of {DEIT} \(no network\): download them on a machine"
    with pytest.raises(ModelError, match=message):
        read_trained(DEIT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "has format 99, this program reads up to .: use the version that wrote it"),
        ({"recipe": small_recipe().to_json() | {"colour": 1}}, "recipe small: unknown setting colour"),
        ({"interpolation": "lanczos"}, "wants images resized by lanczos: bicubic and bilinear are known"),
        (
            {"class_names": NAMES[:4]},
            "4 names are of another shape .heads.0.weight is .5, 384., the model's is .4, 384., heads.0.b",
        ),
        (
            {"recipe": small_recipe().to_json() | {"model": None}},
            "does not say which model it is: name it with --model",
        ),
    ],
)
def test_checkpoints_of_ours_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path, _, _ = checkpoint(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message):
        build_trained(read_own(path))


def test_ema_is_refused_where_there_is_none(tmp_path: Path) -> None:
    path, _, _ = checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="has no EMA weights: leave out --ema"):
        read_trained(str(path), ema=True)


def test_an_export_of_another_layout(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "new.safetensors", metadata={"deit_teacher_cache": "2"})
    with pytest.raises(CheckpointError, match="has layout 2, this program reads 1: use the version that wrote it"):
        read_trained(str(tmp_path / "new.safetensors"))


def test_a_function_may_demand_the_drop_path_of_its_recipe(tmp_path: Path) -> None:
    file = tmp_path / "demanding.py"
    file.write_text(
        "from torch import nn\n"
        "def net(num_classes, drop_path_rate):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Dropout(drop_path_rate), nn.LazyLinear(num_classes))\n"
    )
    trained = TrainedModel(
        source="c.pt",
        model=GivenModel(f"{file}:net"),
        state={"2.weight": torch.zeros(5, 3 * 8 * 8), "2.bias": torch.zeros(5)},
        num_classes=5,
        preprocessing=Preprocessing((8, 8), 0.9, "bicubic", **IMAGENET),
        recipe=small_recipe("drop_path=0.25"),
    )
    assert build_trained(trained)[1].p == 0.25
