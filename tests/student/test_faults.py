"""Faults say what was found and every way out, and are raised or mended together."""

import pytest

from student.faults import Fault, all_mends, refuse
from teacher_cache.errors import PlanError, RecipeError

BATCH = Fault(PlanError, "the batch is odd", ("--set", "batch_size=32"), "use another number of ranks")
POLICY = Fault(RecipeError, "another policy", ("--allow-policy",))
WORDS = Fault(PlanError, "no room", advice="use a larger machine")


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (BATCH, "the batch is odd: --set batch_size=32, or use another number of ranks"),
        (POLICY, "another policy: --allow-policy"),
        (WORDS, "no room: use a larger machine"),
        (Fault(PlanError, "the end: do this"), "the end: do this"),
    ],
)
def test_what_was_found_and_what_to_do(fault: Fault, text: str) -> None:
    assert str(fault) == text


def test_a_setting_is_mended_once_by_what_is_said_last() -> None:
    later = Fault(PlanError, "too large still", ("--set", "batch_size=16"))
    other = Fault(PlanError, "too many", ("--set", "repeats=2"))
    mends = ["--set", "batch_size=16", "--allow-policy", "--set", "repeats=2"]
    assert all_mends([BATCH, POLICY, WORDS, other, later]) == mends


def test_no_fault_is_no_refusal() -> None:
    refuse([])


def test_all_faults_are_told_by_the_first_ones_error() -> None:
    with pytest.raises(PlanError) as raised:
        refuse(iter([BATCH, POLICY]))
    assert str(raised.value) == f"{BATCH}; {POLICY}"
    with pytest.raises(RecipeError):
        refuse([POLICY, BATCH])
