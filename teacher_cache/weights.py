"""Weights in files: read whole or refused, and loaded strictly.

A file of torch.save is a zip: torch itself does not compare the checksums in it, so all of them are compared here
before it is loaded. A safetensors file has none; those of `student export` carry a hash of all that they hold.
"""

import argparse
import hashlib
import json
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor, nn

from teacher_cache.errors import CheckpointError
from teacher_cache.shown import shown

MISFIT = "another number of classes, or another variant of the model"
DIGEST = "deit_teacher_cache_sha256"  # the metadata key of what content_sha256 gives
CHUNK_BYTES = 2**20
ZIP_START, LOCAL_HEADER = b"PK\x03\x04", struct.Struct("<4s5H3L2H")
WHAT_NEXT = "copy it again from where it came, or use another"


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint as it is: a safetensors file, or what torch.load(weights_only=True) allows.

    CheckpointError for what is absent, damaged (where the file has checksums) or no such file.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"checkpoint {path} is absent: check the path")
    try:
        if path.endswith(".safetensors"):
            return _read_safetensors(path)
        check_whole(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # many training scripts save their arguments
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"checkpoint {path} cannot be read as plain weights: {first_line(error)}") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"checkpoint {path} holds a {type(loaded).__name__}, a state dict is expected")
    return loaded


def read_metadata(path: str) -> dict[str, str]:
    """The strings in a safetensors file's header; none in any other file."""
    if not path.endswith(".safetensors"):
        return {}
    with safe_open(path, framework="pt") as file:
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


def check_whole(path: str) -> None:
    """Compare every checksum in a file of torch.save. Raises CheckpointError.

    Files of torch before 1.6 are no zips and have none.
    """
    with open(path, "rb") as file:
        if file.read(len(ZIP_START)) != ZIP_START and not zipfile.is_zipfile(path):
            return
        try:
            members = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, MemoryError) as error:
            raise CheckpointError(
                f"checkpoint {path} is cut short or damaged (its table of contents: {first_line(error)}): {WHAT_NEXT}"
            ) from error
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


def state_of(
    checkpoint: Mapping[str, Any], *, prefer: Sequence[str] = ("model", "state_dict", "model_ema")
) -> dict[str, Tensor]:
    """The state dict of a checkpoint, bare or under one of the keys `prefer`, without DDP's and compile's prefixes."""
    state = next((checkpoint[key] for key in prefer if isinstance(checkpoint.get(key), Mapping)), checkpoint)
    tensors = {}
    for key, value in state.items():
        name = str(key)
        for prefix in ("module.", "_orig_mod.", "module."):
            name = name.removeprefix(prefix)
        tensors[name] = value
    return tensors


def check_tensors(state: Mapping[str, Any], path: str) -> dict[str, Tensor]:
    """The state dict, if it holds plain tensors and nothing else. Raises CheckpointError."""
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        found = ", ".join(others[:3]) or "nothing"
        raise CheckpointError(
            f"{path} holds no state dict, bare or under model or state_dict (found {found}): check the file"
        )
    for name, value in state.items():
        if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise CheckpointError(f"{path}: {name} is no plain tensor ({value.layout}, {value.device}): save it as one")
    return dict(state)


def load_weights(model: nn.Module, path: str, advice: str = MISFIT) -> None:
    """Load a checkpoint strictly. Raises CheckpointError naming the first things that do not fit."""
    load_state(model, check_tensors(state_of(read_checkpoint(path)), path), path, advice)


def load_state(model: nn.Module, state: Mapping[str, Tensor], path: str, advice: str = MISFIT) -> None:
    """Load a state dict strictly; path is where it was read. Raises CheckpointError as load_weights does."""
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shared = sorted(own.keys() & state.keys())
    misshapen = [name for name in shared if tuple(own[name].shape) != tuple(state[name].shape)]
    if missing or unexpected:
        raise CheckpointError(
            f"checkpoint {path} is not this model's: {len(missing)} names are missing ({', '.join(missing[:3])}), "
            f"{len(unexpected)} are unknown ({', '.join(unexpected[:3])}): check the model's name"
        )
    if misshapen:
        name = misshapen[0]
        raise CheckpointError(
            f"checkpoint {path} does not fit: {name} is {tuple(state[name].shape)}, the model's is "
            f"{tuple(own[name].shape)}: {advice}"
        )
    for name in shared:
        if own[name].is_floating_point() != state[name].is_floating_point():
            raise CheckpointError(
                f"checkpoint {path} does not fit: {name} is {state[name].dtype}, the model's is {own[name].dtype}: "
                "check the file"
            )
    model.load_state_dict(state, strict=True)


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


def _read_safetensors(path: str) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
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
