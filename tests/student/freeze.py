"""Frozen plans: tests/golden/plan.json.

A refactor leaves them as they are. After an intended change, `python -m tests.student.freeze` writes them anew: commit
them with it, and say so. Training that was begun before then goes on in another order.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from student.plan import PlanSettings, epoch_plan, pass_blocks

GOLDEN = Path(__file__).parents[1] / "golden" / "plan.json"


def golden_plans() -> dict[str, Any]:
    """What is trained first, and a hash of the whole order, for some settings."""
    blocks = pass_blocks(np.array([130, 1, 64, 77]), np.array([5, 200]))
    plans = {}
    for order in ("together", "apart"):
        for world_size, rank in ((1, 0), (2, 1)):
            for epoch in (0, 4):
                settings = PlanSettings(
                    seed=3,
                    batch_size=24,
                    world_size=world_size,
                    rank=rank,
                    repeats=3,
                    order=order,
                    views_in_use=8,
                    pool_batches=2,
                )
                plan = epoch_plan(settings, blocks, epoch)
                trained = np.stack([plan.samples[plan.order], plan.views[plan.order]], axis=1)
                plans[f"{order}, rank {rank} of {world_size}, epoch {epoch}"] = {
                    "steps": plan.steps,
                    "first": trained[:12].tolist(),
                    "sha256": hashlib.sha256(trained.astype("<i8").tobytes()).hexdigest(),
                }
    return plans


if __name__ == "__main__":
    lines = [f"  {json.dumps(name)}: {json.dumps(plan)}" for name, plan in golden_plans().items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
