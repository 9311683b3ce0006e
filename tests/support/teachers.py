"""Teachers for tests, given as tests/support/teachers.py:NAME."""

import torch
from torch import Tensor, nn

CLASSES = 10


class Brightness(nn.Module):
    """Names the class by mean brightness: class c is the brightness (c + 0.5) / num_classes."""

    def __init__(self, num_classes: int, shift: int = 0) -> None:
        super().__init__()
        self.register_buffer("centres", (torch.arange(num_classes) + 0.5).roll(shift) / num_classes)
        self.mean = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
        self.std = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        brightness = (images * self.std + self.mean).mean((1, 2, 3))
        return -((brightness[:, None] - self.centres) ** 2)


class Convnet(nn.Module):
    """Random weights: labels that depend on every pixel."""

    def __init__(self, num_classes: int, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.features = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.GELU(), nn.Flatten())
        self.head = nn.LazyLinear(num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def brightness(num_classes: int) -> nn.Module:
    return Brightness(num_classes)


def shifted(num_classes: int) -> nn.Module:
    """The right classes under a list that is off by one."""
    return Brightness(num_classes, shift=1)


def constant(num_classes: int) -> nn.Module:
    model = Brightness(num_classes)
    model.centres[1:] = 100.0
    return model


def convnet(num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    model = Convnet(num_classes).eval()
    model(torch.zeros(1, 3, *image_size))
    return model


def too_many_classes() -> nn.Module:
    return Brightness(CLASSES + 3)


def not_finite(num_classes: int) -> nn.Module:
    model = Brightness(num_classes)
    model.centres[0] = float("nan")
    return model


class Fainting(Brightness):
    """Answers no numbers to views that are brighter than most."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return torch.where(logits.argmax(1, keepdim=True) == len(self.centres) - 1, torch.nan, logits)


def fainting(num_classes: int) -> nn.Module:
    return Fainting(num_classes)


def not_a_module() -> str:
    return "a string"


class Restless(Convnet):
    """Another answer each time: dropout that is never off."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(images), 0.5, training=True)


class Sociable(Convnet):
    """An answer that depends on its neighbours, whatever their order: batch statistics although it is in evaluation."""

    def forward(self, images: Tensor) -> Tensor:
        self.features[1].train()
        return super().forward(images)


class Jealous(Convnet):
    """An answer that depends on the place in the batch."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return logits + torch.arange(len(logits))[:, None] * torch.eye(logits.shape[1])[0]


def _built(kind: type[Convnet], num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    model = kind(num_classes).eval()
    model(torch.zeros(1, 3, *image_size))
    return model


def restless(num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    return _built(Restless, num_classes, image_size)


def sociable(num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    return _built(Sociable, num_classes, image_size)


def jealous(num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    return _built(Jealous, num_classes, image_size)
