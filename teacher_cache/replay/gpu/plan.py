"""View parameters and mixes -> the entries that the kernels carry out: NumPy alone, no device.

All small arrays of a batch of views, entries and tables, lie in one buffer of bytes, so that one copy brings them to
the device. Places in it are byte offsets, each a multiple of 16.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from teacher_cache.replay.colour import hue_step, level_tables
from teacher_cache.replay.geometry import moved_lines, rotation_steps
from teacher_cache.replay.mix import MixPlan
from teacher_cache.replay.params import NONE, DrawnViews
from teacher_cache.replay.policy import Interpolation
from teacher_cache.replay.resample import tapped
from teacher_cache.replay.seeds import GRID

ALIGNED = 16
MODES = {"const": 0, "pixel": 1, "rand": 2}
COUNTED = ("equalize", "autocontrast")
_BLENDS = {"color": "blend_with_grey", "sharpness": "sharpen"}
STATIC = ("invert", "posterize", "solarize", "solarize_add", "brightness")
RESIZE_FIELDS, FIELDS, ROTATE_FIELDS, ERASE_FIELDS = 17, 8, 16, 12  # of an entry
FIELDS_OF = {"resize": RESIZE_FIELDS, "rotate": ROTATE_FIELDS, "erase": ERASE_FIELDS}  # of the others' entries FIELDS
_ACROSS, _DOWN = slice(3, 7), slice(9, 13)  # of a resize's entry: taps, weights' place, firsts' place, bits
RESIZED, OPERATED, ERASED, MIXED = range(4)  # what is done to a view, in turn


@dataclass(frozen=True)
class Sources:
    """Where the pixels of n views' crops are: each in a part of a picture that lies in the buffer of pictures."""

    offsets: np.ndarray  # (n,) int64, of the part's first byte
    parts: np.ndarray  # (n, 4) int64, the part's box in the picture


@dataclass(frozen=True)
class Entries:
    """What one launch of a kernel does: num entries from a place in the buffer on. turn: RESIZED ..., and of operations
    and erased boxes which of a view's."""

    kernel: str
    turn: tuple[int, int]
    place: int
    num: int
    most_pixels: int = 0  # of an erased box

    @property
    def num_fields(self) -> int:
        return FIELDS_OF.get(self.kernel, FIELDS)


@dataclass
class _PackedArrays:
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

    def written(self) -> np.ndarray:
        """The buffer of small arrays, (num_bytes,) uint8, without weights: read only."""
        if len(self.parts) == 1 and self.parts[0][1].size == self.num_bytes:
            return self.parts[0][1]
        small = np.zeros(self.num_bytes, np.uint8)
        for place, part in self.parts:
            small[place : place + part.size] = part
        return small

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
    views: DrawnViews, numbers: np.ndarray, sources: Sources, mixes: Sequence[MixPlan], num_views: int
) -> RenderPlan:
    """Of a batch of num_views some are drawn, the others are of skipped samples. numbers: (n,), those of the drawn
    views, rising; mixes: who is mixed with whom in each run of views, all runs together are the batch."""
    planner = _Planner(views, numbers, num_views)
    planner.resize(sources)
    for place in range(views.operations.shape[1]):
        planner.turn = (OPERATED, place)
        planner.operate(place)
    for place in range(views.erased.shape[1]):
        planner.turn = (ERASED, place)
        planner.erase(place)
    planner.turn = (MIXED, 0)
    planner.mix(mixes)
    return planner.finished()


class _Planner:
    """Views are told by their numbers among those drawn."""

    def __init__(self, views: DrawnViews, numbers: np.ndarray, num_views: int) -> None:
        self.views = views
        self.numbers = numbers
        self.size = views.policy.size
        self.num_views = num_views
        self.all_bytes = num_views * self.size[0] * self.size[1] * 3  # of one slot of every view
        self.at = numbers * (self.size[0] * self.size[1] * 3)  # each view's slot now
        self.packed = _PackedArrays()
        self.turn = (RESIZED, 0)
        self.launches: list[Entries] = []
        self.sides = np.zeros((0, 2, 2), np.int64)
        self.most_rows = self.across_bytes = self.num_counts = self.num_sums = 0
        self.first_words = np.zeros(len(views), np.int64)  # of the noise that a view has used
        self.fill = views.fill[0] | views.fill[1] << 8 | views.fill[2] << 16

    def launch(self, kernel: str, fields: Sequence[np.ndarray | int] | np.ndarray, most_pixels: int = 0) -> None:
        """fields: of the entries, one after another, (entries,) or the same for all; the others are 0. Without entries
        nothing is launched."""
        num = len(np.atleast_1d(fields[0]))
        if not num:
            return
        entries = np.zeros((num, FIELDS_OF.get(kernel, FIELDS)), np.int64)
        for place, field_values in enumerate(fields):
            entries[:, place] = field_values
        self.launches.append(Entries(kernel, self.turn, self.packed.add(entries), num, most_pixels))

    def moved(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """-> views' slots, and their other ones, which are theirs from now on."""
        source = self.at[which]
        self.at[which] = np.where(source < self.all_bytes, source + self.all_bytes, source - self.all_bytes)
        return source, self.at[which]

    def resize(self, sources: Sources) -> None:
        if not len(self.views):
            return
        height, width = self.size
        crop_top, crop_left, crop_height, crop_width = self.views.crops.T
        part_top, part_left, _, part_width = sources.parts.T
        window_top, window_left = self.views.windows[:, 0], self.views.windows[:, 1]
        resized_height, resized_width = self.views.resized.T
        interpolation = self.views.policy.crop.interpolation
        first_row, _, _ = tapped(crop_height, resized_height, window_top, interpolation)
        _, last, _ = tapped(crop_height, resized_height, window_top + height - 1, interpolation)
        rows, pitch = last - first_row, 3 * part_width
        begin = sources.offsets + (crop_top - part_top + first_row) * pitch + 3 * (crop_left - part_left)
        across = np.cumsum(rows * 3 * width)
        fields = (
            *(begin, pitch, rows),
            *(0, window_left, window_left, 0),  # `RenderPlan.write` adds where the weights are
            *(across - rows * 3 * width, self.views.flips),
            *(0, window_top, window_top, 0),
            *(first_row, resized_width, resized_height, self.at),
        )
        self.launch("resize", fields)
        self.sides = np.array([[crop_width, resized_width], [crop_height, resized_height]]).transpose(2, 0, 1)
        self.across_bytes, self.most_rows = int(across[-1]), int(rows.max())

    def operate(self, place: int) -> None:
        """The operation in this place of each view that has so many: each kind together."""
        operations, values = self.views.operations[:, place], self.views.values[:, place]
        which_by_name = {
            self.views.names[number]: np.flatnonzero(operations == number)
            for number in np.unique(operations[operations != NONE]).tolist()
        }
        counted = [which_by_name.pop(name, np.zeros(0, np.int64)) for name in COUNTED]
        look_ups, moves = [self._count(counted)], dict[str, list[np.ndarray]]()
        for name, which in which_by_name.items():
            if name in STATIC:
                look_ups.append(self._look_up(name, which, values[which]))
            elif name == "contrast":
                look_ups.append(self._blend_with_mean(which, values[which]))
            elif name == "rotate":
                self._rotate(which, values[which])
            elif name == "hue":
                steps = [hue_step(shift) for shift in values[which].tolist()]
                self.launch("shift_hue", (*self.moved(which), np.array(steps)))
            elif name in _BLENDS:
                self.launch(_BLENDS[name], (*self.moved(which), _whole(values[which] * 4096)))
            else:
                kernel = "move_rows" if name.endswith("_x") else "move_columns"
                moves.setdefault(kernel, []).append(self._move(name, which, values[which]))
        for kernel, entries in {"look_up": look_ups, **moves}.items():
            self.launch(kernel, np.concatenate(entries, axis=1))

    def _count(self, counted: list[np.ndarray]) -> np.ndarray:
        """Histograms, and tables of them, for each operation of COUNTED; the entries of look-ups, (4, m)."""
        which = np.concatenate(counted)
        num, (source, to) = len(which), self.moved(which)
        counts = 768 * (self.num_counts + np.arange(num))
        tables = self.packed.leave(768 * num) + 768 * np.arange(num)
        self.num_counts += num
        self.launch("count_levels", (source, counts))
        self.launch(
            "tables_of_counts",
            (counts, tables, np.repeat(range(len(COUNTED)), [len(each) for each in counted])),
        )
        return np.array([source, to, tables, np.full(num, 256)])

    def _blend_with_mean(self, which: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Means of grey, and tables of contrast by them; the entries of look-ups, (4, m)."""
        num, (source, to) = len(which), self.moved(which)
        sums = self.num_sums + np.arange(num)
        tables = self.packed.leave(256 * num) + 256 * np.arange(num)
        self.num_sums += num
        self.launch("sum_grey", (source, sums))
        self.launch("tables_of_sums", (sums, tables, _whole(values * GRID)))
        return np.array([source, to, tables, np.zeros(num, np.int64)])

    def _look_up(self, name: str, which: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The entries of look-ups, (4, m)."""
        num, (source, to) = len(which), self.moved(which)
        tables = self.packed.add(level_tables(name, values)) + 256 * np.arange(num)
        return np.array([source, to, tables, np.zeros(num, np.int64)])

    def _move(self, name: str, which: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The entries of a shear or a translation, (5, m)."""
        num, (source, to) = len(which), self.moved(which)
        lines = moved_lines(name, values, *self.size, self.views.geometry)
        places = self.packed.add(lines) // 4 + lines[0].size * np.arange(num)
        step = 8 if lines.shape[1] > 1 else 0
        return np.array([source, to, places, np.full(num, step), np.full(num, self.fill)])

    def _rotate(self, which: np.ndarray, values: np.ndarray) -> None:
        # few views are rotated, each with its cosine
        steps = [rotation_steps(degrees, *self.size) for degrees in values.tolist()]
        taps = 0 if self.views.geometry == "bicubic" else 1
        across_and_down = np.array(steps, np.int64).reshape(-1, 6).T
        self.launch("rotate", (*self.moved(which), self.fill, *across_and_down, taps))

    def erase(self, place: int) -> None:
        """The box in this place of each view that has so many: a later one lies over an earlier."""
        assert self.views.policy.erase is not None
        mode = self.views.policy.erase.mode
        which = np.flatnonzero(self.views.erased[:, place, 2])
        top, left, height, width = self.views.erased[which, place].T
        first = self.at[which] + 3 * (top * self.size[1] + left)
        key_and_nonce = self.views.noise[which].view("<i8").T
        fields = (first, height, width, MODES[mode], self.fill, self.first_words[which], *key_and_nonce)
        pixels = height * width
        self.launch("erase", fields, int(pixels.max(initial=0)))
        if mode != "const":
            self.first_words[which] += -(-3 * (pixels if mode == "pixel" else 1) // 4)

    def mix(self, mixes: Sequence[MixPlan]) -> None:
        firsts = np.cumsum([0, *(len(plan.partners) for plan in mixes)])
        partners = np.concatenate([first + plan.partners for first, plan in zip(firsts.tolist(), mixes, strict=False)])
        lambdas = np.concatenate([plan.lambdas for plan in mixes])
        top, left, height, width = np.concatenate([plan.boxes for plan in mixes]).T.astype(np.int64)
        at = np.full(self.num_views, -1)
        at[self.numbers] = self.at
        self.launch("mix", (at, at[partners], lambdas, top, top + height, left, left + width))

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
            sides=self.sides,
            interpolation=self.views.policy.crop.interpolation,
        )


def _whole(values: np.ndarray) -> np.ndarray:
    return np.rint(values).astype(np.int64)
