"""What lies on the device from batch to batch: weights of resizing, rotation's taps, the noise of erasing."""

import numpy as np
import torch

from teacher_cache.replay.erase import noise_tables
from teacher_cache.replay.geometry import phase_taps
from teacher_cache.replay.gpu.sent import sent
from teacher_cache.replay.policy import Interpolation
from teacher_cache.replay.resample import ResizeWeights

WEIGHTS_BYTES = 64 << 20  # of int16 weights; a table of most sizes takes 4 to 20 kB


class Tables:
    """Weights are made when first asked for and sent together, before the batch that wants them; where they would
    outgrow their budget all are forgotten."""

    def __init__(self, device: torch.device, weights_bytes: int = WEIGHTS_BYTES) -> None:
        self.device = device
        self.weights = torch.zeros(0, dtype=torch.int16, device=device)
        self.firsts = torch.zeros(0, dtype=torch.int32, device=device)
        self.phases = torch.from_numpy(np.stack([phase_taps("bicubic"), phase_taps("bilinear")])).to(device)
        self._noise: dict[tuple[tuple[float, ...], tuple[float, ...]], torch.Tensor] = {}
        self._budget = weights_bytes // 2
        self._known: dict[tuple[int, int, Interpolation], tuple[int, int, int, int]] = {}
        self._new: list[ResizeWeights] = []
        self._num_weights = self._num_firsts = 0

    def find(self, sides: np.ndarray, interpolation: Interpolation) -> np.ndarray:
        """sides (..., 2) of a picture, before and after resizing -> (..., 4) int64: taps, the places of the weights and
        of the first pixels, bits. What is new is sent by `send`."""
        both = sides[..., 0].reshape(-1) << 32 | sides[..., 1].reshape(-1)  # one number, as NumPy is slow to sort pairs
        distinct, each = np.unique(both, return_inverse=True)
        found = [self._find(pair >> 32, pair & 0xFFFFFFFF, interpolation) for pair in distinct.tolist()]
        return np.array(found, np.int64).reshape(-1, 4)[each].reshape(*sides.shape[:-1], 4)

    def _find(self, size_in: int, size_out: int, interpolation: Interpolation) -> tuple[int, int, int, int]:
        known = self._known.get((size_in, size_out, interpolation))
        if known is None:
            table = ResizeWeights(size_in, size_out, interpolation)
            known = len(table.weights), self._num_weights, self._num_firsts, table.bits
            self._known[size_in, size_out, interpolation] = known
            self._new.append(table)
            self._num_weights += table.weights.size
            self._num_firsts += size_out
        return known

    def forget_if_full(self) -> None:
        """Between batches: places that were found before are of no use afterwards."""
        if self._num_weights > self._budget:
            self._known.clear()
            self._num_weights = self._num_firsts = 0

    def send(self) -> None:
        """Bring what was made since the last time to the device."""
        if self._new:
            weights = np.concatenate([table.weights.ravel() for table in self._new])
            firsts = np.concatenate([table.first for table in self._new])
            self.weights = _appended(self.weights, weights, self._num_weights)
            self.firsts = _appended(self.firsts, firsts, self._num_firsts)
            self._new.clear()

    def noise(self, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
        """(3, 65536) uint8: levels by 16 random bits."""
        if (mean, std) not in self._noise:
            self._noise[mean, std] = torch.from_numpy(np.stack(noise_tables(mean, std))).to(self.device)
        return self._noise[mean, std]


def _appended(held: torch.Tensor, new: np.ndarray, total: int) -> torch.Tensor:
    """held with new as its last of `total` values; larger where it must be."""
    if total > len(held):
        larger = torch.zeros(max(2 * len(held), total), dtype=held.dtype, device=held.device)
        larger[: len(held)] = held
        held = larger
    held[total - len(new) : total] = sent(new, held.device)
    return held
