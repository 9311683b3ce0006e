"""Blocks and views -> pixels on a device, class pairs, lambdas and digests: what replay/block.py makes, to the byte."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from teacher_cache.errors import PolicyError
from teacher_cache.replay.block import DecodedBlock
from teacher_cache.replay.gpu import kernels
from teacher_cache.replay.gpu.batch import Batch, prepare_batch
from teacher_cache.replay.gpu.hashing import PixelHasher
from teacher_cache.replay.gpu.plan import ERASE_FIELDS, FIELDS, RESIZE_FIELDS, ROTATE_FIELDS, Entries, RenderPlan
from teacher_cache.replay.gpu.sent import pinned
from teacher_cache.replay.gpu.tables import Tables
from teacher_cache.replay.policy import Policy


@dataclass(frozen=True)
class Tiles:
    """How many bytes or pixels a program takes; on the interpreter, whose programs run in turn, many."""

    rows: int = 8
    columns: int = 256
    flat: int = 4096
    counted: int = 8192
    moved: int = 1024
    rotated: int = 512
    noise: int = 512


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TILES = Tiles(64, 256, 8192, 8192, 8192, 8192, 8192) if INTERPRETED else Tiles()


@dataclass(frozen=True)
class RenderedBlocks:
    """Views in the order block, view, position. What each is: see ReplayedBlock."""

    pixels: torch.Tensor  # (n, H, W, 3) uint8, on the device
    class_pairs: np.ndarray  # (n, 2) int32
    lambdas: np.ndarray  # (n,) uint32
    digests: np.ndarray  # (blocks, views) uint64


class Renderer:
    """A policy's kernels and tables on a device. Kernels are compiled when first used."""

    def __init__(self, policy: Policy, device: torch.device) -> None:
        if policy.own_operations is not None:
            raise PolicyError(
                f"policy {policy.name} has operations of its own ({', '.join(policy.own_operations.names)}), which no "
                "device runs: render it on the CPU"
            )
        self.policy = policy
        self.device = device
        self._tables = Tables(device)
        self._hasher = PixelHasher(device)
        self._noise = self._tables.noise(policy.mean, policy.std)

    def prepare(self, store_seed: int, blocks: Sequence[DecodedBlock], views: Sequence[int]) -> Batch:
        """`prepare_batch`, the pictures in memory from which copying is fast."""
        return prepare_batch(self.policy, store_seed, blocks, views, partial(pinned, device=self.device))

    def upload(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """-> the pictures and the small arrays, on the device."""
        pictures = torch.from_numpy(batch.pictures).to(self.device, non_blocking=True)
        return pictures, self.send(batch.plan)

    def send(self, plan: RenderPlan) -> torch.Tensor:
        """-> a plan's small arrays, on the device, which has the weights that they name."""
        small = pinned(plan.num_bytes, self.device)
        self._tables.forget_if_full()
        plan.write(small, self._tables.find(plan.sides, plan.interpolation))
        self._tables.send()
        return torch.from_numpy(small).to(self.device, non_blocking=True)

    def render(self, plan: RenderPlan, pictures: torch.Tensor, small: torch.Tensor) -> torch.Tensor:
        """-> (n, H, W, 3) uint8 on the device. pictures, small: of `upload`."""
        height, width = plan.size
        num_bytes = height * width * 3
        empty = partial(torch.empty, dtype=torch.uint8, device=self.device)
        memory = _Memory(
            pictures=pictures,
            small=small,
            across=empty(max(plan.across_bytes, 1)),
            pixels=empty(2 * plan.num_views * num_bytes),
            views=empty((plan.num_views, height, width, 3)),
            counts=torch.zeros(max(768 * plan.num_counts, 1), dtype=torch.int32, device=self.device),
            sums=torch.zeros(max(plan.num_sums, 1), dtype=torch.int64, device=self.device),
        )
        with torch.cuda.device_of(pictures):  # which need not be the caller's current one
            for entries in plan.launches:
                self._launch(plan, entries, memory)
        return memory.views

    def digests(self, views: torch.Tensor) -> torch.Tensor:
        """(n,) int64, the bits of each view's xxh3_64, on the device."""
        return self._hasher.digests(views)

    def _launch(self, plan: RenderPlan, launched: Entries, memory: "_Memory") -> None:
        (height, width), num = plan.size, launched.num
        num_px, num_bytes = height * width, height * width * 3
        small, pixels = memory.small, memory.pixels
        entries = small[launched.place :].view(torch.int64)
        tables, fields = self._tables, FIELDS
        match launched.kernel:
            case "resize":
                self._resize(plan, launched, memory, entries)
            case "count_levels":
                grid = (num * 3 * _ceil(num_px, TILES.counted),)
                kernels.count_levels[grid](pixels, memory.counts, entries, num_px, fields, TILES.counted)
            case "sum_grey":
                grid = (num * _ceil(num_px, TILES.flat),)
                kernels.sum_grey[grid](pixels, memory.sums, entries, num_px, fields, TILES.flat)
            case "tables_of_counts":
                kernels.tables_of_counts[(num,)](memory.counts, small, entries, fields)
            case "tables_of_sums":
                kernels.tables_of_sums[(num,)](memory.sums, small, entries, num_px, fields)
            case "look_up":
                grid = (num * _ceil(num_bytes, TILES.flat),)
                kernels.look_up[grid](pixels, small, entries, num_bytes, fields, TILES.flat)
            case "blend_with_grey":
                grid = (num * _ceil(num_px, TILES.moved),)
                kernels.blend_with_grey[grid](pixels, entries, num_px, fields, TILES.moved)
            case "sharpen":
                grid = (num * _ceil(num_bytes, TILES.moved),)
                kernels.sharpen[grid](pixels, entries, height, width, fields, TILES.moved)
            case "shift_hue":
                grid = (num * _ceil(num_px, TILES.moved),)
                kernels.shift_hue[grid](pixels, entries, num_px, fields, TILES.moved)
            case "move_rows" | "move_columns":
                grid = (num * _ceil(num_bytes, TILES.moved),)
                lines, rows_move = small.view(torch.int32), launched.kernel == "move_rows"
                kernels.move_lines[grid](pixels, lines, entries, rows_move, height, width, fields, TILES.moved)
            case "rotate":
                grid = (num * _ceil(num_bytes, TILES.rotated),)
                kernels.rotate[grid](pixels, tables.phases, entries, height, width, ROTATE_FIELDS, TILES.rotated)
            case "erase":
                tiles = _ceil(3 * launched.most_pixels, TILES.noise)
                kernels.erase[(num * tiles,)](pixels, self._noise, entries, tiles, width, ERASE_FIELDS, TILES.noise)
            case "mix":
                grid = (num * _ceil(num_bytes, TILES.flat),)
                kernels.mix[grid](pixels, memory.views, entries, height, width, fields, TILES.flat)
            case _:
                raise AssertionError(launched.kernel)

    def _resize(self, plan: RenderPlan, launched: Entries, memory: "_Memory", entries: torch.Tensor) -> None:
        height, width = plan.size
        tables, fields = self._tables, RESIZE_FIELDS
        row_tiles, column_tiles = _ceil(plan.most_rows, TILES.rows), _ceil(3 * width, TILES.columns)
        kernels.resize_across[(launched.num * row_tiles * column_tiles,)](
            memory.pictures,
            memory.across,
            tables.weights,
            tables.firsts,
            entries,
            row_tiles,
            WIDTH=width,
            FIELDS=fields,
            ROWS=TILES.rows,
            COLUMNS=TILES.columns,
        )
        kernels.resize_down[(launched.num * _ceil(height, TILES.rows) * column_tiles,)](
            memory.across,
            memory.pixels,
            tables.weights,
            tables.firsts,
            entries,
            HEIGHT=height,
            WIDTH=width,
            FIELDS=fields,
            ROWS=TILES.rows,
            COLUMNS=TILES.columns,
        )


@dataclass(frozen=True)
class _Memory:
    """On the device, of one batch."""

    pictures: torch.Tensor
    small: torch.Tensor
    across: torch.Tensor  # crops after the first pass of resizing
    pixels: torch.Tensor  # two slots a view
    views: torch.Tensor
    counts: torch.Tensor
    sums: torch.Tensor


def render_blocks(
    renderer: Renderer, store_seed: int, blocks: Sequence[DecodedBlock], views: Sequence[int]
) -> RenderedBlocks:
    """Draw, upload, render, mix and digest views of blocks; returns when the digests are there.

    Raises ImageError, as `replay_view`.
    """
    batch = renderer.prepare(store_seed, blocks, views)
    pixels = renderer.render(batch.plan, *renderer.upload(batch))
    own = renderer.digests(pixels).cpu().numpy().view(np.uint64)
    digests = batch.digests(own).reshape(len(blocks), len(views))
    return RenderedBlocks(pixels, batch.class_pairs, batch.lambdas, digests)


def _ceil(total: int, tile: int) -> int:
    return -(-total // tile)
