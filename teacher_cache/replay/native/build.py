"""How the native library is built with the package: compiled where there is a C compiler, left out where there is none.

It is no module of Python's, but loaded by ctypes: its name and the wheel's tag name no version of Python.
"""

import importlib.util
from pathlib import Path

from setuptools import Extension
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent


class BuildLibrary(build_ext):
    """Compiles with a hash of the sources, by which the library is known."""

    def build_extension(self, ext: Extension) -> None:
        ext.define_macros.append(("SOURCES", f'"{_sources_hash()}"'))
        super().build_extension(ext)

    def get_ext_filename(self, fullname: str) -> str:
        return f"{fullname.replace('.', '/')}.so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []


class TagWheel(bdist_wheel):
    """One wheel a platform, for every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def _sources_hash() -> str | None:
    """As the library's reader computes it; its file is run alone, as building needs nothing that it imports."""
    spec = importlib.util.spec_from_file_location("sources", HERE / "sources.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: str | None = module.sources_hash(HERE)
    return found
