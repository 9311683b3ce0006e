"""Whether a release's tag is pyproject.toml's version: `python tools/check_tag.py v1.2.3`."""

import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def main(words: list[str]) -> int:
    """0 where they are the same; else a line that says what to do, and 1."""
    (tag,) = words
    version = tomllib.loads(PROJECT.read_text())["project"]["version"]
    if tag == f"v{version}":
        return 0
    print(
        f"error: the tag is {tag}, pyproject.toml has version {version}: tag v{version}, or change it", file=sys.stderr
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
