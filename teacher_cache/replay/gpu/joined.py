"""Plans of several batches as one, so that a kernel is launched once for all of them; or of some views of a batch.

Entries name views' slots and places in memory that the views of a batch share: those are moved. NumPy alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from teacher_cache.replay.gpu.plan import ALIGNED, Entries, RenderPlan

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
    """What each piece's own is moved by, (pieces,) int64, and the buffer of small arrays."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        height, width = pieces[0].plan.size
        self.pieces, self.width, self.view_bytes = pieces, width, 3 * height * width
        self.parts: list[tuple[int, np.ndarray]] = []
        self.num_bytes = 0
        self.small = [piece.plan.written() for piece in pieces]
        ends = np.cumsum([len(piece.views) for piece in pieces])
        self.num_views = int(ends[-1])
        firsts = ends - [len(piece.views) for piece in pieces]
        self.slots = (firsts - [piece.views.start for piece in pieces]) * self.view_bytes
        self.seconds = np.array([piece.plan.num_views for piece in pieces]) * self.view_bytes
        tables = np.array([self._add(small) for small in self.small])
        self.moves = (
            (_PICTURES, np.array([piece.pictures for piece in pieces])),
            (_COUNTS, 768 * _begins([piece.plan.num_counts for piece in pieces])),
            (_SUMS, _begins([piece.plan.num_sums for piece in pieces])),
            (_TABLES, tables),
            (_LINES, tables // 4),
        )

    def joined(self) -> RenderPlan:
        together: dict[tuple[tuple[int, int], int, str], list[tuple[int, Entries]]] = {}
        for number, piece in enumerate(self.pieces):
            for launched in piece.plan.launches:
                rank = _KERNELS.index(launched.kernel) if launched.kernel in _KERNELS else len(_KERNELS)
                together.setdefault((launched.turn, rank, launched.kernel), []).append((number, launched))
        launches, rows, sides = [], np.zeros(0, np.int64), self.pieces[0].plan.sides[:0]
        for key in sorted(together):
            parts = together[key]
            entries, chosen = self._entries(key[2], parts)
            if key[2] == "resize":
                rows = entries[:, _ROWS]
                entries[:, _ACROSS] = _begins((rows * 3 * self.width).tolist())
                sides = np.concatenate([self.pieces[number].plan.sides for number, _ in parts])[chosen]
            if len(entries):
                most = max(launched.most_pixels for _, launched in parts)
                place = self._add(entries.reshape(-1).view(np.uint8))
                launches.append(replace(parts[0][1], place=place, num=len(entries), most_pixels=most))
        return replace(
            self.pieces[0].plan,
            num_views=self.num_views,
            num_bytes=self.num_bytes,
            parts=self.parts,
            launches=launches,
            most_rows=int(rows.max(initial=0)),
            across_bytes=int(rows.sum()) * 3 * self.width,
            num_counts=sum(piece.plan.num_counts for piece in self.pieces),
            num_sums=sum(piece.plan.num_sums for piece in self.pieces),
            sides=sides,
        )

    def _add(self, array: np.ndarray) -> int:
        """Put bytes into the buffer of small arrays. -> their place."""
        place = self.num_bytes
        self.parts.append((place, array))
        self.num_bytes += -(-array.nbytes // ALIGNED) * ALIGNED
        return place

    def _entries(self, kernel: str, parts: Sequence[tuple[int, Entries]]) -> tuple[np.ndarray, slice | np.ndarray]:
        """The entries of a kernel's launches that are of the pieces' views, moved, and which of all they are."""
        entries = np.concatenate(
            [
                self.small[number][launched.place :][: 8 * launched.num * launched.num_fields]
                for number, launched in parts
            ]
        )
        entries = entries.view(np.int64).reshape(-1, parts[0][1].num_fields)
        of = np.repeat([number for number, _ in parts], [launched.num for _, launched in parts])
        slots = () if kernel in _NO_SLOTS else _SLOTS.get(kernel, _TWO_SLOTS)
        chosen = self._chosen(kernel, parts, entries, slots)
        entries, of = entries[chosen], of[chosen]
        for slot in slots:
            places = entries[:, slot]
            moved = places + self.slots[of]
            second = places >= self.seconds[of]
            moved[second] += (self.num_views * self.view_bytes - self.seconds)[of[second]]
            entries[:, slot] = np.where(places < 0, places, moved)  # -1 is no slot
        for fields, by in self.moves:
            if kernel in fields:
                entries[:, fields[kernel]] += by[of]
        return entries, chosen

    def _chosen(
        self, kernel: str, parts: Sequence[tuple[int, Entries]], entries: np.ndarray, slots: Sequence[int]
    ) -> slice | np.ndarray:
        """Which entries are of the pieces' views: of those whose slot is one of theirs. Of what has no slot all are
        kept."""
        pieces = [self.pieces[number] for number, _ in parts]
        if not slots or all(len(piece.views) == piece.plan.num_views for piece in pieces):
            return slice(None)
        kept, first = [], 0
        for piece, (_, launched) in zip(pieces, parts, strict=True):
            numbers = entries[first : first + launched.num, slots[0]] // self.view_bytes % piece.plan.num_views
            if kernel == "mix":  # an entry for each view, of skipped ones too
                numbers = np.arange(launched.num)
            kept.append((numbers >= piece.views.start) & (numbers < piece.views.stop))
            first += launched.num
        return np.concatenate(kept)


def _begins(sizes: Sequence[int]) -> np.ndarray:
    """Where each of the things of these sizes begins, one after another, (n,) int64."""
    ends = np.cumsum(sizes, dtype=np.int64)
    return ends - np.array(sizes, np.int64)
