"""What renders views here, in one line: `python -m teacher_cache.rendering`, which `make install` ends with."""

from teacher_cache.endings import one_line_errors
from teacher_cache.replay.native.library import lacking, workspace
from teacher_cache.terminal import say


def main() -> None:
    with one_line_errors():
        held = workspace()
        say(lacking() or ("views are rendered by NumPy" if held is None else f"native library: {held.kernels}"))


if __name__ == "__main__":
    main()
