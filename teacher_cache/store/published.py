"""What several processes may make at once in a store, and the first one makes: folders of attributes with what belongs
to them, arrays' folders.

Each is written aside as a folder and then renamed into its place, which fails for all but the first. Attributes
carry a hash of each of them.
"""

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from teacher_cache.errors import StoreError
from teacher_cache.files import UNIT_IN_FLIGHT, place_folder, raise_unreadable, remove_folder, writing
from teacher_cache.store.sealed import broken, seal

SEAL = "parts_sha256"


def publish_attributes(
    store: Path, name: str, attributes: Mapping[str, Any], others: Mapping[str, bytes] | None = None
) -> bool:
    """Make the folder `name` of a store with these attributes, unless it is there: then False. others: files that
    belong to it, by their path in it."""
    return publish_folder(store, name, {"zarr.json": attributes_document(attributes), **(others or {})})


def attributes_document(attributes: Mapping[str, Any]) -> bytes:
    """A zarr.json of attributes, and a hash of each."""
    sealed = {**attributes, SEAL: seal(attributes)}
    return json.dumps({"attributes": sealed, "zarr_format": 3, "node_type": "group"}, indent=2).encode()


def publish_folder(store: Path, name: str, files: Mapping[str, bytes]) -> bool:
    """Make the folder `name` of a store with these files, unless it is there: then False. DiskError.

    files: bytes by path in the folder, "zarr.json" among them.
    """
    with writing(store / name, UNIT_IN_FLIGHT):
        return _publish_folder(store, name, files)


def _publish_folder(store: Path, name: str, files: Mapping[str, bytes]) -> bool:
    aside = _aside(store)
    folders = sorted({folder for file in files for folder in Path(file).parents})  # parents first
    while not (store / name / "zarr.json").exists():
        try:
            for folder in folders:  # never made anew in the middle: what was swept must not come back in part
                (aside / folder).mkdir()
            for file, content in files.items():
                (aside / file).write_bytes(content)
            place_folder(aside, store / name)
            return True
        except FileNotFoundError:
            if not (store / name).parent.is_dir() or not aside.parent.is_dir():
                raise
            # another process swept it aside: once more
        except OSError:
            if not (store / name / "zarr.json").exists():  # files without it: somebody removed it
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return False


def read_published(store: Path, name: str) -> dict[str, Any] | None:
    """The attributes of a folder; None where it is not published. StoreError where it is damaged or was edited."""
    file = store / name / "zarr.json"
    try:
        attributes = dict(json.loads(file.read_bytes())["attributes"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise_unreadable(error)
        raise StoreError(f"{file} is damaged ({error}): restore it from a copy, or make a new store") from error
    sealed = attributes.pop(SEAL, None)
    if differing := broken(attributes, sealed):
        raise StoreError(
            f"{file}: {', '.join(differing)} {'is' if len(differing) == 1 else 'are'} not what was written (the "
            "SHA-256 differs): restore it from a copy, or make a new store"
        )
    return attributes


def sweep_unpublished(store: Path) -> None:
    """Remove what killed writers left aside.

    One that still writes may be hit: its folder goes in one step, so that it cannot publish what is left of it.
    """
    for aside in list((store / "labels").glob("publishing.*.partial")):
        remove_folder(aside, _aside(store))


def _aside(store: Path) -> Path:
    # Zarr lists what lies in its groups but not what lies in an array's folder: what is left there disturbs nobody.
    return store / "labels" / f"publishing.{uuid.uuid4().hex}.partial"
