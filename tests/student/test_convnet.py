"""Small convnets: as large as they say, and any classes."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from student.convnet import cifar_convnet, small_convnet


@pytest.mark.parametrize(
    ("build", "side", "num_parameters"), [(small_convnet, 16, 131_000), (cifar_convnet, 32, 1_100_000)]
)
def test_sizes(build: Callable[[int], nn.Module], side: int, num_parameters: int) -> None:
    model = build(10)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(num_parameters, rel=0.1)
    assert model(torch.zeros(2, 3, side, side)).shape == (2, 10)
    assert build(7)(torch.zeros(2, 3, side + 4, side)).shape == (2, 7)


@pytest.mark.parametrize(("build", "convolutions", "halvings"), [(small_convnet, 4, 2), (cifar_convnet, 6, 3)])
def test_stages(build: Callable[[int], nn.Module], convolutions: int, halvings: int) -> None:
    """Each convolution is normalised, and each stage ends by halving; the last one feeds the classes."""
    kinds = [type(layer) for layer in build(10).children()]
    assert (kinds.count(nn.Conv2d), kinds.count(nn.MaxPool2d)) == (convolutions, halvings)
    for place, kind in enumerate(kinds):
        if kind is nn.Conv2d:
            assert kinds[place + 1 : place + 3] == [nn.BatchNorm2d, nn.ReLU]
    assert kinds[-1] is nn.Linear
