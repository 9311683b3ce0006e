"""Attributes in a store that several processes may write at once, and of which the first writer's stay: the teacher's
identity, the devices and builds that filled it. Each carries a hash of itself."""

import json
from collections.abc import Mapping
from typing import Any

from teacher_cache.errors import StoreError
from teacher_cache.files import raise_unreadable
from teacher_cache.storage.storage import Storage
from teacher_cache.store.arrays import document_bytes, document_name
from teacher_cache.store.sealed import SEAL, broken, seal


def attributes_document(attributes: Mapping[str, Any]) -> bytes:
    """A zarr.json of attributes, and a hash of each."""
    sealed = {**attributes, SEAL: seal(attributes)}
    return document_bytes({"attributes": sealed, "zarr_format": 3, "node_type": "group"})


def read_published(storage: Storage, name: str) -> dict[str, Any] | None:
    """The attributes of a folder; None where it is not published. StoreError where it is damaged or was edited."""
    file = storage.place / document_name(name)
    try:
        content = storage.get(document_name(name))
        if content is None:
            return None
        attributes = dict(json.loads(content)["attributes"])
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
