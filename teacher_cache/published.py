"""What several processes may make at once in a store, and the first one makes: groups of attributes, arrays' folders.

Each is written aside and then linked or renamed into its place, which fails for all but the first.
"""

import contextlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from teacher_cache.durable import sync, sync_tree, sync_up
from teacher_cache.errors import StoreError


def publish_group(store: Path, name: str, attributes: dict[str, Any]) -> bool:
    """Make the group `name` of a store with these attributes, unless it is there: then False."""
    document = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    aside, folder = _aside(store), store / name
    while not (folder / "zarr.json").exists():
        try:
            aside.write_text(json.dumps(document, indent=2))
            sync(aside)
            folder.mkdir(parents=True, exist_ok=True)
            os.link(aside, folder / "zarr.json")
        except (FileExistsError, FileNotFoundError):
            continue  # published by another process, or that one swept the empty folder or the file aside
        finally:
            aside.unlink(missing_ok=True)
        sync_up(folder / "zarr.json", store)
        return True
    return False


def publish_folder(store: Path, name: str, document: bytes) -> None:
    """Make the folder `name` of a store with this zarr.json, unless it is there. OSError where neither can be."""
    aside = _aside(store)
    while not (store / name / "zarr.json").exists():
        try:
            aside.mkdir(exist_ok=True)
            (aside / "zarr.json").write_bytes(document)
            sync_tree(aside)
            aside.rename(store / name)  # fails where another process was first: that folder is not empty
            sync(store)
        except FileNotFoundError:
            continue  # another process swept it aside
        except OSError:
            if not (store / name / "zarr.json").exists():  # chunks without it: somebody removed it
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def read_published(store: Path, name: str) -> dict[str, Any] | None:
    """The attributes of a group; None where it is not published. StoreError where it is damaged."""
    file = store / name / "zarr.json"
    try:
        return dict(json.loads(file.read_text())["attributes"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise StoreError(f"{file} is damaged ({error}): restore it from a copy, or make a new store") from error


def sweep_unpublished(store: Path) -> None:
    """Remove what killed writers left: folders that are not published, and what was aside."""
    with contextlib.suppress(FileNotFoundError):  # other processes may sweep at the same time
        for folder in (*store.glob("teacher/device-*"), store / "teacher"):
            if not (folder / "zarr.json").exists():
                with contextlib.suppress(OSError):
                    folder.rmdir()
    for aside in (store / "labels").glob("publishing.*.partial"):
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def _aside(store: Path) -> Path:
    # Zarr lists what lies in a group but not what lies in an array's folder: what is left there disturbs nobody.
    return store / "labels" / f"publishing.{uuid.uuid4().hex}.partial"
