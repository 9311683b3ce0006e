"""The tree of errors: as its drawing says, and each a line."""

import inspect
import re

import pytest

from teacher_cache import errors
from teacher_cache.errors import TeacherCacheError

TREE = {name: error for name, error in vars(errors).items() if inspect.isclass(error) and issubclass(error, Exception)}


def test_the_drawing_is_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn: dict[str, str] = {}
    above = {0: "TeacherCacheError"}
    for line in errors.__doc__.splitlines():
        if found := re.match(r"([│├└─ ]+)(\w+)", line):
            depth = len(found[1]) // 4
            drawn[found[2]], above[depth] = above[depth - 1], found[2]
    assert drawn == {name: error.__base__.__name__ for name, error in TREE.items() if error is not TeacherCacheError}
    assert TeacherCacheError.__base__ is Exception


@pytest.mark.parametrize("name", sorted(TREE))
def test_a_message_is_one_line_whatever_is_in_it(name: str) -> None:
    assert str(TREE[name]("shard a\nb\x1b[2K: broken")) == "shard a\\nb\\x1b[2K: broken"
