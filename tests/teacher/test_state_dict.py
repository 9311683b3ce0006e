"""Weights as people have them: each kind of file, made as elsewhere, loads to the model that it was made of."""

import argparse
import copy
import functools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from student.trained import build_trained, read_trained
from teacher_cache.errors import CheckpointError
from teacher_cache.teacher.models import ModelSpec, load_module
from teacher_cache.teacher.names import GivenModel
from teacher_cache.teacher.settings import TeacherSettings
from teacher_cache.teacher.state_dict import first_not_finite, load_state, load_weights
from teacher_cache.teacher.teacher import open_teacher

NAME = "test_resnet"  # of timm, half a million weights
CLASSES = 3
Change = Callable[[dict[str, Tensor]], Any]


def convnet(seed: int = 0) -> nn.Module:
    """A convnet with batch normalisations that have counted, under weights of its own."""
    return copy.deepcopy(drawn_convnet(seed))


@functools.cache
def drawn_convnet(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = timm.create_model(NAME, num_classes=CLASSES).train()
    with torch.no_grad():
        model(torch.randn(4, 3, 32, 32))
    return model.eval()


def by_student(path: Path, ema: bool = False) -> tuple[nn.Module, tuple[str, ...]]:
    trained = read_trained(str(path), model=NAME, ema=ema)
    return build_trained(trained), trained.notes


def by_teacher(path: Path) -> tuple[nn.Module, tuple[str, ...]]:
    notes: list[str] = []
    model = load_module(ModelSpec(GivenModel(NAME)), CLASSES, (32, 32), str(path), notes.append)
    return model.eval(), tuple(notes)


DOORS = [by_student, by_teacher]


def plain(state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Without torch's notes of versions, as its first releases wrote it."""
    return OrderedDict(state.items())


def before_the_counter(state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    return OrderedDict((name, value) for name, value in state.items() if not name.endswith("num_batches_tracked"))


def prefixed(prefix: str) -> Change:
    return lambda state: {f"{prefix}{name}": value for name, value in state.items()}


def with_thop(state: dict[str, Tensor]) -> dict[str, Tensor]:
    modules = {name.rpartition(".")[0] for name in state} | {""}
    counted = {
        f"{module}.{counter}".lstrip("."): torch.zeros(1, dtype=torch.float64)
        for module in modules
        for counter in ("total_ops", "total_params")
    }
    return {**state, **counted}


def renamed(old: str, new: str) -> Change:
    return lambda state: {name.replace(f"{old}.", f"{new}."): value for name, value in state.items()}


# how a file is made of a state dict; whether the two doors have something to say
FILES: dict[str, tuple[Change, str | None]] = {
    "bare": (lambda state: state, None),
    "2018, bare": (before_the_counter, None),
    "2018, DataParallel": (lambda state: prefixed("module.")(before_the_counter(state)), None),
    "without notes of versions": (plain, None),
    "DDP": (prefixed("module."), None),
    "compiled": (prefixed("_orig_mod."), None),
    "DDP around compiled": (prefixed("module._orig_mod."), None),
    "compiled around DDP": (lambda state: {"model": prefixed("_orig_mod.module.")(state)}, None),
    "a part compiled": (renamed("layer1", "layer1._orig_mod"), None),
    "released, as DeiT's": (lambda state: {"model": state}, None),
    "training, as DeiT's": (
        lambda state: {
            "model": state,
            "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]},
            "epoch": 3,
            "scaler": {},
            "args": argparse.Namespace(lr=1e-3, data_path=Path("/data"), dist_url="env://"),
        },
        None,
    ),
    "training, as timm's": (
        lambda state: {"epoch": 3, "arch": NAME, "state_dict": state, "version": 2, "args": argparse.Namespace(lr=1)},
        None,
    ),
    "Lightning, model.": (
        lambda state: {"state_dict": prefixed("model.")(state), "pytorch-lightning_version": "2.4.0", "loops": {}},
        None,
    ),
    "Lightning, net. compiled": (lambda state: {"state_dict": prefixed("net._orig_mod.")(state)}, None),
    "Lightning, a loss beside": (
        lambda state: {"state_dict": {**prefixed("model.")(state), "criterion.weight": torch.ones(CLASSES)}},
        r"the model is what stands under model\. there; left out: 1 name beside it \(criterion\.weight\)",
    ),
    "Lightning, an average beside": (
        lambda state: {"state_dict": {**prefixed("model.")(state), **prefixed("ema_model.")(state)}},
        r"under model\. there; left out: \d+ names beside it \(ema_model.*, ema_model.* and \d+ more\)",
    ),
    "an average, as torch's": (
        lambda state: {"model": {**prefixed("module.")(state), "n_averaged": torch.tensor(4)}},
        r"left out: 1 counter beside the weights \(n_averaged\)",
    ),
    "counted by thop": (with_thop, r"left out: \d+ counters beside the weights \(.*total_ops.* and \d+ more\)"),
    "half": (
        lambda state: {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
        "weights are stored as float16, the model runs in float32$",
    ),
    "bfloat16, counters too": (
        lambda state: {"state_dict": {name: value.bfloat16() for name, value in state.items()}},
        "weights are stored as bfloat16, the model runs in float32$",
    ),
    "a head of another name": (renamed("fc", "head.classifier"), "its head is called head.classifier, the model's fc"),
    "a head of another name and number": (
        lambda state: renamed("fc", "last_linear")(before_the_counter(state)),
        "its head is called last_linear, the model's fc",
    ),
    "double": (
        lambda state: {name: value.double() if value.is_floating_point() else value for name, value in state.items()},
        "weights are stored as float64, the model runs in float32$",
    ),
}


def check_same(found: nn.Module, expected: nn.Module, content: Any) -> None:
    """That two models have equal weights, but for rounding in a file of less precision and an old one's counters."""
    state, wanted = found.state_dict(), expected.state_dict()
    assert not found.training
    flat = {**content, **{k: v for value in content.values() if isinstance(value, dict) for k, v in value.items()}}
    dtypes = {value.dtype for value in flat.values() if isinstance(value, Tensor) and value.is_floating_point()}
    counted = any(str(name).endswith("num_batches_tracked") for name in flat)
    for name, value in wanted.items():
        if name.endswith("num_batches_tracked"):
            assert value == 1
            assert state[name] == (1 if counted else 0)
            continue
        assert state[name].dtype == torch.float32
        rounded = value.to(min(dtypes, key=lambda dtype: torch.finfo(dtype).bits)).float()
        assert torch.equal(state[name], rounded), name


def written(content: Any, path: Path, kind: str) -> Path:
    """The file as torch writes it now, as it did before 1.6, or as safetensors."""
    if kind == "safetensors":
        path = path.with_name("model.safetensors")
        save_file({name: value.clone() for name, value in content.items()}, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    return path


KINDS = [
    *((file, "zip") for file in FILES),
    *((file, "before zips") for file in ("bare", "2018, bare", "2018, DataParallel", "training, as DeiT's")),
    *((file, "safetensors") for file in ("bare", "2018, bare", "DDP", "half", "a head of another name")),
]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("file", "kind"), KINDS)
def test_files_as_people_have_them(tmp_path: Path, file: str, kind: str, door: Any) -> None:
    model = convnet()
    change, said = FILES[file]
    content = change(model.state_dict())
    path = written(content, tmp_path / ("model.ckpt" if "Lightning" in file else "model_best.pth.tar"), kind)
    found, notes = door(path)
    check_same(found, model, content)
    assert len(notes) == (said is not None)
    assert all(note.startswith(f"{path}: ") and re.search(str(said), note) for note in notes), notes


def test_what_torch_itself_loads_and_refuses_by_its_notes_of_versions(tmp_path: Path) -> None:
    """A counter that is absent although the file is of a version that has it is missing, under any prefix."""
    model = convnet()
    whole = model.state_dict()
    for prefix in ("", "module.", "module._orig_mod."):
        state = OrderedDict((f"{prefix}{name}", value) for name, value in before_the_counter(whole).items())
        state._metadata = {f"{prefix}{module}".rstrip("."): notes for module, notes in whole._metadata.items()}
        torch.save(state, tmp_path / "torn.pth")
        message = r"does not fit: 1\d names are missing \(.*num_batches_tracked, .*num_batches_tracked and \d+ more\): "
        for door in DOORS:
            with pytest.raises(CheckpointError, match=message):
                door(tmp_path / "torn.pth")
        for notes in state._metadata.values():
            notes["version"] = 1  # as before the counter
        torch.save(state, tmp_path / "old.pth")
        for door in DOORS:
            check_same(door(tmp_path / "old.pth")[0], model, state)
            whole = model.state_dict()


@pytest.mark.parametrize(
    "notes",
    [7, {"bn1": 3}, {"bn1": {"version": "x"}}, {"conv1.0": {"assign_to_params_buffers": True}}, {3: {"version": 2}}],
)
def test_a_strangers_notes_end_in_one_line_or_change_nothing(tmp_path: Path, notes: Any) -> None:
    model = convnet()
    state = OrderedDict(
        (name, value.half() if name == "conv1.0.weight" else value)
        for name, value in before_the_counter(model.state_dict()).items()
    )
    state._metadata = notes
    torch.save(state, tmp_path / "odd.pth")
    for door in DOORS:
        if notes == {"bn1": {"version": "x"}}:
            with pytest.raises(CheckpointError, match=r"odd\.pth cannot be loaded into test_resnet .*: check the file"):
                door(tmp_path / "odd.pth")
        else:
            assert {value.dtype for value in door(tmp_path / "odd.pth")[0].parameters()} == {torch.float32}


# -- names that are not the wrappers' ------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """A model of one's own whose names all begin as a wrapper's do."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "model."])
def test_a_model_whose_own_names_begin_as_a_wrappers(tmp_path: Path, prefix: str) -> None:
    model, fresh = Wrapped(), Wrapped()
    torch.save({"state_dict": prefixed(prefix)(model.state_dict())}, tmp_path / "own.pth")
    assert load_weights(fresh, str(tmp_path / "own.pth"), "own.py:wrapped") == []
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_file_that_holds_the_model_twice_is_refused(tmp_path: Path) -> None:
    state = convnet().state_dict()
    torch.save({**prefixed("student.")(state), **prefixed("teacher.")(state)}, tmp_path / "both.pth")
    for door in DOORS:
        with pytest.raises(
            CheckpointError, match=r"holds the model 2 times, under student\., teacher\.: save the wanted one alone"
        ):
            door(tmp_path / "both.pth")
    name = "conv1.0.weight"
    torch.save({**state, f"_orig_mod.{name}": state[name]}, tmp_path / "both.pth")
    for door in DOORS:
        with pytest.raises(
            CheckpointError, match=rf"holds {name} twice, once as _orig_mod\.{name}: save one of the two"
        ):
            door(tmp_path / "both.pth")


def test_heads_that_cannot_be_told_are_not_renamed(tmp_path: Path) -> None:
    state = convnet().state_dict()
    without = {name: value for name, value in state.items() if not name.startswith("fc.")}
    two = {f"{head}.{part}": state[f"fc.{part}"] for head in ("head", "aux") for part in ("weight", "bias")}
    torch.save({**without, **two}, tmp_path / "two.pth")
    wide = {"head.weight": torch.zeros(CLASSES, 7), "head.bias": torch.zeros(CLASSES)}
    torch.save({**without, **wide}, tmp_path / "wide.pth")
    for name, unexpected in (("two", 4), ("wide", 2)):
        with pytest.raises(
            CheckpointError, match=rf"2 names are missing \(fc.*\), {unexpected} names? (is|are) unexpected \("
        ):
            by_teacher(tmp_path / f"{name}.pth")
        with pytest.raises(
            CheckpointError, match=r"holds no fc\.weight, from which the number of classes of test_resnet"
        ):
            by_student(tmp_path / f"{name}.pth")


def test_a_few_names_in_common_make_no_wrapper(tmp_path: Path) -> None:
    torch.save({"backbone.fc.weight": torch.zeros(3, 96), "backbone.fc.bias": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(
        CheckpointError, match=r"names are missing .*, 2 names are unexpected \(backbone\.fc\.weight, backbone"
    ):
        by_teacher(tmp_path / "other.pth")


# -- refusals ------------------------------------------------------------------------------------------------------


def test_misfits_are_named_as_torch_names_them(tmp_path: Path) -> None:
    state = convnet().state_dict()
    gone = [name for name in state if name.startswith("layer1.0.conv1")]
    content = {name: value for name, value in state.items() if name not in gone}
    content |= {f"extra.{number}": torch.zeros(1) for number in range(5)}
    content |= {name: torch.zeros(9) for name in ("bn1.weight", "bn1.bias", "layer1.0.bn1.weight", "layer1.0.bn1.bias")}
    torch.save(content, tmp_path / "other.pth")
    own = timm.create_model(NAME, num_classes=CLASSES)
    with pytest.raises(RuntimeError) as torchs:
        own.load_state_dict(content, strict=True)
    for door in DOORS:
        with pytest.raises(CheckpointError) as refused:
            door(tmp_path / "other.pth")
        said = str(refused.value)
        assert (
            "does not fit: 1 name is missing (layer1.0.conv1.weight), 5 names are unexpected (extra.0, extra.1, "
            in said
        )
        assert "extra.2 and 2 more), 4 names are of another shape (bn1.weight is (9,), the model's is (32,), " in said
        assert said.endswith(" and 1 more): check the model's name, test_resnet")
        assert all(name in str(torchs.value) for name in re.findall(r"extra\.\d|layer1\.\S+?weight|bn1\.\w+", said))
        assert len(said) < 700


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_pickled_model_says_how_it_becomes_weights(tmp_path: Path, zipped: bool) -> None:
    model = convnet()
    path = tmp_path / "whole.pth"
    torch.save(model, path, _use_new_zipfile_serialization=zipped)
    for door in DOORS:
        with pytest.raises(CheckpointError, match="is a whole pickled model: to read it would run code") as refused:
            door(path)
        assert "\n" not in str(refused.value)
    (line,) = re.findall(r"saves its weights once, (torch\.save\(.*\))$", str(refused.value))
    exec(line.replace("'weights.pt'", repr(str(tmp_path / "weights.pt"))), {"torch": torch})
    check_same(by_teacher(tmp_path / "weights.pt")[0], model, model.state_dict())


class Hyper:
    """What Lightning keeps of a model's arguments may be anything."""


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_with_objects_in_it_says_how_it_becomes_weights(tmp_path: Path, zipped: bool) -> None:
    model = convnet()
    path = tmp_path / "lightning.ckpt"
    content = {"state_dict": prefixed("model.")(model.state_dict()), "hyper_parameters": Hyper()}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    message = r"is more than plain weights: to read it would run code \(tests\.teacher\.test_state_dict\.Hyper\)"
    for door in DOORS:
        with pytest.raises(CheckpointError, match=message) as refused:
            door(path)
    (line,) = re.findall(r"once, (torch\.save\(.*\)), where KEY is that of the weights, and", str(refused.value))
    line = line.replace("'weights.pt'", repr(str(tmp_path / "weights.pt")))
    exec(line, {"torch": torch, "KEY": "state_dict"})
    check_same(by_student(tmp_path / "weights.pt")[0], model, content)


@pytest.mark.parametrize("kind", ["zip", "before zips"])
def test_a_dictionary_with_a_whole_model_in_it_says_so(tmp_path: Path, kind: str) -> None:
    for content in ({"model": nn.Linear(2, 2)}, OrderedDict(model=nn.Linear(2, 2))):
        path = written(content, tmp_path / "yolo.pt", kind)
        with pytest.raises(CheckpointError, match=r"\[KEY\], .* and \.state_dict\(\) follows it if they are a whole"):
            by_teacher(path)


@pytest.mark.parametrize("operations", [b"", b"(", b"2" * 9, b"\x95\xff"])
def test_a_pickle_of_odd_operations_runs_nothing_and_ends_in_one_line(tmp_path: Path, operations: bytes) -> None:
    """Asked for a global that is not allowed, before or after operations that no pickler writes."""
    path = tmp_path / "odd.pth"
    torch.save({"model": {}}, path)
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    for pickled in (b"\x80\x02" + operations + b"cos\nsystem\n.", b"cos\nsystem\n" + operations):
        with zipfile.ZipFile(path, "w") as archive:
            for name, value in members.items():
                archive.writestr(name, pickled if name.endswith("data.pkl") else value)
        for door in DOORS:
            with pytest.raises(CheckpointError, match=r"odd\.pth ") as refused:
                door(path)
            assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("page.pth", b"<!DOCTYPE html>", "begins with b'<!DOCTYPE html>', as no file of torch.save does"),
        ("pointer.bin", b"version https://git-lfs.github.com/spec/v1", "begins with b'version https://git-lfs"),
        (
            "graph.onnx",
            b"\x08\x0a",
            "is an exported graph: give the checkpoint, or the .safetensors file, it was made of",
        ),
        ("graph.pt2", b"PK", "is an exported graph"),
        ("empty.pth", b"", "begins with b''"),
        ("cut.pth", b"\x80\x02\x8a", r"cannot be read as plain weights \(.*\): copy it again"),
    ],
)
def test_what_is_no_file_of_torchs_says_what_it_is(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    for door in DOORS:
        with pytest.raises(CheckpointError, match=message) as refused:
            door(tmp_path / name)
        assert "weights_only" not in str(refused.value)


def test_a_torchscript_archive_says_how_it_becomes_weights(tmp_path: Path) -> None:
    path = tmp_path / "scripted.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    with pytest.raises(CheckpointError, match=r"is a TorchScript archive, .*torch\.jit\.load\('.*'\)\.state_dict\(\)"):
        by_teacher(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    for name in ("layer2.0.conv2.weight", "bn1.running_var" if "bn1.running_var" in convnet().state_dict() else ""):
        state = convnet().state_dict()
        state[name].view(-1)[-1] = value
        torch.save(state, tmp_path / "ruined.pth")
        for door in DOORS:
            with pytest.raises(CheckpointError, match=rf"holds numbers that are not finite, first in {name}: "):
                door(tmp_path / "ruined.pth")


def test_a_mask_of_the_models_own_may_be_infinite() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    load_state(model, model.state_dict(), "a file", "masked")
    with pytest.raises(CheckpointError, match="not finite, first in bias"):
        load_state(model, {**model.state_dict(), "bias": torch.tensor([0, torch.nan])}, "a file", "masked")
    assert first_not_finite(model.state_dict()) == "mask"


DISTILLED, PLAIN = "deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224"


@pytest.mark.parametrize(("held", "named"), [(DISTILLED, PLAIN), (PLAIN, DISTILLED)])
def test_distilled_weights_and_plain_ones_are_told_apart(tmp_path: Path, held: str, named: str) -> None:
    state = timm.create_model(held, num_classes=CLASSES).state_dict()
    torch.save({"model": state}, tmp_path / "deit.pth")
    kinds = ["distilled" if "distilled" in name else "plain" for name in (held, named)]
    message = (
        rf"holds the weights of a {kinds[0]} model \(with(out)? a distillation token, dist_token\), {named} is a "
        rf"{kinds[1]} one: name the model {held}$"
    )
    with pytest.raises(CheckpointError, match=message):
        build_trained(read_trained(str(tmp_path / "deit.pth"), model=named))
    with pytest.raises(CheckpointError, match=message):
        load_module(ModelSpec(GivenModel(named)), CLASSES, (224, 224), str(tmp_path / "deit.pth"))


def test_1001_classes_are_told_from_1000(tmp_path: Path) -> None:
    torch.save(timm.create_model(NAME, num_classes=1001).state_dict(), tmp_path / "tf.pth")
    settings = TeacherSettings(NAME, str(tmp_path / "tf.pth"), device="cpu")
    with pytest.raises(CheckpointError, match=r"fc\.weight is \(1001, 96\).* behind a background class") as refused:
        open_teacher(settings, num_classes=1000, view_size=(32, 32), stored=None)
    assert str(refused.value).endswith("cut the first row of its head, weight[1:] and bias[1:], and save it again")
    with pytest.raises(CheckpointError, match="does not fit") as refused:
        open_teacher(settings, num_classes=999, view_size=(32, 32), stored=None)
    assert "background" not in str(refused.value)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": "no tensor", "bias": torch.zeros(1)}, r"holds no state dict.*\(found weight\)"),
        ({"weight": torch.zeros(1, 2, device="meta"), "bias": torch.zeros(1)}, "weight is no plain tensor"),
        ({"weight": torch.zeros(1, 2, dtype=torch.complex64), "bias": torch.zeros(1)}, "weight is torch.complex64"),
        ({"weight": torch.zeros(1, 2), "bias": torch.zeros(1), 7: torch.zeros(1)}, r"1 name is unexpected \(7\)"),
        ({}, "holds no state dict"),
    ],
)
def test_what_is_no_weight_is_refused(tmp_path: Path, state: dict[Any, Any], message: str) -> None:
    torch.save({"model": state}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=message):
        load_weights(nn.Linear(2, 1), str(tmp_path / "odd.pt"), "linear")
