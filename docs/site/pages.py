"""Pages of the site that stand elsewhere or are made: README, CONTRIBUTING and CHANGELOG, which people read beside the
code, and the command reference, which is what the commands themselves say.

    python docs/site/pages.py      prints the command reference

mkdocs calls `on_files`, as `hooks` in mkdocs.yml says.
"""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
LINKS = {"docs/": "", **{f"{there})": f"{page})" for page, there in PAGES.items()}}  # as they read from within docs/
HEADER = """# Command reference

What `--help` says of every command, made from the program when the site is built. `torchrun ... -m teacher_cache` and
`torchrun ... -m student` take the same commands. Exit codes: [stage one](stage-one.md#exit-codes).
"""


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the pages that docs/ does not hold."""
    from mkdocs.structure.files import File

    contents = {page: (ROOT / source).read_text() for page, source in PAGES.items()}
    for page, text in contents.items():
        files.append(File.generated(config, page, content=relinked(text)))
    files.append(File.generated(config, "commands.md", content=command_reference()))
    return files


def relinked(text: str) -> str:
    """A page of the top level, its links as they are from within docs/; what lies elsewhere is named without a link."""
    for there, here in LINKS.items():
        text = text.replace(f"]({there}", f"]({here}")
    return text.replace("[LICENSE](LICENSE)", "LICENSE")


def command_reference() -> str:
    """Every command of every program with its help, as Markdown."""
    sys.path.insert(0, str(ROOT))
    from student.cli import main as student
    from teacher_cache.cli import main as teacher_cache

    programs = {"teacher-cache": teacher_cache, "student": student}
    programs |= {f"python tools/{name}.py": tool(name).main for name in ("make_shards", "inspect_cache")}
    sections = [section for name, program in programs.items() for section in sections_of(name, program, 2)]
    return "\n".join([HEADER, *sections])


def tool(name: str) -> ModuleType:
    """A script of tools/, as a module."""
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def sections_of(name: str, command: click.Command, level: int, parent: click.Context | None = None) -> Iterator[str]:
    """A heading and the help of a command, then those of its own commands."""
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    context.terminal_width = context.max_content_width = 100
    yield f"{'#' * level} {context.command_path}\n\n```text\n{plain(command.get_help(context))}\n```\n"
    if isinstance(command, click.Group):
        for child in sorted(command.list_commands(context)):
            found = command.get_command(context, child)
            assert found is not None
            yield from sections_of(child, found, level + 1, context)


def plain(text: str) -> str:
    """Help without colours and without spaces at ends of lines."""
    return "\n".join(line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines())


if __name__ == "__main__":
    print(command_reference())
