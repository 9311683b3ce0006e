"""Weights in files: read whole or refused. How they become a model's is in state_dict.py.

A file of torch.save is a zip: torch itself does not compare the checksums in it, so all of them are compared here
before it is loaded. A safetensors file has none; those of `student export` carry a hash of all that they hold.
"""

import argparse
import hashlib
import json
import math
import mmap
import os
import pickletools
import re
import struct
import tempfile
import zipfile
import zlib
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from functools import lru_cache
from itertools import islice
from pathlib import Path, PosixPath
from typing import IO, Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from teacher_cache.errors import CheckpointError, StorageError
from teacher_cache.files import raise_unreadable, writing
from teacher_cache.messages.recognise import no_checkpoint
from teacher_cache.messages.shown import counted, shown
from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.place import Url, to_place

DIGEST = "deit_teacher_cache_sha256"  # the metadata key of what content_sha256 gives
CHUNK_BYTES = 2**20
GRAPHS = (".onnx", ".pt2")
PICKLE_START = b"\x80"
LEGACY_PICKLES = 3  # before torch 1.6 a file began with a magic number, the format's and the system's
ZIP_START, LOCAL_HEADER = b"PK\x03\x04", struct.Struct("<4s5H3L2H")
SIZED = b"\nbytearray\n"  # as a pickle names it
WHAT_NEXT = "copy it again from where it came, or use another"
# what many training scripts save beside the weights: their arguments, paths among them
ARGUMENTS: list[Any] = [
    argparse.Namespace,
    *((PosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
]


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint as it is: a safetensors file, or what torch.load(weights_only=True) allows. path may be a URL,
    whose bytes are fetched once.

    CheckpointError for what is absent, damaged (where the file has checksums) or no such file.
    """
    if fault := no_checkpoint(to_place(path)):
        raise CheckpointError(fault)
    file = _at_hand(path)
    try:
        if path.endswith(".safetensors"):
            return _read_safetensors(path, file)
        _check_kind(path, file)
        check_whole(path, file)
        _check_sized(path, file)
        with torch.serialization.safe_globals(ARGUMENTS):
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:
        raise_unreadable(error)
        raise CheckpointError(f"checkpoint {path} {_unreadable(path, file, error)}") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"checkpoint {path} holds a {type(loaded).__name__}, a state dict is expected")
    _check_held(path, loaded, os.path.getsize(file))
    return loaded


def read_metadata(path: str) -> dict[str, str]:
    """The strings in a safetensors file's header; none in any other file."""
    if not path.endswith(".safetensors"):
        return {}
    with safe_open(_at_hand(path), framework="pt") as file:
        return dict(file.metadata() or {})


def read_normalisation(path: str) -> dict[str, tuple[float, ...]]:
    """Mean and std, three numbers each, where a checkpoint says them. Raises CheckpointError for anything else."""
    content = read_checkpoint(path)
    found = {name: content[name] for name in ("mean", "std") if not isinstance(content.get(name), Tensor | None)}
    for name, values in found.items():
        three = isinstance(values, list | tuple) and len(values) == 3
        if not three or not all(type(value) in (int, float) and abs(value) < math.inf for value in values):
            raise CheckpointError(
                f"checkpoint {path} says {name} = {shown(repr(values))}: three numbers are expected, give --{name}"
            )
    return {name: tuple(values) for name, values in found.items()}


def check_whole(path: str, copy: str | None = None) -> None:
    """Compare every checksum in a file of torch.save, of which this may be a copy. Raises CheckpointError.

    Files of torch before 1.6 are no zips and have none.
    """
    with open(copy or path, "rb") as file:
        if file.read(len(ZIP_START)) != ZIP_START and not zipfile.is_zipfile(copy or path):
            return
        try:
            members = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, MemoryError) as error:
            raise CheckpointError(
                f"checkpoint {path} is cut short or damaged (its table of contents: {first_line(error)}): {WHAT_NEXT}"
            ) from error
        if any(member.filename.endswith("/constants.pkl") for member in members):
            raise CheckpointError(
                f"checkpoint {path} is a TorchScript archive, which is a program: whoever trusts it saves its weights "
                f"once, torch.save(torch.jit.load({path!r}).state_dict(), 'weights.pt')"
            )
        size = os.fstat(file.fileno()).st_size
        if sum(member.file_size for member in members) > size or len({m.filename for m in members}) < len(members):
            raise CheckpointError(
                f"checkpoint {path} is damaged: its table of contents lists more than the {size:,} bytes of the file, "
                f"or a part twice: {WHAT_NEXT}"
            )
        if not any(member.CRC for member in members):
            raise CheckpointError(
                f"checkpoint {path} has no checksums, so damage would not show: save it again without "
                "torch.serialization.set_crc32_options(False)"
            )
        for member in members:
            if damage := _damage_of(file, member):
                raise CheckpointError(f"checkpoint {path} is damaged ({damage} of {member.filename}): {WHAT_NEXT}")


def content_sha256(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 over a state dict and the metadata beside it, but for the hash itself."""
    others = {name: value for name, value in metadata.items() if name != DIGEST}
    return hashlib.sha256(json.dumps([state_sha256(state), others], sort_keys=True).encode()).hexdigest()


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """sha256 over a state dict in order of name: name, dtype, shape, bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def first_line(error: Exception) -> str:
    """What a library says of its error, on one line."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _at_hand(path: str) -> str:
    """The file of a checkpoint; of one at a URL a copy, which lasts as long as this process. Raises CheckpointError."""
    url = to_place(path)
    return _fetched(url).name if isinstance(url, Url) else path


@lru_cache(4)
def _fetched(url: Url) -> "tempfile._TemporaryFileWrapper[bytes]":
    try:
        content = open_storage(url.parent).get(url.name)
    except StorageError as error:
        raise CheckpointError(f"checkpoint {error}") from None
    if content is None:
        raise CheckpointError(f"checkpoint {url} is absent: check the place")
    file = tempfile.NamedTemporaryFile(suffix=Path(url.name).suffix)  # noqa: SIM115 - it is removed with the process
    with writing(file.name):
        file.write(content)
        file.flush()
    return file


def _check_kind(path: str, copy: str) -> None:
    """Refuse, with CheckpointError, what is no file of torch.save, where its name or first bytes tell."""
    if path.endswith(GRAPHS):
        raise CheckpointError(
            f"checkpoint {path} is an exported graph: give the checkpoint, or the .safetensors file, it was made of"
        )
    with open(copy, "rb") as file:
        start = file.read(40)
    if not start.startswith((ZIP_START, PICKLE_START)):
        raise CheckpointError(
            f"checkpoint {path} cannot be read as plain weights: it begins with {start!r}, as no file of torch.save "
            f"does: {WHAT_NEXT}"
        )


def _check_sized(path: str, copy: str) -> None:
    """Refuse, with CheckpointError, what torch would take memory for by a number alone, of whatever size."""
    with open(copy, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        if whole.find(SIZED) >= 0:
            raise CheckpointError(
                f"checkpoint {path} holds a bytearray, which may claim any memory: whoever trusts it saves its weights "
                "alone"
            )


def _check_held(path: str, content: Any, num_bytes: int) -> None:
    """Refuse, with CheckpointError, a tensor that is larger than the file of so many bytes: it says one value many
    times, or none, and who looks at all of them takes memory for as many as a stranger likes."""
    waiting, seen = [content], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            if (
                value.layout is torch.strided
                and not value.is_meta
                and math.prod(value.shape) * value.element_size() > num_bytes
            ):
                raise CheckpointError(
                    f"checkpoint {path} holds a tensor of shape {tuple(value.shape)} in {counted(num_bytes, 'byte')}, "
                    "the same values again and again: save it anew, each tensor as its .clone()"
                )
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:  # it may hold itself
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, Mapping) else value)


def _unreadable(path: str, copy: str, error: Exception) -> str:
    """Why torch does not read a file as plain weights, and how somebody who trusts it makes such a file of it."""
    text = str(error)
    if not (asked := re.search(r"GLOBAL (\S+) was not an allowed global", text)):
        why = re.search(r"WeightsUnpickler error: (.+)", text)  # torch's first line tells how to run what is in it
        return f"cannot be read as plain weights ({why[1] if why else first_line(error)}): {WHAT_NEXT}"
    what, part, where = "a whole pickled model", ".state_dict()", ""
    if _holds_dict(copy):
        what, part = "more than plain weights", "[KEY]"
        where = ", where KEY is that of the weights, and .state_dict() follows it if they are a whole model"
    return (
        f"is {what}: to read it would run code ({asked[1]}), which is never done here: whoever trusts it saves its "
        f"weights once, torch.save(torch.load({path!r}, weights_only=False){part}, 'weights.pt'){where}"
    )


def _holds_dict(path: str) -> bool:
    """Whether what was pickled is a dictionary; nothing of it is run."""
    with ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(open(path, "rb"))
        before = LEGACY_PICKLES
        if zipfile.is_zipfile(file):
            archive = stack.enter_context(zipfile.ZipFile(file))
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            file, before = stack.enter_context(archive.open(name)), 0
        else:
            file.seek(0)
        try:
            for _ in range(before):
                deque(pickletools.genops(file), maxlen=0)
            _, (operation, argument, _) = islice(pickletools.genops(file), 2)
        except ValueError:  # a stranger's pickle, of any operations
            return True
    return operation.name == "EMPTY_DICT" or argument == "collections OrderedDict"


def _read_safetensors(path: str, copy: str) -> dict[str, Any]:
    with safe_open(copy, framework="pt") as file:
        metadata = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    if DIGEST in metadata and metadata[DIGEST] != content_sha256(state, metadata):
        raise CheckpointError(f"checkpoint {path} is damaged: what it holds is not what it was hashed as: {WHAT_NEXT}")
    return state


def _damage_of(file: BinaryIO, member: zipfile.ZipInfo) -> str | None:
    """What is wrong with a zip's member, as torch.save writes them: stored, plain files; None if nothing is."""
    directory = bool(member.external_attr & 0x10) or member.is_dir()  # torch would leave its memory as it finds it
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size or directory:
        return "the entry"
    file.seek(member.header_offset)
    header = file.read(LOCAL_HEADER.size)
    if len(header) < LOCAL_HEADER.size:
        return "the header"
    start, _, flags, method, *_, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
    name = file.read(name_bytes)
    if (start, flags, method) != (ZIP_START, member.flag_bits, 0) or name != member.orig_filename.encode():
        return "the header"
    file.seek(extra_bytes, os.SEEK_CUR)
    left, checksum = member.file_size, 0
    while left:
        content = file.read(min(left, CHUNK_BYTES))
        if not content:
            return "the end"
        checksum = zlib.crc32(content, checksum)
        left -= len(content)
    return None if checksum == member.CRC else "the checksum"
