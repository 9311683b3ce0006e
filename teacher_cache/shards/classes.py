"""Which members of a sample are its image and its class, and what the classes are called."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from teacher_cache.errors import ShardError, StorageError
from teacher_cache.messages.shown import counted
from teacher_cache.settings import each_once, parse_json, read_json
from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.place import Place, Url, to_place

CLASSES_FILE = "classes.json"
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class ClassRule:
    """How a sample is read: where its class stands, "cls" or "json:FIELD" (json:a.b is field b of the object a); the
    class names, without which classes are integers; and the extension of its image, everything after the first dot of
    the file name in lower case, without which it is the one of IMAGE_EXTENSIONS that is there.
    """

    source: str = "cls"
    names: tuple[str, ...] | None = None
    image_from: str | None = None

    def __post_init__(self) -> None:
        if self.source != "cls" and not (self.source.startswith("json:") and len(self.source) > len("json:")):
            raise ShardError(
                f"a class cannot be read from {self.source!r}: give cls, or json:FIELD for a field of the .json member"
            )
        name = self.image_from
        if name is not None and (not name or name[0] == "." or "/" in name or name != name.lower()):
            raise ShardError(
                f"an image cannot be read from {name!r}: give its extension, everything after the first dot of the "
                "file name in lower case, as jpg or left.jpg"
            )
        if name == self.class_extension:
            raise ShardError(f"image and class cannot both be the member .{name}: give another --image-from")

    @property
    def class_extension(self) -> str:
        """The extension of the member that holds the class."""
        return "json" if self.field else "cls"

    @property
    def field(self) -> str:
        """The field of the .json member that is the class; empty where it is the .cls member."""
        return self.source.partition(":")[2]

    @property
    def image_extensions(self) -> tuple[str, ...]:
        """The extensions of images; a sample holds one of them."""
        return IMAGE_EXTENSIONS if self.image_from is None else (self.image_from,)


def read_class_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read a classes file: a JSON list of names in class order, or an object of name -> class, each of 0..n-1 once."""
    names = _find_class_names(to_place(path))
    if names is None:
        raise ShardError(f"the classes file {path} is not there: check the place")
    return names


def _find_class_names(place: Place) -> tuple[str, ...] | None:
    """The names in a classes file, None where there is none at a URL. Raises ShardError."""
    what = f"the classes file {place}"
    advice = 'give a JSON list of names in the order of their classes, as ["cat", "dog"]'
    if isinstance(place, Url):
        try:
            written = open_storage(place.parent).get(place.name)
        except StorageError as error:
            raise ShardError(f"{what} cannot be read: {error}; give one with --classes FILE") from None
        if written is None:
            return None
        content = parse_json(written, what, ShardError, advice, names=each_once)
    else:
        content = read_json(place, what, ShardError, advice)
    if isinstance(content, dict):
        if not all(type(c) is int for c in content.values()) or sorted(content.values()) != list(range(len(content))):
            raise ShardError(
                f"{what} does not number its {counted(len(content), 'name')} 0 to {len(content) - 1}: {advice}"
            )
        content = sorted(content, key=content.__getitem__)
    if not isinstance(content, list) or not content or not all(isinstance(name, str) for name in content):
        raise ShardError(f"{what} is not a JSON list of class names: {advice}")
    return tuple(content)


def class_rule(
    paths: Sequence[str],
    class_from: str = "cls",
    classes_file: str | None = None,
    image_from: str | None = None,
) -> ClassRule:
    """Find the shards' class names: classes_file, or the classes.json beside them; differing ones are refused."""
    rule = ClassRule(class_from, image_from=image_from)
    if classes_file is not None:
        return replace(rule, names=read_class_names(classes_file))
    found: tuple[Place, tuple[str, ...]] | None = None
    for file in sorted({to_place(path).parent / CLASSES_FILE for path in paths}, key=str):
        if isinstance(file, Path) and not file.exists():
            continue
        names = _find_class_names(file)
        if names is None:
            continue
        if found is not None and found[1] != names:
            raise ShardError(f"{found[0]} and {file} name different classes: say which counts with --classes FILE")
        found = found or (file, names)
    return replace(rule, names=found[1]) if found else rule
