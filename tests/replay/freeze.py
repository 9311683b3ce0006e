"""Frozen view parameters and digests: tests/golden/replay.json, over the picture files beside it.

A refactor leaves them as they are. After an intended change, `python -m tests.replay.freeze` writes them anew: commit
them with it, and say so. Every store filled before is then of another policy version.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from teacher_cache.replay.block import Block, replay, view_mix, view_params
from teacher_cache.replay.decode import decode
from teacher_cache.replay.policy import load_policy, shipped_policies

GOLDEN = Path(__file__).parents[1] / "golden"
SEED = 20201223
AUTO_AUGMENT = ["size=96", "rand_augment=none", "auto_augment.magnitude_std=0.5", "jitter={brightness=0.2,hue=0.1}"]
SETTINGS = {
    "deit": ["size=96"],
    "cifar": [],
    "digits": [],
    "none": ["size=[60,80]", "crop.crop_pct=0.9", "flip=0.5"],
    "transfer": ["size=96"],
}
VIEWS = range(6)


def golden_block() -> Block:
    """Three small JPEGs and a PNG, as files: another JPEG encoder would write other ones."""
    files = sorted(path for path in GOLDEN.iterdir() if path.suffix in (".jpg", ".png"))
    return Block(
        shard="golden.tar",
        number=0,
        keys=tuple(path.stem for path in files),
        classes=np.arange(len(files), dtype=np.int32),
        images=tuple(path.read_bytes() for path in files),
    )


def golden_values() -> dict[str, Any]:
    block = golden_block()
    values: dict[str, Any] = {}
    policies = {name: load_policy(name, SETTINGS[name]) for name in shipped_policies()}
    policies["deit, AutoAugment and jitter"] = load_policy("deit", AUTO_AUGMENT)
    for name, policy in policies.items():
        params = {
            f"{key} view {view}": view_params(policy, SEED, block.shard, key, view, decode(image).shape[:2]).to_json()
            for key, image in zip(block.keys, block.images, strict=True)
            for view in VIEWS[:2]
        }
        plan = view_mix(policy, SEED, shard=block.shard, block=block.number, num_samples=8, skipped=frozenset(), view=0)
        values[name] = {
            "params": params,
            "mix": {
                "partners": plan.partners.tolist(),
                "lambdas": plan.lambdas.tolist(),
                "boxes": plan.boxes.tolist(),
            },
            "digests": [f"{view.digest:016x}" for view in replay(policy, SEED, block, VIEWS)],
        }
    return json.loads(json.dumps(values))


if __name__ == "__main__":
    (GOLDEN / "replay.json").write_text(json.dumps(golden_values(), indent=1) + "\n")
