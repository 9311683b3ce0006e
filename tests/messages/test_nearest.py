"""What is offered for a name that nobody knows."""

import pytest

from teacher_cache.messages.nearest import OFFERED, did_you_mean, nearest


def test_the_most_alike_come_first_and_three_at_most() -> None:
    known = [f"deit_{size}{way}" for size in ("tiny", "small", "base") for way in ("", "_soft", "_hard")]
    assert nearest("deit_tny", known)[0] == "deit_tiny"
    assert len(nearest("deit_tny", known)) == OFFERED
    assert nearest("zebra", known) == []
    assert nearest("DEIT_Tiny", known)[0] == "deit_tiny"
    assert nearest("anything", []) == []


def test_the_last_part_of_a_dotted_name_is_enough() -> None:
    known = ["crop", "crop.scale", "rand_augment.magnitude", "size"]
    assert nearest("magnitude", known) == ["rand_augment.magnitude"]
    assert nearest("crop.sclae", known)[0] == "crop.scale"


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (["abc"], "did you mean 'abc'? all"),
        (["abc", "abd"], "did you mean 'abc' or 'abd'? all"),
        (["abc", "abd", "abe", "abf"], "did you mean 'abc', 'abd' or 'abe'? all"),
        (["xyz"], "all"),
        ([], "all"),
        (["ab\x1b"], "did you mean 'ab\\x1b'? all"),
    ],
)
def test_the_sentence(known: list[str], said: str) -> None:
    assert did_you_mean("ab", known, "all") == said


def test_without_a_listing_there_is_still_something_to_do() -> None:
    assert did_you_mean("ab", ["xyz"]) == "check the name"
    assert did_you_mean("ab", ["abc"]) == "did you mean 'abc'?"
