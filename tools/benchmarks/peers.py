"""Others who make augmented views: timm's transforms on Pillow, and NVIDIA DALI on a CPU."""

import importlib.util
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image
from timm.data import create_transform

from tools.benchmarks.row import UnavailableError

INSTALL_DALI = "DALI is not installed: `make bench BENCH_DALI=1`, or pip install nvidia-dali-cuda130"
RAND_AUGMENT = "rand-m9-mstd0.5-inc1"  # DeiT's
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
MAGNITUDE_BIN, MAGNITUDE_BINS = 9, 11  # magnitude 9 of 0..10
FILL = 128  # grey; DALI takes one number for all its warps


class TimmViews:
    """timm's training transforms as DeiT asks for them, up to uint8: what its prefetching loader has done on a CPU.

    timm 1.0.31 fails on Pillow 13 where RandAugment keeps 0 bits; such a view is made black here, as it was before.
    """

    note = "timm's posterize is patched: on Pillow 13 it fails at 0 bits"

    def __init__(self, size_px: int) -> None:
        self.transform = create_transform(
            input_size=size_px,
            is_training=True,
            color_jitter=0.0,
            auto_augment=RAND_AUGMENT,
            interpolation="bicubic",
            re_prob=0.0,
            use_prefetcher=True,
        )
        (rand_augment,) = (step for step in self.transform.transforms if hasattr(step, "ops"))
        self.operations: list[Any] = rand_augment.ops
        for operation in self.operations:
            if operation.name == "PosterizeIncreasing":
                operation.aug_fn = black_at_no_bits(operation.aug_fn)

    def views(self, images: Sequence[bytes]) -> Iterator[np.ndarray]:
        """One view an image, (3, H, W) uint8."""
        for image in images:
            with Image.open(io.BytesIO(image)) as opened:
                yield np.asarray(self.transform(opened.convert("RGB")))


def black_at_no_bits(posterize: Callable[..., Image.Image]) -> Callable[..., Image.Image]:
    def patched(image: Image.Image, bits: int, **options: Any) -> Image.Image:
        return posterize(image, bits, **options) if bits > 0 else image.point([0] * 768)

    return patched


class DaliViews:
    """DALI's CPU pipeline, one thread: decode, random crop, flip, RandAugment of timm's 15 operations, each applied
    with probability 0.5. Geometry is bilinear, since DALI has no bicubic warp. A batch is made when it is asked for.

    DALI's own rand_augment always applies its operations. AutoAugment's sub-policies carry probabilities, so all 225
    pairs of operations as sub-policies are RandAugment. fused: crop while decoding.
    """

    def __init__(self, images: Sequence[bytes], size_px: int, batch: int, *, fused: bool, seed: int = 0) -> None:
        if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
            raise UnavailableError(INSTALL_DALI)
        self._batches = [
            [np.frombuffer(image, np.uint8) for image in images[first : first + batch]]
            for first in range(0, len(images), batch)
        ]
        self._next = 0
        with warnings.catch_warnings(record=True):  # DALI's own augmentations use names that DALI has deprecated
            self._pipeline = _dali_pipeline(self._feed, size_px, batch, fused, seed)
            self._pipeline.build()

    def _feed(self) -> list[np.ndarray]:
        batch = self._batches[self._next % len(self._batches)]
        self._next += 1
        return batch

    def views(self) -> Iterator[np.ndarray]:
        """One view of every image, a batch at a time: (B, H, W, 3) uint8."""
        for _ in self._batches:
            (views,) = self._pipeline.run()
            yield views.as_array()


def _dali_pipeline(feed: Callable[[], list[np.ndarray]], size_px: int, batch: int, fused: bool, seed: int) -> Any:
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.auto_aug import auto_augment

    policy = _dali_policy()

    @pipeline_def(enable_conditionals=True)
    def make_views() -> Any:
        jpegs = fn.external_source(source=feed, batch=True, no_copy=True)
        area, aspect, size = list(AREA), list(ASPECT), [size_px, size_px]
        if fused:
            cropped = fn.decoders.image_random_crop(
                jpegs, device="cpu", output_type=types.RGB, random_area=area, random_aspect_ratio=aspect
            )
            views = fn.resize(cropped, size=size, interp_type=types.INTERP_CUBIC, antialias=True)
        else:
            decoded = fn.decoders.image(jpegs, device="cpu", output_type=types.RGB)
            views = fn.random_resized_crop(
                decoded,
                size=size,
                random_area=area,
                random_aspect_ratio=aspect,
                interp_type=types.INTERP_CUBIC,
                antialias=True,
            )
        views = fn.flip(views, horizontal=fn.random.coin_flip(probability=0.5))
        return auto_augment.apply_auto_augment(
            policy, views, shape=size, fill_value=FILL, interp_type=types.INTERP_LINEAR
        )

    # a batch is made when it is asked for: nothing runs on while the other side is measured
    return make_views(
        batch_size=batch,
        num_threads=1,
        device_id=None,
        seed=seed,
        exec_async=False,
        exec_pipelined=False,
        prefetch_queue_depth=1,
    )


def _dali_policy() -> Any:
    """timm's 15 operations of `inc1` at their arguments for magnitudes 0 to 10, in all pairs."""
    from nvidia.dali.auto_aug import augmentations as a
    from nvidia.dali.auto_aug.core import Policy

    operations = [
        a.auto_contrast,
        a.equalize,
        a.invert,
        a.rotate.augmentation((0, 30), True),
        a.posterize.augmentation((4, 0), False, a.poster_mask_uint8),
        a.solarize.augmentation((256, 0), False),
        a.solarize_add.augmentation((0, 110), False),
        a.color.augmentation((0, 0.9), True, a.shift_enhance_range),
        a.contrast.augmentation((0, 0.9), True, a.shift_enhance_range),
        a.brightness.augmentation((0, 0.9), True, a.shift_enhance_range),
        a.sharpness.augmentation((0, 0.9), True, a.sharpness_kernel),
        a.shear_x.augmentation((0, 0.3), True),
        a.shear_y.augmentation((0, 0.3), True),
        a.translate_x.augmentation((0, 0.45), True),
        a.translate_y.augmentation((0, 0.45), True),
    ]
    steps = [(step, 0.5, MAGNITUDE_BIN if step.mag_range is not None else None) for step in operations]
    pairs = [[first, second] for first in steps for second in steps]
    return Policy(name="RandAugment", num_magnitude_bins=MAGNITUDE_BINS, sub_policies=pairs)
