"""Which models a file may name, and the mark of a name that the person who runs the program gave.

A name with a colon is code (path/file.py:function, package.module:function), or a place that timm fetches from
(hf-hub:, local-dir:). Only the command line, or a caller's own Python, gives such a name: it is a GivenModel. What
imports code, and what calls timm's hubs, takes no other string but OWN_MODELS, wherever it was read.
"""

import shlex
from pathlib import Path, PurePath

from teacher_cache.errors import TeacherCacheError
from teacher_cache.messages.shown import shown

OWN_MODELS = ("student.convnet:small_convnet", "student.convnet:cifar_convnet")
LOCAL_FOLDER = "local-dir:"
TIMM_HUBS = ("hf_hub:", "hf-hub:", LOCAL_FOLDER)  # timm's own names with a colon in them
FILE_ENDINGS = (".pt", ".pth", ".tar", ".ckpt", ".bin", ".safetensors", ".pt2", ".onnx")
LONGEST_NAME = 200  # characters of a name that is offered to be copied


class GivenModel(str):
    """A model's name that the person who runs the program gave, and so consents to: any, code too."""

    __slots__ = ()


def without_folder(name: str) -> str:
    """A model's name in which its own file, or folder, is named without a path: FILE.py:FUNCTION, local-dir:FOLDER."""
    if name.startswith(LOCAL_FOLDER):
        return f"{LOCAL_FOLDER}{PurePath(name.removeprefix(LOCAL_FOLDER)).name}"
    path, colon, function = name.rpartition(":")
    return f"{PurePath(path).name}{colon}{function}" if path.endswith(".py") else str(name)


def is_timm_name(source: str) -> bool:
    """Whether what is given for a trained model is a name of timm's, and no file's."""
    path = Path(source)
    named = source.startswith(TIMM_HUBS) or "/" not in source
    return named and not path.exists() and path.suffix not in FILE_ENDINGS


def is_usable(name: str) -> bool:
    """Whether the name may become a model: a plain name, which is timm's or nobody's, one of ours, or a given one."""
    return ":" not in name or name in OWN_MODELS or isinstance(name, GivenModel)


def check_usable(name: str, where: str, option: str, error_type: type[TeacherCacheError]) -> str:
    """The name. Raises error_type where a file asks for what only the command line names.

    where: the file, for the message. option ("--model"): what gives the name on the command line.
    """
    if not is_usable(name):
        consent = f"add {option} {shlex.quote(name)} if you trust it" if len(name) <= LONGEST_NAME else f"see {option}"
        raise error_type(
            f"{where} asks for the model {shown(name, LONGEST_NAME)!r}: only the command line names code or places to "
            f"fetch from, a file may name timm's models, {' and '.join(OWN_MODELS)}: {consent}"
        )
    return name
