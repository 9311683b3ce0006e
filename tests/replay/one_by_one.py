"""One view drawn number by number: the naive reference of teacher_cache.replay.params, in Python's own arithmetic."""

import math

from teacher_cache.replay.auto_augment import IMAGENET_PAIRS
from teacher_cache.replay.params import Box, Operation, ViewParams
from teacher_cache.replay.policy import OPERATIONS, AutoAugment, Crop, Erase, Jitter, Policy, RandAugment
from teacher_cache.replay.seeds import Stream, on_grid


def draw_one(policy: Policy, stream: Stream, image_size: tuple[int, int], noise: bytes) -> ViewParams:
    """Draw one view. image_size: height and width of the decoded image; noise: derived seed of the erasing noise."""
    crop, resized, window = _draw_crop(policy.crop, stream, image_size, policy.size)
    flip = policy.flip is not None and stream.uniform() < policy.flip
    operations: list[Operation] = []
    if policy.rand_augment is not None:
        operations += _draw_rand_augment(policy.rand_augment, stream)
    if policy.auto_augment is not None:
        operations += _draw_auto_augment(policy.auto_augment, stream)
    if policy.jitter is not None:
        operations += _draw_jitter(policy.jitter, stream)
    erased = _draw_erased(policy.erase, stream, policy.size) if policy.erase is not None else ()
    red, green, blue = (min(255, round(255 * level)) for level in policy.mean)
    return ViewParams(
        crop=crop,
        resized=resized,
        window=window,
        interpolation=policy.crop.interpolation,
        flip=flip,
        operations=tuple(operations),
        geometry=(policy.rand_augment or policy.auto_augment or policy.crop).interpolation,
        fill=(red, green, blue),
        erased=erased,
        erase_mode=policy.erase.mode if policy.erase is not None and erased else None,
        noise=noise.hex() if erased else "",
        mean=policy.mean,
        std=policy.std,
    )


def _draw_crop(
    crop: Crop, stream: Stream, image_size: tuple[int, int], size: tuple[int, int]
) -> tuple[Box, tuple[int, int], Box]:
    if crop.kind == "random_resized":
        return _draw_resized_crop(crop, stream, *image_size), size, Box(0, 0, *size)
    return Box(0, 0, *image_size), *_center_crop(crop, *image_size, *size)


def _draw_resized_crop(crop: Crop, stream: Stream, height: int, width: int) -> Box:
    """timm's RandomResizedCropAndInterpolation.get_params."""
    assert crop.scale is not None
    assert crop.ratio is not None
    log_ratio = (math.log(crop.ratio[0]), math.log(crop.ratio[1]))
    for _ in range(10):
        target_area = stream.uniform(*crop.scale) * (height * width)
        aspect = on_grid(math.exp(stream.uniform(*log_ratio)))
        crop_width = round(math.sqrt(target_area * aspect))
        crop_height = round(math.sqrt(target_area / aspect))
        if crop_width <= width and crop_height <= height and crop_width > 0 and crop_height > 0:
            top = stream.integer(height - crop_height + 1)
            left = stream.integer(width - crop_width + 1)
            return Box(top, left, crop_height, crop_width)
    crop_height, crop_width = height, width  # the whole image, or its centre where its shape is out of bounds
    if width / height < crop.ratio[0]:
        crop_height = max(1, round(width / crop.ratio[0]))
    elif width / height > crop.ratio[1]:
        crop_width = max(1, round(height * crop.ratio[1]))
    return Box((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)


def _center_crop(
    crop: Crop, image_height: int, image_width: int, height: int, width: int
) -> tuple[tuple[int, int], Box]:
    """timm's evaluation: Resize to floor(size / crop_pct), then CenterCrop; both sides cover, also of no square."""
    assert crop.crop_pct is not None
    least_height, least_width = math.floor(height / crop.crop_pct), math.floor(width / crop.crop_pct)
    if least_height * image_width >= least_width * image_height:  # the height decides, as for a landscape and a square
        resized = (least_height, least_height * image_width // image_height)
    else:
        resized = (least_width * image_height // image_width, least_width)
    # torchvision's CenterCrop rounds halves to even
    top, left = round((resized[0] - height) / 2), round((resized[1] - width) / 2)
    return resized, Box(top, left, height, width)


def _draw_rand_augment(settings: RandAugment, stream: Stream) -> list[Operation]:
    """timm's RandAugment.__call__."""
    chosen = [settings.operations[stream.integer(len(settings.operations))] for _ in range(settings.num_ops)]
    drawn = [
        _draw_applied(name, settings.probability, settings.magnitude, settings.magnitude_std, stream) for name in chosen
    ]
    return [operation for operation in drawn if operation is not None]


def _draw_auto_augment(settings: AutoAugment, stream: Stream) -> list[Operation]:
    """timm's AutoAugment.__call__."""
    pair = IMAGENET_PAIRS[stream.integer(len(IMAGENET_PAIRS))]
    drawn = [
        _draw_applied(name, probability, magnitude, settings.magnitude_std, stream)
        for name, probability, magnitude in pair
    ]
    return [operation for operation in drawn if operation is not None]


def _draw_applied(
    name: str, probability: float, magnitude: float, magnitude_std: float, stream: Stream
) -> Operation | None:
    """timm's AugmentOp.__call__; None where the operation is not applied."""
    if probability < 1 and stream.uniform() > probability:
        return None
    if magnitude_std > 0:
        magnitude += magnitude_std * stream.normal()
    return _draw_operation(name, max(0.0, min(magnitude, 10.0)) / 10, stream)


def _draw_operation(name: str, level: float, stream: Stream) -> Operation:
    """timm's level-to-argument rules; own operations get the level. level: magnitude / 10, in [0, 1]."""

    def either_sign(value: float) -> float:
        return -value if stream.uniform() > 0.5 else value

    match name:
        case "AutoContrast" | "Equalize" | "Invert":
            return Operation(name.lower())
        case "PosterizeIncreasing":
            return Operation("posterize", 4 - int(level * 4))
        case "PosterizeOriginal":
            return Operation("posterize", 4 + int(level * 4))
        case "Solarize":
            return Operation("solarize", min(256, int(level * 256)))
        case "Color" | "Contrast" | "Sharpness":
            return Operation(name.lower(), on_grid(level * 1.8 + 0.1))
        case "SolarizeIncreasing":
            return Operation("solarize", 256 - min(256, int(level * 256)))
        case "SolarizeAdd":
            return Operation("solarize_add", min(128, int(level * 110)))
        case "ColorIncreasing" | "ContrastIncreasing" | "BrightnessIncreasing" | "SharpnessIncreasing":
            factor = max(0.1, 1.0 + either_sign(level * 0.9))
            return Operation(name.removesuffix("Increasing").lower(), on_grid(factor))
        case "Rotate":
            return Operation("rotate", on_grid(either_sign(level * 30)))
        case "ShearX" | "ShearY":
            return Operation(f"shear_{name[-1].lower()}", on_grid(either_sign(level * 0.3)))
        case "TranslateXRel" | "TranslateYRel":
            return Operation(f"translate_{name[-4].lower()}", on_grid(either_sign(level * 0.45)))
    assert name not in OPERATIONS, name
    return Operation(name, on_grid(either_sign(level)))


def _draw_jitter(settings: Jitter, stream: Stream) -> list[Operation]:
    """torchvision's ColorJitter.get_params; the operations that are on, in the order drawn."""
    order = stream.permutation(4).tolist()
    drawn: list[Operation | None] = []
    for name, extent in (
        ("brightness", settings.brightness),
        ("contrast", settings.contrast),
        ("color", settings.saturation),
    ):
        factor = stream.uniform(max(0.0, 1.0 - extent), 1.0 + extent) if extent else None
        drawn.append(Operation(name, on_grid(factor)) if factor is not None else None)
    shift = stream.uniform(-settings.hue, settings.hue) if settings.hue else None
    drawn.append(Operation("hue", on_grid(shift)) if shift is not None else None)
    return [operation for place in order if (operation := drawn[place]) is not None]


def _draw_erased(settings: Erase, stream: Stream, size: tuple[int, int]) -> tuple[Box, ...]:
    """timm's RandomErasing._erase: each box has ten tries."""
    if stream.uniform() > settings.probability:
        return ()
    height, width = size
    count = 1 + stream.integer(settings.count) if settings.count > 1 else 1
    log_aspect = (math.log(settings.aspect[0]), math.log(settings.aspect[1]))
    boxes = []
    for _ in range(count):
        for _ in range(10):
            area = stream.uniform(*settings.area) * (height * width) / count
            aspect = on_grid(math.exp(stream.uniform(*log_aspect)))
            box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if box_width < width and box_height < height:
                top = stream.integer(height - box_height + 1)
                left = stream.integer(width - box_width + 1)
                if box_height and box_width:
                    boxes.append(Box(top, left, box_height, box_width))
                break
    return tuple(boxes)
