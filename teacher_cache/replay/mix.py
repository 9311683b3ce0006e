"""(policy, block, view) -> partners, lambdas, boxes; and applying them. The two of a pair share lambda and box."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from teacher_cache.replay.policy import Mix, Policy
from teacher_cache.replay.seeds import Stream

LAMBDA_ONE = 65536  # lambda's integer grid


@dataclass(frozen=True)
class MixPlan:
    """Who is mixed with whom in one block at one view.

    partners: (n,) int64, a sample's own position where it is left alone; lambdas: (n,) uint32 in 0..LAMBDA_ONE, the
    sample's own share; boxes: (n, 4) int32 of top, left, height, width, the CutMix box; height 0 is no CutMix.
    """

    partners: np.ndarray
    lambdas: np.ndarray
    boxes: np.ndarray


def draw_mix(policy: Policy, stream: Stream, num_samples: int, skipped: frozenset[int]) -> MixPlan:
    """A random matching of the block's positions; a sample that is odd, or whose partner is skipped, is left alone.

    Every pair is drawn, skipped or not, so that a skipped sample moves no other pair's draws.
    """
    partners, lambdas, boxes = list(range(num_samples)), [LAMBDA_ONE] * num_samples, [(0, 0, 0, 0)] * num_samples
    if policy.mix is not None:
        order = stream.permutation(num_samples).tolist()
        for first, second in zip(order[0::2], order[1::2], strict=False):
            lam, box = _draw_pair(policy.mix, stream, *policy.size)
            mixed = lam < LAMBDA_ONE or box[2] > 0
            if mixed and first not in skipped and second not in skipped:
                partners[first], partners[second] = second, first
                lambdas[first] = lambdas[second] = lam
                boxes[first] = boxes[second] = box
    return MixPlan(
        partners=np.array(partners, np.int64),
        lambdas=np.array(lambdas, np.uint32),
        boxes=np.array(boxes, np.int32).reshape(-1, 4),
    )


def _draw_pair(mix: Mix, stream: Stream, height: int, width: int) -> tuple[int, tuple[int, int, int, int]]:
    """timm's Mixup in mode 'pair', with rand_bbox and the corrected lambda."""
    unmixed = LAMBDA_ONE, (0, 0, 0, 0)
    applied = stream.uniform() < mix.probability
    switched = stream.uniform() < mix.switch_probability
    cut = mix.cutmix_alpha is not None and (mix.mixup_alpha is None or switched)
    alpha = mix.cutmix_alpha if cut else mix.mixup_alpha
    assert alpha is not None
    lam = stream.beta(alpha, alpha)
    if not applied:
        return unmixed
    if not cut:
        return 2 * round(lam * (LAMBDA_ONE // 2)), (0, 0, 0, 0)  # even, as `blend` needs
    side = math.sqrt(1.0 - lam)
    cut_height, cut_width = int(height * side), int(width * side)
    center_y, center_x = stream.integer(height), stream.integer(width)
    top, bottom = max(0, center_y - cut_height // 2), min(height, center_y + (cut_height + 1) // 2)
    left, right = max(0, center_x - cut_width // 2), min(width, center_x + (cut_width + 1) // 2)
    area = (bottom - top) * (right - left)
    if area == 0:
        return unmixed
    corrected = (2 * LAMBDA_ONE * (height * width - area) + height * width) // (2 * height * width)
    return corrected, (top, left, bottom - top, right - left)


def apply_mix(views: np.ndarray | Sequence[np.ndarray], plan: MixPlan) -> None:
    """Blend or paste each view with its partner, in place. views: (n, H, W, 3) uint8, or n arrays (H, W, 3)."""
    for first, second in enumerate(plan.partners.tolist()):
        if first >= second:
            continue  # alone, or done
        top, left, height, width = plan.boxes[first].tolist()
        if height > 0:
            a = views[first][top : top + height, left : left + width]
            b = views[second][top : top + height, left : left + width]
            kept = a.copy()
            a[:] = b
            b[:] = kept
        else:
            lam = int(plan.lambdas[first])
            kept = views[first].copy()
            blend(kept, views[second], lam, out=views[first])
            blend(views[second], kept, lam, out=views[second])


def blend(a: np.ndarray, b: np.ndarray, lam: int, out: np.ndarray | None = None) -> np.ndarray:
    """(a lam + b (LAMBDA_ONE - lam) + LAMBDA_ONE / 2) >> 16 for uint8 arrays and an even lam in 0..LAMBDA_ONE.

    OpenCV does it in 32-bit floats, exactly: every product and sum is a multiple of 1 / LAMBDA_ONE below 256, so it has
    24 bits. It rounds halves to even; for even lam, one more 1 / LAMBDA_ONE turns them upward and moves nothing else.
    """
    assert lam % 2 == 0, lam
    return cv2.addWeighted(a, lam / LAMBDA_ONE, b, (LAMBDA_ONE - lam) / LAMBDA_ONE, 1 / LAMBDA_ONE, dst=out)


def class_pairs(classes: np.ndarray, plan: MixPlan, skipped: frozenset[int]) -> np.ndarray:
    """(n,) classes -> (n, 2) int32: own and partner's class; (-2, -2) for a skipped sample."""
    pairs = np.stack([classes, classes[plan.partners]], axis=1).astype(np.int32)
    pairs[sorted(skipped)] = -2
    return pairs
