"""Frozen losses of a tiny run on CPU: tests/golden/train.json.

A refactor leaves them as they are, to within the rounding of other processors and torch versions, where torch draws the
masks of drop path as it did for them: it does not promise to, and 2.6 does not. After an intended change of what is
trained, `python -m tests.student.freeze_losses` writes them anew: commit them with it, and say so.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from teacher_cache.store.store import Store
from tests.support.small_runs import column, filled_store, train_small

GOLDEN = Path(__file__).parents[1] / "golden" / "train.json"
SETTINGS = {
    "DeiT, distilled": [
        "model=deit_tiny_distilled_patch16_224",
        "model_args={patch_size=4, embed_dim=24, depth=2, num_heads=3}",
        "drop_path=0.1",
        "warmup_epochs=1",
    ],
    "DeiT, undistilled, SGD, together": [
        "model=deit_tiny_patch16_224",
        "model_args={patch_size=4, embed_dim=24, depth=2, num_heads=3}",
        "distill=none",
        "optimizer=sgd",
        "lr=0.1",
        "clip_grad=1",
        "repeats_order=together",
        "micro_batch=8",
    ],
}
LOSSES = ("loss", "class_loss", "distill_loss")


def drawn_mask() -> str:
    """What this torch draws where drop path, at 0.1, draws which of 64 samples keep a branch."""
    mask = torch.empty(64).bernoulli_(0.9, generator=torch.Generator().manual_seed(0))
    return "".join("01"[int(kept)] for kept in mask)


def golden_losses(folder: Path) -> dict[str, Any]:
    """Losses of every step of two epochs by settings, beside `mask`. The store and the runs go into the folder."""
    store: Store = filled_store(folder)
    losses: dict[str, Any] = {}
    for name, overrides in SETTINGS.items():
        train_small(store, folder / name, *overrides)
        steps = folder / name / "steps.csv"
        losses[name] = {loss: [round(float(value), 6) for value in column(steps, loss)] for loss in LOSSES}
    return {"mask": drawn_mask(), "losses": losses}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(golden_losses(Path(folder)), indent=1) + "\n")
