"""RandAugment operations of a user's own: a Python file, known by the hash of its bytes, and what it gives by name.

A store holds the hash and the names, never the place: its policy alone makes no code run.
"""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from teacher_cache.errors import PolicyError
from teacher_cache.messages.nearest import OFFERED, did_you_mean

if TYPE_CHECKING:
    import numpy as np

# (H, W, 3) uint8 pixels and a level in [-1, 1] -> the same shape; a pure function: no random numbers, no clock
OwnOperation = Callable[["np.ndarray", float], "np.ndarray"]


@dataclass(frozen=True)
class OperationsFile:
    """A file's function that returns operations by name. Another process that it is sent to reads the file again."""

    path: Path
    function: str
    sha256: str  # of the file's bytes

    @cached_property
    def functions(self) -> dict[str, OwnOperation]:
        """The operations by name, loaded when first asked for. PolicyError when the file is no longer the one that was
        opened, or gives something else than operations."""
        content = _read(self.path)
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise PolicyError(
                f"{self.path} changed while it was in use (sha256 {found[:12]}, opened with {self.sha256[:12]}): "
                "put it back as it was and run again"
            )
        return _call(_execute(content, self.path, self.sha256), self.path, self.function)

    @property
    def names(self) -> tuple[str, ...]:
        """In alphabetical order."""
        return tuple(sorted(self.functions))

    def __reduce__(self) -> tuple[Any, ...]:
        return OperationsFile, (self.path, self.function, self.sha256)  # functions of a file cannot be pickled


def open_operations(spec: str) -> OperationsFile:
    """Read and hash FILE.py:FUNCTION; nothing of it runs yet. PolicyError when there is no such file."""
    place, _, function = spec.rpartition(":")
    if not place or not function.isidentifier():
        raise PolicyError(f"operations {spec!r} are not of the form FILE.py:FUNCTION")
    if "://" in place:
        raise PolicyError(f"operations {place} are no file of this machine: copy them here, and name the copy")
    path = Path(place).absolute()
    return OperationsFile(path, function, hashlib.sha256(_read(path)).hexdigest())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PolicyError(
            f"operations {path} cannot be read ({error.strerror}): check the path before the colon"
        ) from error


def _execute(content: bytes, path: Path, sha256: str) -> ModuleType:
    """The module of exactly these bytes: an import could take another file's, or yesterday's from __pycache__."""
    module = ModuleType(f"own_operations_{sha256[:16]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses, for one, look a class's module up
    try:
        exec(compile(content, str(path), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise PolicyError(f"operations {path} cannot be loaded: {one_line(error)}") from error
    return module


def _call(module: ModuleType, path: Path, name: str) -> dict[str, OwnOperation]:
    function = getattr(module, name, None)
    if not callable(function):
        there = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        more = f" and {len(there) - OFFERED} more" if len(there) > OFFERED else ""
        listing = f"there is {', '.join(there[:OFFERED]) or 'none'}{more}"
        raise PolicyError(f"operations {path} have no function {name}: {did_you_mean(name, there, listing)}")
    try:
        found = function()
    except (Exception, SystemExit) as error:
        raise PolicyError(f"function {name}() of {path} failed: {one_line(error)}") from error
    if not isinstance(found, dict) or not found:
        what = "an empty dict" if found == {} else f"a {type(found).__name__}"
        raise PolicyError(f"function {name} of {path} returned {what}, a dict of operations by name is expected")
    for each, operation in found.items():
        if not isinstance(each, str):
            raise PolicyError(f"function {name} of {path} names an operation {each!r}: a string is expected")
        if not callable(operation):
            raise PolicyError(
                f"function {name} of {path} gives a {type(operation).__name__} for {each!r}, a function of pixels and "
                "level is expected"
            )
    return dict(found)


def one_line(error: BaseException) -> str:
    """An error of the user's code, as messages tell it."""
    return " ".join(f"{type(error).__name__}: {error}".split())
