"""Why a sample is not whole: the one change that its shard's maker needs."""

import pytest

from teacher_cache.shards.classes import ClassRule
from teacher_cache.shards.incomplete import Run, dotted, two_images, why_incomplete

CLS = ClassRule()


def why(*runs: str, rule: ClassRule = CLS, content: bytes = b"") -> str:
    """runs: the extensions of members that follow each other, as words."""
    members: list[Run] = [{extension.encode(): (0, len(content)) for extension in run.split()} for run in runs]
    return why_incomplete(b"folder/dog", members, rule, lambda offset, size: content)


def test_a_missing_class_or_image_is_named_with_what_there_is() -> None:
    assert why("jpg").startswith("has no class: no .cls member but .jpg; write the shard again with one, or say")
    assert why("cls txt").startswith("has no image (.jpg, .jpeg, .png, .webp) but .cls, .txt; write the shard again")
    assert "; --image-from names the member" in why("jpg cls", rule=ClassRule(image_from="left.jpg"))


def test_members_apart_and_keys_that_come_back_are_told_apart() -> None:
    assert "has its members apart: .jpg, and behind other samples' .cls; " in why("jpg", "cls")
    assert why("jpg cls", "cls").startswith("comes back after other samples, so two have one key")


def test_two_images_ask_for_a_choice() -> None:
    assert why("jpg png cls") == two_images(b"jpg", b"png")
    assert "--image-from jpg, or --image-from png" in two_images(b"jpg", b"png")


def test_names_of_several_dots_are_explained() -> None:
    said = why("left.jpg cls")
    assert said.startswith("has no image")
    assert (
        "say --image-from left.jpg if that is the image of every sample; else, as a key ends at the first dot" in said
    )
    assert "('dog.left.jpg' is member .left.jpg of sample 'dog')" in said
    assert "('dog.v2.cls' is member .v2.cls of sample 'dog')" in why("jpg v2.cls")


def test_a_json_member_is_looked_into_where_it_could_give_the_class() -> None:
    assert "whose only field is label: say" in why("jpg json", content=b'{"label": 3}')
    assert why("jpg cls", rule=ClassRule("json:label")).endswith("leave --class-from out, if that is the class")


@pytest.mark.parametrize(("count", "shown"), [(1, ".x0"), (3, ".x0, .x1, .x2"), (9, ".x0, .x1, .x2 and 6 more")])
def test_of_many_extensions_three_are_shown(count: int, shown: str) -> None:
    assert dotted([b"x%d" % number for number in range(count)]) == shown
