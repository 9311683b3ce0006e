"""Every step of a store of any size is measured once, on a store that is whole."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from teacher_cache.store.status import status
from teacher_cache.store.store import Store
from tests.support.filled_store import files
from tools import simulate_scale
from tools.simulate_scale import Measured, Size, fill_part, main, markdown_table
from tools.simulate_store import create_simulated, label_offsets, make_store, simulated_index

SIZE = Size(samples=300, shards=3, views=32, classes=20, seed=0, processes=2)


def run(out: Path, size: Size = SIZE) -> Result:
    return CliRunner().invoke(main, [str(out), *size.words])


def test_steps_are_measured_and_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a tiny store; of the commands only one, as each starts Python."""
    every = simulate_scale.steps
    monkeypatch.setattr(
        simulate_scale,
        "steps",
        lambda out, size: [step for step in every(out, size) if "offsets" not in step.words and step.made is None][:2],
    )
    result = run(tmp_path)
    assert result.exit_code == 0, result.output
    walked, opened = simulate_scale.measure_all(tmp_path, SIZE)
    assert opened
    assert walked
