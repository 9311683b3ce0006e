"""Whether a release's tag is pyproject.toml's version: `python tools/check_tag.py v1.2.3`."""

import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def main(words: list[str]) -> None:
    """Ends with 1, and a line that says what to do, where they are not the same."""
    (tag,) = words
    version = tomllib.loads(PROJECT.read_text())["project"]["version"]
    if tag != f"v{version}":
        sys.exit(f"error: the tag is {tag}, pyproject.toml has version {version}: tag v{version}, or change it")


if __name__ == "__main__":
    main(sys.argv[1:])
