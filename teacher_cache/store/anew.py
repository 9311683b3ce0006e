"""The commands that index and fill anew what a store holds that this program no longer reads."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from teacher_cache.messages.shown import as_word
from teacher_cache.replay.header import MAX_PIXELS
from teacher_cache.replay.policy import load_policy, shipped_policies
from teacher_cache.storage.storage import Storage


def fill_anew(storage: Storage, settings: Mapping[str, Any]) -> str:
    """For people: both commands, with all that decides of the store's views and labels; what is in no store is named in
    capitals. Nothing that is read here has been checked."""
    policy = found if isinstance(found := settings.get("policy"), dict) else {"name": "POLICY"}
    own = own if isinstance(own := policy.get("own_operations"), dict) else {}
    ops = [_option("ops", f"FILE.py:{own.get('function')}")] if own else []
    augmentation = [_option("policy", policy.get("name")), *(_option("set", each) for each in _overrides(policy, own))]
    index = " ".join(["teacher-cache index SHARDS --store NEW", *augmentation, *ops, *_of_index(settings)])
    fill = " ".join(["teacher-cache fill NEW", *_of_teacher(storage), *ops])
    return f"index and fill anew, `{index}`, then `{fill}`"


def _option(key: str, value: object) -> str:
    return f"--{key.replace('_', '-')} {as_word(value)}"


def _of_index(settings: Mapping[str, Any]) -> Iterator[str]:
    for key in ("views", "seed"):
        yield _option(key, settings.get(key))
    defaults = {"group": None, "unit_samples": None, "max_pixels": MAX_PIXELS, "class_from": "cls", "image_from": None}
    for key, default in defaults.items():
        if settings.get(key, default) != default:
            yield _option(key, settings[key])
    if settings.get("fingerprint") == "whole":
        yield "--whole"
    if settings.get("any_device") is True:
        yield "--devices any"


def _of_teacher(storage: Storage) -> Iterator[str]:
    """Options of `fill`. Those of its arithmetic are given too, as another machine may have other defaults."""
    try:
        teacher = dict(json.loads(storage.get("teacher/zarr.json") or b"{}")["attributes"])
        spec = teacher["spec"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        yield "--teacher TEACHER"
        return
    yield _option("teacher", spec)
    if (name := str(teacher.get("name"))).endswith(")"):  # the file's own name: its folder is not kept
        yield _option("checkpoint", name.rpartition(" (")[2].removesuffix(")"))
    for key in ("mean", "std"):
        if isinstance(teacher.get(key), list):
            yield _option(key, ",".join(map(str, teacher[key])))
    for key in ("input_size", "dtype", "batch_size"):
        if teacher.get(key) is not None:
            yield _option(key, teacher[key])
    if teacher.get("compile") is True:
        yield "--compile"
    if teacher.get("topk"):
        yield from (_option("topk", teacher["topk"]), _option("tau", teacher.get("tau")))


def _overrides(policy: dict[str, Any], own: dict[str, Any]) -> Iterator[str]:
    """What a stored policy has otherwise than the shipped one of its name, as --set takes it, but for a user's own
    operations; nothing where none is shipped."""
    if policy.get("name") not in shipped_policies():
        return
    names = list(own["names"]) if isinstance(own.get("names"), list) else []
    yield from _differing(policy, load_policy(policy["name"]).model_dump(mode="json"), names)


def _differing(stored: dict[str, Any], shipped: dict[str, Any], own: Sequence[str], section: str = "") -> Iterator[str]:
    for key in (each for each in stored if each in shipped and each not in ("version", "name", "own_operations")):
        there, here = stored[key], shipped[key]
        if isinstance(there, dict):
            if not section:  # of a section no setting is one
                here = here if isinstance(here, dict) else dict.fromkeys(there)
                yield from _differing(there, here, own, f"{key}.")
            continue
        if key == "operations" and isinstance(there, list):
            there = [name for name in there if name not in own]
        if there != here:
            yield f"{section}{key}={'none' if there is None else json.dumps(there)}"
