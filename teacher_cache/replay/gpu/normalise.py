"""The last kernel: bytes of views -> what a model takes, written once."""

import torch

from teacher_cache.replay.gpu import kernels

TILE = 4096  # bytes that a program takes
BITS = {2: torch.int16, 4: torch.int32}


def normalised(views: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Look every level up. views (n, H, W, 3) uint8, values (3, 256) of a dtype of 2 or 4 bytes, by channel and level
    -> (n, 3, H, W) of that dtype, channels last in memory."""
    bits, num_bytes = BITS[values.itemsize], views[0].numel()
    images = torch.empty(views.shape, dtype=values.dtype, device=views.device)
    grid = (len(views) * -(-num_bytes // TILE),)
    kernels.normalise[grid](views.contiguous(), images.view(bits), values.view(bits), num_bytes, TILE)
    return images.permute(0, 3, 1, 2)
