"""The average of a model's weights is timm's to the bit, and follows buffers that a module assigns."""

import pytest
import timm.utils
import torch
from torch import nn

from student.ema import Ema


class Counting(nn.Module):
    """Two names for one layer, a buffer that is assigned anew at each step, and one that no state dict has."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.again = self.layers[0]
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("unsaved", torch.ones(2), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.mean = images.mean((0, 2, 3))
        self.unsaved += 1
        return self.layers(images)


def trained(model: nn.Module, step: int) -> None:
    """Move everything that a model holds."""
    torch.manual_seed(step)
    model(torch.randn(4, 3, 5, 5, dtype=next(model.parameters()).dtype))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_average_is_timms_to_the_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Counting().to(dtype)
    ours, theirs = Ema(model, 0.9), timm.utils.ModelEmaV3(model, decay=0.9)
    begun = {name: value.clone() for name, value in ours.module.state_dict().items()}
    for step in range(4):
        trained(model, step)
        ours.update()
        theirs.update(model)
    expected = theirs.module.state_dict()
    found = ours.module.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert not any(torch.equal(value, begun[name]) for name, value in found.items())
    assert found["layers.1.num_batches_tracked"] == 4
    assert not ours.module.training
    assert torch.equal(ours.module.unsaved, theirs.module.unsaved)
    assert torch.equal(ours.module.unsaved, torch.ones(2, dtype=dtype))


def test_what_is_loaded_into_model_and_average_is_gone_on_from() -> None:
    torch.manual_seed(0)
    model = Counting()
    ours = Ema(model, 0.5)
    other = Counting()
    model.load_state_dict(other.state_dict())
    ours.module.load_state_dict({name: torch.zeros_like(value) for name, value in other.state_dict().items()})
    ours.update()
    weight = ours.module.state_dict()["layers.1.weight"]
    assert torch.equal(weight, 0.5 * other.state_dict()["layers.1.weight"])
