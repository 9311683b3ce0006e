"""A file of a stranger's, of any kind, makes no code run and ends in one line, whatever stands in it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click import Group
from click.testing import CliRunner
from safetensors.torch import save_file

from student.cli import main as student
from student.model import build_model
from student.recipe import Recipe, load_recipe
from student.trained import build_trained, describe_trained, read_trained
from teacher_cache.cli import main as teacher_cache
from teacher_cache.errors import CheckpointError, ModelError, TeacherError
from teacher_cache.teacher.identity import TeacherIdentity
from teacher_cache.teacher.models import ModelSpec, build_module, import_function, load_module, pretrained_module
from teacher_cache.teacher.names import OWN_MODELS, GivenModel
from teacher_cache.teacher.settings import TeacherSettings
from teacher_cache.teacher.teacher import open_teacher
from tests.support.bright_shards import bright_store
from tests.support.small_runs import SMALL, train_small
from tests.support.small_runs import student as student_of
from tests.support.trained_files import DEIT_SETTINGS, checkpoint

PLAIN = ("model=student.convnet:small_convnet", "distill=none")


@pytest.fixture
def trap(tmp_path: Path) -> tuple[str, Path]:
    """Names a model in a file that leaves a mark when it is imported."""
    mark = tmp_path / "it-ran"
    file = tmp_path / "trap.py"
    file.write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\nfrom student.convnet import small_convnet as model\n"
    )
    return f"{file}:model", mark


def names(trap: tuple[str, Path]) -> list[str]:
    mark = trap[1]
    return [trap[0], "subprocess:getoutput", f"hf-hub:none/{mark.name}", "hf_hub:a/b", f"local-dir:{mark.parent}"]


def run(group: Group, *words: object) -> str:
    """The one line in which the command ends."""
    done = CliRunner().invoke(group, [str(word) for word in words])
    assert done.exit_code == 1, done.output
    assert done.output.count("\n") == 1, done.output
    return done.output


def test_a_checkpoint_names_no_code(tmp_path: Path, trap: tuple[str, Path]) -> None:
    path, _, _ = checkpoint(tmp_path, *PLAIN)
    content = torch.load(path)
    for name in names(trap):
        torch.save(content | {"recipe": content["recipe"] | {"model": name}}, path)
        for command in (["evaluate", "--val", __file__], ["export", "--format", "onnx", "--out", tmp_path / "o.onnx"]):
            said = run(student, *command, path)
            assert f"checkpoint.pt asks for the model '{name}': only the command line names code" in said
            assert f"add --model {name} if you trust it" in said
    assert not trap[1].exists()
    torch.save(content | {"recipe": content["recipe"] | {"model": trap[0]}}, path)
    build_trained(read_trained(str(path), model=trap[0]))  # consent
    assert trap[1].exists()


def test_a_safetensors_file_names_no_code(tmp_path: Path, trap: tuple[str, Path]) -> None:
    path, _, _ = checkpoint(tmp_path, *PLAIN)
    trained = read_trained(str(path))
    for name in names(trap):
        save_file(trained.state, tmp_path / "s.safetensors", describe_trained(trained) | {"model": name})
        said = run(student, "evaluate", tmp_path / "s.safetensors", "--val", __file__)
        assert f"s.safetensors asks for the model '{name}'" in said
    assert not trap[1].exists()


def test_a_recipe_and_its_base_name_no_code(tmp_path: Path, trap: tuple[str, Path]) -> None:
    store = bright_store(tmp_path)
    base, recipe = tmp_path / "base.toml", tmp_path / "mine.toml"
    train = ["train", store.path, "--out", tmp_path / "out", "--device", "cpu", "--workers", 0]
    settings = Path(SMALL).read_text().replace('model = "tests/support/students.py:two_heads"', "")
    recipe.write_text(f'base = "{base}"\n')
    for name in names(trap):
        base.write_text(f'model = "{name}"\n{settings}')
        for file in (base, recipe):
            said = run(student, *train, "--recipe", file)
            assert f"{file} asks for the model '{name}'" in said
            assert f"add --model {name} if you trust it" in said
    shown = CliRunner().invoke(student, ["recipes", "show", str(recipe)])  # to read it is no risk
    assert 'model = "local-dir:' in shown.output
    assert not trap[1].exists()
    for consent in ({"model": trap[0]}, {"overrides": [f"model={trap[0]}"]}, {"code": trap[0]}):
        assert type(load_recipe(str(recipe), **consent).model) is GivenModel
    assert load_recipe("deit_tiny", code=trap[0]).model == "deit_tiny_patch16_224", "code stands in for code alone"
    build_model(load_recipe(str(recipe), ["drop_path=none", "model_args={}"], model=trap[0]), 5, (16, 16))
    assert trap[1].exists()


def test_a_stores_teacher_names_no_code(trap: tuple[str, Path]) -> None:
    for name in names(trap):
        with pytest.raises(TeacherError, match=r"the store's teacher .*add --teacher "):
            open_teacher(
                TeacherSettings(device="cpu"), num_classes=10, view_size=(8, 8), stored=TeacherIdentity("t", spec=name)
            )
    assert not trap[1].exists()


def test_a_policy_names_no_code(tmp_path: Path, trap: tuple[str, Path]) -> None:
    policy = tmp_path / "mine.toml"
    text = load_text("deit")
    policy.write_text(f'{text}\n[own_operations]\nfunction = "{trap[0]}"\nsha256 = "{"0" * 64}"\nnames = ["Own"]\n')
    said = run(
        teacher_cache, "index", tmp_path / "x-{0..1}.tar", "--store", tmp_path / "s", "--policy", policy, "--views", 4
    )
    assert "has operations of its own" in said
    assert "give --ops FILE.py:" in said
    assert not trap[1].exists()


def load_text(name: str) -> str:
    import teacher_cache.replay.policy as policies

    return (Path(policies.__file__).with_name("policies") / f"{name}.toml").read_text()


def test_no_string_of_a_file_reaches_an_import(trap: tuple[str, Path]) -> None:
    """Where a reader forgets to look, the doors themselves refuse."""
    doors: tuple[Callable[[ModelSpec], object], ...] = (
        import_function,
        lambda spec: build_module(spec, 2, (8, 8)),
        lambda spec: load_module(spec, 2, (8, 8), checkpoint=None),
        lambda spec: pretrained_module(spec, "or walk"),
    )
    for door in doors:
        for name in names(trap):
            with pytest.raises(ModelError, match="only who runs the program names such"):
                door(ModelSpec(name))
    recipe = Recipe.from_json(load_recipe("deit_tiny").to_json() | {"model": trap[0]})
    with pytest.raises(ModelError, match=r"^model: .* only who runs the program names such"):
        build_model(recipe, 5, (16, 16))
    assert not trap[1].exists()
    assert all(callable(import_function(ModelSpec(name))) for name in OWN_MODELS)


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained", "pretrained_cfg", "cache_dir", "features_only"])
def test_arguments_of_timm_that_read_other_files_are_refused(tmp_path: Path, name: str) -> None:
    path, _, _ = checkpoint(tmp_path, *DEIT_SETTINGS)
    content = torch.load(path)
    content["recipe"]["model_args"][name] = str(tmp_path / "pickle.pth")
    torch.save(content, path)
    with pytest.raises(ModelError, match=rf"checkpoint\.pt: model: model_args {name} would make timm read other files"):
        build_trained(read_trained(str(path)))
    with pytest.raises(ModelError, match=f"^model: model_args {name} would make timm"):
        build_model(load_recipe("deit_tiny", [f"model_args.{name}=x"]), 5, (224, 224))
    for checkpoint_path in ("x", None):
        with pytest.raises(ModelError, match=f"^model_args {name} would make timm"):
            load_module(ModelSpec("resnet10t", {name: "x"}), 2, (8, 8), checkpoint_path)


WRONG: dict[str, Any] = {
    "class_names": [{"a": 1}, 7, "abc", [], ["a", 2]],
    "size": [[10**30, 8], [8], "ab", [-1, 8], None, [2**40, 2**40]],
    "mean": ["abc", [0.1, 0.2, "x"], [float("nan")] * 3, [1e999] * 3, 3],
    "std": [[0, 0, 0], None, {"r": 1}],
    "crop_pct": [0, -1, float("inf"), "1", [1]],
    "interpolation": ["nearest", 3, None, ["bicubic"]],
    "class_from": [3, ["cls"]],
    "recipe": [{}, {"name": 3}, {"name": "x", "epochs": 10**30}],
    "format": ["2", None, [2], 10**30],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_a_checkpoint_of_wrong_values_ends_in_one_line(tmp_path: Path, field: str, value: Any) -> None:
    content = torch.load(checkpoint(tmp_path, *PLAIN)[0])
    torch.save(content | {field: value}, tmp_path / "odd.pt")
    with pytest.raises((CheckpointError, ModelError), match=r"odd\.pt") as refused:
        build_trained(read_trained(str(tmp_path / "odd.pt")))
    assert len(str(refused.value)) < 2000
    torch.save({name: each for name, each in content.items() if name != field}, tmp_path / "odd.pt")
    if field not in ("class_from", "format"):
        with pytest.raises(CheckpointError, match=r"odd\.pt"):
            read_trained(str(tmp_path / "odd.pt"))


@pytest.mark.parametrize(
    ("field", "text"),
    [
        *(("num_classes", text) for text in ("-1", "0", "1e12", str(10**12), "9" * 5000, "NaN", "null", '"5"', "[5]")),
        *(("model_args", text) for text in ("[]", "3", "[" * 5000, '{"a": ' * 40 + "1" + "}" * 40, '"x"')),
        *(("size", text) for text in ("[1e999, 8]", "{}", "[8, 8", "", "\\ud800")),
        *(("class_names", text) for text in ('{"a": 1}', "[1]", '["\\ud800", "b", "c", "d", "e"]')),
        *(("recipe", text) for text in ("[]", '{"name": "x", "lr": 1e999}', "7")),
        ("model", ""),
    ],
)
def test_an_export_of_wrong_values_ends_in_one_line(tmp_path: Path, field: str, text: str) -> None:
    trained = read_trained(str(checkpoint(tmp_path, *PLAIN)[0]))
    path = tmp_path / "odd.safetensors"
    save_file(trained.state, path, describe_trained(trained) | {field: text})
    with pytest.raises((CheckpointError, ModelError), match=r"odd\.safetensors") as refused:
        build_trained(read_trained(str(path)))
    assert len(str(refused.value)) < 2000


@pytest.mark.parametrize(
    "arguments",
    [
        '{"embed_dim": 4294967296, "num_heads": 1}',
        '{"depth": "many"}',
        '{"act_layer": "os.system"}',
        '{"patch_size": 0}',
    ],
)
def test_a_model_that_cannot_be_built_ends_in_one_line(tmp_path: Path, arguments: str) -> None:
    trained = read_trained(str(checkpoint(tmp_path, *DEIT_SETTINGS)[0]))
    path = tmp_path / "odd.safetensors"
    save_file(trained.state, path, describe_trained(trained) | {"model_args": arguments})
    with pytest.raises(ModelError, match=r"odd\.safetensors: model: .*check model_args"):
        build_trained(read_trained(str(path)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100000,
        '{"accuracy": []}',
        '{"accuracy": {"class": 3}}',
        '{"accuracy": {"x": {}}}',
        '{"accuracy": {"class": {"top1": "a", "top5": 1}}}',
        '{"accuracy": {"class": {"top1": NaN, "top5": 1}}}',
        '{"accuracy": {"class": {"top1": 0.5}}}',
        '{"accuracy": 1' + "0" * 5000 + "}",
        "\x00",
        "ÿ",
    ],
)
def test_results_of_strangers_end_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text, encoding="latin-1")
    assert run(student, "results", tmp_path).startswith(f"error: {tmp_path}/results.json ")


@pytest.mark.parametrize("part", ["model", "optimizer", "generators", "sums", "views_drifted"])
def test_a_checkpoint_that_a_run_cannot_take_up_ends_in_one_line(tmp_path: Path, part: str) -> None:
    store, out = bright_store(tmp_path), tmp_path / "out"
    settings = ("epochs=1", "distill=none", "ema=none", "model_args={}", student_of("one_head"))
    train_small(store, out, *settings)
    content = torch.load(out / "checkpoint.pt")
    for value in (None, {"x": 3}, [[1.0]]):
        torch.save(content | {part: value}, out / "checkpoint.pt")
        with pytest.raises(CheckpointError, match="holds a checkpoint that this run cannot take up"):
            train_small(store, out, *settings)


def test_results_name_no_code(tmp_path: Path, trap: tuple[str, Path]) -> None:
    found = {"recipe": {"model": trap[0]}, "accuracy": {"class": {"top1": 0.5, "top5": 1}}}
    (tmp_path / "results.json").write_text(json.dumps(found))
    done = CliRunner().invoke(student, ["results", str(tmp_path)])
    assert (done.exit_code, trap[1].exists()) == (0, False)
