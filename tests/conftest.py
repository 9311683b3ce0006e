import os
from collections.abc import Iterator
from pathlib import Path

# Training and filling set torch's threads from the cores unless this says otherwise; the models are tiny, more threads
# than free cores make them slower, and another number of threads changes the last bits.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

from tests.support.forked import Forks
from tests.support.making import environment

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Where programs are started that need a process of their own, but not one that imports anew."""
    with Forks(tmp_path_factory.mktemp("logs")) as started:
        yield started


@pytest.fixture
def called(tmp_path: Path) -> tuple[list[str], Path]:
    """Variables for an environment whose programs note their arguments in this file and do nothing."""
    notes = tmp_path / "notes"
    script = f'for word in "$0" "$@"; do printf "%s\\t" "$word"; done >>{notes}; echo >>{notes}'
    return [f"VENV={environment(tmp_path / 'venv', script)}"], notes
