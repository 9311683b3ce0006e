"""View parameters and mixes -> the entries that the kernels carry out: NumPy alone, no device.

All small arrays of a batch of views, entries and tables, lie in one buffer of bytes, so that one copy brings them to
the device. Places in it are byte offsets, each a multiple of 16.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from teacher_cache.replay.colour import hue_step, level_table
from teacher_cache.replay.geometry import WARPS, moved_lines, rotation_steps
from teacher_cache.replay.mix import MixPlan
from teacher_cache.replay.params import Box, Operation, ViewParams
from teacher_cache.replay.policy import Interpolation
from teacher_cache.replay.resample import tapped

ALIGNED = 16
_MODES = {"const": 0, "pixel": 1, "rand": 2}
COUNTED = ("equalize", "autocontrast")
STATIC = ("invert", "posterize", "solarize", "solarize_add", "brightness")
RESIZE_FIELDS = 17
_ACROSS, _DOWN = slice(3, 7), slice(9, 13)  # of a resize's entry: taps, weights' place, firsts' place, bits


@dataclass(frozen=True)
class Source:
    """Where the pixels of one view's crop are: a picture's part that lies in the buffer of pictures."""

    offset: int  # of the part's first byte
    part: Box  # in the picture


@dataclass(frozen=True)
class PlannedView:
    """One view to render. source and params are None where its sample is skipped."""

    source: Source | None
    params: ViewParams | None


@dataclass(frozen=True)
class Entries:
    """What one launch of a kernel does: num entries from a place in the buffer on."""

    kernel: str
    place: int
    num: int
    most_pixels: int = 0  # of an erased box


@dataclass
class _Packed:
    parts: list[tuple[int, np.ndarray]] = field(default_factory=list)
    num_bytes: int = 0

    def add(self, array: np.ndarray) -> int:
        place = self.leave(array.nbytes)
        self.parts.append((place, np.ascontiguousarray(array).reshape(-1).view(np.uint8)))
        return place

    def leave(self, num_bytes: int) -> int:
        place = self.num_bytes
        self.num_bytes += -(-num_bytes // ALIGNED) * ALIGNED
        return place


@dataclass(frozen=True)
class RenderPlan:
    """A batch of views, ready for the device."""

    num_views: int
    size: tuple[int, int]
    num_bytes: int  # of the buffer of small arrays
    parts: list[tuple[int, np.ndarray]]
    launches: list[Entries]  # in order; the resizing and the mix among them
    most_rows: int  # that a view needs of its crop
    across_bytes: int
    num_counts: int  # histograms
    num_sums: int
    sides: np.ndarray  # (r, 2, 2) int64: of each resized crop its width, then its height, before and after
    interpolation: Interpolation

    def write(self, buffer: np.ndarray, weights: np.ndarray) -> None:
        """buffer: (num_bytes,) uint8; weights: (r, 2, 4) int64, what the device's tables say of the sides."""
        for place, part in self.parts:
            buffer[place : place + part.size] = part
        if len(self.sides):
            resize = self.launches[0]
            entries = buffer[resize.place :].view(np.int64)[: resize.num * RESIZE_FIELDS].reshape(-1, RESIZE_FIELDS)
            entries[:, _ACROSS] += weights[:, 0]
            entries[:, _DOWN] += weights[:, 1]


def plan_views(
    views: Sequence[PlannedView],
    mixes: Sequence[tuple[int, MixPlan]],
    size: tuple[int, int],
    interpolation: Interpolation,
) -> RenderPlan:
    """mixes: for each run of views, the number of its first one and who is mixed with whom in it. interpolation: of
    the crops."""
    planner = _Planner(size, interpolation, len(views))
    planner.resize(views)
    for number in range(max((len(v.params.operations) for v in views if v.params is not None), default=0)):
        planner.operate(views, number)
    for number in range(max((len(v.params.erased) for v in views if v.params is not None), default=0)):
        planner.erase(views, number)
    planner.mix(views, mixes)
    return planner.finished()


class _Planner:
    def __init__(self, size: tuple[int, int], interpolation: Interpolation, num_views: int) -> None:
        self.size = size
        self.interpolation = interpolation
        self.view_bytes = size[0] * size[1] * 3
        self.num_views = num_views
        self.at = [number * self.view_bytes for number in range(num_views)]  # each view's slot now
        self.packed = _Packed()
        self.launches: list[Entries] = []
        self.sides: list[tuple[tuple[int, int], tuple[int, int]]] = []
        self.most_rows = self.across_bytes = self.num_counts = self.num_sums = 0
        self.first_words: defaultdict[int, int] = defaultdict(int)  # of the noise that a view has used

    def launch(self, kernel: str, entries: list, most_pixels: int = 0) -> None:
        if entries:
            place = self.packed.add(np.array(entries, np.int64))
            self.launches.append(Entries(kernel, place, len(entries), most_pixels))

    def moved(self, number: int) -> tuple[int, int]:
        """-> a view's slot, and the other one, which is its slot from now on."""
        source, total = self.at[number], self.num_views * self.view_bytes
        self.at[number] = source + total if source < total else source - total
        return source, self.at[number]

    def resize(self, views: Sequence[PlannedView]) -> None:
        height, width = self.size
        entries = []
        for number, view in enumerate(views):
            if view.source is None or view.params is None:
                continue
            crop, part, window, resized = view.params.crop, view.source.part, view.params.window, view.params.resized
            kept = np.array([window.top, window.top + height - 1])
            firsts, lasts, _ = tapped(crop.height, resized[0], kept, self.interpolation)
            first_row, rows = int(firsts[0]), int(lasts[1] - firsts[0])
            self.sides.append(((crop.width, resized[1]), (crop.height, resized[0])))
            pitch = 3 * part.width
            begin = view.source.offset + (crop.top - part.top + first_row) * pitch + 3 * (crop.left - part.left)
            entries.append(
                (
                    *(begin, pitch, rows),
                    *(0, window.left, window.left, 0),  # `RenderPlan.write` adds where the weights are
                    *(self.across_bytes, int(view.params.flip)),
                    *(0, window.top, window.top, 0),
                    *(first_row, resized[1], resized[0], self.at[number]),
                )
            )
            self.across_bytes += rows * 3 * width
            self.most_rows = max(self.most_rows, rows)
        self.launch("resize", entries)

    def operate(self, views: Sequence[PlannedView], number: int) -> None:
        """The operation that is number `number` of each view that has so many: each kind together."""
        entries: defaultdict[str, list] = defaultdict(list)
        for view_number, view in enumerate(views):
            params = view.params
            if params is not None and len(params.operations) > number:
                operation = params.operations[number]
                source, to = self.moved(view_number)
                if operation.name in WARPS:
                    self._warp(entries, operation, params, source, to)
                else:
                    self._recolour(entries, operation, source, to)
        for kernel in (
            *("count_levels", "sum_grey", "tables_of_counts", "tables_of_sums", "look_up"),
            *("blend_with_grey", "sharpen", "shift_hue", "move_rows", "move_columns", "rotate"),
        ):
            self.launch(kernel, entries[kernel])

    def _warp(
        self, entries: defaultdict[str, list], operation: Operation, params: ViewParams, source: int, to: int
    ) -> None:
        name, value = operation
        assert value is not None
        fill = params.fill[0] | params.fill[1] << 8 | params.fill[2] << 16
        if name == "rotate":
            across, down = rotation_steps(value, *self.size)
            taps = 0 if params.geometry == "bicubic" else 1
            entries["rotate"].append((source, to, fill, *across, *down, taps, *[0] * 6))
            return
        lines = moved_lines(name, value, *self.size, params.geometry)
        step = 8 if len(lines) > 1 else 0
        kernel = "move_rows" if name.endswith("_x") else "move_columns"
        entries[kernel].append((source, to, self.packed.add(lines) // 4, step, fill, 0, 0, 0))

    def _recolour(self, entries: defaultdict[str, list], operation: Operation, source: int, to: int) -> None:
        name, value = operation
        if name in COUNTED:
            counts, table = 768 * self.num_counts, self.packed.leave(768)
            self.num_counts += 1
            entries["count_levels"].append((source, counts, 0, 0, 0, 0, 0, 0))
            entries["tables_of_counts"].append((counts, table, COUNTED.index(name), 0, 0, 0, 0, 0))
            entries["look_up"].append((source, to, table, 256, 0, 0, 0, 0))
            return
        if name in STATIC:
            entries["look_up"].append((source, to, self.packed.add(level_table(name, value)), 0, 0, 0, 0, 0))
            return
        assert value is not None, name
        if name == "contrast":
            sums, table = self.num_sums, self.packed.leave(256)
            self.num_sums += 1
            entries["sum_grey"].append((source, sums, 0, 0, 0, 0, 0, 0))
            entries["tables_of_sums"].append((sums, table, round(value * (1 << 20)), 0, 0, 0, 0, 0))
            entries["look_up"].append((source, to, table, 0, 0, 0, 0, 0))
        elif name == "hue":
            entries["shift_hue"].append((source, to, hue_step(value), 0, 0, 0, 0, 0))
        else:
            kernel = {"color": "blend_with_grey", "sharpness": "sharpen"}[name]
            entries[kernel].append((source, to, round(value * 4096), 0, 0, 0, 0, 0))

    def erase(self, views: Sequence[PlannedView], number: int) -> None:
        """The box that is number `number` of each view that has so many: a later one lies over an earlier."""
        entries, most = [], 0
        for view_number, view in enumerate(views):
            params = view.params
            if params is None or len(params.erased) <= number:
                continue
            box, mode = params.erased[number], params.erase_mode
            assert mode is not None
            place = self.at[view_number] + 3 * (box.top * self.size[1] + box.left)
            fill = params.fill[0] | params.fill[1] << 8 | params.fill[2] << 16
            key_and_nonce = np.frombuffer(bytes.fromhex(params.noise), "<i8").tolist()
            word = self.first_words[view_number]
            entries.append((place, box.height, box.width, _MODES[mode], fill, word, *key_and_nonce, 0, 0))
            pixels = box.height * box.width
            if mode != "const":
                self.first_words[view_number] += math.ceil(3 * (pixels if mode == "pixel" else 1) / 4)
            most = max(most, pixels)
        self.launch("erase", entries, most)

    def mix(self, views: Sequence[PlannedView], mixes: Sequence[tuple[int, MixPlan]]) -> None:
        entries = np.zeros((len(views), 8), np.int64)
        at = np.array(self.at, np.int64)
        for first, plan in mixes:
            rows = slice(first, first + len(plan.partners))
            top, left, height, width = plan.boxes.T
            entries[rows, :3] = np.stack([at[rows], at[rows][plan.partners], plan.lambdas], axis=1)
            entries[rows, 3:7] = np.stack([top, top + height, left, left + width], axis=1)
        skipped = [number for number, view in enumerate(views) if view.params is None]
        entries[skipped, :2] = -1
        self.launch("mix", list(entries))

    def finished(self) -> RenderPlan:
        return RenderPlan(
            num_views=self.num_views,
            size=self.size,
            num_bytes=max(self.packed.num_bytes, ALIGNED),
            parts=self.packed.parts,
            launches=self.launches,
            most_rows=self.most_rows,
            across_bytes=self.across_bytes,
            num_counts=self.num_counts,
            num_sums=self.num_sums,
            sides=np.array(self.sides, np.int64).reshape(-1, 2, 2),
            interpolation=self.interpolation,
        )
