"""What a path is that was given for something else, in a few words, and what would be right instead."""

import json
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from teacher_cache.errors import StorageError
from teacher_cache.messages.nearest import nearest
from teacher_cache.messages.shown import as_word, shown
from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.place import Place, Url
from teacher_cache.storage.storage import find_entry

RUN_FILES = ("results.json", "checkpoint.pt", "epoch.pt", "epochs.csv", "steps.csv")  # what a training leaves in --out
STORE_PARTS = ("index", "labels", "digests", "records")  # each with a zarr.json of its own
LICENCE = re.compile("[A-Za-z][A-Za-z0-9.+-]*|0bsd", re.IGNORECASE)
NOT_YAML_TEXT = {"no", "n", "yes", "y", "on", "off", "true", "false", "null"}  # a card's front matter is YAML
WEIGHTS = ("checkpoint.pt", "model.safetensors")  # of a run, and of what is exported for the Hub
LOOKED_AT = 1000  # entries of a folder; a million files are no reason to wait


def what_is(path: Path) -> str:
    """'there is no such file or folder', 'it is a run of `student train`' ...; with the stores near by, where some are.

    For a path that is no store, or no run.
    """
    if not os.path.lexists(path):
        return "there is no such file or folder" + meant(path)
    if not path.exists():
        return "it is a link to nothing"
    if not path.is_dir():
        tar = ": `teacher-cache index` makes a store of shards" if path.suffix == ".tar" else ""
        return f"it is {'a shard' if tar else 'a file'}{tar}"
    if is_run(path):
        return "it is the folder of a run of `student train`" + _stores_near(path)
    if is_store(path):
        return "it is a store of labels"
    if (store := is_part(path)) is not None:
        return f"it is a part of the store {store}: name that one"
    if (path / "zarr.json").is_file():
        return "it is Zarr data of something else" + _stores_near(path)
    if not (path / "zarr.json").exists() and all((path / name / "zarr.json").is_file() for name in STORE_PARTS):
        return "it has a store's parts, but its zarr.json is absent, as in a copy that broke off: copy that, too"
    names = _names(path)
    if any(name.endswith(".tar") for name in names):
        return f"it is a folder of shards: `teacher-cache index {as_word(f'{path}/*.tar')}` makes a store of them"
    return ("it is an empty folder" if not names else "it is a folder of other things") + _stores_near(path)


def no_checkpoint(path: Place) -> str | None:
    """Why a path or URL is no file of weights, as far as it shows without being read; None where it may be one."""
    if isinstance(path, Url):
        return _no_object(path)
    if path.is_dir():
        there = next((name for name in WEIGHTS if (path / name).is_file()), None)
        return f"{path} is a folder: name " + (
            f"{path / there}" if there else f"a file in it, {WEIGHTS[0]} for instance"
        )
    return None if path.is_file() else f"checkpoint {path} is absent{meant(path)}: check the path"


def no_licence(text: str | None) -> str | None:
    """Why a text is no licence's id for the card of what is published; None where it is one, or none is stated."""
    if text is None or (LICENCE.fullmatch(text) and text.lower() not in NOT_YAML_TEXT):
        return None
    return f"--licence {shown(text)} is no licence's id: give one as the Hub has it, apache-2.0 or cc-by-4.0"


def _no_object(url: Url) -> str | None:
    try:
        entry = find_entry(open_storage(url.parent), url.name)
    except StorageError as error:
        return f"checkpoint {error}"
    return None if entry else f"checkpoint {url} is absent: check the place"


def is_store(place: Place) -> bool:
    """Whether a folder, or one of a bucket, says that it is a store; whole it need not be."""
    try:
        if isinstance(place, Url):
            content = open_storage(place).get("zarr.json") or b""
        else:
            content = (place / "zarr.json").read_bytes()
    except (OSError, StorageError):
        return False
    return is_of_store(content)


def is_of_store(content: bytes) -> bool:
    """Whether the content of a zarr.json is that of a store."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return False
    attributes = document.get("attributes") if isinstance(document, dict) else None
    return isinstance(attributes, dict) and "teacher_cache" in attributes


def is_part(place: Place) -> Place | None:
    """The store that a place lies in, if it lies in one; links and `..` of a path are followed."""
    return next(filter(is_store, _above(place)), None)


def _above(place: Place) -> Iterator[Place]:
    """The folders that a place lies in, its own first."""
    if isinstance(place, Path):
        yield from Path(os.path.realpath(place)).parents
        return
    while not place.is_top:
        place = place.parent
        yield place


def is_run(path: Path) -> bool:
    """Whether a folder holds what a training leaves."""
    return any((path / name).is_file() for name in RUN_FILES)


def _stores_near(path: Path) -> str:
    """'; there is a store at ...': those in the folder, else those beside it."""
    for folder in (path, path.parent):
        if found := [folder / name for name in _names(folder) if is_store(folder / name)]:
            more = f" and {len(found) - 1} more there" if len(found) > 1 else ""
            return f"; there is a store at {found[0]}{more}"
    return ""


def meant(path: Path) -> str:
    """The nearest name where the path stops to be there."""
    there = next((above for above in path.absolute().parents if above.is_dir()), None)
    if there is None:
        return ""
    missing = path.absolute().relative_to(there).parts[0]
    close = nearest(missing, _names(there))
    return f" ({there} has {' and '.join(close)})" if close else ""


def _names(folder: Path) -> list[str]:
    """Names in a folder, sorted, of the first LOOKED_AT; none where it cannot be looked into."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in islice(entries, LOOKED_AT))
    except OSError:
        return []
