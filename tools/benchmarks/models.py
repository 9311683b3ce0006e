"""Networks of the benchmark with random weights, which cost what trained ones cost. Given as module:function."""

import timm
import torch
from torch import Tensor, nn


def regnety_160(num_classes: int) -> nn.Module:
    """RegNetY-16GF, DeiT's teacher."""
    return timm.create_model("regnety_160", pretrained=False, num_classes=num_classes)


def resnet50(num_classes: int) -> nn.Module:
    return timm.create_model("resnet50", pretrained=False, num_classes=num_classes)


def resnet18(num_classes: int) -> nn.Module:
    """For pictures of 32 pixels: its first convolution and pooling halve twice, as at 224."""
    return timm.create_model("resnet18", pretrained=False, num_classes=num_classes)


class OneLayer(nn.Module):
    """One linear layer on a few pixels: a teacher that costs next to nothing."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3 * 4 * 4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        step = images.shape[-1] // 4
        logits: Tensor = self.head(images[:, :, ::step, ::step][:, :, :4, :4].flatten(1))
        return logits


def one_layer(num_classes: int) -> nn.Module:
    return OneLayer(num_classes)


class SmallStudent(nn.Module):
    """Two heads on a few averages."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 8), nn.GELU())
        self.heads = nn.ModuleList(nn.Linear(8, num_classes) for _ in range(2))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.features(images)
        return tuple(head(features) for head in self.heads)


def small_student(num_classes: int) -> nn.Module:
    return SmallStudent(num_classes)
