"""Files of trained models, as training, DeiT's authors, timm and others write them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from student.model import build_model
from tests.support.small_runs import small_recipe

DEIT = "deit_tiny_distilled_patch16_224"
DEIT_SETTINGS = (f"model={DEIT}", "model_args={patch_size=8, embed_dim=24, depth=2, num_heads=3}", "drop_path=0.2")
NAMES = ["ant", "bee", "cat", "dog", "emu"]
Writer = Callable[[dict[str, Tensor], Path], Path]


def filled(model: nn.Module, seed: int = 0) -> nn.Module:
    """With weights under which the heads differ, in evaluation mode: timm begins with heads of zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.05, generator=generator)
    return model.eval()


def pth(key: str | None, prefix: str = "", **others: Any) -> Writer:
    """Writes a .pth with the state under a key, or bare."""

    def write(state: dict[str, Tensor], folder: Path) -> Path:
        named = {f"{prefix}{name}": value for name, value in state.items()}
        torch.save({key: named, **others} if key else named, folder / "model.pth")
        return folder / "model.pth"

    return write


def safetensors(state: dict[str, Tensor], folder: Path) -> Path:
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder / "model.safetensors"


def checkpoint(
    folder: Path, *overrides: str, ema: bool = False, names: Sequence[str] = NAMES, **changes: Any
) -> tuple[Path, nn.Module, nn.Module]:
    """A checkpoint as training writes it, for views of 16 x 24 -> its path, the model, the average."""
    recipe = small_recipe(*overrides)
    raw, average = (filled(build_model(recipe, len(names), (16, 24)), seed) for seed in (0, 1))
    content = {
        "format": 1,
        "recipe": recipe.to_json(),
        "model": raw.state_dict(),
        "optimizer": {"state": {}},
        "size": [16, 24],
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.25, 0.3],
        "crop_pct": 0.95,
        "interpolation": "bilinear",
        "class_names": list(names),
        "class_from": "json:label",
    }
    content |= {"model_ema": average.state_dict()} if ema else {}
    torch.save(content | changes, folder / "checkpoint.pt")
    return folder / "checkpoint.pt", raw, average
