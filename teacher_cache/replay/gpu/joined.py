"""Plans of several batches as one, so that a kernel is launched once for all of them; or of some views of a batch.

Entries name views' slots and places in memory that the views of a batch share: those are moved. NumPy alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from teacher_cache.replay.gpu.plan import Entries, RenderPlan

# Where entries name a view's slot, and so what else lies elsewhere in a joined plan.
_SLOTS = {"resize": (16,), "count_levels": (0,), "sum_grey": (0,), "erase": (0,)}
_NO_SLOTS = ("tables_of_counts", "tables_of_sums")  # which go by the place of their counts or sums
_TWO_SLOTS = (0, 1)  # of all other kernels
_PICTURES = {"resize": 0}
_COUNTS = {"count_levels": 1, "tables_of_counts": 0}
_SUMS = {"sum_grey": 1, "tables_of_sums": 0}
_TABLES = {"tables_of_counts": 1, "tables_of_sums": 1, "look_up": 2}  # in bytes
_LINES = {"move_rows": 2, "move_columns": 2}  # in int32
_ROWS, _ACROSS = 2, 7  # of a resize's entry
_KERNELS = ("count_levels", "sum_grey", "tables_of_counts", "tables_of_sums")  # before those that read the tables


@dataclass(frozen=True)
class Piece:
    """Some of a plan's views, whole runs of them that follow one another. pictures: where in the joined batch's buffer
    of pictures the plan's own begin."""

    plan: RenderPlan
    views: range
    pictures: int = 0


def join_plans(pieces: Sequence[Piece]) -> RenderPlan:
    """One plan of pieces of plans of a policy; its views are theirs in order."""
    (first, *more) = pieces
    if not more and len(first.views) == first.plan.num_views and not first.pictures:
        return first.plan
    return _Joiner(pieces).joined()


class _Joiner:
    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = pieces
        height, width = pieces[0].plan.size
        self.width, self.view_bytes = width, 3 * height * width
        self.num_views = sum(len(piece.views) for piece in pieces)
        self.parts: list[tuple[int, np.ndarray]] = []
        self.num_bytes = 0

    def add(self, array: np.ndarray) -> int:
        """Put an array of whole 8 bytes into the buffer of small arrays. -> its place."""
        place = self.num_bytes
        self.parts.append((place, array))
        self.num_bytes += -(-array.nbytes // 16) * 16
        return place

    def joined(self) -> RenderPlan:
        found: dict[tuple[tuple[int, int], int, str], list[tuple[Entries, np.ndarray]]] = {}
        sides, first, num_counts, num_sums = [], 0, 0, 0
        for piece in self.pieces:
            plan, small = piece.plan, piece.plan.written()
            moved = _Moved(piece, first, self.num_views, self.view_bytes, self.add(small), num_counts, num_sums)
            for launched in plan.launches:
                entries, chosen = moved.entries(launched, small)
                if launched.kernel == "resize":
                    sides.append(plan.sides[chosen])
                if len(entries):
                    rank = _KERNELS.index(launched.kernel) if launched.kernel in _KERNELS else len(_KERNELS)
                    found.setdefault((launched.turn, rank, launched.kernel), []).append((launched, entries))
            first += len(piece.views)
            num_counts += plan.num_counts
            num_sums += plan.num_sums
        resized = [entries for key, each in found.items() if key[2] == "resize" for _, entries in each]
        rows = np.concatenate([entries[:, _ROWS] for entries in resized]) if resized else np.zeros(0, np.int64)
        across = np.cumsum(rows * 3 * self.width)
        self._place_across(resized, across - rows * 3 * self.width)
        launches = [self._launch(found[key]) for key in sorted(found)]
        return replace(
            self.pieces[0].plan,
            num_views=self.num_views,
            num_bytes=self.num_bytes,
            parts=self.parts,
            launches=launches,
            most_rows=int(rows.max(initial=0)),
            across_bytes=int(across[-1]) if len(across) else 0,
            num_counts=num_counts,
            num_sums=num_sums,
            sides=np.concatenate(sides) if sides else self.pieces[0].plan.sides[:0],
        )

    def _place_across(self, resized: Sequence[np.ndarray], places: np.ndarray) -> None:
        first = 0
        for entries in resized:
            entries[:, _ACROSS] = places[first : first + len(entries)]
            first += len(entries)

    def _launch(self, parts: Sequence[tuple[Entries, np.ndarray]]) -> Entries:
        entries = np.concatenate([each for _, each in parts])
        most_pixels = max(launched.most_pixels for launched, _ in parts)
        place = self.add(entries.reshape(-1).view(np.uint8))
        return replace(parts[0][0], place=place, num=len(entries), most_pixels=most_pixels)


@dataclass(frozen=True)
class _Moved:
    """Where a piece lies in what is joined: its first view, its small arrays, its counts and sums."""

    piece: Piece
    first: int
    num_views: int
    view_bytes: int
    small: int
    num_counts: int
    num_sums: int

    def entries(self, launched: Entries, small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The entries of a launch that are of the piece's views, a copy, and which of all they are."""
        kernel, num = launched.kernel, launched.num
        entries = small[launched.place :].view(np.int64)[: num * launched.num_fields].reshape(num, -1).copy()
        slots = () if kernel in _NO_SLOTS else _SLOTS.get(kernel, _TWO_SLOTS)
        chosen = np.ones(num, bool)
        if kernel == "mix":  # an entry for each view, skipped ones too
            chosen = np.isin(np.arange(num), self.piece.views)
        elif slots:
            chosen = np.isin(entries[:, slots[0]] // self.view_bytes % self.piece.plan.num_views, self.piece.views)
        entries = entries[chosen]
        for slot in slots:
            entries[:, slot] = self._slot(entries[:, slot])
        for places, by in (
            (_PICTURES, self.piece.pictures),
            (_COUNTS, 768 * self.num_counts),
            (_SUMS, self.num_sums),
            (_TABLES, self.small),
            (_LINES, self.small // 4),
        ):
            if kernel in places:
                entries[:, places[kernel]] += by
        return entries, chosen

    def _slot(self, places: np.ndarray) -> np.ndarray:
        """Places in views' slots; -1 stays, which is no slot."""
        of_all = self.piece.plan.num_views * self.view_bytes
        second = places >= of_all
        moved = places + (self.first - self.piece.views.start) * self.view_bytes
        return np.where(places < 0, places, moved + second * (self.num_views * self.view_bytes - of_all))
