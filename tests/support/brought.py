"""Run a command, then say which libraries it has imported that take long to: `brought.py MODULE WORDS ...`, of the
module whose `main` the command is. The last line on standard error: `brought: NAME ...`."""

import atexit
import importlib
import sys

SLOW = {"torch", "torchvision", "timm", "webdataset", "sklearn", "matplotlib", "scipy", "cv2", "zarr"}


def say() -> None:
    sys.stdout.flush()
    print("brought:", *sorted(SLOW & set(sys.modules)), file=sys.stderr)


if __name__ == "__main__":
    atexit.register(say)
    importlib.import_module(sys.argv[1]).main(sys.argv[2:])
