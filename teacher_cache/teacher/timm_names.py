"""Which models the installed timm has, read in its source: importing it, and torch with it, takes seconds."""

import importlib.util
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from teacher_cache.messages.nearest import did_you_mean
from teacher_cache.messages.shown import as_word, shown
from teacher_cache.teacher.names import FILE_ENDINGS

LISTING = "`python -c 'import timm; print(*timm.list_models())'` lists them all"
OR_A_FILE = "; or give the path of a checkpoint"  # the end of a message where a file may be named too

_REGISTERS = "\n@register_model\n"  # at the start of a line, before what timm registers
_FUNCTION = re.compile(r"(?:@.*\n)*def (\w+)\(")  # other decorators may stand between


def no_model(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """What is said of a name that is none of the models that timm has, with those that are close.

    otherwise: what else may have been meant, for the message's end.
    """
    if name.endswith(".py"):
        return f"{name} names a file, and no function in it: write {name}:FUNCTION{otherwise}"
    return f"timm has no model {name}: {did_you_mean(name.partition('.')[0], known, LISTING)}{otherwise}"


def unknown_model(name: str, otherwise: str = "") -> str | None:
    """no_model's message where timm's source shows that it has no such model; None where only timm itself can tell.

    That is so of code and of places to fetch from; of what stands after a dot; of the name of any function or key in
    its source, as deprecated models are; where the source cannot be read; and where timm is imported: it answers at
    once then, and a caller's code may have registered models of its own.
    """
    if ":" in name or "timm" in sys.modules:
        return None
    sources = timm_sources()
    models = registered_models(sources)
    plain = name.partition(".")[0]
    model = re.escape(plain)
    function_or_key = re.compile(rf"""^def {model}\(|'{model}'\s*:|"{model}"\s*:""", re.MULTILINE)
    if not models or any(plain in source and function_or_key.search(source) for source in sources):
        return None
    return no_model(name, models, otherwise)


def no_teacher(name: str) -> str | None:
    """Why a name is no teacher's: it is a file of weights, or unknown_model's message; None where it may be one."""
    if name.endswith(FILE_ENDINGS) and Path(name).is_file():  # timm has names in .pt, too
        return (
            f"--teacher {shown(name, limit=None)} names a file of weights, and no model: give the model's name, and "
            f"the file as --checkpoint {as_word(name)}"
        )
    return unknown_model(name)


def timm_sources() -> list[str]:
    """The installed timm's modules of models, as text; none where it is absent, or no folder."""
    found = importlib.util.find_spec("timm")
    folders = (found.submodule_search_locations if found is not None else None) or ()
    paths = [path for folder in folders for path in sorted(Path(folder, "models").glob("*.py"))]
    return [path.read_text(encoding="utf-8") for path in paths]


def registered_models(sources: Iterable[str]) -> list[str]:
    """The names that modules register, in timm.list_models' order: numbers by their size."""
    registered = [rest for source in sources for rest in f"\n{source}".split(_REGISTERS)[1:]]
    names = {found[1] for rest in registered if (found := _FUNCTION.match(rest))}
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in _split(name)])


def _split(name: str) -> list[str]:
    return re.split(r"(\d+)", name.lower())
