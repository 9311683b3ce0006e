"""Students for tests, given as tests/support/students.py:NAME: two layers each."""

import os
import resource
from pathlib import Path

import torch
import xxhash
from torch import Tensor, nn


class Student(nn.Module):
    """Dropout for the random state, batch normalisation for the buffers; a pair of logits where it has two heads."""

    def __init__(self, num_classes: int, heads: int, image_size: tuple[int, int], dropout: float, norm: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 4, stride=4),
            nn.BatchNorm2d(16) if norm else nn.Identity(),
            nn.GELU(),
            nn.Flatten(),
            nn.Dropout(dropout),
        )
        width = 16 * (image_size[0] // 4) * (image_size[1] // 4)
        self.heads = nn.ModuleList(nn.Linear(width, num_classes) for _ in range(heads))

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        features = self.features(images)
        logits = tuple(head(features) for head in self.heads)
        return logits if len(logits) > 1 else logits[0]


def one_head(num_classes: int, image_size: tuple[int, int], dropout: float = 0.1) -> nn.Module:
    return Student(num_classes, 1, image_size, dropout, norm=True)


def two_heads(num_classes: int, image_size: tuple[int, int], dropout: float = 0.1) -> nn.Module:
    return Student(num_classes, 2, image_size, dropout, norm=True)


def plain(num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """Nothing that looks at the batch as a whole, nothing random: the same for any micro batch and number of ranks."""
    return Student(num_classes, 2, image_size, dropout=0.0, norm=False)


def noting(num_classes: int, image_size: tuple[int, int], notes: str) -> nn.Module:
    """As plain; each rank notes the images that it trains on in a file of its own, RANK of WORLD_SIZE."""

    class Noting(Student):
        def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
            if learns_from(images):
                with Path(notes, f"{os.environ['RANK']} of {os.environ['WORLD_SIZE']}").open("a") as file:
                    file.writelines(f"{name}\n" for name in image_names(images))
            return super().forward(images)

    return Noting(num_classes, 2, image_size, dropout=0.0, norm=False)


def on_a_full_disk(num_classes: int, image_size: tuple[int, int], most_bytes: int) -> nn.Module:
    """As plain; none of its process's files can grow beyond so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    return Student(num_classes, 2, image_size, dropout=0.0, norm=False)


def counting(num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """As plain; one buffer counts its batches and is another tensor after each, one is not there before the first."""

    class Counting(Student):
        def __init__(self) -> None:
            super().__init__(num_classes, 2, image_size, dropout=0.0, norm=False)
            self.register_buffer("count", torch.zeros(()))
            self.register_buffer("last", None, persistent=False)

        def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
            if self.training:
                self.count = self.count + 1
                self.last = images.mean()
            return super().forward(images)

    return Counting()


def learns_from(images: Tensor) -> bool:
    """Whether a model is trained on these, and not on the black views that several ranks begin with."""
    return torch.is_grad_enabled() and bool((images != images[:1, :, :1, :1]).any())


def unused(num_classes: int, image_size: tuple[int, int], every: int = 1) -> nn.Module:
    """As plain, with a layer that is used in one step of so many, at first not."""

    class Unused(Student):
        steps = 0

        def __init__(self) -> None:
            super().__init__(num_classes, 2, image_size, dropout=0.0, norm=False)
            self.spare = nn.Linear(3, num_classes)

        def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
            one, other = super().forward(images)
            self.steps += learns_from(images)
            used = every > 1 and self.steps % every
            return (one + self.spare(images.mean((2, 3))), other) if used else (one, other)

    return Unused()


def left_out_later(num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """As plain, without its first head from the third step on."""

    class LeftOutLater(Student):
        steps = 0

        def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
            one, other = super().forward(images)
            self.steps += learns_from(images)
            return (one, other) if self.steps < 3 else (other, other)

    return LeftOutLater(num_classes, 2, image_size, dropout=0.0, norm=False)


def image_names(images: Tensor) -> list[str]:
    """What tells images, as a model gets them, from each other."""
    return [xxhash.xxh3_64_hexdigest(image.contiguous().numpy()) for image in images]


def infinite(num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """Its loss is not finite once it trains."""

    class Infinite(Student):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            assert isinstance(logits, Tensor)
            return logits * torch.inf if self.training else logits

    return Infinite(num_classes, 1, image_size, dropout=0.0, norm=False)


def infinite_later(num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """Its loss is not finite from its sixth training step on."""

    class InfiniteLater(Student):
        steps = 0

        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            assert isinstance(logits, Tensor)
            self.steps += self.training and torch.is_grad_enabled()
            return logits * torch.inf if self.steps > 5 else logits

    return InfiniteLater(num_classes, 1, image_size, dropout=0.0, norm=False)


def masked(num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """A buffer that is not finite by design, as that of a causal mask."""

    class Masked(Student):
        def __init__(self) -> None:
            super().__init__(num_classes, 1, image_size, dropout=0.0, norm=True)
            self.register_buffer("mask", torch.full((3,), -torch.inf))

    return Masked()


def infinite_on_one_rank(num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """Its loss is not finite on rank 1 in its eighth training step, and there alone."""

    class InfiniteOnOneRank(Student):
        steps = 0

        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            assert isinstance(logits, Tensor)
            self.steps += learns_from(images)
            return logits * torch.inf if self.steps == 8 and os.environ["RANK"] == "1" else logits

    return InfiniteOnOneRank(num_classes, 1, image_size, dropout=0.0, norm=False)


def frozen(num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """Nothing of it takes a gradient."""
    return plain(num_classes, image_size).requires_grad_(False)
