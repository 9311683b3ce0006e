"""The last kernel: bytes of views -> what a model takes, written once."""

import math

import torch

from teacher_cache.replay.gpu import kernels

TILE = 4096  # bytes that a program takes
BITS = {2: torch.int16, 4: torch.int32}


def normalised(views: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Look every level up. views (n, H, W, 3) uint8, values (3, 256) of a dtype of 2 or 4 bytes, by channel and level
    -> (n, 3, H, W) of that dtype, channels last in memory."""
    bits, num_bytes = BITS[values.itemsize], math.prod(views.shape[1:])
    images = torch.empty(views.shape, dtype=values.dtype, device=views.device)
    grid = (len(views) * -(-num_bytes // TILE),)
    if len(views):
        with torch.cuda.device_of(views):  # which need not be the caller's current one
            kernels.normalise[grid](views.contiguous(), images.view(bits), values.view(bits), num_bytes, TILE)
    return images.permute(0, 3, 1, 2)


def is_exact(values: torch.Tensor) -> bool:
    """Whether the kernel gives these values of all levels; not where it cannot be compiled, or launched."""
    levels = torch.arange(256, device=values.device).to(torch.uint8)
    views = levels[:, None].expand(256, 3).reshape(1, 16, 16, 3)
    try:
        found = normalised(views, values)
    except Exception:  # compilers and drivers raise their own; other operations give the same values
        return False
    return torch.equal(found.permute(0, 2, 3, 1).reshape(256, 3).T, values)
