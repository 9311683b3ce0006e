"""Everything that can be known to be wrong with what a command names, before anything is imported that takes time:
models, shards, and files to write.
"""

import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from student.faults import Fault
from teacher_cache.errors import CheckpointError, ModelError, RecipeError, ShardError, StorageError, TeacherError
from teacher_cache.messages.recognise import no_checkpoint, no_licence
from teacher_cache.messages.shown import shown
from teacher_cache.shards.find import expand_shards
from teacher_cache.storage.place import to_place
from teacher_cache.teacher.names import is_timm_name
from teacher_cache.teacher.timm_names import OR_A_FILE, unknown_model

if TYPE_CHECKING:
    from teacher_cache.teacher.settings import TeacherSettings

Format = Literal["safetensors", "onnx", "torch-export"]  # of files that `student export` writes
TrackingLibrary = Literal["wandb", "trackio"]  # where `--log` sends a run's curves

ENDINGS: dict[Format, str] = {"safetensors": ".safetensors", "onnx": ".onnx", "torch-export": ".pt2"}
ONNX_LIBRARIES = ("onnx", "onnxscript")  # torch.onnx imports them
INSTALL_ONNX = "pip install onnx onnxscript onnxruntime"


def source_faults(checkpoint: str, model: str | None) -> Iterator[Fault]:
    """A trained model that is no file, and no name of timm's either. model: a file's, where the command line names it,
    which may be no name of timm's."""
    if is_timm_name(checkpoint):
        if found := unknown_model(checkpoint, OR_A_FILE):
            yield Fault(ModelError, found)
        return
    if found := no_checkpoint(to_place(checkpoint)):
        yield Fault(CheckpointError, found)
    if model is not None and (found := unknown_model(model)):
        yield Fault(ModelError, found)


def teacher_faults(settings: "TeacherSettings") -> Iterator[Fault]:
    """A teacher that is not there."""
    from teacher_cache.teacher.settings import name_faults

    for found in name_faults(settings):
        yield Fault(TeacherError, found)


def pattern_faults(patterns: Sequence[str]) -> Iterator[Fault]:
    """Validation shards that are not there."""
    try:
        expand_shards(patterns)
    except ShardError as error:
        yield Fault(ShardError, f"--val: {error}")


def export_faults(checkpoint: str, out: Path, file_format: Format, force: bool) -> Iterator[Fault]:
    """A file that a trained model cannot be written to: of another ending than its format's, or one that is there,
    which force lets be written over, but not a folder, nor the checkpoint; and libraries that the format lacks."""
    if out.suffix != ENDINGS[file_format]:
        yield Fault(CheckpointError, f"{out}: a file of --format {file_format} is called *{ENDINGS[file_format]}")
    if out.is_dir():
        yield Fault(CheckpointError, f"{out} is a folder: name a file in it with --out")
    elif os.path.exists(checkpoint) and out.exists() and os.path.samefile(out, checkpoint):
        yield Fault(CheckpointError, f"{out} is the checkpoint itself: choose another --out")
    elif os.path.lexists(out) and not force:
        yield Fault(CheckpointError, f"{out} exists already: choose another --out, or --force to write over it")
    missing = [library for library in ONNX_LIBRARIES if file_format == "onnx" and find_spec(library) is None]
    if missing:
        found = f"--format onnx needs {' and '.join(missing)}, not installed here: {INSTALL_ONNX}"
        yield Fault(CheckpointError, found)


def hub_faults(checkpoint: str, out: Path, licence: str | None = None) -> Iterator[Fault]:
    """A folder that a trained model cannot be written to, or a licence that is none for a card."""
    if os.path.lexists(out):
        what = "the checkpoint itself" if os.path.exists(checkpoint) and os.path.samefile(out, checkpoint) else "there"
        yield Fault(CheckpointError, f"{out} is {what} already: --format hf makes a folder, choose another --out")
    if found := no_licence(licence):
        yield Fault(CheckpointError, found)


def push_faults(repo: str) -> Iterator[Fault]:
    """A repository that cannot be, or a Hub that nobody has logged in to."""
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        yield Fault(StorageError, f"--push {shown(repo)}: {str(error).splitlines()[0]}")
    else:
        if "/" not in repo:  # the client would add one, after the card had named what timm does not find
            yield Fault(StorageError, f"--push {shown(repo)} names no owner", advice="give OWNER/NAME")
    if get_token() is None:
        yield Fault(StorageError, "--push needs a login at the Hub", advice="`hf auth login`, or set HF_TOKEN")


def tracking_faults(library: TrackingLibrary) -> Iterator[Fault]:
    """A library for --log that is not installed."""
    spec = find_spec(library)
    if spec is None or spec.origin is None:  # of a folder that has its name: what wandb writes lies in one
        yield Fault(
            RecipeError, f"--log {library} needs {library}", advice=f"pip install 'deit-teacher-cache[{library}]'"
        )
