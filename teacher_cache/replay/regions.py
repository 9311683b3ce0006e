"""A region of a JPEG decoded alone, by nvImageCodec's processor back end (libjpeg-turbo): an optional library.

The bytes equal those of the same region of the whole picture, whatever the subsampling, progressive files included.
"""

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from teacher_cache.replay.recipe import Box

_EXTENSIONS = "NVIMGCODEC_EXTENSIONS_PATH"
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
    nvimgcodec = _import(installed)
    decoder = nvimgcodec.Decoder(
        device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
        max_num_cpu_threads=1,
        backends=[nvimgcodec.Backend(nvimgcodec.BackendKind.CPU_ONLY)],
        options=":fancy_upsampling=1",  # as libjpeg-turbo does by itself
    )
    rgb = nvimgcodec.DecodeParams(apply_exif_orientation=False, color_spec=nvimgcodec.ColorSpec.SRGB)

    def decode_region(image: bytes, box: Box) -> np.ndarray | None:
        region = nvimgcodec.Region(box.top, box.left, box.top + box.height, box.left + box.width)
        try:
            found = decoder.decode(nvimgcodec.CodeStream(image).get_sub_code_stream(region=region), params=rgb)
        except RuntimeError:
            return None
        return None if found is None else np.asarray(found.cpu())

    return decode_region


def _import(installed: metadata.Distribution) -> Any:
    """The library loads every codec of a folder when it is imported, those for GPUs too, which complain on stderr where
    CUDA's libraries are missing: it is shown a folder in which libjpeg-turbo is alone."""
    before = os.environ.get(_EXTENSIONS)
    with tempfile.TemporaryDirectory(prefix="codecs-") as folder:
        for place in installed.files or ():
            if place.name.startswith("libjpeg_turbo_ext"):
                (Path(folder) / place.name).symlink_to(Path(str(place.locate())).resolve())
        os.environ[_EXTENSIONS] = folder
        try:
            from nvidia import nvimgcodec
        finally:
            if before is None:
                del os.environ[_EXTENSIONS]
            else:
                os.environ[_EXTENSIONS] = before
    return nvimgcodec
