"""A region of a JPEG decoded alone, by nvImageCodec's processor back end (libjpeg-turbo): an optional library.

The bytes equal those of the same region of the whole picture, whatever the subsampling, progressive files included.
"""

import contextlib
import functools
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from teacher_cache.replay.params import Box

_EXTENSIONS = "NVIMGCODEC_EXTENSIONS_PATH"
_VERBOSITY = "PYNVIMGCODEC_VERBOSITY"
_STDERR = 2
# libjpeg prints its warnings (JWRN_* in its jerror.h) past the library's own log
_WARNINGS = re.compile(
    rb"^(Corrupt JPEG data: |Premature end of JPEG file|Inconsistent progression sequence |Invalid SOS parameters |"
    rb"Unknown Adobe color transform |Warning: unknown JFIF revision )[^\n]*\n",
    re.MULTILINE,
)
_stderr = threading.Lock()
_DISTRIBUTIONS = ("nvidia-nvimgcodec-cu13", "nvidia-nvimgcodec-cu12")

RegionDecoder = Callable[[bytes, Box], np.ndarray | None]


def region_library() -> str | None:
    """The installed version of nvImageCodec; None where it is absent."""
    found = _installed()
    return found.version if found is not None else None


def _installed() -> metadata.Distribution | None:
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.distribution(name)
    return None


@functools.cache
def region_decoder() -> RegionDecoder | None:
    """(JPEG, box) -> (height, width, 3) uint8 RGB, or None of a file that it cannot read. None without the library."""
    installed = _installed()
    if installed is None:
        return None
    with tempfile.TemporaryDirectory(prefix="codecs-") as folder:
        silent = "0"  # of what it cannot read another decoder says why not
        with _environment({_EXTENSIONS: folder, _VERBOSITY: silent}):
            nvimgcodec, decoder = _open_decoder(installed, Path(folder))
    rgb = nvimgcodec.DecodeParams(apply_exif_orientation=False, color_spec=nvimgcodec.ColorSpec.SRGB)

    def decode_region(image: bytes, box: Box) -> np.ndarray | None:
        region = nvimgcodec.Region(box.top, box.left, box.top + box.height, box.left + box.width)
        try:
            with _without_warnings():
                found = decoder.decode(nvimgcodec.CodeStream(image).get_sub_code_stream(region=region), params=rgb)
        except RuntimeError:
            return None
        return None if found is None else np.asarray(found.cpu())

    return decode_region


def _open_decoder(installed: metadata.Distribution, folder: Path) -> tuple[Any, Any]:
    """The library loads every codec of a folder when it is imported, those for GPUs too, which complain on stderr where
    CUDA's libraries are missing: it is shown a folder in which libjpeg-turbo is alone."""
    for place in installed.files or ():
        if place.name.startswith("libjpeg_turbo_ext"):
            (folder / place.name).symlink_to(Path(str(place.locate())).resolve())
    from nvidia import nvimgcodec

    decoder = nvimgcodec.Decoder(
        device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
        max_num_cpu_threads=1,
        backends=[nvimgcodec.Backend(nvimgcodec.BackendKind.CPU_ONLY)],
        options=":fancy_upsampling=1",  # as libjpeg-turbo does by itself
    )
    return nvimgcodec, decoder


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep libjpeg's warnings off stderr, where they would name no file; a damaged picture is told by whoever decodes
    the whole of it. Another thread's lines that come meanwhile are handed on."""
    with _stderr:
        aside, stderr = _aside(), os.dup(_STDERR)
        os.dup2(aside, _STDERR)
        try:
            yield
        finally:
            os.dup2(stderr, _STDERR)
            os.close(stderr)
            num_bytes = os.lseek(aside, 0, os.SEEK_CUR)
            if num_bytes:
                others = _WARNINGS.sub(b"", os.pread(aside, num_bytes, 0))
                os.lseek(aside, 0, os.SEEK_SET)
                os.write(_STDERR, others)


@functools.cache
def _aside() -> int:
    """A file in memory: unlike a pipe it never fills."""
    return os.memfd_create("warnings")
