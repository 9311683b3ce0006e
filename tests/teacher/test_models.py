"""A name and a checkpoint -> a module: timm's models, functions of one's own, and what is refused by which name."""

import os
import py_compile
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import VisionTransformer
from torch import nn

from student.export import timm_arguments
from student.model import build_model
from student.recipe import load_recipe
from student.trained import read_trained
from teacher_cache.errors import CheckpointError, ModelError, TeacherError
from teacher_cache.teacher.models import (
    ModelSpec,
    build_module,
    images_dtype,
    load_module,
    pretrained_module,
    size_argument,
    timm_config,
    timm_tensors,
)
from teacher_cache.teacher.names import GivenModel
from teacher_cache.teacher.settings import TeacherSettings
from teacher_cache.teacher.teacher import open_teacher
from tests.support.bright_shards import bright_store
from tests.support.filling import TEACHERS, open_test_teacher

FUNCTIONS = """
from torch import nn

def plain():
    return nn.Identity()

def sized(num_classes, image_size, width=2):
    model = nn.Linear(width, num_classes)
    model.image_size = image_size
    return model

def takes_all(**arguments):
    model = nn.Identity()
    model.arguments = arguments
    return model

def higher(num_classes, *, height):
    return takes_all(height=height)

def fails(num_classes):
    raise ZeroDivisionError("of my own")
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    return str(tmp_path / "functions.py")


def spec(file: str, name: str, **arguments: object) -> ModelSpec:
    return ModelSpec(GivenModel(f"{file}:{name}"), arguments)


# -- functions -----------------------------------------------------------------------------------------------------


def test_a_function_gets_what_it_names_and_all_that_is_demanded(file: str) -> None:
    assert isinstance(build_module(spec(file, "plain"), 7, (8, 9)), nn.Identity)
    sized = build_module(spec(file, "sized", width=5), 7, (8, 9))
    assert (tuple(sized.weight.shape), sized.image_size) == ((7, 5), (8, 9))
    takes_all = build_module(spec(file, "takes_all", depth=3), 7, (8, 9))
    assert takes_all.arguments == {"num_classes": 7, "image_size": (8, 9), "depth": 3}
    with pytest.raises(ModelError, match=r"higher demands height, which nothing gives it: .* model_args\.height=VALUE"):
        build_module(spec(file, "higher"), 7, (8, 9))
    assert build_module(spec(file, "higher", height=3), 7, (8, 9)).arguments == {"height": 3}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"height": 1, "depth": 3}, "height, depth: --set model_args={}, or let the function take them"),
        ({"height": 1, "width": 3}, "height: leave height out of model_args, or let the function take it"),
        ({"drop_path_rate": 0.1, "width": 3}, "drop_path_rate: --set drop_path=none, or let the function take it"),
        (
            {"drop_path_rate": 0.1, "depth": 3},
            "drop_path_rate, depth: --set drop_path=none --set model_args={}, or let the function take them",
        ),
    ],
)
def test_a_function_takes_what_a_recipe_gives_or_the_recipes_setting_is_told(
    file: str, arguments: dict[str, object], said: str
) -> None:
    with pytest.raises(ModelError, match=f"sized takes no {re.escape(said)}$"):
        build_module(spec(file, "sized", **arguments), 7, (8, 9))


def test_an_error_in_a_function_of_ones_own_shows_where_it_is(file: str) -> None:
    with pytest.raises(ZeroDivisionError, match="of my own"):
        build_module(spec(file, "fails"), 7, (8, 9))
    ours = ModelSpec("student.convnet:small_convnet", {"num_classes": "many"}, "c.pt: model")
    with pytest.raises(
        ModelError, match=r"^c\.pt: model: student\.convnet:small_convnet cannot be built \(.*\): check"
    ):
        build_module(ours, 7, (8, 9))


def test_a_message_begins_with_what_names_the_model(file: str) -> None:
    for named_by, start in (("", "timm has no model resnet51: did you mean"), ("recipe r", "recipe r: timm has no")):
        with pytest.raises(ModelError, match=f"^{start}"):
            build_module(ModelSpec("resnet51", named_by=named_by), 7, (8, 9))


# -- timm ----------------------------------------------------------------------------------------------------------


def test_a_timm_model_has_the_classes_and_arguments_that_are_asked_for() -> None:
    model = build_module(ModelSpec("resnet10t", {"drop_rate": 0.25}), 7, (32, 32))
    assert (model.num_classes, model.drop_rate) == (7, 0.25)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("deit_tiny_patch16_224", {"depth": 1}),
        ("resnet10t", {}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}),
    ],
)
def test_weights_that_a_file_replaces_are_not_drawn(name: str, arguments: dict[str, Any]) -> None:
    spec = ModelSpec(name, arguments)
    undrawn, drawn = (build_module(spec, 3, (224, 224), draw=draw) for draw in (False, True))
    assert not any(parameter.any() for parameter in undrawn.parameters() if parameter.ndim == 4)  # convolutions
    assert all(parameter.isfinite().all() for parameter in undrawn.parameters())
    buffers = dict(drawn.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in undrawn.named_buffers())
    assert undrawn.state_dict().keys() == drawn.state_dict().keys()


def test_the_size_is_told_to_models_of_fixed_size_alone() -> None:
    assert size_argument("deit_tiny_patch16_224", (32, 48)) == {"img_size": (32, 48)}
    assert size_argument("resnet10t", (32, 48)) == {}
    assert size_argument("student.convnet:small_convnet", (32, 48)) == {}
    assert size_argument("hf-hub:timm/resnet10t", (32, 48)) == {}


def test_a_student_and_its_export_are_built_with_the_same_size(tmp_path: Path) -> None:
    recipe = load_recipe("deit_tiny", ["token_init_std=none", "model_args.depth=1"])
    student = build_model(recipe, 5, (32, 48))
    assert isinstance(student, VisionTransformer)
    assert student.patch_embed.img_size == (32, 48)
    square = timm.create_model("deit_tiny_patch16_224", num_classes=5, img_size=64)
    torch.save({"model": square.state_dict()}, tmp_path / "square.pth")
    trained = read_trained(str(tmp_path / "square.pth"), model="deit_tiny_patch16_224")
    assert timm_arguments(trained) == {"num_classes": 5, "img_size": (64, 64)}


def test_teacher_and_student_of_a_name_are_the_same_module() -> None:
    recipe = load_recipe("digits_undistilled", ["model=resnet10t", "model_args={}", "token_init_std=none"])
    torch.manual_seed(3)
    student = build_model(recipe, 5, (16, 16)).state_dict()
    torch.manual_seed(3)
    module = build_module(ModelSpec("resnet10t"), 5, (16, 16)).state_dict()
    assert module.keys() == student.keys()
    assert all(torch.equal(module[name], student[name]) for name in module)


def test_what_timm_says_of_a_model() -> None:
    config = timm_config(ModelSpec("resnet10t"))
    assert (config["classifier"], config["num_classes"]) == ("fc", 1000)
    tensors = timm_tensors("resnet10t")
    assert tensors["fc.weight"].shape == (2, 512)
    assert all(tensor.is_meta for tensor in tensors.values())
    with pytest.raises(ModelError, match=r"^timm has no resnet10t\.nonsense: .*; or walk$"):
        timm_config(ModelSpec("resnet10t.nonsense"), "; or walk")


def test_weights_come_from_timm_only_without_a_checkpoint(monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    asked = []

    def create(name: str, *, pretrained: bool, **arguments: object) -> nn.Module:
        asked.append((name, pretrained, arguments))
        raise OSError("no network\nsecond line")

    monkeypatch.setattr("timm.create_model", create)
    message = r"^timm could not load pretrained weights of resnet10t \(no network\): download them .*, or give --check"
    with pytest.raises(ModelError, match=message):
        load_module(ModelSpec("resnet10t"), 5, (8, 8), checkpoint=None)
    with pytest.raises(ModelError, match=r"with a network, and hope$"):
        pretrained_module(ModelSpec("resnet10t"), "and hope")
    with pytest.raises(ModelError, match=r"^timm cannot build resnet10t \(no network\)"):
        load_module(ModelSpec("resnet10t"), 5, (8, 8), checkpoint="w.pt")
    assert asked == [("resnet10t", True, {})] * 2 + [("resnet10t", False, {"num_classes": 5})]
    assert isinstance(load_module(spec(file, "plain"), 5, (8, 8), checkpoint=None), nn.Identity)


# -- a teacher's -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (f"{TEACHERS}:absent", "has no function absent"),
        ("/nowhere/model.py:net", "model file /nowhere/model.py is absent"),
        (
            "no_such_package.module:net",
            r"cannot be imported: No module named 'no_such_package': install it, name its folder in PYTHONPATH, or its "
            r"file, path/file.py:net",
        ),
        ("own.nets:net", r"cannot be imported: .*; a file is named by its path, own/nets.py:net"),
        ("../here.d/own/nets:net", r"cannot be imported: .*; a file is named by its path, ../here.d/own/nets.py:net"),
        ("my nets:net", r"cannot be imported: .*; a file is named by its path, 'my nets.py:net'"),
        (".own:net", r"cannot be imported: No module named '\.own': install it"),
        (":net", r"cannot be imported: No module named '': install it"),
        ("wants.other:net", "^wants.other:net cannot be imported: No module named 'no_such_package'$"),
        (
            "ends.py:net",
            r"cannot be imported: it ends the program \(exit 3\): put what it does as a program behind `if __n",
        ),
        ("quits.py:net", r"quits.py:net ends the program \(exit none left\): let it return a model"),
        (f"{TEACHERS}:not_a_module", "returned a str"),
        ("resnet_that_is_not", "timm has no model resnet_that_is_not"),
    ],
)
def test_teachers_that_cannot_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str
) -> None:
    here = tmp_path / "here.d"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here / "installed")
    for file, content in (
        ("own/nets.py", ""),
        ("my nets.py", ""),
        ("installed/wants/other.py", "import no_such_package\n"),
        ("ends.py", "import sys\nsys.exit(3)\n"),
        ("quits.py", "def net(num_classes): raise SystemExit('none left')\n"),
    ):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(content)
    with pytest.raises(ModelError, match=message):
        open_teacher(TeacherSettings(spec, device="cpu"), num_classes=10, view_size=(8, 8), stored=None)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    torch.save({"state_dict": {"module.other": torch.zeros(2)}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"1 name is missing \(centres\), 1 name is unexpected \(module\.other\)"):
        open_test_teacher(store, checkpoint=str(tmp_path / "other.pt"))
    torch.save({"model": {"centres": torch.zeros(7)}}, tmp_path / "small.pt")
    with pytest.raises(CheckpointError, match=r"centres is \(7,\), the model's is \(10,\)"):
        open_test_teacher(store, checkpoint=str(tmp_path / "small.pt"))
    with pytest.raises(TeacherError, match=r"absent \(.* has other\.pt"):
        open_test_teacher(store, checkpoint=str(tmp_path / "nothing.pt"))


@pytest.mark.parametrize("layout", ["bare", "model", "state_dict", "model_ema", "module.", "safetensors"])
def test_checkpoint_layouts(tmp_path: Path, layout: str) -> None:
    import torch
    from safetensors.torch import save_file

    store = bright_store(tmp_path)
    centres = torch.linspace(0, 1, 10)
    path = tmp_path / ("weights.safetensors" if layout == "safetensors" else "weights.pt")
    if layout == "safetensors":
        save_file({"centres": centres}, path)
    elif layout == "bare":
        torch.save({"centres": centres}, path)
    elif layout == "module.":
        torch.save({"state_dict": {"module.centres": centres}}, path)
    else:
        torch.save({layout: {"centres": centres}}, path)
    teacher = open_test_teacher(store, checkpoint=str(path))
    assert teacher.identity.weights_sha256 != open_test_teacher(store).identity.weights_sha256


# -- what it is given ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16, torch.float32])
def test_models_that_begin_with_a_convolution_are_given_what_it_casts_to_on_a_gpu(autocast: torch.dtype) -> None:
    for name in ("resnet18", "hf-hub:timm/resnet18.a1_in1k", "student.convnet:cifar_convnet"):
        assert images_dtype(name, autocast, torch.device("cuda", 0)) is autocast
        assert images_dtype(name, autocast, torch.device("cpu")) is torch.float32
    for unknown in ("my/file.py:model", "student.convnet:another", None):
        assert images_dtype(unknown, autocast, torch.device("cuda", 0)) is torch.float32


@pytest.mark.parametrize("model", ["resnet18", "deit_tiny_distilled_patch16_224"])
def test_under_autocast_images_that_are_cast_already_give_the_same_bits(model: str) -> None:
    torch.manual_seed(0)
    size = {"img_size": 32} if "deit" in model else {}
    module = timm.create_model(model, num_classes=5, **size).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(images), module(images.bfloat16()))


def test_a_file_may_have_dataclasses(tmp_path: Path) -> None:
    """Which look their module up by its name where annotations are strings."""
    for width in (2, 3):
        file = tmp_path / str(width) / "torch.py"  # whose name is another module's
        file.parent.mkdir()
        file.write_text(
            "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn\n\n"
            f"@dataclass\nclass Config:\n    width: int = {width}\n\n"
            "def model(num_classes):\n    return nn.Linear(Config().width, num_classes)\n"
        )
        module = build_module(ModelSpec(GivenModel(f"{file}:model")), 5, (8, 8))
        assert isinstance(module, nn.Linear)
        assert module.in_features == width


def test_a_file_is_run_as_it_is_whatever_bytecode_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python takes bytecode for current whose file has the second and size of now."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "own.py"
    for classes in (3, 5):
        file.write_text(f"import torch\n\ndef model():\n    return torch.nn.Linear(2, {classes})\n")
        os.utime(file, (1_000_000_000, 1_000_000_000))
        if classes == 3:
            py_compile.compile(str(file))
        module = build_module(ModelSpec(GivenModel(f"{file}:model")), classes, (8, 8))
        assert isinstance(module, nn.Linear)
        assert module.out_features == classes
    assert len(list(tmp_path.rglob("*.pyc"))) == 1  # the one that was made here
