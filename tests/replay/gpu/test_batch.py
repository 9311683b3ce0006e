"""Batches are made of NumPy arrays: in processes that import no torch, and sent from one to another."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from teacher_cache.replay.block import replay_view, sample_digest
from teacher_cache.replay.gpu.batch import prepare_batch
from teacher_cache.replay.policy import Policy, load_policy
from tests.support import images
from tests.support.decoded import decoded_block

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy("deit", ["size=[24,32]"])


def test_no_torch_is_imported_for_it() -> None:
    program = (
        "import sys; from teacher_cache.replay.gpu.batch import prepare_batch;"
        "from teacher_cache.replay.policy import load_policy;"
        "from tests.support.decoded import decoded_block; from tests.support import images;"
        "prepare_batch(load_policy('deit', ['size=16']), 0, [decoded_block([images.picture(0, 30, 40)])], [0, 1]);"
        "assert 'torch' not in sys.modules and 'triton' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


def test_runs_follow_block_and_view_and_have_the_cpus_digests(policy: Policy) -> None:
    blocks = [
        decoded_block([images.picture(number, 40, 50) for number in range(4)], frozenset({2})),
        decoded_block([images.picture(9, 5, 3)], number=1),
    ]
    batch = pickle.loads(pickle.dumps(prepare_batch(policy, 7, blocks, [5, 0, 3])))
    assert [(run.first, run.num, run.skipped) for run in batch.runs] == [
        *((4 * number, 4, frozenset({2})) for number in range(3)),
        *((12 + number, 1, frozenset()) for number in range(3)),
    ]
    replayed = [replay_view(policy, 7, block, view) for block in blocks for view in (5, 0, 3)]
    samples = np.array([sample_digest(pixels) for view in replayed for pixels in view.pixels], np.uint64)
    assert batch.digests(samples).tolist() == [view.digest for view in replayed]
    assert np.array_equal(batch.class_pairs, np.concatenate([view.class_pairs for view in replayed]))
    assert np.array_equal(batch.lambdas, np.concatenate([view.lambdas for view in replayed]))


def test_pictures_lie_in_the_memory_that_is_given(policy: Policy) -> None:
    given: list[np.ndarray] = []

    def empty(num_bytes: int) -> np.ndarray:
        given.append(np.empty(num_bytes, np.uint8))
        return given[-1]

    batch = prepare_batch(policy, 7, [decoded_block([images.picture(0, 40, 50)])], [0], empty)
    assert [array is batch.pictures for array in given] == [True]
