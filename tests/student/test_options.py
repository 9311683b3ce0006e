"""Options that are no options are refused."""

from pathlib import Path

import pytest

from student.options import TrainOptions
from teacher_cache.errors import RecipeError


@pytest.mark.parametrize("seconds", [float("nan"), -1.0])
def test_a_time_that_is_none_is_refused(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(RecipeError, match=f"--checkpoint-every is {seconds:g}: give the seconds"):
        TrainOptions(tmp_path, checkpoint_every_s=seconds)


@pytest.mark.parametrize("seconds", [0.0, 0.01, float("inf")])
def test_any_other_time_is_one(tmp_path: Path, seconds: float) -> None:
    assert TrainOptions(tmp_path, checkpoint_every_s=seconds).checkpoint_every_s == seconds
