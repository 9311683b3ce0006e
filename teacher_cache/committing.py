"""Labelled units -> the store, while the next is labelled: a commit is a few requests, one after the other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from teacher_cache.claims import Claims
from teacher_cache.errors import TeacherCacheError
from teacher_cache.job import Job
from teacher_cache.labelling import LabelledUnit, describe
from teacher_cache.processes.signals import Stopped
from teacher_cache.storage.ahead import Ahead
from teacher_cache.store.store import Store

DAMAGED_TOLD = 10  # by each rank


@dataclass(eq=False)
class Committing:
    """Brings whole units into a store, one at a time, while the next is labelled. Use `committing`.

    claims: of the units; None: no other matters. on_moved is called when the job has been told of one, warn with what
    was lost, and with images that a decoder warned of.
    """

    store: Store
    device: str  # that labelled them
    job: Job
    claims: Claims | None
    on_moved: Callable[[], None]
    warn: Callable[[str], None]
    _coming: tuple[LabelledUnit, Ahead[bool | None]] | None = None
    _told: set[int] = field(default_factory=set)  # damaged samples

    def begin(self, labelled: LabelledUnit) -> None:
        """Let a unit be committed once the one before is."""
        self.finish()
        self._coming = labelled, Ahead(partial(self._commit, labelled))

    def look(self) -> None:
        """Tell the job of the unit that was begun, if it is committed by now."""
        if self._coming is not None and self._coming[1].wait(0):
            self.finish()

    def finish(self) -> None:
        """Wait until the unit that was begun is committed, and tell the job."""
        if self._coming is None:
            return
        (labelled, coming), self._coming = self._coming, None
        written = coming.result()
        if written is None:
            unit = describe(self.store, labelled.unit)
            self.warn(f"{unit}: another worker has taken it, as this one stood still: its labels are lost")
            return
        if written:
            counts = labelled.counts()
            self.job.add("units", 1)
            self.job.add("labelled", counts.labelled)
            self.job.add("larger", counts.larger)
        tell_damaged(self.store, labelled, self._told, self.warn)
        self.on_moved()

    def _commit(self, labelled: LabelledUnit) -> bool | None:
        """Write a whole unit, which is claimed no more then. Whether it was written here; None where another worker has
        taken it meanwhile."""
        unit = labelled.unit
        if self.claims is not None and not self.claims.holds(unit):
            return None
        written = self.store.commit_unit(unit, labelled.values(), labelled.counts(), self.device)
        if self.claims is not None:
            self.claims.release(unit)
        return written


@contextmanager
def committing(
    store: Store,
    device: str,
    job: Job,
    claims: Claims | None,
    on_moved: Callable[[], None],
    warn: Callable[[str], None],
) -> Iterator[Committing]:
    """Nothing is on its way into the store when this is left, whatever it is left by."""
    units = Committing(store, device, job, claims, on_moved, warn)
    try:
        yield units
    except BaseException:
        with suppress(TeacherCacheError, OSError, Stopped):  # what ended the work is told
            units.finish()
        raise
    units.finish()


def tell_damaged(store: Store, labelled: LabelledUnit, told: set[int], warn: Callable[[str], None]) -> None:
    """Name the first samples whose images a decoder warned of, each once; `told` grows by all of them."""
    first = store.layout.samples(labelled.unit).start
    shard = store.shard_name(labelled.unit.shard)
    for row, words in sorted(labelled.damaged.items()):
        if first + row in told:
            continue
        told.add(first + row)
        if len(told) <= DAMAGED_TOLD:
            key = store.index.key(first + row)
            warn(
                f"shard {shard}, key {key}: {words}; it is labelled as Pillow decodes it: restore the image if you can"
            )
        elif len(told) == DAMAGED_TOLD + 1:
            warn("more images are damaged: `teacher-cache status` counts their views")
