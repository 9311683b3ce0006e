"""The fuzz that is run by hand, on a few inputs of each target."""

from pathlib import Path

import pytest

from tests.fuzz import TARGETS, run


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_inputs_of_each_target_end_well(tmp_path: Path, name: str) -> None:
    assert run(name, TARGETS[name], 60, 7, tmp_path) == 0
    assert not list(tmp_path.iterdir())


def test_what_breaks_is_counted_and_kept(tmp_path: Path) -> None:
    def broken(draw: object) -> None:
        raise KeyError("x")

    assert run("broken", lambda folder: broken, 3, 7, tmp_path) == 3
    (kept,) = tmp_path.iterdir()
    assert "KeyError" in kept.read_text()
