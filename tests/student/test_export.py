"""Exported files give what PyTorch gives, say what they are, and are whole or absent."""

import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import safetensors
import timm
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from student import export as exporting
from student.cli import main
from student.export import METADATA, export, timm_arguments, timm_call
from student.model import heads
from student.trained import TrainedModel, build_trained, read_trained
from teacher_cache.errors import CheckpointError
from teacher_cache.teacher.weights import DIGEST, content_sha256
from tests.support.small_runs import read_own, student
from tests.support.trained_files import DEIT, NAMES, checkpoint, filled, pth

DISTILLED = (f"model={DEIT}", "model_args={patch_size=8, embed_dim=24, depth=1, num_heads=3}")
SINGLE = ("model=deit_tiny_patch16_224", *DISTILLED[1:], "distill=none")
SEEN = {
    "size": [16, 24],
    "crop_pct": 0.95,
    "interpolation": "bilinear",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.25, 0.3],
}


@pytest.fixture(scope="module", autouse=True)
def _operations_are_listed_once() -> Iterator[None]:
    """torch lists ONNX's operations anew for each export, by reading the sources of a thousand functions."""
    with pytest.MonkeyPatch.context() as patch:
        listed = functools.cache(ONNXRegistry.from_torchlib)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(listed))
        yield


def images(number: int) -> Tensor:
    return torch.randn(number, 3, 16, 24, generator=torch.Generator().manual_seed(number))


@torch.no_grad()
def expected(model: nn.Module, outputs: str, fusion: str, shown: Tensor) -> list[Tensor]:
    said = heads(model, shown)
    both = [logits for logits in (said.class_logits, said.distill_logits) if logits is not None]
    if outputs == "heads":
        return both
    if fusion == "logit_mean":
        return [torch.stack(both).mean(0)]
    return [torch.stack([logits.softmax(1) for logits in both]).sum(0)]


def assert_equal(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert [output.shape for output in found] == [output.shape for output in wanted]
    for output, other in zip(found, wanted, strict=True):
        assert (output - other).abs().max() < 1e-4
        assert other.std() > 1e-3, "the outputs are all alike: the test shows little"


def read(folder: Path, *settings: str, ema: bool = False) -> tuple[TrainedModel, nn.Module]:
    path, raw, average = checkpoint(folder, *settings, ema=ema)
    for model in (raw, average):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.mul_(5 if "head" in name else 1)
    content = torch.load(path) | {"model": raw.state_dict()}
    torch.save(content | ({"model_ema": average.state_dict()} if ema else {}), path)
    return read_own(path, ema=ema), average if ema else raw


# -- graphs --------------------------------------------------------------------------------------------------------

GRAPHS: list[tuple[tuple[str, ...], str, Any, list[str]]] = [
    (DISTILLED, "fused", "softmax_sum", ["scores"]),
    (DISTILLED, "heads", "softmax_sum", ["class_logits", "distillation_logits"]),
    ((student("two_heads"),), "fused", "logit_mean", ["scores"]),
    ((student("one_head"), "distill=none"), "fused", "softmax_sum", ["scores"]),
    ((student("one_head"), "distill=none"), "fused", "logit_mean", ["scores"]),
    ((student("one_head"), "distill=none"), "heads", "softmax_sum", ["class_logits"]),
]


@pytest.mark.parametrize(("settings", "outputs", "fusion", "names"), GRAPHS)
def test_onnx(tmp_path: Path, settings: tuple[str, ...], outputs: Any, fusion: Any, names: list[str]) -> None:
    if torch.__version__.startswith("2.6.") and settings != DISTILLED:
        pytest.skip("torch 2.6 does not write a batch norm by the onnxscript of today, and says so")
    trained, model = read(tmp_path, *settings)
    written = export(trained, tmp_path / "out.onnx", "onnx", outputs=outputs, fusion=fusion)
    assert written.outputs == tuple(names)
    assert written.difference is not None
    assert written.difference < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == ["images"]
    assert [output.name for output in session.get_outputs()] == names
    for number in (1, 2, 5):
        found = [torch.from_numpy(output) for output in session.run(None, {"images": images(number).numpy()})]
        assert_equal(found, expected(model, outputs, fusion, images(number)))
    metadata = session.get_modelmeta().custom_metadata_map
    assert {name: metadata[name] if name == "interpolation" else json.loads(metadata[name]) for name in SEEN} == SEEN
    assert json.loads(metadata["class_names"]) == NAMES
    assert json.loads(metadata["outputs"]) == names
    assert metadata.get("fusion") == (fusion if outputs == "fused" else None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "out.onnx"]


@pytest.mark.parametrize(("settings", "outputs", "fusion", "names"), [GRAPHS[0], GRAPHS[2], GRAPHS[5]])
def test_torch_export(tmp_path: Path, settings: tuple[str, ...], outputs: Any, fusion: Any, names: list[str]) -> None:
    trained, model = read(tmp_path, *settings, ema=True)
    written = export(trained, tmp_path / "out.pt2", "torch-export", outputs=outputs, fusion=fusion)
    assert written.outputs == tuple(names)
    extra = {METADATA: ""}
    graph = torch.export.load(tmp_path / "out.pt2", extra_files=extra).module()
    for number in (1, 2, 5):
        with torch.no_grad():
            assert_equal(list(graph(images(number))), expected(model, outputs, fusion, images(number)))
    metadata = json.loads(extra[METADATA])
    assert json.loads(metadata["size"]) == SEEN["size"]
    assert (metadata["weights"], json.loads(metadata["outputs"])) == ("ema", names)


def untraceable(self: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    return (images.flatten(1)[:, :5] * (2 if images.sum() > 0 else 3),)


def without_words(self: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    return (torch.linalg.svdvals(images.flatten(2))[:, :5],)


@pytest.mark.parametrize(
    ("file_format", "ending", "forward", "message"),
    [
        (
            "torch-export",
            ".pt2",
            untraceable,
            r"torch\.export cannot follow what .*data-dependent.*: write --format safetensors",
        ),
        (
            "onnx",
            ".onnx",
            without_words,
            r"torch\.onnx cannot write what .*\(.*svd.*\): install a newer torch, or write --format",
        ),
    ],
)
def test_a_model_that_a_format_cannot_express(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: Any, ending: str, forward: Any, message: str
) -> None:
    trained, _ = read(tmp_path, student("one_head"), "distill=none")
    monkeypatch.setattr(exporting.Graph, "forward", forward)
    with pytest.raises(CheckpointError, match=message) as error:
        export(trained, tmp_path / f"out{ending}", file_format)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("out*"))


# -- safetensors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("settings", [DISTILLED, SINGLE])
def test_timm_loads_safetensors_strictly(tmp_path: Path, settings: tuple[str, ...], ema: bool) -> None:
    trained, model = read(tmp_path, *settings, ema=ema)
    written = export(trained, tmp_path / "out.safetensors", "safetensors")
    assert written.difference == 0
    arguments = {"num_classes": 5, "img_size": (16, 24), "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}
    assert timm_arguments(trained) == arguments
    theirs = timm.create_model(trained.model, checkpoint_path=str(tmp_path / "out.safetensors"), **arguments).eval()
    with torch.no_grad():
        assert (theirs(images(3)) - model(images(3))).abs().max() < 1e-5  # of two heads timm gives the mean
    called = eval(timm_call(trained, tmp_path / "out.safetensors"), {"timm": timm}).eval()
    with torch.no_grad():
        assert torch.equal(called(images(3)), theirs(images(3)))
    with pytest.raises(RuntimeError, match="Missing key"):
        timm.create_model(trained.model, checkpoint_path=str(tmp_path / "out.safetensors"), **{**arguments, "depth": 2})
    with safetensors.safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata()["weights"] == ("ema" if ema else "raw")
    assert (tmp_path / "out.safetensors").stat().st_mode & 0o777 == (tmp_path / "checkpoint.pt").stat().st_mode & 0o777


def test_what_was_exported_is_read_again(tmp_path: Path) -> None:
    for settings in (DISTILLED, (student("two_heads"),)):
        trained, model = read(tmp_path, *settings)
        export(trained, tmp_path / "out.safetensors", "safetensors", force=True)
        again = read_trained(str(tmp_path / "out.safetensors"), model=trained.model)
        assert (again.recipe, again.preprocessing, again.class_names) == (
            trained.recipe,
            trained.preprocessing,
            trained.class_names,
        )
        found = expected(build_trained(again), "heads", "", images(2))
        assert all(
            torch.equal(one, two) for one, two in zip(found, expected(model, "heads", "", images(2)), strict=True)
        )


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    model = filled(timm.create_model(DEIT, img_size=32, num_classes=6))
    released = pth("model")(model.state_dict(), tmp_path)
    out = tmp_path / "new" / "out.safetensors"
    options = [str(released), "--model", DEIT, "--format", "safetensors", "--out", str(out)]
    done = CliRunner().invoke(main, ["export", *options])
    assert done.exit_code == 0, done.output
    compared = "read back by timm.create_model, largest difference 0 at batches of 1 and 3"
    assert done.output.splitlines() == [f"wrote {out}; {compared}", timm_call(read_trained(str(out)), out)]
    assert read_trained(str(out)).preprocessing.size == (32, 32)


def test_the_recipes_fusion_is_the_default(tmp_path: Path) -> None:
    read(tmp_path, student("two_heads"), "fusion=logit_mean")
    command = ["export", str(tmp_path / "checkpoint.pt"), "--format", "torch-export"]
    command += ["--model", student("two_heads").removeprefix("model=")]
    for options, fusion in (([], "logit_mean"), (["--fusion", "softmax_sum"], "softmax_sum")):
        done = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "out.pt2"), "--force", *options])
        assert done.exit_code == 0, done.output
        assert f"wrote {tmp_path / 'out.pt2'} (scores); read back by torch.export.load" in done.output
        extra = {METADATA: ""}
        torch.export.load(tmp_path / "out.pt2", extra_files=extra)
        assert json.loads(extra[METADATA])["fusion"] == fusion


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> TrainedModel:
    return read(tmp_path, student("plain"))[0]


def test_a_file_that_differs_is_not_published(
    tmp_path: Path, small: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = exporting.save
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"an earlier one")

    def wrong(state: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
        other = {name: value + (1e-3 if name == "heads.1.bias" else 0) for name, value in state.items()}
        return whole(other, metadata | {DIGEST: content_sha256(other, metadata)})

    monkeypatch.setattr(exporting, "save", wrong)
    with pytest.raises(CheckpointError, match=r"not written: read back, it differs from PyTorch by 0\.001, 1e-05"):
        export(small, out, "safetensors", force=True)
    assert out.read_bytes() == b"an earlier one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "out.safetensors"]


@pytest.mark.parametrize(("file_format", "name"), [("onnx", "out.onnx"), ("torch-export", "out.pt2")])
def test_a_graph_that_differs_is_not_published(
    tmp_path: Path, small: TrainedModel, monkeypatch: pytest.MonkeyPatch, file_format: Any, name: str
) -> None:
    captured = exporting.captured

    def wrong(graph: exporting.Graph, trained: TrainedModel) -> Any:
        return captured(exporting.Graph(graph.model, "fused", "logit_mean").eval(), trained)

    monkeypatch.setattr(exporting, "captured", wrong)
    with pytest.raises(CheckpointError, match=r"was not written: read back by .*, it differs from PyTorch by"):
        export(small, tmp_path / name, file_format)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize(("file_format", "ending"), [("safetensors", "safetensors"), ("onnx", "onnx")])
def test_a_model_whose_outputs_are_no_numbers_is_not_written(
    tmp_path: Path, small: TrainedModel, file_format: Any, ending: str
) -> None:
    for name in ("features.0.weight", "heads.1.weight"):
        small.state[name].mul_(1e30)  # finite, but their product is not
    message = (
        r"checkpoint\.pt: the distillation head's logits are not finite for image 0 of 3 random ones, so its weights"
    )
    with pytest.raises(CheckpointError, match=message):
        export(small, tmp_path / f"out.{ending}", file_format)
    small.state["heads.0.bias"][2] = torch.nan
    with pytest.raises(CheckpointError, match=r"numbers that are not finite, first in heads\.0\.bias: "):
        export(small, tmp_path / f"out.{ending}", file_format)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["safetensors", "--outputs", "heads"], "--outputs and --fusion are for graphs, --format safetensors holds"),
        (["safetensors", "--fusion", "logit_mean"], "--outputs and --fusion are for graphs, --format safetensors"),
        (["onnx", "--outputs", "heads", "--fusion", "logit_mean"], "--fusion is for --outputs fused: with heads each"),
    ],
)
def test_what_would_change_nothing_is_refused(tmp_path: Path, words: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["export", "c.pt", "--out", str(tmp_path / "out"), "--format", *words])
    assert done.exit_code == 2
    assert said in done.output


def test_what_is_there_is_not_written_over_unasked(tmp_path: Path) -> None:
    read(tmp_path, *SINGLE)
    out = tmp_path / "out.safetensors"
    command = ["export", str(tmp_path / "checkpoint.pt"), "--format", "safetensors", "--out", str(out)]

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, [*command, *words])
        return done.exit_code, done.output

    for kind in ("text", "link to nothing"):
        out.write_text("an earlier one") if kind == "text" else out.symlink_to(tmp_path / "nothing")
        assert run() == (1, f"error: {out} exists already: choose another --out, or --force to write over it\n")
        assert out.is_symlink() or out.read_text() == "an earlier one"
        assert run("--force")[0] == 0
        assert read_trained(str(out)).num_classes == 5
        itself = ["export", str(out), "--format", "safetensors", "--out", str(out), "--force"]
        assert (
            CliRunner().invoke(main, itself).output == f"error: {out} is the checkpoint itself: choose another --out\n"
        )
        out.unlink()
    out.mkdir()
    for words in ((), ("--force",)):
        assert run(*words) == (1, f"error: {out} is a folder: name a file in it with --out\n")


def test_a_recipe_without_a_setting_of_today_says_so(tmp_path: Path) -> None:
    read(tmp_path, *SINGLE)
    content = torch.load(tmp_path / "checkpoint.pt")
    content["recipe"] = {
        name: value for name, value in content["recipe"].items() if name not in ("soft_mean", "repeats")
    }
    torch.save(content, tmp_path / "old.pt")
    note = (
        f"{tmp_path}/old.pt: its recipe lacks settings of today, which are taken at their defaults: "
        "soft_mean = views, repeats = 1"
    )
    command = ["export", str(tmp_path / "old.pt"), "--format", "safetensors"]
    said = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "out.safetensors")])
    assert (said.exit_code, said.stderr) == (0, f"{note}\n")
    assert read_trained(str(tmp_path / "old.pt")).notes == (note,)
    assert read_trained(str(tmp_path / "checkpoint.pt")).notes == ()
    assert read_trained(str(tmp_path / "out.safetensors")).notes == ()  # it is written whole


def test_endings_are_the_formats(tmp_path: Path, small: TrainedModel) -> None:
    with pytest.raises(CheckpointError, match=r"out\.onnx: a file of --format torch-export is called \*\.pt2"):
        export(small, tmp_path / "out.onnx", "torch-export")


def test_without_the_extra(tmp_path: Path, small: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    written = export(small, tmp_path / "out.onnx", "onnx")
    assert written.difference is None
    assert written.how == "not compared: onnxruntime is not installed (pip install onnx onnxscript onnxruntime)"
    (tmp_path / "out.onnx").unlink()
    for library in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, library, None)
    message = r"--format onnx needs onnx and onnxscript, not installed here: pip install onnx onnxscript onnxruntime"
    with pytest.raises(CheckpointError, match=message):
        export(small, tmp_path / "out.onnx", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
