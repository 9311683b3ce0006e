"""Draws read from timm's own transforms, which run as they are, but on stand-ins that note what they are told to do.

So nothing of theirs is repeated here, and no pixel is made: RandAugment of timm 1.0.31 fails on Pillow 13 where it
keeps 0 bits. Their random numbers come from three global generators, which `seeded` seeds.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchvision.transforms
from PIL import Image
from timm.data import Mixup
from timm.data.auto_augment import RandAugment
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from timm.data.transforms_factory import create_transform

from teacher_cache.replay.params import Box, Operation

OUR_NAMES = {
    "AutoContrast": "autocontrast",
    "Equalize": "equalize",
    "Invert": "invert",
    "Rotate": "rotate",
    "PosterizeIncreasing": "posterize",
    "SolarizeIncreasing": "solarize",
    "SolarizeAdd": "solarize_add",
    "ColorIncreasing": "color",
    "ContrastIncreasing": "contrast",
    "BrightnessIncreasing": "brightness",
    "SharpnessIncreasing": "sharpness",
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "TranslateXRel": "translate_x",
    "TranslateYRel": "translate_y",
}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """timm draws from three global generators: random, numpy's and torch's. They are left as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class TimmsTransforms:
    """The transforms that timm's create_transform makes for training, one by one."""

    def __init__(self, **arguments: Any) -> None:
        self.all = create_transform(is_training=True, color_jitter=None, **arguments).transforms
        self._crop = self._only(RandomResizedCropAndInterpolation)
        self._flip = self._only(torchvision.transforms.RandomHorizontalFlip)
        self._rand_augment = self._only(RandAugment)
        self._eraser = self._only(RandomErasing)
        for operation in self._rand_augment.ops:
            operation.aug_fn = self._note(operation.name)

    def _only(self, kind: type) -> Any:
        (found,) = (transform for transform in self.all if isinstance(transform, kind))
        return found

    @staticmethod
    def _note(name: str) -> Any:
        def note(noted: list, value: float | int | None = None, **options: Any) -> list:
            return [*noted, (Operation(OUR_NAMES[name], value), options)]

        return note

    def crop(self, height: int, width: int) -> Box:
        image = Image.new("L", (width, height))
        return Box(*self._crop.get_params(image, self._crop.scale, self._crop.ratio))

    def flip(self) -> bool:
        return bool(self._flip(torch.tensor([[[0, 1]]]))[0, 0, 0])

    def operations(self) -> list[tuple[Operation, dict[str, Any]]]:
        """Those that are applied, with the colour they fill with and how they resample."""
        return self._rand_augment([])

    def erased(self, height: int, width: int) -> list[Box]:
        return erased(self._eraser, height, width)


def erased(eraser: RandomErasing, height: int, width: int) -> list[Box]:
    """The boxes of one draw; one of no height or no width is none."""
    slate = _Slate(height, width)
    eraser(slate)
    return [box for box in slate.boxes if box.height and box.width]


class _Slate:
    """In a tensor's place: notes where pixels are written."""

    dtype = torch.float32

    def __init__(self, height: int, width: int) -> None:
        self._size = (1, height, width)
        self.boxes: list[Box] = []

    def size(self) -> tuple[int, int, int]:
        return self._size

    def __setitem__(self, place: tuple[slice, slice, slice], pixels: torch.Tensor) -> None:
        _, rows, columns = place
        self.boxes.append(Box(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start))


@dataclass(frozen=True)
class Mixed:
    """One pair: how it is mixed, the first one's own share, and the pasted box."""

    mode: str  # blended | pasted | alone
    lam: float
    box: Box | None = None


def mixed(mixup: Mixup, height: int, width: int) -> Mixed:
    """One draw of timm's Mixup, as DeiT calls it, read off a black and a white image."""
    images = torch.zeros(2, 1, height, width)
    images[1] = 1
    images, targets = mixup(images, torch.tensor([0, 1]))
    first, lam = images[0, 0].numpy(), float(targets[0, 0])
    if not first.any():
        return Mixed("alone", lam)
    if ((first > 0) & (first < 1)).any():
        return Mixed("blended", lam)
    rows, columns = np.flatnonzero(first.any(axis=1)), np.flatnonzero(first.any(axis=0))
    box = Box(int(rows[0]), int(columns[0]), len(rows), len(columns))
    assert first.sum() == box.height * box.width
    return Mixed("pasted", lam, box)
