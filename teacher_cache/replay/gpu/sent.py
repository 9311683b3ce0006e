"""Small arrays on their way to a device, by memory that it reads beside its work: nobody waits for it."""

import numpy as np
import torch


def pinned(num_bytes: int, device: torch.device) -> np.ndarray:
    """(num_bytes,) uint8, uninitialised, from which a CUDA device copies while the calling process goes on."""
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda").numpy()


def sent(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """The array on the device, once its stream has come so far. The array may be changed at once. On the CPU nothing is
    copied."""
    values = torch.from_numpy(array)
    if device.type != "cuda":
        return values
    return values.pin_memory().to(device, non_blocking=True)
