"""(policy, stream, image size) -> view parameters, of many views at once: DrawnViews, each of which is ViewParams.

The distributions are timm's (timm.data.transforms, auto_augment and random_erasing of 1.0.31), the draws our own. Each
view has its stream: what is drawn for one does not depend on which others are. Exponentials, logarithms and cosines are
Python's, number by number; what else is done to arrays is exact, or rounded as IEEE 754 demands.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from teacher_cache.replay.auto_augment import IMAGENET_PAIRS
from teacher_cache.replay.policy import (
    AutoAugment,
    Crop,
    Erase,
    Interpolation,
    Jitter,
    Policy,
    RandAugment,
)
from teacher_cache.replay.seeds import Streams, all_on_grid


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


class Operation(NamedTuple):
    """A colour or geometry operation. value: degrees (rotate), shear, share of the side (translate), bits kept
    (posterize), threshold (solarize), level added (solarize_add), Pillow's factor (color, contrast, brightness,
    sharpness), share of the circle (hue); level in [-1, 1] (an operation of the policy's own)."""

    name: str
    value: float | int | None = None


@dataclass(frozen=True)
class ViewParams:
    """What `render` does, in this order: crop, resize, window, flip, operations, erase."""

    crop: Box  # source pixels
    resized: tuple[int, int]  # height and width of the crop after resizing
    window: Box  # the part of the resized crop that is kept; its size is the view's
    interpolation: Interpolation
    flip: bool
    operations: tuple[Operation, ...]  # those that are applied; the jitter's come after Rand- or AutoAugment's
    geometry: Interpolation  # of the operations
    fill: tuple[int, int, int]  # colour of what a geometric operation brings in, and of erasing mode `const`
    erased: tuple[Box, ...]
    erase_mode: Literal["pixel", "const", "rand"] | None  # None when nothing is erased
    noise: str  # hexadecimal seed of the erasing noise, "" when nothing is erased
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {
            "crop": self.crop._asdict(),
            "window": self.window._asdict(),
            "operations": [operation._asdict() for operation in self.operations],
            "erased": [box._asdict() for box in self.erased],
        }


# what a view's operations are called; the policy's own keep their names
NAMES = (
    *("autocontrast", "equalize", "invert", "posterize", "solarize", "solarize_add"),
    *("brightness", "contrast", "color", "sharpness", "hue"),
    *("rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
)
_WITHOUT_VALUE = frozenset({"autocontrast", "equalize", "invert"})
_WHOLE = frozenset({"posterize", "solarize", "solarize_add"})  # whose value is an integer
NONE = -1  # in the place of an operation: none is applied


@dataclass(frozen=True)
class DrawnViews:
    """View parameters of n views of a policy, as arrays; views[number] is one view's ViewParams, which says what each
    of them is. Boxes are top, left, height, width."""

    policy: Policy
    crops: np.ndarray  # (n, 4) int64
    resized: np.ndarray  # (n, 2) int64
    windows: np.ndarray  # (n, 4) int64
    flips: np.ndarray  # (n,) bool
    operations: np.ndarray  # (n, most) int64: numbers in `names`, NONE after those that are applied
    values: np.ndarray  # (n, most) float64, on the grid; 0 where there is none
    erased: np.ndarray  # (n, most, 4) int64; all 0 after those that are erased
    noise: np.ndarray  # (n, 32) uint8; all 0 where nothing is erased

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of operations, by number."""
        return operation_names(self.policy)

    @property
    def geometry(self) -> Interpolation:
        return (self.policy.rand_augment or self.policy.auto_augment or self.policy.crop).interpolation

    @property
    def fill(self) -> tuple[int, int, int]:
        red, green, blue = (min(255, round(255 * level)) for level in self.policy.mean)
        return red, green, blue

    def __len__(self) -> int:
        return len(self.crops)

    def __iter__(self) -> Iterator[ViewParams]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> ViewParams:
        erased = tuple(Box(*box) for box in self.erased[number].tolist() if box[2])
        resized = self.resized[number].tolist()
        applied = zip(self.operations[number].tolist(), self.values[number].tolist(), strict=True)
        return ViewParams(
            crop=Box(*self.crops[number].tolist()),
            resized=(resized[0], resized[1]),
            window=Box(*self.windows[number].tolist()),
            interpolation=self.policy.crop.interpolation,
            flip=bool(self.flips[number]),
            operations=tuple(as_operation(self.names[which], value) for which, value in applied if which != NONE),
            geometry=self.geometry,
            fill=self.fill,
            erased=erased,
            erase_mode=self.policy.erase.mode if self.policy.erase is not None and erased else None,
            noise=self.noise[number].tobytes().hex() if erased else "",
            mean=self.policy.mean,
            std=self.policy.std,
        )


def operation_names(policy: Policy) -> tuple[str, ...]:
    return NAMES + (policy.own_operations.names if policy.own_operations is not None else ())


def as_operation(name: str, value: float) -> Operation:
    """An operation with a drawn value, as view parameters have it."""
    if name in _WITHOUT_VALUE:
        return Operation(name)
    return Operation(name, int(value) if name in _WHOLE else value)


class _Slots(NamedTuple):
    """Places of operations of n views, k of each: numbers of operations, NONE where none is applied, and values; both
    (n, k)."""

    operations: np.ndarray
    values: np.ndarray


def draw_params(policy: Policy, seed: bytes, image_size: tuple[int, int], noise: bytes) -> ViewParams:
    """Draw one view. seed: derived, of the view's stream; image_size: height and width of the decoded image; noise:
    derived seed of the erasing noise."""
    return draw_views(policy, [seed], np.array([image_size]), lambda _: noise)[0]


def draw_views(
    policy: Policy, seeds: Sequence[bytes], image_sizes: np.ndarray, noise: Callable[[int], bytes]
) -> DrawnViews:
    """Draw a view from each seed. image_sizes: (n, 2), height and width of the decoded images; noise: gives the derived
    seed of a view's erasing noise, by its number in the seeds; asked where something is erased."""
    streams, image_sizes = Streams(seeds), image_sizes.reshape(-1, 2).astype(np.int64)
    crops, resized, windows = _draw_crops(policy.crop, streams, image_sizes, policy.size)
    flips = np.zeros(len(seeds), np.bool_)
    if policy.flip is not None:
        flips = streams.uniform(streams.all) < policy.flip
    numbers = {name: number for number, name in enumerate(operation_names(policy))}
    applied: list[_Slots] = []
    if policy.rand_augment is not None:
        applied += _draw_rand_augment(policy.rand_augment, streams, numbers)
    if policy.auto_augment is not None:
        applied += _draw_auto_augment(policy.auto_augment, streams, numbers)
    if policy.jitter is not None:
        applied.append(_draw_jitter(policy.jitter, streams, numbers))
    operations, values = _in_order(applied, len(seeds))
    erased = np.zeros((len(seeds), 0, 4), np.int64)
    if policy.erase is not None:
        erased = _draw_erased(policy.erase, streams, policy.size)
    noises = np.zeros((len(seeds), 32), np.uint8)
    for number in np.flatnonzero(erased[:, :1].any(axis=(1, 2))).tolist():
        noises[number] = np.frombuffer(noise(number), np.uint8)
    return DrawnViews(policy, crops, resized, windows, flips, operations, values, erased, noises)


def _exponentials(values: np.ndarray) -> np.ndarray:
    return all_on_grid(np.array([math.exp(value) for value in values.tolist()]))


def _draw_crops(
    crop: Crop, streams: Streams, image_sizes: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops, the sizes that they are resized to, and windows."""
    num = len(image_sizes)
    if crop.kind == "random_resized":
        crops = _draw_resized_crops(crop, streams, image_sizes)
        return crops, np.tile(size, (num, 1)), np.tile((0, 0, *size), (num, 1))
    crops = np.concatenate([np.zeros((num, 2), np.int64), image_sizes], axis=1)
    return crops, *_center_crops(crop, image_sizes, *size)


def _draw_resized_crops(crop: Crop, streams: Streams, image_sizes: np.ndarray) -> np.ndarray:
    """timm's RandomResizedCropAndInterpolation.get_params."""
    assert crop.scale is not None
    assert crop.ratio is not None
    log_ratio = (math.log(crop.ratio[0]), math.log(crop.ratio[1]))
    heights, widths = image_sizes.T
    crops = np.zeros((len(image_sizes), 4), np.int64)
    trying = streams.all
    for _ in range(10):
        height, width = heights[trying], widths[trying]
        target_area = streams.uniform(trying, *crop.scale) * (height * width)
        aspect = _exponentials(streams.uniform(trying, *log_ratio))
        crop_width = np.rint(np.sqrt(target_area * aspect)).astype(np.int64)
        crop_height = np.rint(np.sqrt(target_area / aspect)).astype(np.int64)
        fits = (crop_width <= width) & (crop_height <= height) & (crop_width > 0) & (crop_height > 0)
        fit, crop_height, crop_width = trying[fits], crop_height[fits], crop_width[fits]
        top = streams.integer(fit, heights[fit] - crop_height + 1)
        left = streams.integer(fit, widths[fit] - crop_width + 1)
        crops[fit] = np.array([top, left, crop_height, crop_width]).T
        trying = trying[~fits]
        if not len(trying):
            return crops
    crops[trying] = _whole_crops(crop.ratio, heights[trying], widths[trying])
    return crops


def _whole_crops(ratio: tuple[float, float], heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The whole image, or its centre where its shape is out of bounds."""
    shape = widths / heights
    high, wide = shape < ratio[0], shape > ratio[1]
    height = np.where(high, np.maximum(1, np.rint(widths / ratio[0])), heights).astype(np.int64)
    width = np.where(wide, np.maximum(1, np.rint(heights * ratio[1])), widths).astype(np.int64)
    return np.array([(heights - height) // 2, (widths - width) // 2, height, width]).T


def _center_crops(crop: Crop, image_sizes: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """timm's evaluation: Resize to floor(size / crop_pct), then CenterCrop; both sides cover, also of no square."""
    assert crop.crop_pct is not None
    least_height, least_width = math.floor(height / crop.crop_pct), math.floor(width / crop.crop_pct)
    heights, widths = image_sizes.T
    # the height decides, as for a landscape and a square
    decides = least_height * widths >= least_width * heights
    resized_height = np.where(decides, least_height, least_width * heights // widths)
    resized_width = np.where(decides, least_height * widths // heights, least_width)
    # torchvision's CenterCrop rounds halves to even
    top = np.rint((resized_height - height) / 2).astype(np.int64)
    left = np.rint((resized_width - width) / 2).astype(np.int64)
    windows = np.array([top, left, np.full_like(top, height), np.full_like(left, width)]).T
    return np.array([resized_height, resized_width]).T, windows


def _in_order(applied: list[_Slots], num_views: int) -> _Slots:
    """The operations of each view one after another, without the places where none is."""
    if not applied:
        return _Slots(np.full((num_views, 0), NONE), np.zeros((num_views, 0)))
    operations, values = (np.concatenate(arrays, axis=1) for arrays in zip(*applied, strict=True))
    order = np.argsort(operations == NONE, axis=1, kind="stable")
    most = int((operations != NONE).sum(axis=1).max(initial=0))
    return _Slots(*(np.take_along_axis(array, order, axis=1)[:, :most] for array in (operations, values)))


def _draw_rand_augment(settings: RandAugment, streams: Streams, numbers: dict[str, int]) -> list[_Slots]:
    """timm's RandAugment.__call__."""
    names = np.array([streams.integer(streams.all, len(settings.operations)) for _ in range(settings.num_ops)])
    probabilities, magnitudes = (np.full(len(streams.all), each) for each in (settings.probability, settings.magnitude))
    rules = Rules(settings.operations, numbers)
    return [
        _draw_applied(rules, chosen, probabilities, magnitudes, settings.magnitude_std, streams) for chosen in names
    ]


def _draw_auto_augment(settings: AutoAugment, streams: Streams, numbers: dict[str, int]) -> list[_Slots]:
    """timm's AutoAugment.__call__."""
    pairs = streams.integer(streams.all, len(IMAGENET_PAIRS))
    slots = []
    for names, probabilities, magnitudes in (zip(*each, strict=True) for each in zip(*IMAGENET_PAIRS, strict=True)):
        rules = Rules(names, numbers)  # one a pair, by its number
        probability, magnitude = np.array([probabilities, magnitudes])[:, pairs]
        slots.append(_draw_applied(rules, pairs, probability, magnitude, settings.magnitude_std, streams))
    return slots


def _draw_applied(
    rules: "Rules",
    chosen: np.ndarray,
    probabilities: np.ndarray,
    magnitudes: np.ndarray,
    magnitude_std: float,
    streams: Streams,
) -> _Slots:
    """timm's AugmentOp.__call__. chosen: (n,), numbers of rules."""
    applied = np.ones(len(chosen), np.bool_)
    unsure = np.flatnonzero(probabilities < 1)
    applied[unsure] = streams.uniform(unsure) <= probabilities[unsure]
    of = np.flatnonzero(applied)
    levels = magnitudes[of]
    if magnitude_std > 0:
        levels += magnitude_std * streams.normal(of)
    levels = np.clip(levels, 0.0, 10.0) / 10
    slots = _Slots(np.full((len(chosen), 1), NONE), np.zeros((len(chosen), 1)))
    slots.operations[of, 0] = rules.operations[chosen[of]]
    slots.values[of, 0] = rules.draw_values(chosen[of], levels, streams, of)
    return slots


class Rule(NamedTuple):
    """What one of timm's level-to-argument rules makes of a level, magnitude / 10 in [0, 1]."""

    operation: str  # a view's name for it
    value: Callable[[np.ndarray], np.ndarray]  # of the level
    extent: float | None = None  # value gets the level times this, with either sign


def _zero(level: np.ndarray) -> np.ndarray:
    return np.zeros_like(level)


def _itself(value: np.ndarray) -> np.ndarray:
    return value


def _factor(change: np.ndarray) -> np.ndarray:
    return np.maximum(0.1, 1.0 + change)


def _original_factor(level: np.ndarray) -> np.ndarray:
    return level * 1.8 + 0.1


RULES = {
    "AutoContrast": Rule("autocontrast", _zero),
    "Equalize": Rule("equalize", _zero),
    "Invert": Rule("invert", _zero),
    "PosterizeIncreasing": Rule("posterize", lambda level: 4 - np.trunc(level * 4)),
    "PosterizeOriginal": Rule("posterize", lambda level: 4 + np.trunc(level * 4)),
    "Solarize": Rule("solarize", lambda level: np.minimum(256, np.trunc(level * 256))),
    "SolarizeIncreasing": Rule("solarize", lambda level: 256 - np.minimum(256, np.trunc(level * 256))),
    "SolarizeAdd": Rule("solarize_add", lambda level: np.minimum(128, np.trunc(level * 110))),
    "Color": Rule("color", _original_factor),
    "Contrast": Rule("contrast", _original_factor),
    "Sharpness": Rule("sharpness", _original_factor),
    "ColorIncreasing": Rule("color", _factor, 0.9),
    "ContrastIncreasing": Rule("contrast", _factor, 0.9),
    "BrightnessIncreasing": Rule("brightness", _factor, 0.9),
    "SharpnessIncreasing": Rule("sharpness", _factor, 0.9),
    "Rotate": Rule("rotate", _itself, 30),
    "ShearX": Rule("shear_x", _itself, 0.3),
    "ShearY": Rule("shear_y", _itself, 0.3),
    "TranslateXRel": Rule("translate_x", _itself, 0.45),
    "TranslateYRel": Rule("translate_y", _itself, 0.45),
}


class Rules:
    """The rules of some of timm's names, and of own operations, which get the level itself, as tables."""

    def __init__(self, names: Sequence[str], numbers: dict[str, int]) -> None:
        """numbers: of a view's operations, by name."""
        rules = [RULES.get(name) or Rule(name, _itself, 1.0) for name in names]
        self.operations = np.array([numbers[rule.operation] for rule in rules])
        self._extents = np.array([rule.extent if rule.extent is not None else np.nan for rule in rules])
        self._functions = list(dict.fromkeys(rule.value for rule in rules))
        self._function = np.array([self._functions.index(rule.value) for rule in rules])

    def draw_values(self, chosen: np.ndarray, levels: np.ndarray, streams: Streams, of: np.ndarray) -> np.ndarray:
        """chosen: (m,), the number of the rule of each level, whose stream is in `of`."""
        extents, function = self._extents[chosen], self._function[chosen]
        either = np.flatnonzero(~np.isnan(extents))
        values, changes = levels.copy(), levels[either] * extents[either]
        values[either] = np.where(streams.uniform(of[either]) > 0.5, -changes, changes)
        for number, value in enumerate(self._functions):
            those = np.flatnonzero(function == number)
            values[those] = value(values[those])
        return all_on_grid(values)


def _draw_jitter(settings: Jitter, streams: Streams, numbers: dict[str, int]) -> _Slots:
    """torchvision's ColorJitter.get_params; the operations that are on, in the order drawn."""
    order = streams.permutation(streams.all, 4)
    drawn = _Slots(np.full(order.shape, NONE), np.zeros(order.shape))
    limits = {
        name: (max(0.0, 1.0 - extent), 1.0 + extent) if extent else None
        for name, extent in (
            ("brightness", settings.brightness),
            ("contrast", settings.contrast),
            ("color", settings.saturation),
        )
    }
    limits["hue"] = (-settings.hue, settings.hue) if settings.hue else None
    for place, (name, between) in enumerate(limits.items()):
        if between is not None:
            drawn.operations[:, place] = numbers[name]
            drawn.values[:, place] = all_on_grid(streams.uniform(streams.all, *between))
    return _Slots(*(np.take_along_axis(array, order, axis=1) for array in drawn))


def _draw_erased(settings: Erase, streams: Streams, size: tuple[int, int]) -> np.ndarray:
    """timm's RandomErasing._erase: each box has ten tries. (n, most, 4)."""
    erasing = np.flatnonzero(streams.uniform(streams.all) <= settings.probability)
    counts = np.zeros(len(streams.all), np.int64)
    counts[erasing] = 1 + streams.integer(erasing, settings.count) if settings.count > 1 else 1
    boxes = np.zeros((len(counts), settings.count, 4), np.int64)
    for number in range(settings.count):
        _draw_boxes(boxes[:, number], np.flatnonzero(counts > number), counts, settings, streams, size)
    # a box that did not fit, or has no pixels, leaves no gap
    order = np.argsort(boxes[:, :, 2] == 0, axis=1, kind="stable")
    most = int((boxes[:, :, 2] > 0).sum(axis=1).max(initial=0))
    return np.take_along_axis(boxes, order[:, :, None], axis=1)[:, :most]


def _draw_boxes(
    boxes: np.ndarray,
    trying: np.ndarray,
    counts: np.ndarray,
    settings: Erase,
    streams: Streams,
    size: tuple[int, int],
) -> None:
    """A box of each view that is `trying`, into boxes (n, 4). counts: (n,), the boxes that share the area."""
    height, width = size
    log_aspect = (math.log(settings.aspect[0]), math.log(settings.aspect[1]))
    for _ in range(10):
        if not len(trying):
            return
        area = streams.uniform(trying, *settings.area) * (height * width) / counts[trying]
        aspect = _exponentials(streams.uniform(trying, *log_aspect))
        box_height = np.rint(np.sqrt(area * aspect)).astype(np.int64)
        box_width = np.rint(np.sqrt(area / aspect)).astype(np.int64)
        fits = (box_width < width) & (box_height < height)
        fit, box_height, box_width = trying[fits], box_height[fits], box_width[fits]
        top = streams.integer(fit, height - box_height + 1)
        left = streams.integer(fit, width - box_width + 1)
        has_pixels = (box_height > 0) & (box_width > 0)
        boxes[fit[has_pixels]] = np.array([top, left, box_height, box_width]).T[has_pixels]
        trying = trying[~fits]
