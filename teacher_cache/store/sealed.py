"""What never changes is hashed: a SHA-256 of each named part, and one over all of them. They find damage and edits;
whoever means to deceive can write fitting ones."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

WHOLE = "whole"
SEAL = "parts_sha256"  # the attribute that holds the hashes


def seal(parts: Mapping[str, Any]) -> dict[str, str]:
    """The hash of each part, and under "whole" the one over these. Parts are plain JSON; spelling does not count."""
    hashes = {name: _sha256(value) for name, value in parts.items()}
    return {**hashes, WHOLE: _sha256(hashes)}


def broken(parts: Mapping[str, Any], sealed: Any) -> list[str]:
    """Names of the parts that are not what was sealed, sorted; all of them where the seal itself is no such thing."""
    if not isinstance(sealed, dict):
        return sorted(parts)
    found = seal(parts)
    differing = {name for name in found.keys() | sealed.keys() if found.get(name) != sealed.get(name)}
    return sorted(differing - {WHOLE}) or sorted(differing)


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
