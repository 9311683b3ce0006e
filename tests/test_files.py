"""Whole or not at all, and one line where it cannot be."""

import ast
import errno
import os
from pathlib import Path

import pytest
import torch

from teacher_cache.errors import DiskError
from teacher_cache.files import (
    NOTHING_LOST,
    leftovers,
    new_folder,
    place_files,
    place_folder,
    replacing,
    sweep,
    writing,
)
from tests.support.full_disk import bad_disk, small_files


def write(path: Path, content: bytes, lost: str = NOTHING_LOST) -> None:
    with replacing(path, lost) as aside:
        aside.write_bytes(content)


def make_folder(path: Path, content: str) -> None:
    with new_folder(path) as aside:
        aside.mkdir()
        (aside / "file").write_text(content)


def save_weights(path: Path) -> None:
    with replacing(path, "the one before is kept") as aside, aside.open("wb") as file:
        torch.save({"weights": torch.zeros(10_000)}, file)


def fail(path: Path) -> None:
    with replacing(path) as aside:
        aside.write_text("half of it")
        raise KeyError


def test_a_file_is_replaced_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "made" / "x.csv"
    with replacing(path) as aside:
        aside.write_text("one")
        assert aside.suffix == ".csv"
        assert not path.exists()
    with pytest.raises(KeyError):
        fail(path)
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errno.ENOSPC, r"\(No space left on device\): nothing that was there before is lost; free space there"),
        (errno.EDQUOT, r"\(Disk quota exceeded\): .*; free space there, then run the same command again"),
        (errno.EROFS, r"\(Read-only file system\): .*; make it writable, or choose another place"),
        (errno.EACCES, r"\(Permission denied\): .*; make it writable, or choose another place"),
        (errno.EMFILE, r"\(Too many open files\): .*; raise the limit of open files \(`ulimit -n`\)"),
        (errno.EIO, r"\(Input/output error\): .*; the disk itself fails \(`dmesg` says more\)"),
        (errno.ENODEV, r"\(No such device\): .*; see to it, then run the same command again"),
    ],
)
def test_what_the_system_says_is_one_line(tmp_path: Path, error: int, said: str) -> None:
    path = tmp_path / "x"
    path.write_text("before")
    with (
        bad_disk(tmp_path, error=error),
        pytest.raises(DiskError, match=f"^{path} cannot be written {said}") as found,
    ):
        write(path, b"after")
    assert len(str(found.value).splitlines()) == 1
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_in_the_middle_of_a_file_leaves_nothing(tmp_path: Path) -> None:
    with small_files(1000), pytest.raises(DiskError, match=r"File too large\): .*`ulimit -f`"):
        write(tmp_path / "x", bytes(2000))
    assert not list(tmp_path.iterdir())


def test_torch_says_it_in_a_way_of_its_own(tmp_path: Path) -> None:
    said = r"x.pt cannot be written \(File too large\): the one before is kept"
    with small_files(10_000), pytest.raises(DiskError, match=said):
        save_weights(tmp_path / "x.pt")
    with pytest.raises(RuntimeError, match="of another kind"), writing(tmp_path):
        raise RuntimeError("of another kind")


def test_another_file_that_fails_meanwhile_is_named(tmp_path: Path) -> None:
    said = r"x cannot be written \(/nowhere/y: No such file or directory\)"
    with pytest.raises(DiskError, match=said), writing(tmp_path / "x"):
        Path("/nowhere/y").read_text()


def test_a_folder_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "made" / "folder"
    make_folder(path, "content")
    with pytest.raises(DiskError, match="appeared meanwhile: remove it"):
        make_folder(path, "other content")
    with bad_disk(path, after=1), pytest.raises(DiskError, match="No space left"):
        make_folder(path, "other content")
    assert (path / "file").read_text() == "content"
    assert list(path.parent.iterdir()) == [path]


def test_only_own_leftovers_are_swept(tmp_path: Path) -> None:
    others = {
        tmp_path / name for name in ("x.json", "x.txt", "xy.0123.partial", ".xy.0123.partial.json", "x.partial.y")
    }
    own = {tmp_path / name for name in ("x.0123.partial", ".x.0123.partial.json", "x.json.partial")}
    for file in others | own:
        file.touch()
    assert set(leftovers(tmp_path / "x.json")) == own
    sweep(tmp_path / "x.json")
    assert set(tmp_path.iterdir()) == others
    assert leftovers(tmp_path / "none" / "x") == []


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "🙂" * 63])
def test_names_as_long_as_they_may_be(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with replacing(path) as aside:
        aside.touch()
        assert leftovers(path) == [aside]
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("place", ["s3://bucket/store", Path("s3://bucket/store"), "https://host/a", "hf:/a"])
def test_a_url_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str | Path) -> None:
    """`Path` makes s3:/ of s3://, of which the system would make a folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DiskError, match=r"^(s3|https|hf)://\S+ is a URL: only local folders"), replacing(place):
        pass
    assert list(tmp_path.iterdir()) == []


# -- one door ------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]
LINKS = {"student/checkpoint.py"}  # an epoch's end is the newest checkpoint under a second name, given in `replacing`


PLACING = {"rename", "renames", "link", "hardlink_to", "fsync", "fdatasync", "mkstemp", "NamedTemporaryFile"}


def calls(path: Path) -> set[str]:
    """What a file calls to put a file into a place, or to bring one to disk, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, of = node.func.attr, node.func.value
        of_os = isinstance(of, ast.Name) and of.id in ("os", "shutil")
        of_a_path = len(node.args) + len(node.keywords) == 1  # of a string it takes two
        if name in PLACING or (name == "replace" and (of_os or of_a_path)) or (name == "move" and of_os):
            found.add(name)
    return found


STORAGES = {
    "teacher_cache/storage/local.py": {"replace", "link"},  # whole or not at all among many writers; tests/storage
    "teacher_cache/storage/cache.py": {"replace"},  # copies, which a power cut may lose
    "teacher_cache/teacher/weights.py": {"NamedTemporaryFile"},  # weights from far away, while they are read
}


def test_files_are_put_into_their_places_by_one_module() -> None:
    """A rename without its fsync survives a crash of the program, and not a power cut."""
    files = [file for room in ("teacher_cache", "student", "tools") for file in (ROOT / room).rglob("*.py")]
    found = {str(file.relative_to(ROOT)): used for file in files if (used := calls(file))}
    assert found.pop("teacher_cache/files.py") == {"rename", "replace", "fsync"}
    assert found == {name: {"link"} for name in LINKS} | STORAGES


def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is brought to disk from now on, and of what is renamed, in order."""
    steps: list[str] = []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace

    def note_sync(descriptor: int) -> None:
        steps.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def note_rename(path: Path, target: Path) -> Path:
        steps.append(f"place {target.name}")
        return rename(path, target)

    def note_replace(path: Path, target: Path) -> Path:
        steps.append(f"place {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    monkeypatch.setattr(Path, "replace", note_replace)
    return steps


def test_nothing_takes_its_place_before_it_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = synced(monkeypatch)
    with replacing(tmp_path / "file") as aside:
        aside.write_bytes(b"content")
        name = aside.name
    assert steps == [f"sync {name}", "place file", f"sync {tmp_path.name}"]
    steps.clear()
    make_folder(tmp_path / "folder", "content")
    assert [step.partition(" ")[0] for step in steps] == ["sync", "sync", "place", "sync"]
    assert steps[0] == "sync file"
    assert steps[2:] == ["place folder", f"sync {tmp_path.name}"]
    steps.clear()
    with replacing(tmp_path / "file", durable=False) as aside:
        aside.touch()
    with new_folder(tmp_path / "other", durable=False) as aside:
        aside.mkdir()
    assert steps == ["place file", "place other"]


def test_files_come_to_their_places_once_all_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aside, folder = tmp_path / "aside", tmp_path / "folder"
    for made in (aside, folder):
        made.mkdir()
        for name in "ab":
            (made / name).write_text(made.name)
    steps = synced(monkeypatch)
    place_files(aside, ["b", "a"], folder)
    assert set(steps[:3]) == {"sync a", "sync b", "sync aside"}
    assert steps[3:] == ["place b", "place a", "sync folder"]
    assert {(folder / name).read_text() for name in "ab"} == {"aside"}


def test_a_folders_place_is_for_the_first(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    place_folder(tmp_path / "one", tmp_path / "place")
    with pytest.raises(OSError, match="not empty"):
        place_folder(tmp_path / "other", tmp_path / "place")
    assert (tmp_path / "place" / "file").read_text() == "one"
    assert {path.name for path in tmp_path.iterdir()} == {"other", "place"}
