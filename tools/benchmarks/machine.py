"""Where and when something was measured, and with which versions."""

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from teacher_cache.files import replacing
from teacher_cache.teacher.teacher import device_name
from tools.benchmarks.row import cores

LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "simplejpeg",
    "zarr",
    "webdataset",
    "nvidia-dali-cuda130",
    "nvidia-dali-cuda120",
)


def describe_machine(device: torch.device) -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": device_name(torch.device("cpu")),
        "cores": cores(),
        "memory_gb": round(memory / 2**30, 1),
        "device": device_name(device) if device.type == "cuda" else None,
        "system": platform.platform(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def describe_versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = None
    return versions


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_aside(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as aside:
        aside.write_text(text)
