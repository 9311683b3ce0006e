"""View parameters and mixes, drawn by the native library where it is: the numbers of params.py and mix.py, sooner."""

import ctypes
import math
from collections.abc import Callable, Sequence

import numpy as np

from teacher_cache.replay import mix, params
from teacher_cache.replay.auto_augment import IMAGENET_PAIRS
from teacher_cache.replay.mix import MixPlan
from teacher_cache.replay.native.library import workspace
from teacher_cache.replay.native.views import address
from teacher_cache.replay.params import RULES, DrawnViews
from teacher_cache.replay.policy import AutoAugment, Crop, Erase, Jitter, Mix, Policy, RandAugment
from teacher_cache.replay.seeds import Stream

_JITTERS = 4
_NUMBERS = {name: number for number, name in enumerate(RULES)}
_Two = ctypes.c_double * 2


class _Draws(ctypes.Structure):
    """`Draws` of draw.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num", "height", "width")),
        *((name, ctypes.c_void_p) for name in ("seeds", "picture_sizes")),
        ("crops_centre", ctypes.c_int64),
        ("least", ctypes.c_int64 * 2),
        *((name, _Two) for name in ("scale", "ratio", "log_ratio")),
        ("flips_some", ctypes.c_int64),
        ("flip", ctypes.c_double),
        *((name, ctypes.c_int64) for name in ("num_slots", "num_choices", "chosen_together")),
        *((name, ctypes.c_void_p) for name in ("rules", "probabilities", "magnitudes")),
        ("num_rules", ctypes.c_int64),
        ("magnitude_std", ctypes.c_double),
        ("jitters_some", ctypes.c_int64),
        ("jitters", ctypes.c_int64 * _JITTERS),
        ("jitter", _Two * _JITTERS),
        *((name, ctypes.c_int64) for name in ("erases_some", "most_boxes")),
        ("erase", ctypes.c_double),
        *((name, _Two) for name in ("area", "log_aspect")),
        *(
            (name, ctypes.c_void_p)
            for name in ("crops", "resized", "windows", "flips", "operations", "values", "erased")
        ),
        *((name, ctypes.c_int64) for name in ("row", "boxes_row", "operations_found", "boxes_found")),
    )


class _Pairs(ctypes.Structure):
    """`Pairs` of pairs.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num", "height", "width")),
        *((name, ctypes.c_void_p) for name in ("seed", "skipped")),
        *((name, ctypes.c_int64) for name in ("mixes", "cuts")),
        *((name, ctypes.c_double) for name in ("mixup_alpha", "cutmix_alpha", "probability", "switch_probability")),
        *((name, ctypes.c_void_p) for name in ("partners", "lambdas", "boxes")),
    )


def draw_views(
    policy: Policy, seeds: Sequence[bytes], image_sizes: np.ndarray, noise: Callable[[int], bytes]
) -> DrawnViews:
    """`params.draw_views`, by the library where it is."""
    held = workspace()
    if held is None:
        return params.draw_views(policy, seeds, image_sizes, noise)
    num = len(seeds)
    draws, read = _settings(policy)
    draws.num, draws.row, draws.boxes_row = num, draws.num_slots + _JITTERS * draws.jitters_some, draws.most_boxes
    read |= {"seeds": as_bytes(seeds), "picture_sizes": np.ascontiguousarray(image_sizes, np.int64)}
    assert read["picture_sizes"].size == 2 * num
    drawn = {
        "crops": np.empty((num, 4), np.int64),
        "resized": np.empty((num, 2), np.int64),
        "windows": np.empty((num, 4), np.int64),
        "flips": np.empty(num, np.bool_),
        "operations": np.empty((num, draws.row), np.int64),
        "values": np.empty((num, draws.row)),
        "erased": np.empty((num, draws.boxes_row, 4), np.int64),
    }
    for name, array in (read | drawn).items():
        setattr(draws, name, address(array))
    held.draw(draws)
    mosts = {"operations": draws.operations_found, "values": draws.operations_found, "erased": draws.boxes_found}
    drawn |= {name: drawn[name][:, :most] for name, most in mosts.items()}
    noises = np.zeros((num, 32), np.uint8)
    for number in np.flatnonzero(drawn["erased"][:, :1, 2]).tolist():
        noises[number] = np.frombuffer(noise(number), np.uint8)
    return DrawnViews(policy, **drawn, noise=noises)


def draw_mix(policy: Policy, seed: bytes, num_samples: int, skipped: frozenset[int]) -> MixPlan:
    """`mix.draw_mix` of a seed's stream, by the library where it is."""
    held = workspace()
    if held is None:
        return mix.draw_mix(policy, Stream(seed), num_samples, skipped)
    words, left_out = as_bytes([seed]), np.zeros(num_samples, np.uint8)
    left_out[list(skipped)] = 1
    plan = MixPlan(
        partners=np.empty(num_samples, np.int64),
        lambdas=np.empty(num_samples, np.uint32),
        boxes=np.empty((num_samples, 4), np.int32),
    )
    pairs = _Pairs(
        num=num_samples,
        height=policy.size[0],
        width=policy.size[1],
        seed=address(words),
        skipped=address(left_out),
        partners=address(plan.partners),
        lambdas=address(plan.lambdas),
        boxes=address(plan.boxes),
    )
    if policy.mix is not None:
        _set_mix(pairs, policy.mix)
    held.pair(pairs)
    return plan


def as_bytes(seeds: Sequence[bytes]) -> np.ndarray:
    """Derived seeds of 32 bytes, as the library reads them."""
    joined = np.frombuffer(b"".join(seeds), np.uint8)
    assert len(joined) == 32 * len(seeds)
    return joined


def _settings(policy: Policy) -> tuple[_Draws, dict[str, np.ndarray]]:
    """What a policy draws, and the arrays that the library is to read with it."""
    draws = _Draws(height=policy.size[0], width=policy.size[1])
    choices = np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    _set_crop(draws, policy.crop, policy.size)
    if policy.flip is not None:
        draws.flips_some, draws.flip = 1, policy.flip
    if policy.rand_augment is not None:
        choices = _set_rand_augment(draws, policy.rand_augment, policy)
    if policy.auto_augment is not None:
        choices = _set_auto_augment(draws, policy.auto_augment)
    if policy.jitter is not None:
        _set_jitter(draws, policy.jitter)
    if policy.erase is not None:
        _set_erase(draws, policy.erase)
    draws.num_rules = len(choices[0])
    return draws, dict(zip(("rules", "probabilities", "magnitudes"), choices, strict=True))


_Choices = tuple[np.ndarray, np.ndarray, np.ndarray]  # numbers of rules, probabilities, magnitudes


def _set_crop(draws: _Draws, crop: Crop, size: tuple[int, int]) -> None:
    if crop.kind == "center":
        assert crop.crop_pct is not None
        draws.crops_centre = 1
        draws.least = (math.floor(size[0] / crop.crop_pct), math.floor(size[1] / crop.crop_pct))
        return
    assert crop.scale is not None
    assert crop.ratio is not None
    draws.scale, draws.ratio = crop.scale, crop.ratio
    draws.log_ratio = (math.log(crop.ratio[0]), math.log(crop.ratio[1]))


def _set_rand_augment(draws: _Draws, settings: RandAugment, policy: Policy) -> _Choices:
    num = len(settings.operations)
    own = policy.own_operations.names if policy.own_operations is not None else ()
    draws.num_slots, draws.num_choices, draws.magnitude_std = settings.num_ops, num, settings.magnitude_std
    rules = [_NUMBERS[name] if name in _NUMBERS else len(RULES) + own.index(name) for name in settings.operations]
    return np.array(rules, np.int64), np.full(num, settings.probability), np.full(num, settings.magnitude)


def _set_auto_augment(draws: _Draws, settings: AutoAugment) -> _Choices:
    draws.num_slots, draws.num_choices, draws.chosen_together = 2, len(IMAGENET_PAIRS), 1
    draws.magnitude_std = settings.magnitude_std
    firsts_then_seconds = [each for of_slot in zip(*IMAGENET_PAIRS, strict=True) for each in of_slot]
    names, probabilities, magnitudes = zip(*firsts_then_seconds, strict=True)
    rules = np.array([_NUMBERS[name] for name in names], np.int64)
    return rules, np.array(probabilities, np.float64), np.array(magnitudes, np.float64)


def _set_jitter(draws: _Draws, settings: Jitter) -> None:
    factors = settings.brightness, settings.contrast, settings.saturation
    draws.jitters_some = 1
    draws.jitters = tuple(bool(extent) for extent in (*factors, settings.hue))
    draws.jitter = (
        *((max(0.0, 1.0 - extent), 1.0 + extent) for extent in factors),
        (-settings.hue, settings.hue),
    )


def _set_erase(draws: _Draws, settings: Erase) -> None:
    draws.erases_some, draws.most_boxes, draws.erase = 1, settings.count, settings.probability
    draws.area, draws.log_aspect = settings.area, (math.log(settings.aspect[0]), math.log(settings.aspect[1]))


def _set_mix(pairs: _Pairs, settings: Mix) -> None:
    if settings.mixup_alpha is not None:
        pairs.mixes, pairs.mixup_alpha = 1, settings.mixup_alpha
    if settings.cutmix_alpha is not None:
        pairs.cuts, pairs.cutmix_alpha = 1, settings.cutmix_alpha
    pairs.probability, pairs.switch_probability = settings.probability, settings.switch_probability
