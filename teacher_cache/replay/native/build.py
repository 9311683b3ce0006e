"""How the native library is built with the package: compiled where there is a C compiler, left out where there is none.

It is no module of Python's, but loaded by ctypes: its name and the wheel's tag name no version of Python.
"""

import contextlib
import importlib.util
from pathlib import Path

from setuptools import Extension
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

HERE = Path(__file__).parent


class BuildLibrary(build_ext):
    """Compiles with a hash of the sources, by which the library is known."""

    def build_extension(self, ext: Extension) -> None:
        ext.define_macros.append(("SOURCES", f'"{_sources_hash()}"'))
        ext.extra_compile_args += self._pinned()
        super().build_extension(ext)

    def _pinned(self) -> list[str]:
        """What keeps a compiler to the instructions that every x86-64 has, but in kernels that say otherwise. With
        -march=native in CFLAGS, and zig by itself, it takes those of its own processor, of which others die."""
        if self.plat_name != "linux-x86_64":
            return []
        trial = Path(self.build_temp, "trial.c")
        trial.parent.mkdir(parents=True, exist_ok=True)
        trial.write_text("int trial;\n")
        for flag in ("-march=x86-64", "-mcpu=x86_64"):  # of gcc and clang, of zig
            with contextlib.suppress(CompileError):
                self.compiler.compile([str(trial)], output_dir=str(trial.parent), extra_postargs=[flag])
                return [flag]
        return []

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
