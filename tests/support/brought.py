"""Run commands one after the other, and say after each its exit code and which libraries that take long to import have
been imported until then: `brought.py COMMANDS`. COMMANDS: JSON, a list of (module whose `main` the command is, words).
What is said after each is a line: `brought: CODE NAME ...`."""

import importlib
import json
import sys

SLOW = {"torch", "torchvision", "timm", "webdataset", "sklearn", "matplotlib", "scipy", "cv2", "zarr"}
UNNEEDED = {"numpy", "pydantic", "rich"}  # by help and by what is mistyped: half a second where a processor is busy


def run(module: str, words: list[str]) -> int:
    try:
        importlib.import_module(module).main(words)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


if __name__ == "__main__":
    for module, words in json.loads(sys.argv[1]):
        code = run(module, words)
        sys.stderr.flush()
        print("brought:", code, *sorted((SLOW | UNNEEDED) & set(sys.modules)), flush=True)
