"""A trained model as a folder that timm loads, here and from the Hugging Face Hub: weights, configuration, card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models import save_for_hf
from timm.models.deit import VisionTransformerDistilled
from torch import nn

from student.arguments import hub_faults
from student.export import ExportResult, check_finite, largest_difference, timm_arguments, write_safetensors
from student.faults import refuse
from student.results import accuracy_rows, final_accuracy
from student.trained import HUB_WEIGHTS, TrainedModel, build_trained, describe_trained
from teacher_cache.errors import CheckpointError, StorageError
from teacher_cache.files import new_folder
from teacher_cache.messages.shown import as_code, as_word, counted, shown
from teacher_cache.settings import read_json
from teacher_cache.storage.hub import STALL_S, silence_ends
from teacher_cache.teacher.state_dict import load_state
from teacher_cache.teacher.weights import first_line, state_sha256

CARD = "README.md"
RESULTS = "results.json"  # of a finished run, beside its checkpoint
ARCHITECTURES_OWN = (  # of what timm's configuration of a name says: the rest is of the weights that timm has by it
    *("architecture", "fixed_input_size", "input_size", "crop_mode", "pool_size", "first_conv", "classifier"),
    *("mean", "std", "interpolation", "crop_pct", "num_classes"),
)


def export_hub(
    trained: TrainedModel, folder: Path, *, licence: str | None = None, repo: str | None = None
) -> ExportResult:
    """Write a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads, and publish it once that has
    given what the model gives, to the bit. Uploaded as a model's repository it is what "hf_hub:REPO" loads.

    licence goes into the card, as do the results of the run that the file lies in, where they are of these weights;
    repo names it there. Of a distilled model timm answers with the mean of both heads' logits. Raises CheckpointError,
    also for a model that is none of timm's.
    """
    refuse(hub_faults(trained.source, folder, licence))
    if ":" in trained.model or not timm.is_model(trained.model):
        raise CheckpointError(
            f"{trained.source}: its model, {shown(trained.model)}, is none of timm's, so timm.create_model cannot "
            "build it from a folder: write --format safetensors"
        )
    check_finite(build_trained(trained), trained)
    model = timm.create_model(trained.model, **timm_arguments(trained))
    load_state(model, trained.state, trained.source, trained.model)
    model.eval()
    results = _results(trained)
    with new_folder(folder) as aside:
        aside.mkdir()
        _write_timms_files(model, trained, licence, aside)
        write_safetensors(model, describe_trained(trained), aside / HUB_WEIGHTS)
        loads = f"hf_hub:{repo}" if repo else f"local-dir:{folder.name}"  # where it lies here is nobody's business
        (aside / CARD).write_text(_card(model, trained, results, loads, licence))
        again = timm.create_model(f"local-dir:{aside}", pretrained=True).eval()
        difference = largest_difference(model, again, trained)
        if difference != 0:
            raise CheckpointError(
                f"{folder} was not written: read back by timm.create_model, it differs from PyTorch by "
                f"{difference:.2g}, and should not at all: try another version of timm"
            )
    return ExportResult((), difference, "read back by timm.create_model")


def push(folder: Path, repo: str, *, private: bool) -> str:
    """Make a repository at the Hub, if there is none, and put a folder there in one commit -> the commit's address.

    Asked to be private it refuses a repository that others can read. Raises StorageError.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="deit-teacher-cache")
    try:
        with silence_ends():
            # unasked, an organisation's own default holds
            repo = api.create_repo(repo, private=private or None, exist_ok=True).repo_id
            public = private and not api.repo_info(repo, timeout=STALL_S).private
            if not public:
                done = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"Add {folder.name}")
                return str(done.commit_url)
    except Exception as error:  # of the client, of HTTP below it, of a network: it has no one class
        more = " --private" if private else ""
        raise StorageError(
            f"{api.endpoint} does not take {repo} ({first_line(error)}): {folder} is whole, "
            f"`hf upload {as_word(repo)} {as_word(folder)}{more}` tries again"
        ) from error
    raise StorageError(
        f"{repo} is there and everybody can read it, --private was asked: nothing is uploaded; choose another --push"
    )


# -- what timm reads -------------------------------------------------------------------------------------------------


def _write_timms_files(model: nn.Module, trained: TrainedModel, licence: str | None, folder: Path) -> None:
    """timm's own files but its weights, without what it says of other weights of that architecture."""
    seen = trained.preprocessing
    own: Any = model
    own.pretrained_cfg = {name: value for name, value in own.pretrained_cfg.items() if name in ARCHITECTURES_OWN}
    config: dict[str, Any] = {"pretrained_cfg": {"license": licence}} if licence else {}
    config |= {"label_names": list(trained.class_names)} if trained.class_names else {}
    data = {
        "input_size": (3, *seen.size),
        "mean": seen.mean,
        "std": seen.std,
        "interpolation": seen.interpolation,
        "crop_pct": seen.crop_pct,
        "crop_mode": "center",
    }
    save_for_hf(model, str(folder), model_config=config, safe_serialization=True, data_config=data)
    (folder / HUB_WEIGHTS).unlink()  # which others may not read


# -- what people read ------------------------------------------------------------------------------------------------


def _results(trained: TrainedModel) -> Mapping[str, Any]:
    """The results.json of the run whose weights these are; {} where there is none, or it is of others: another
    training's, or an earlier epoch's."""
    path = Path(trained.source).with_name(RESULTS)
    if trained.recipe is None or not path.is_file():
        return {}
    results = read_json(path, str(path), CheckpointError, "remove it, or run the training's command again")
    told = {"recipe": trained.recipe.to_json(), **trained.identity}
    if not isinstance(results, dict) or any(results.get(part) != values for part, values in told.items()):
        return {}
    of_weights = results.get("model")
    if not isinstance(of_weights, dict) or of_weights.get(trained.weights) != state_sha256(trained.state):
        return {}
    return {**results, "accuracy": final_accuracy(path)}


def _card(
    model: nn.Module,
    trained: TrainedModel,
    results: Mapping[str, Any],
    loads: str,
    licence: str | None,
) -> str:
    """The page of a model: what it is, how it is loaded and what it answers, how good it is, how it was trained."""
    height, width = trained.preprocessing.size
    front = [f"license: {licence}"] if licence else []
    front += ["library_name: timm", "pipeline_tag: image-classification"]
    front += ["tags:", "- timm", "- image-classification", "- deit-teacher-cache"]
    what = f"`{trained.model}`, {counted(trained.num_classes, 'class')}, images of {height} x {width} pixels"
    lines = ["---", *front, "---", f"# {shown(loads.partition(':')[2].rpartition('/')[2], None)}", "", f"{what}."]
    lines += ["" if licence else "\nNo licence is stated: ask whoever published it.\n"]
    lines += ["```python", "import timm", ""]
    lines += [f"model = timm.create_model({loads!r}, pretrained=True).eval()"]
    lines += ["settings = timm.data.resolve_model_data_config(model)"]
    lines += ["transform = timm.data.create_transform(**settings, is_training=False)", "```", "", _answers(model), ""]
    lines += [*_accuracy(trained, results), *_training(trained, results)]
    return "\n".join(lines) + "\n"


def _answers(model: nn.Module) -> str:
    if isinstance(model, VisionTransformerDistilled):
        return (
            "It has two heads, one for the class and one that learnt from the teacher. In evaluation timm gives the "
            "mean of both heads' logits (fusion `logit_mean`); `set_distilled_training(True)` and training mode give "
            "both."
        )
    return "It gives the logits of its one head."


def _accuracy(trained: TrainedModel, results: Mapping[str, Any]) -> list[str]:
    """Of the weights that the folder holds."""
    ema = trained.weights == "ema"
    everything = results.get("accuracy", {})
    found = {head: values for head, values in everything.items() if head.startswith("ema_") == ema}
    if not found:
        return []
    rows = [f"| {head} | {top1} | {top5} |" for head, top1, top5 in accuracy_rows(found)]
    told = "On the validation shards of its training."
    if len(found) > 1:
        told += f" Both heads are fused by `{results['recipe']['fusion']}`."
    return ["## Results", "", told, "", "| | top-1 % | top-5 % |", "| --- | --- | --- |", *rows, ""]


def _training(trained: TrainedModel, results: Mapping[str, Any]) -> list[str]:
    """Recipe, teacher and store, as far as the file says."""
    if trained.recipe is None:
        return []
    store, weights = trained.identity.get("store", {}), trained.identity.get("weights", {})
    told = {"weights": "their moving average" if trained.weights == "ema" else "those of the last step"}
    if results.get("teacher"):
        told["teacher"] = as_code(results["teacher"])
    for part, what in (("teacher", "the teacher's weights"), ("initial", "the weights that it began with")):
        if weights.get(part):
            told[f"SHA-256 of {what}"] = as_code(weights[part])
    told |= {f"store's {part}": as_code(store[part]) for part in ("seed", "policy", "index") if part in store}
    lines = ["## Training", "", "From a store of a teacher's labels, by deit-teacher-cache.", ""]
    lines += ["| | |", "| --- | --- |", *(f"| {part} | {value} |" for part, value in told.items())]
    return [*lines, "", "Its recipe:", "", "```json", json.dumps(trained.recipe.to_json(), indent=2), "```"]
