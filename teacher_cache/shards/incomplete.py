"""Why a sample is not whole, so that its shard's maker learns what to change: pure functions of all its members."""

from collections.abc import Callable, Sequence

from teacher_cache.messages.shown import listed, shown
from teacher_cache.shards.class_member import MAX_CLASS_MEMBER, describe_json
from teacher_cache.shards.classes import IMAGE_EXTENSIONS, ClassRule

Run = dict[bytes, tuple[int, int]]  # members of a sample that follow each other: extension -> (data offset, data size)

_FIRST_DOT = "a key ends at the first dot of a file name"


def why_incomplete(key: bytes, runs: Sequence[Run], rule: ClassRule, read: Callable[[int, int], bytes]) -> str:
    """What keeps a sample from being whole, to follow its key: 'has no class: ...'.

    runs: all its members, those in one that follow each other; read(offset, size) gives a member's bytes.
    """
    members = {extension: place for run in runs for extension, place in run.items()}
    images = [extension for extension in members if extension.decode(errors="replace") in rule.image_extensions]
    has_class = rule.class_extension.encode() in members
    if len(runs) > 1 and len(images) == 1 and has_class:
        if sum(map(len, runs)) > len(members):
            return "comes back after other samples, so two have one key; write the shard again with each key once"
        return (
            f"has its members apart: {dotted(list(runs[0]))}, and behind other samples' {dotted(list(runs[1]))}; "
            "members of a sample must follow each other: tar them sorted (`tar --sort=name`)"
        )
    if len(images) > 1:
        return two_images(images[0], images[1])
    return _no_class(key, members, rule, read) if images else _no_image(key, list(members), rule)


def two_images(one: bytes, other: bytes) -> str:
    return (
        f"has two images ({dotted([one, other])}): say which counts with --image-from {shown(one)}, or --image-from "
        f"{shown(other)}; every later command reads the same"
    )


def dotted(extensions: Sequence[bytes]) -> str:
    """Extensions as people write them, three and a count."""
    return listed([b"." + extension for extension in extensions])


def _no_image(key: bytes, extensions: list[bytes], rule: ClassRule) -> str:
    found = f"has no image (.{', .'.join(rule.image_extensions)}) but {dotted(extensions)}"
    if rule.image_from is not None:
        return f"{found}; --image-from names the member that is the image of every sample"
    endings = tuple(b"." + name.encode() for name in IMAGE_EXTENSIONS)
    images = [extension for extension in extensions if extension.endswith(endings)]
    if not images:
        return f"{found}; write the shard again, or leave the sample out"
    if any(extension.endswith(f".{rule.class_extension}".encode()) for extension in extensions):
        return f"{found}; as {_read_as(key, images[0])}"
    return (
        f"{found}; say --image-from {shown(images[0])} if that is the image of every sample; else, as "
        f"{_read_as(key, images[0])}"
    )


def _no_class(key: bytes, members: Run, rule: ClassRule, read: Callable[[int, int], bytes]) -> str:
    wanted = rule.class_extension
    found = f"has no class: no .{wanted} member but {dotted(list(members))}"
    ending = f".{wanted}".encode()
    if others := [extension for extension in members if extension.endswith(ending)]:
        return f"{found}; as {_read_as(key, others[0])}"
    if b"json" in members:
        offset, size = members[b"json"]
        if size <= MAX_CLASS_MEMBER:
            return f"{found}, {describe_json(read(offset, size))}"
    if b"cls" in members:
        return f"{found}; leave --class-from out, if that is the class"
    return f"{found}; write the shard again with one, or say --class-from json:FIELD where a .json member has it"


def _read_as(key: bytes, extension: bytes) -> str:
    """How the name of a file with several dots is read."""
    base = key.rpartition(b"/")[2]
    name = shown(base + b"." + extension)
    return (
        f"{_FIRST_DOT} ('{name}' is member .{shown(extension)} of sample '{shown(base)}'), rename such files to have "
        "one dot"
    )
