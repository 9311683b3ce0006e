"""Where classes are read, and what they are called."""

import json
from pathlib import Path

import pytest

from teacher_cache.errors import ShardError
from teacher_cache.shards.classes import ClassRule, class_rule, read_class_names
from tests.support.shard_files import make_image, write_shards

CLS = ClassRule()
NUMBERED = {str(number): number for number in range(998)}
PNG = make_image(0)


def test_class_rule(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    paths = [*write_shards(one, [2], num_classes=2), *write_shards(other, [2], num_classes=2, prefix="more")]
    assert class_rule(paths) == ClassRule("cls", ("class-0", "class-1"))
    assert class_rule(paths, "json:label").source == "json:label"
    assert class_rule(paths, image_from="left.jpg") == ClassRule("cls", ("class-0", "class-1"), "left.jpg")
    (other / "classes.json").unlink()
    assert class_rule(paths).names == ("class-0", "class-1")
    (one / "classes.json").unlink()
    assert class_rule(paths).names is None
    (one / "classes.json").write_text('["a", "b"]')
    (other / "classes.json").write_text('["b", "a"]')
    with pytest.raises(ShardError, match="name different classes: say which counts with --classes FILE"):
        class_rule(paths)
    assert class_rule(paths, classes_file=str(other / "classes.json")).names == ("b", "a")
    with pytest.raises(ShardError, match="cannot be read from 'txt'"):
        class_rule(paths, "txt")
    with pytest.raises(ShardError, match="cannot be read from 'json:'"):
        ClassRule("json:")


def test_members_that_a_rule_reads() -> None:
    plain, chosen = ClassRule(), ClassRule("json:a.b", image_from="left.jpg")
    assert (plain.class_extension, plain.field, plain.image_extensions) == ("cls", "", ("jpg", "jpeg", "png", "webp"))
    assert (chosen.class_extension, chosen.field, chosen.image_extensions) == ("json", "a.b", ("left.jpg",))


def test_what_cannot_be_an_image_extension_is_refused() -> None:
    for name in ("", ".jpg", "a/jpg", "JPG"):
        with pytest.raises(ShardError, match=f"an image cannot be read from '{name}': give its extension, everything"):
            ClassRule(image_from=name)
    for source, name in (("cls", "cls"), ("json:label", "json")):
        with pytest.raises(ShardError, match=f"image and class cannot both be the member .{name}: give another"):
            ClassRule(source, image_from=name)
    assert ClassRule("json:label", image_from="cls").image_extensions == ("cls",)


def test_read_class_names(tmp_path: Path) -> None:
    file = tmp_path / "classes.json"
    file.write_text('{"b": 1, "a": 0}')
    assert read_class_names(file) == ("a", "b")
    for content, part in [
        ('{"b": 1, "a": 1}', "does not number its 2 names 0 to 1"),
        ('{"b": "1"}', "does not number"),
        (
            '{"0": ["n01440764", "tench"]}',
            r'does not number its 1 name 0 to 0: give a JSON list .*, as \["cat", "dog"\]',
        ),
        ("[]", "not a JSON list of class names: give a JSON list of names in the order"),
        ("[1, 2]", "not a JSON list of class names"),
        ('"abc"', "not a JSON list of class names"),
        ("[", "cannot be read"),
        ('{"crane": 0, "maillot": 1, "crane": 2}', r"of its 3 names 'crane' stands more than once\): give a JSON list"),
        (f'{{"7": 998, "8": 999, {json.dumps(NUMBERED)[1:]}', r"of its 1,000 names '7', '8' stand more than once"),
    ]:
        file.write_text(content)
        with pytest.raises(ShardError, match=part):
            read_class_names(file)
    with pytest.raises(ShardError, match=r"absent.json cannot be read"):
        read_class_names(tmp_path / "absent.json")
