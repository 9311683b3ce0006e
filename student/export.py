"""Writing trained models for others: timm-compatible safetensors, ONNX, torch.export; each read back and compared."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from safetensors.torch import save
from torch import Tensor, nn

from student.arguments import INSTALL_ONNX, Format, export_faults
from student.faults import refuse
from student.model import Fusion, fused, heads
from student.trained import TrainedModel, build_trained, describe_trained, read_trained
from teacher_cache.errors import CheckpointError
from teacher_cache.files import replacing
from teacher_cache.teacher.models import size_argument
from teacher_cache.teacher.weights import DIGEST, content_sha256, first_line

Outputs = Literal["fused", "heads"]

TOLERANCES: dict[Format, float] = {"safetensors": 1e-5, "onnx": 1e-4, "torch-export": 1e-4}
METADATA = "metadata.json"  # in a torch.export file, among its extra files
CHECKED_BATCHES = (1, 3)
MAX_BATCH = 2**31 - 1  # torch 2.6 demands that it be below 2^63 - 1, which it takes for 'to the end' of a slice


@dataclass(frozen=True)
class ExportResult:
    """What was written and how it compares: names of the outputs, the largest difference (None: not compared)."""

    outputs: tuple[str, ...]
    difference: float | None
    how: str  # it was read back, or why not


class Graph(nn.Module):
    """What an exported graph computes: normalised images (B, 3, H, W) float32 -> its outputs, (B, classes) each.

    "fused": `scores`, both heads by `fusion`; of a single head its softmax (softmax_sum) or logits (logit_mean).
    "heads": `class_logits`, and `distillation_logits` where there are two.
    """

    def __init__(self, model: nn.Module, outputs: Outputs, fusion: Fusion) -> None:
        super().__init__()
        self.model, self.outputs, self.fusion = model, outputs, fusion

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        answers = heads(self.model, images)
        if self.outputs == "fused":
            return (fused(answers, self.fusion),)
        return tuple(logits for logits in (answers.class_logits, answers.distill_logits) if logits is not None)


def export(
    trained: TrainedModel,
    path: Path,
    file_format: Format,
    *,
    outputs: Outputs = "fused",
    fusion: Fusion = "softmax_sum",
    force: bool = False,
) -> ExportResult:
    """Write a trained model, and publish the file once it has been read back and gives the same as PyTorch.

    outputs and fusion are of a graph, see Graph; its batch size is free. The file says which preprocessing it needs,
    and more (student.trained.describe_trained): in the header of safetensors, in metadata_props of ONNX, in the extra
    file METADATA of torch.export. With force a file that is there is written over. Raises CheckpointError, also for a
    model whose logits are not finite.
    """
    refuse(export_faults(trained.source, path, file_format, force))
    model = build_trained(trained)
    check_finite(model, trained)
    metadata = describe_trained(trained)
    graph = Graph(model, outputs, fusion).eval()
    names = ("scores",) if outputs == "fused" else ("class_logits", "distillation_logits")[: len(_run(graph, trained))]
    difference: float | None
    with replacing(path) as aside:
        if file_format == "safetensors":
            write_safetensors(model, metadata, aside)
            names = ()
            difference, how = _compare_safetensors(trained, model, aside)
        else:
            metadata |= {"outputs": json.dumps(names), **({"fusion": fusion} if outputs == "fused" else {})}
            if file_format == "onnx":
                _write_onnx(graph, trained, names, metadata, aside)
                difference, how = _compare_onnx(graph, trained, names, aside)
            else:
                _write_torch_export(graph, trained, metadata, aside)
                difference, how = _compare_torch_export(graph, trained, aside)
        if difference is not None and not difference <= TOLERANCES[file_format]:
            raise CheckpointError(
                f"{path} was not written: {how}, it differs from PyTorch by {difference:.2g}, "
                f"{TOLERANCES[file_format]:g} is allowed: keep the checkpoint, and try another version of torch"
            )
    return ExportResult(names, difference, how)


def timm_arguments(trained: TrainedModel) -> dict[str, Any]:
    """What timm.create_model must be told, beside the name, to load a safetensors file of a timm model."""
    size = size_argument(trained.model, trained.preprocessing.size)
    return {"num_classes": trained.num_classes, **size, **trained.model_args}


def timm_call(trained: TrainedModel, path: Path) -> str:
    """The call that loads a safetensors file of a timm model."""
    arguments = "".join(f", {name}={value!r}" for name, value in timm_arguments(trained).items())
    return f"timm.create_model({trained.model!r}{arguments}, checkpoint_path={str(path)!r})"


# -- safetensors ---------------------------------------------------------------------------------------------------


def write_safetensors(model: nn.Module, metadata: dict[str, str], path: Path) -> None:
    # clones: the format has no tensors that share memory
    state = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    sealed = metadata | {DIGEST: content_sha256(state, metadata)}
    path.write_bytes(save(state, sealed))  # its own save_file makes files that others may not read


def _compare_safetensors(trained: TrainedModel, model: nn.Module, path: Path) -> tuple[float, str]:
    again = build_trained(read_trained(str(path), model=trained.model))
    one, two = (Graph(each, "heads", "softmax_sum").eval() for each in (model, again))
    difference = largest_difference(one, two, trained)
    if ":" in trained.model:
        return difference, "read back"
    theirs = timm.create_model(trained.model, checkpoint_path=str(path), **timm_arguments(trained)).eval()
    return max(difference, largest_difference(model, theirs, trained)), "read back by timm.create_model"


# -- graphs --------------------------------------------------------------------------------------------------------


def captured(graph: Graph, trained: TrainedModel) -> torch.export.ExportedProgram:
    """The graph, for any batch size. CheckpointError where torch.export cannot follow the model."""
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    images = _images(trained, 2)  # two: a batch of one would be taken for a constant
    try:
        with torch.no_grad():
            return torch.export.export(graph, (images,), dynamic_shapes={"images": {0: batch}}, strict=False)
    except Exception as error:
        raise CheckpointError(
            f"{trained.source}: torch.export cannot follow what {trained.model} computes ({first_line(error)}): "
            "write --format safetensors, or change the model"
        ) from error


def _write_torch_export(graph: Graph, trained: TrainedModel, metadata: dict[str, str], path: Path) -> None:
    written = BytesIO()  # where a disk is full torch's own writer ends the process
    torch.export.save(captured(graph, trained), written, extra_files={METADATA: json.dumps(metadata, indent=2)})
    path.write_bytes(written.getbuffer())


def _compare_torch_export(graph: Graph, trained: TrainedModel, path: Path) -> tuple[float, str]:
    return largest_difference(graph, torch.export.load(path).module(), trained), "read back by torch.export.load"


def _write_onnx(
    graph: Graph, trained: TrainedModel, names: tuple[str, ...], metadata: dict[str, str], path: Path
) -> None:
    followed = captured(graph, trained)
    try:
        program = torch.onnx.export(
            followed,
            dynamo=True,
            input_names=["images"],
            output_names=list(names),
            dynamic_shapes={"images": {0: "batch"}},
            verbose=False,
        )
    except Exception as error:
        reason = first_line(_first_cause(error))
        raise CheckpointError(
            f"{trained.source}: torch.onnx cannot write what {trained.model} computes ({reason}): install a newer "
            "torch, or write --format torch-export"
        ) from error
    assert program is not None
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=False)  # one file


def _first_cause(error: Exception) -> Exception:
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _compare_onnx(graph: Graph, trained: TrainedModel, names: tuple[str, ...], path: Path) -> tuple[float | None, str]:
    try:
        import onnxruntime
    except ImportError:
        return None, f"not compared: onnxruntime is not installed ({INSTALL_ONNX})"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(output) for output in session.run(list(names), {"images": images.numpy()}))

    return largest_difference(graph, run, trained), "read back by ONNX Runtime"


# -- comparing -----------------------------------------------------------------------------------------------------


def largest_difference(one: Callable[[Tensor], Any], two: Callable[[Tensor], Any], trained: TrainedModel) -> float:
    """The largest difference of two models' outputs on random images, at several batch sizes; inf for other shapes."""
    largest = 0.0
    for batch_size in CHECKED_BATCHES:
        images = _images(trained, batch_size)
        with torch.no_grad():
            ours, theirs = (_tuple(model(images)) for model in (one, two))
        if [output.shape for output in ours] != [output.shape for output in theirs]:
            return float("inf")
        for output, other in zip(ours, theirs, strict=True):
            found = float((output - other).abs().max())
            largest = max(largest, found) if found == found else float("inf")
    return largest


def check_finite(model: nn.Module, trained: TrainedModel) -> None:
    """Refuse, with CheckpointError, a model that answers no numbers, naming the first image of those it is given."""
    images = _images(trained, max(CHECKED_BATCHES))
    with torch.no_grad():
        answers = heads(model, images)
    for head, logits in (("class", answers.class_logits), ("distillation", answers.distill_logits)):
        if logits is not None and not bool((finite := torch.isfinite(logits).all(dim=1)).all()):
            image = int(finite.logical_not().nonzero()[0, 0])
            raise CheckpointError(
                f"{trained.source}: the {head} head's logits are not finite for image {image} of {len(images)} random "
                "ones, so its weights are of no use: export an earlier checkpoint"
            )


def _run(graph: Graph, trained: TrainedModel) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return graph(_images(trained, 1))


def _images(trained: TrainedModel, batch_size: int) -> Tensor:
    """Random normalised images, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch_size, 3, *trained.preprocessing.size, generator=generator)


def _tuple(outputs: Any) -> tuple[Tensor, ...]:
    return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)
