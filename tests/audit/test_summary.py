"""Statistics over samples: bins that end where values can."""

import numpy as np
import pytest

from teacher_cache.audit.summary import stability
from teacher_cache.audit.votes import count_votes


@pytest.mark.parametrize(
    ("different", "edges"),
    [(10, [0, 0.5, 1, 1.5, 2, 2.5, 3, np.log2(10)]), (4, [0, 0.5, 1, 1.5, 2]), (2, [0, 0.5, 1]), (1, [0, 0.5])],
)
def test_bins_of_entropy_end_at_the_highest_possible(different: int, edges: list[float]) -> None:
    labels = np.stack([np.arange(20) % different, np.zeros(20, int)])  # as uncertain as can be, and not at all
    found = stability(count_votes(labels, np.zeros(2, int)), different)
    assert found is not None
    assert found["entropy_bins"]["edges"] == pytest.approx(edges)
    samples = found["entropy_bins"]["samples"]
    assert sum(samples) == 2
    assert samples[-1] == (2 if different == 1 else 1)
