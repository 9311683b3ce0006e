"""Small convnets: teachers for the embedded digits and for CIFAR."""

from collections.abc import Sequence

from torch import nn


def small_convnet(num_classes: int) -> nn.Module:
    """Four convolutions, 131 thousand parameters: for digits of 16 x 16 pixels."""
    return _convnet([[32, 64], [64, 128]], num_classes)


def cifar_convnet(num_classes: int) -> nn.Module:
    """Six convolutions, 1.1 million parameters: for pictures of 32 x 32 pixels."""
    return _convnet([[64, 64], [128, 128], [256, 256]], num_classes)


def _convnet(stages: Sequence[Sequence[int]], num_classes: int) -> nn.Module:
    """3 x 3 convolutions of the given widths, each with batch normalisation and ReLU; a stage ends by halving."""
    layers: list[nn.Module] = []
    channels = 3
    for widths in stages:
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
