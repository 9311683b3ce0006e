"""Cosine of class and distillation token by block, against a forward written out."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from student.evaluate import tally
from student.model import token_blocks
from student.tokens import token_cosines
from student.trained import read_trained
from student.validation import ValidationSet
from teacher_cache.device import Normalise
from teacher_cache.shards.classes import class_rule
from teacher_cache.shards.indexing import index_shards
from tests.support.small_runs import validation_shard
from tests.support.students import two_heads
from tests.support.trained_files import DEIT, DEIT_SETTINGS, checkpoint, filled


@torch.no_grad()
def plain_cosines(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """(blocks, B): the forward written out."""
    patches = model.patch_embed(images)
    tokens = torch.cat([model.cls_token.expand(len(images), -1, -1), model.dist_token.expand(len(images), -1, -1)], 1)
    hidden = torch.cat([tokens, patches], dim=1) + model.pos_embed
    found = []
    for block in model.blocks:
        hidden = block(hidden)
        one, two = hidden[:, 0], hidden[:, 1]
        found.append((one * two).sum(1) / one.norm(dim=1) / two.norm(dim=1))
    return torch.stack(found)


def test_heard_while_the_model_runs_and_only_then() -> None:
    model = filled(timm.create_model(DEIT, img_size=32, embed_dim=24, depth=3, num_heads=3, num_classes=4))
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), token_cosines(model) as cosines:
        model(images)
    assert (torch.stack(cosines) - plain_cosines(model, images)).abs().max() < 1e-5
    with torch.no_grad():
        model(images)
    assert len(cosines) == 3


def test_models_without_both_tokens_have_none() -> None:
    plain = timm.create_model("deit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=3)
    for model in (plain, two_heads(10, (8, 8))):
        assert token_blocks(model) == []


def test_the_mean_over_validation_samples_not_over_batches_or_mirror_images(tmp_path: Path) -> None:
    path, model, _ = checkpoint(tmp_path, *DEIT_SETTINGS, names="0123456789", class_from="cls")
    shard = validation_shard(tmp_path / "val.tar", 100)
    seen = read_trained(str(path)).preprocessing
    device = torch.device("cpu")
    with ValidationSet(index_shards([shard], class_rule([shard])), seen, workers=0) as validation:
        views = torch.cat([batch.views for batch in validation.batches(1)])
    expected = plain_cosines(model, Normalise(seen.mean, seen.std, device)(views)).mean(1)
    for tta in (None, "flip"):
        with ValidationSet(index_shards([shard], class_rule([shard])), seen, workers=0) as validation:
            found = tally(model, validation, device, batch_size=64, tta=tta).token_cosine  # batches of 64 and 36
        assert found == pytest.approx(expected.tolist(), abs=1e-5)
