"""What is wrong with what a command names: models, shards, files to write."""

import subprocess
import sys
from pathlib import Path

import pytest

from student.arguments import (
    Format,
    TrackingLibrary,
    export_faults,
    hub_faults,
    pattern_faults,
    push_faults,
    source_faults,
    teacher_faults,
    tracking_faults,
)
from teacher_cache.errors import CheckpointError, RecipeError, ShardError, StorageError, TeacherError
from teacher_cache.teacher.settings import TeacherSettings


def test_a_trained_model_is_a_file_that_is_there_or_a_name_that_timm_may_know(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").touch()
    there, absent = str(tmp_path / "checkpoint.pt"), str(tmp_path / "chekpoint.pt")
    assert list(source_faults(there, None)) == list(source_faults(there, "own.py:model")) == []
    (fault,) = source_faults(absent, None)
    assert fault.error is CheckpointError
    assert fault.found.endswith(f"is absent ({tmp_path} has checkpoint.pt): check the path")
    assert len(list(source_faults(absent, None))) == 1


@pytest.mark.parametrize(
    ("file_format", "name", "message"),
    [
        ("safetensors", "m.safetensors", None),
        ("torch-export", "m.pt2", None),
        ("safetensors", "m.pt2", r"m\.pt2: a file of --format safetensors is called \*\.safetensors"),
        ("torch-export", "folder.pt2", r"folder\.pt2 is a folder: name a file in it"),
        ("torch-export", "there.pt2", r"there\.pt2 exists already: choose another --out, or --force"),
        ("safetensors", "own.safetensors", r"own\.safetensors is the checkpoint itself"),
        ("torch-export", "nowhere.pt2", r"nowhere\.pt2 exists already"),
    ],
)
def test_a_file_is_written_to_its_formats_name_where_nothing_is(
    tmp_path: Path, file_format: Format, name: str, message: str | None
) -> None:
    (tmp_path / "folder.pt2").mkdir()
    (tmp_path / "there.pt2").touch()
    (tmp_path / "own.safetensors").touch()
    (tmp_path / "nowhere.pt2").symlink_to(tmp_path / "gone")
    checkpoint = str(tmp_path / "own.safetensors")
    found = list(export_faults(checkpoint, tmp_path / name, file_format, force=False))
    forced = list(export_faults(checkpoint, tmp_path / name, file_format, force=True))
    if message is None:
        assert found == forced == []
        return
    (fault,) = found
    assert fault.error is CheckpointError
    with pytest.raises(CheckpointError, match=message):
        raise CheckpointError(fault.found)
    assert bool(forced) == ("exists already" not in message)


def test_a_folder_for_the_hub_is_a_new_one_and_a_licence_is_an_id(tmp_path: Path) -> None:
    assert list(hub_faults("m.pt", tmp_path / "new", "apache-2.0")) == []
    (tmp_path / "m.pt").touch()
    (there,) = hub_faults(str(tmp_path / "m.pt"), tmp_path)
    (itself,) = hub_faults(str(tmp_path / "m.pt"), tmp_path / "m.pt")
    assert "is there already: --format hf makes a folder" in there.found
    assert "is the checkpoint itself already" in itself.found
    (licence,) = hub_faults("m.pt", tmp_path / "new", "mine: all")
    assert "--licence mine: all is no licence's id" in licence.found


def test_a_repository_needs_a_name_and_a_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    named, login = push_faults("a//b")
    assert named.error is login.error is StorageError
    assert named.found.startswith("--push a//b: ")
    assert login.found == "--push needs a login at the Hub"
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    assert list(push_faults("owner/name")) == []


@pytest.mark.parametrize("library", ["wandb", "trackio"])
def test_a_tracking_library_is_one_that_can_be_imported(
    library: TrackingLibrary, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, library, raising=False)
    (tmp_path / library).mkdir()  # as wandb makes one, beside what it is run from
    (fault,) = tracking_faults(library)
    assert (fault.error, fault.advice) == (RecipeError, f"pip install 'deit-teacher-cache[{library}]'")
    (tmp_path / library / "__init__.py").touch()
    assert list(tracking_faults(library)) == []


def test_shards_and_teachers_that_are_absent(tmp_path: Path) -> None:
    (tmp_path / "val-0000.tar").touch()
    assert list(pattern_faults([f"{tmp_path}/val-*.tar"])) == []
    (fault,) = pattern_faults([f"{tmp_path}/test-*.tar"])
    assert fault.error is ShardError
    assert fault.found.startswith("--val: ")
    (absent,) = teacher_faults(TeacherSettings("own.py:teacher", str(tmp_path / "w.pt")))
    assert absent.error is TeacherError
    assert list(teacher_faults(TeacherSettings("own.py:teacher"))) == []
    (tmp_path / "w.pt").touch()
    (weights,) = teacher_faults(TeacherSettings(str(tmp_path / "w.pt")))
    assert str(weights).endswith(
        f"names a file of weights, and no model: give the model's name, and the file as --checkpoint {tmp_path}/w.pt"
    )


@pytest.mark.parametrize(
    ("command", "more"),
    [("evaluate", ["--val", "nope.tar"]), ("export", ["--format", "onnx", "--out", "x.onnx"])],
)
def test_a_checkpoint_that_is_absent_takes_no_torch(tmp_path: Path, command: str, more: list[str]) -> None:
    (tmp_path / "checkpoint.pt").touch()
    lines = f"""
import sys
from student.cli import main
try:
    main({[command, str(tmp_path / "chekpoint.pt"), *more]!r})
finally:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=60)
    told = f"error: checkpoint {tmp_path}/chekpoint.pt is absent ({tmp_path} has checkpoint.pt): check the path\n"
    assert done.stderr.startswith(told)
    assert (done.returncode, done.stdout) == (1, "False\n")
    assert ("error: --val: no shard nope.tar there" in done.stderr) == (command == "evaluate")
