"""Which stores this program reads, and what of one never changes: hashed when made, compared when opened."""

from typing import Any

from teacher_cache.errors import StoreError
from teacher_cache.messages.shown import listed
from teacher_cache.replay.policy import POLICY_VERSION
from teacher_cache.storage.storage import Storage
from teacher_cache.store.anew import fill_anew
from teacher_cache.store.arrays import created_arrays
from teacher_cache.store.sealed import SEAL, broken, seal

SCHEMA = 2
FILES, GROUPS = PACKINGS = "files", "groups"  # how chunks lie: a file each, or those of a group in one
_CREATED = (  # attributes that never change; the shards' names and sizes too, but not their places
    *("seed", "policy", "group", "unit_samples", "class_names", "class_from", "fingerprint"),
    *("any_device", "max_pixels", "libraries"),
)
_OPTIONAL = ("image_from",)  # the same, of stores that have them


def created_parts(settings: dict[str, Any], storage: Storage) -> dict[str, Any]:
    """What a store is created with and keeps, by name."""
    shards = [[shard["name"], shard["bytes"]] for shard in settings["shards"]]
    there = [*_CREATED, *(name for name in _OPTIONAL if name in settings)]
    return {**{name: settings[name] for name in there}, "shards": shards, **created_arrays(storage)}


def views_sha256(views: int) -> str:
    return seal({"views": views})["views"]


def check_seal(storage: Storage, settings: dict[str, Any]) -> None:
    """StoreError that names what was changed since the store was created, or extended."""
    differing = broken(created_parts(settings, storage), settings[SEAL])
    if settings["views_sha256"] != views_sha256(settings["views"]):
        differing.append("views")
    if differing:
        raise StoreError(
            f"{storage.place}: {listed(differing)} {'is' if len(differing) == 1 else 'are'} not what the store was "
            "made with (the SHA-256 differs), so a zarr.json was edited or damaged: restore it from a copy, or index a "
            "new store"
        )


def check_schema(storage: Storage, settings: dict[str, Any]) -> None:
    """StoreError of a store of another schema or packing."""
    path = storage.place
    schema = settings.get("schema")
    if schema == SCHEMA and settings.get("packing") not in PACKINGS:
        raise StoreError(
            f"{path} is packed as {settings.get('packing')!r}, this program reads {' and '.join(map(repr, PACKINGS))}: "
            "use a newer version"
        )
    if schema == SCHEMA:
        return
    if schema != 1:
        raise StoreError(
            f"{path} has schema version {schema!r}, this program reads {SCHEMA}: use the program version that made it"
        )
    raise StoreError(
        f"{path} has schema version 1, this program reads {SCHEMA}, whose labels prove more: "
        f"{fill_anew(storage, settings)}"
    )


def check_policy_version(storage: Storage, settings: dict[str, Any]) -> None:
    """StoreError of a store whose pixels this program does not make."""
    policy = settings["policy"]
    version = policy.get("version") if isinstance(policy, dict) else None
    if isinstance(version, int) and version < POLICY_VERSION:
        raise StoreError(
            f"{storage.place} has policy version {version}, this program renders {POLICY_VERSION}, whose pixels are "
            f"others: {fill_anew(storage, settings)}"
        )
