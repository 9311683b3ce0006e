"""The native library: found beside this file, loaded by ctypes, so that one file serves every Python.

It is built with the package where a C compiler is found. Without it the NumPy code renders, to the same bytes.
"""

import ctypes
import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path

from teacher_cache.errors import RenderError
from teacher_cache.replay.native.sources import sources_hash

SWITCH = "TEACHER_CACHE_NATIVE"  # off, or the most of a processor's instructions that it uses
KERNELS = ("plain", "sse41", "avx2", "avx512", "neon")  # by what a processor has

_HERE = Path(__file__).parent
_FINE, _NO_MEMORY = 0, 1


class ViewColumns(ctypes.Structure):
    """Views of one policy: `Views` of views.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num", "height", "width")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("crops", "resized", "windows", "flips", "operations", "values"),
                *("erased", "noise_streams", "noise"),
            )
        ),
        *(
            (name, ctypes.c_int64)
            for name in ("most_operations", "most_boxes", "interpolation", "geometry", "erase_mode")
        ),
        ("fill", ctypes.c_uint8 * 3),
    )


class Workspace:
    """The library and the memory in which one thread renders."""

    def __init__(self, library: ctypes.CDLL, handle: int) -> None:
        self._library, self._handle = library, handle
        self.kernels: str = library.replay_kernels(handle).decode()

    def render(self, views: ViewColumns, number: int, pixels: int, picture_size: tuple[int, int], out: int) -> None:
        """A view of a picture, both given by their addresses. MemoryError, or ValueError for what is out of bounds."""
        _check(self._library.replay_render(self._handle, ctypes.byref(views), number, pixels, *picture_size, out))

    def draw(self, draws: ctypes.Structure) -> None:
        """View parameters, `Draws` of draw.c. ValueError for what is out of bounds."""
        _check(self._library.replay_draw(ctypes.byref(draws)), "settings or sizes of pictures are out of bounds")

    def pair(self, pairs: ctypes.Structure) -> None:
        """How a block is mixed, `Pairs` of pairs.c. MemoryError, or ValueError for what is out of bounds."""
        _check(self._library.replay_pair(self._handle, ctypes.byref(pairs)), "settings of a mix are out of bounds")

    def plan(self, plan: ctypes.Structure, empty: Callable[[], None]) -> None:
        """What a device is told, `Plan` of plan.c. empty: gives it the room that it says it needs. MemoryError, or
        ValueError for what is out of bounds."""
        out_of_bounds = "views cannot be planned: their parameters are out of bounds"
        _check(self._library.replay_plan_room(ctypes.byref(plan)), out_of_bounds)
        empty()
        _check(self._library.replay_plan(self._handle, ctypes.byref(plan)), out_of_bounds)

    def mix(self, views: ctypes.Array, size: tuple[int, int], partners: int, lambdas: int, boxes: int) -> None:
        """Views, by their addresses, each with its partner, in place. ValueError for what is out of bounds."""
        _check(self._library.replay_mix(self._handle, len(views), *size, views, partners, lambdas, boxes))

    def find_restarts(self, data: int, num_bytes: int, num: int, starts: int) -> bool:
        """Where intervals of a JPEG begin, as `restarts.find_starts`, by addresses; whether it has so many."""
        found: int = self._library.replay_find_restarts(data, num_bytes, num, starts)
        return found == _FINE

    def join_intervals(
        self, data: int, num_bytes: int, starts: int, shape: tuple[int, ...], out: int, out_bytes: int
    ) -> None:
        """As `restarts.join_intervals`, by addresses. ValueError for what is out of bounds."""
        fault = self._library.replay_join_intervals(data, num_bytes, starts, *shape, out, out_bytes)
        _check(fault, "intervals of a JPEG are out of bounds")

    def __del__(self) -> None:
        self._library.replay_close(self._handle)


def _check(fault: int, out_of_bounds: str = "view parameters do not fit their picture") -> None:
    if fault == _NO_MEMORY:
        raise MemoryError("no memory is left to draw or render a view in")
    if fault != _FINE:
        raise ValueError(out_of_bounds)


_held = threading.local()


def workspace() -> Workspace | None:
    """This thread's, or None where the library is absent or switched off. RenderError for an unknown switch."""
    wanted = os.environ.get(SWITCH, "")
    if wanted == "off":
        return None
    if wanted and wanted not in KERNELS:
        raise RenderError(f"{SWITCH}={wanted!r} is unknown; give off, {', '.join(KERNELS)}, or leave it out")
    held: dict[str, Workspace] = _held.__dict__.setdefault("by_kernels", {})
    if wanted not in held:
        library = load()
        if library is None:
            return None
        held[wanted] = opened(library, wanted)
    return held[wanted]


def opened(library: ctypes.CDLL, wanted: str) -> Workspace:
    """A workspace with the kernels wanted, of KERNELS, "" for the processor's best."""
    handle = library.replay_open(wanted.encode() or None)
    if not handle:
        raise RenderError(f"{SWITCH}={wanted}: this processor lacks its instructions; leave it out, or give plain")
    return Workspace(library, handle)


def offered() -> list[str]:
    """The kernels that this processor can be asked for, the best last."""
    library = load()
    if library is None:
        return []
    handles = {kernels: library.replay_open(kernels.encode()) for kernels in KERNELS}
    for handle in handles.values():
        library.replay_close(handle)
    return [kernels for kernels, handle in handles.items() if handle]


def lacking() -> str | None:
    """What is lost where the library is absent, and why it is; None where it is there, or nobody wants it."""
    if load() is not None or os.environ.get(SWITCH) == "off":
        return None
    why = _unusable() if _path().exists() else "is not built, for want of a C compiler"
    return (
        f"views are rendered by NumPy, which takes two to three times as long: the native library {why}; install "
        "again (`make install`, `pip install`) where `cc` is found"
    )


def _unusable() -> str:
    try:
        ctypes.CDLL(str(_path()))
    except OSError:  # of another kind of processor, in a checkout that several share
        return "is not one that can be loaded here"
    return "was built from other sources than these"


def _path() -> Path:
    return _HERE / "libreplay.so"


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library, or None where it was not built, cannot be loaded, or is of other sources than those beside it."""
    path = _path()
    if not path.exists():
        return None
    try:
        library = ctypes.CDLL(str(path))
        library.replay_sources.restype = ctypes.c_char_p
    except (OSError, AttributeError):
        return None
    beside = sources_hash(_HERE)
    if beside is not None and library.replay_sources() != beside.encode():
        return None
    _declare(library)
    return library


def _declare(library: ctypes.CDLL) -> None:
    library.replay_kernels.restype = ctypes.c_char_p
    library.replay_open.restype = ctypes.c_void_p
    library.replay_open.argtypes = [ctypes.c_char_p]
    library.replay_close.restype = None
    library.replay_close.argtypes = library.replay_kernels.argtypes = [ctypes.c_void_p]
    address, number = ctypes.c_void_p, ctypes.c_int64
    library.replay_render.argtypes = [address, ctypes.POINTER(ViewColumns), number, address, number, number, address]
    library.replay_mix.argtypes = [address, number, number, number, address, address, address, address]
    library.replay_find_restarts.argtypes = [address, number, number, address]
    library.replay_join_intervals.argtypes = [address, number, address, number, number, address, number]
    library.replay_draw.argtypes = [address]
    library.replay_plan_room.argtypes = [address]
    library.replay_pair.argtypes = library.replay_plan.argtypes = [address, address]
