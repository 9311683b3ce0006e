"""Classes as members of samples say them."""

import json

import pytest

from teacher_cache.shards.class_member import MAX_CLASSES, ClassError, ClassReader, describe_json
from teacher_cache.shards.classes import ClassRule

NAMES = ClassRule(names=("cat", "dog", "cat fish"))


@pytest.mark.parametrize("content", [b"7", b" 7\n", b"007", b"\xef\xbb\xbf7"])
def test_digits_are_the_class_without_names(content: bytes) -> None:
    if content.startswith(b"\xef"):
        with pytest.raises(ClassError, match=r"a badly written number: .* as 7$"):
            ClassReader(ClassRule()).read(content)
    else:
        assert ClassReader(ClassRule()).read(content) == 7


def test_names_and_digits_are_classes_where_there_are_names() -> None:
    reader = ClassReader(NAMES)
    assert [reader.read(each) for each in (b"cat", b"cat fish\n", b"1")] == [0, 2, 1]
    for content, part in (
        (b"3", "has class 3, but 0 to 2 are known"),
        (b"-1", "has class -1, but 0 to 2 are known"),
        (b"cow", "is not among 3 class names; correct it"),
        (b"catt", r"correct it \('cat'\?\)"),
        (b"", "an empty .cls member"),
    ):
        with pytest.raises(ClassError, match=part):
            reader.read(content)


def test_a_name_of_several_classes_decides_nothing() -> None:
    reader = ClassReader(ClassRule(names=("crane", "crane", "heron")))
    assert reader.read(b"heron") == 2
    with pytest.raises(ClassError, match="names more than one class; write classes as integers"):
        reader.read(b"crane")


def test_the_largest_class_is_bounded_without_names() -> None:
    reader = ClassReader(ClassRule())
    assert reader.read(b"%d" % (MAX_CLASSES - 1)) == MAX_CLASSES - 1
    with pytest.raises(ClassError, match=r"0 to 999999 are allowed without classes\.json"):
        reader.read(b"%d" % MAX_CLASSES)


@pytest.mark.parametrize("number", [3, 258])
def test_a_machines_integer_is_called_so(number: int) -> None:
    for size in (4, 8):
        with pytest.raises(ClassError, match=f"as a machine keeps an integer: .* as {number}$"):
            ClassReader(ClassRule()).read(number.to_bytes(size, "little"))


def test_fields_of_json_are_looked_up_by_their_whole_name_first() -> None:
    document = json.dumps({"a.b": 1, "a": {"b": 2, "c": {"d": "cat"}}}).encode()
    for field, expected in (("a.b", 1), ("a.c.d", 0)):
        assert ClassReader(ClassRule(f"json:{field}", NAMES.names)).read(document) == expected
    with pytest.raises(ClassError, match=r"has no field 'x' in its \.json member, whose fields are a\.b, "):
        ClassReader(ClassRule("json:x")).read(document)


def test_what_a_json_member_offers_begins_with_what_may_be_a_class() -> None:
    described = describe_json(json.dumps({"width": 3, "height": 4, "label": 5}).encode())
    assert described == "whose fields are label, width, height: say which is the class with --class-from json:FIELD"
    assert describe_json(b'{"target": 1}').endswith(
        "whose only field is target: say which is the class with --class-from json:target"
    )
    assert describe_json(b"[1]").startswith("which has no fields: ")
    assert describe_json(b"{").startswith("which cannot be read: ")
