"""Which libraries decide pixels, in which versions: what a store records to explain a drift."""

import runpy
from importlib import metadata, util
from pathlib import Path

import numpy as np
import PIL


def pixel_libraries() -> dict[str, str]:
    """Names and versions of everything that decides pixels, as each library says its own."""
    import cv2

    return {
        "torch": torch_version(),
        "opencv": cv2.__version__,
        "simplejpeg": metadata.version("simplejpeg"),
        "pillow": PIL.__version__,
        "numpy": np.__version__,
    }


def torch_version() -> str:
    """torch.__version__ without the seconds that importing torch takes.

    The package's metadata does not always name the build: 2.14.1 there may be 2.14.1+cu130 here. So torch's own file,
    from which `torch.__version__` comes too, is run alone.
    """
    found = util.find_spec("torch")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    version: str = runpy.run_path(str(Path(found.origin).with_name("version.py")))["__version__"]
    return version
