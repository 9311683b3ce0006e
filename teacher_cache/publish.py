"""Publishing a store, and fetching one: its chunks in a few files, with a card for people and a manifest of hashes.

TARGET holds README.md, manifest.json and the packed store in store/, which `Store.open`, `train`, `verify` and plain
Zarr read as it is; `unpack` gives the original back, file by file.
"""

import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from teacher_cache.errors import DiskError, StorageError, StoreError
from teacher_cache.files import new_folder
from teacher_cache.messages.recognise import no_licence
from teacher_cache.messages.shown import as_code, as_word, counted, listed, shown
from teacher_cache.storage.manifest import MANIFEST, STORE, place_above, read_hashes, write_manifest
from teacher_cache.storage.opening import check_not_web, open_storage
from teacher_cache.storage.place import Place, Url, to_place
from teacher_cache.storage.storage import Storage
from teacher_cache.store.packing import copied_files, packed_files, unpacked_files, without_place
from teacher_cache.store.presence import check_outside
from teacher_cache.store.proof import describe_build
from teacher_cache.store.schema import GROUPS
from teacher_cache.store.status import check_committed, nobodys_labels, status
from teacher_cache.store.store import Store
from teacher_cache.store.unit import by_group
from teacher_cache.terminal import warn

CARD = "README.md"
ROOT = f"{STORE}/zarr.json"  # which makes the rest a store, and comes last
MARK = "publishing"  # lies in an object store until then

Progress = Callable[[int, int], None]
Write = Callable[[str, Iterable[bytes]], None]  # of a file, by name, part by part


@dataclass(frozen=True)
class Publication:
    """What went to a target: files and bytes, before and after."""

    files: int
    num_bytes: int
    files_before: int
    bytes_before: int


def publish(
    store: Store,
    target: str,
    *,
    partial: bool = False,
    licence: str | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Publication:
    """Pack a store into a folder, an object store or `hf://datasets/OWNER/NAME`; every unit is checked before. One that
    is packed is copied, checked by its manifest.

    partial: what is committed of a store that is not filled. What says where the store was made, its shards' folders
    and the file of an own teacher, stays behind; keys and class names become public, as a warning says. Raises
    StoreError for one that is not filled, or damaged, and for what is no licence's id; DiskError or StorageError where
    something is at the target, or it cannot be written.
    """
    place = to_place(target)
    check_not_web(place)
    if why := no_licence(licence):
        raise StoreError(why)
    check_committed(store)
    committed = store.committed()
    found = status(store, committed)
    missing = [unit for unit in store.units() if not committed[unit]]
    if missing and not partial:
        raise StoreError(
            f"{counted(len(missing), 'unit', 'is', of=len(store.units()))} not labelled in {store.path}: "
            f"{store.records.fill(range(store.views))}, or publish what there is with --partial"
        )
    front = _front(licence)
    _check_free(place, front)
    if (nobodys := nobodys_labels(store)) is not None:
        warn(nobodys)
    warn("keys of samples and names of classes become public with it")
    hashes = _hashes(store) if store.packing == GROUPS else None
    units = by_group(committed)
    for done, unit in enumerate(units, 1):
        store.check_unit(unit)
        on_progress(done, len(units))
    before = store.storage.list()
    with _writing(place, front, lambda written: _check_reads(written, store, committed)) as write:
        sent: dict[str, tuple[str, int]] = {}
        root = b""
        for name, parts in packed_files(store, committed) if hashes is None else copied_files(store, hashes):
            named = f"{STORE}/{name}"
            if named == ROOT:
                root = b"".join(parts)
                sent[named] = hashlib.sha256(root).hexdigest(), len(root)
            else:
                sent[named] = _send(write, named, parts)
        num_files, num_bytes = len(sent), sum(size for _, size in sent.values())
        card = describe(found, place, licence, num_bytes, partial=bool(missing))
        sent[CARD] = _send(write, CARD, [card.encode()])
        write(MANIFEST, [write_manifest(sent)])
        write(ROOT, [root])
    return Publication(num_files, num_bytes, len(before), sum(entry.num_bytes for entry in before))


def _check_reads(written: Place, store: Store, committed: np.ndarray) -> None:
    """Open what was published as a reader does. StoreError where it is not the store with these units, (S, U, G)."""
    try:
        there = Store.open(written)
        fault = None if np.array_equal(there.committed(), committed) else "other units count"
    except StoreError as error:
        fault = str(error)
    if fault is not None:
        raise StoreError(
            f"what was made of {store.path} to be published cannot be read as it can ({fault}): see that nothing "
            "writes to its files, then run the same command again"
        )


def _send(write: Write, name: str, parts: Iterable[bytes]) -> tuple[str, int]:
    """Write a file, part by part -> its SHA-256 and bytes."""
    digest, num_bytes = hashlib.sha256(), 0

    def noted() -> Iterator[bytes]:
        nonlocal num_bytes
        for part in parts:
            digest.update(part)
            num_bytes += len(part)
            yield part

    write(name, noted())
    return digest.hexdigest(), num_bytes


def unpack(packed: str, folder: str, *, on_progress: Progress = lambda done, total: None) -> Store:
    """Make the store that was published, in a folder, file by file; its shards are named without their places.

    packed: the published TARGET or its store/. Raises StoreError where a file is not what the manifest says, or is
    absent; DiskError where something is at the folder.
    """
    store = Store.open(packed)
    if store.packing != GROUPS:
        raise StoreError(f"{store.path} is not packed: it is a store as `index` makes it, copy it as it is")
    target = Path(folder)
    if os.path.lexists(target):
        raise DiskError(f"{target} is there already: remove it, or choose another folder")
    check_outside(target)
    hashes = _hashes(store)
    with new_folder(target) as aside:
        write = _writer(aside)
        for done, (name, content) in enumerate(unpacked_files(store, hashes), 1):
            write(name, [content])
            on_progress(done, done)
    return Store.open(target)


def _hashes(store: Store) -> dict[str, str]:
    """The SHA-256 of a packed store's files as its manifest says, by their names in the store. StoreError without."""
    hashes = None
    with suppress(ValueError):
        hashes = read_hashes(store.path)
    if hashes is None:
        raise StoreError(
            f"{place_above(store.path) / MANIFEST} is absent or damaged: fetch it again from where the store was "
            "published"
        )
    return hashes


# -- targets ---------------------------------------------------------------------------------------------------------


def _check_free(place: Place, front: Sequence[str]) -> None:
    if isinstance(place, Path) and os.path.lexists(place):
        raise DiskError(f"{place} is there already: remove it, or choose another place")
    check_outside(place)
    if isinstance(place, Path):
        return
    if place.scheme == "hf":
        from teacher_cache.storage.hub import find_repository

        if (there := find_repository(place)) is not None:
            _check_hub_free(there, front)
    elif open_storage(place).list():
        raise _not_free(place)


def _check_hub_free(there: Storage, front: Sequence[str]) -> None:
    """StorageError where something of a publication lies under a place of the Hub. Other files may, and a card that
    says no more than the front matter of the one that comes: the Hub's own form makes it, of a licence."""
    names = {entry.name.partition("/")[0] for entry in there.list()} & {CARD, MANIFEST, STORE}
    card = there.get(CARD) if CARD in names else None
    if card is not None and {line.strip() for line in card.decode(errors="replace").splitlines()} <= {*front, ""}:
        names.remove(CARD)
    if names:
        raise StorageError(
            f"{there.place} has {listed(sorted(names))} already: remove {'it' if len(names) == 1 else 'them'}, or "
            "choose another place, a folder in the repository will do"
        )


def _not_free(place: Place) -> StorageError:
    return StorageError(f"there are objects under {place} already: remove them, or choose another place")


@contextmanager
def _writing(place: Place, front: Sequence[str], check: Callable[[Place], None]) -> Iterator[Write]:
    """Write files under a target, by name, so that they are there whole or not at all: a folder and a commit appear at
    the end, in an object store the root, which makes it a store, is written last. What was written is checked where it
    lies before it appears, and far away there, too; the root of what fails is removed again. front: of the card."""
    if isinstance(place, Path):
        with new_folder(place) as aside:
            yield _writer(aside)
            check(aside)
    elif place.scheme == "hf":
        from teacher_cache.storage.hub import commit_folder

        with tempfile.TemporaryDirectory() as folder:
            yield _writer(Path(folder))
            check(Path(folder))
            commit_folder(place, Path(folder), lambda there: _check_hub_free(there, front))
            check(place)
    else:
        with tempfile.TemporaryDirectory() as folder, _alone(open_storage(place)) as storage:
            write_aside = _writer(Path(folder))

            def put(name: str, parts: Iterable[bytes]) -> None:
                write_aside(name, parts)
                written = Path(folder, name)
                storage.put(name, written)
                written.unlink()

            yield put
            try:
                check(place)
            except BaseException:
                storage.delete(ROOT)
                raise


@contextmanager
def _alone(storage: Storage) -> Iterator[Storage]:
    """A storage in which there is nothing, to which no other publishes; what came to be there stays where this ends by
    an error. StorageError where another is first."""
    if not storage.put_if_absent(MARK, secrets.token_bytes(16)):
        raise StorageError(f"{storage.place} is published to by another: wait for its end, or choose another place")
    if any(entry.name != MARK for entry in storage.list()):
        storage.delete(MARK)
        raise _not_free(storage.place)
    yield storage
    storage.delete(MARK)


def _writer(folder: Path) -> Write:
    def write(name: str, parts: Iterable[bytes]) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.writelines(parts)

    return write


# -- the card --------------------------------------------------------------------------------------------------------


def describe(found: Mapping[str, Any], place: Place, licence: str | None, num_bytes: int, *, partial: bool) -> str:
    """The page of a published store: what it is, how it is used, what was labelled by which build. found: its
    status."""
    teacher, policy = found["teacher"], found["policy"]
    height, width = policy["size"]
    where = place if isinstance(place, Url) else Path(place.name)
    whole = _whole_views(found)
    rows = {
        "samples": f"{found['samples']:,} in {counted(found['shards'], 'shard')}, {counted(found['classes'], 'class')}",
        "views of each": f"{found['views']} at {height} x {width}",
        "policy, seed": f"{as_code(policy['name'])}, {found['seed']}",
        "labelled": f"{found['labelled']:,} of {counted(found['samples'] * found['views'], 'view')}",
        "bytes": f"{num_bytes:,}",
    }
    if teacher:
        rows["teacher"] = as_code(without_place(teacher)["name"])
        rows["SHA-256 of its weights"] = as_code(teacher["weights_sha256"])
    if found["agreement"]:
        shares = found["agreement"]
        rows["agreement with the ground truth"] = (
            f"{shares['larger']:.1%}, with either class of a mix {shares['either']:.1%}"
        )
    if found["skipped"]["samples"]:
        rows["skipped"] = f"{counted(found['skipped']['samples'], 'sample')}: the images do not decode"
    if found["topk"]:
        rows["probabilities"] = f"the {found['topk']} largest of each view, at temperature {found['tau']:g}"
    given = " --shards 'SHARDS'"
    if own := policy.get("own_operations"):
        function = shown(own["function"], None)
        given += f" --ops {as_word(f'FILE.py:{function}')}"
        rows["operations of its own"] = (
            f"{as_code(function)} of a file that is needed as well, SHA-256 {as_code(own['sha256'])}"
        )
    part = f"\n**It is a part:** {_part(whole)}.\n" if partial else ""
    used = f" --views-used {whole}" if partial else ""
    learn = f"student train {as_word(where / STORE)}{given} --val 'SHARDS' --recipe RECIPE{used} --out RUN\n"
    stated = f"Licence: {licence}" if licence else "No licence is stated: ask whoever published it."
    table = [f"| {name} | {value} |" for name, value in rows.items()]
    texts = {"front": _front(licence), "table": table, "made": _made_by(found)}
    joined = {name: "\n".join(lines) for name, lines in texts.items()}
    places = {"target": as_word(where), "store": as_word(where / STORE)}
    return _CARD.format(**joined, **places, part=part, stated=stated, given=given, learn=learn if whole else "")


def _part(whole: int) -> str:
    if not whole:
        return "no view is labelled of every sample, so unpack it and label more before a student learns from it"
    return f"{counted(whole, 'view', 'is')} labelled of every sample"


def _whole_views(found: Mapping[str, Any]) -> int:
    """How many views are labelled of every sample, from 0 on."""
    groups = found["coverage"]["groups"]
    lacking = (group["views"][0] for group in groups if group["units_committed"] < group["units"])
    return int(next(lacking, found["views"]))


def _made_by(found: Mapping[str, Any]) -> list[str]:
    """The devices that labelled views, how many, and by which builds."""
    lines = []
    for device, views in found["labelled_on"].items():
        lines.append(f"- {as_code(device)}: {counted(views, 'view')}")
        for build in (each for each in found["builds"] if each["device"] == device):
            lines.append(f"  - {as_code(describe_build(build))}; logits: {as_code(build['logits'])}")
    return lines


def _front(licence: str | None) -> list[str]:
    """The lines of the card's front matter, which the Hub reads."""
    return ["---", *([f"license: {licence}"] if licence else []), "tags:", "- deit-teacher-cache", "---"]


_CARD = """{front}
# A teacher's labels of augmented views

Made by deit-teacher-cache: what a teacher says of every augmented view of a data set, two bytes a view, to train any
number of students from without running it again. It holds no picture: the shards that were indexed are needed, and are
compared with the index whenever they are read.
{part}
| | |
| --- | --- |
{table}

{stated}

## Use

```bash
pip install 'deit-teacher-cache[objects]'
teacher-cache status {store}
teacher-cache verify {store}{given}
{learn}teacher-cache unpack {target} FOLDER  # to add views, or to label more
```

Keys of samples and names of classes are part of it, and public with it: each view's seed is derived from its sample's
key.

## Labelled by

{made}
"""
