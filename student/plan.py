"""The exact order of (sample, view) in which a rank trains: a pure function of settings, blocks and epoch.

A pass shuffles all blocks; epoch k of the R epochs of a pass takes the k-th of R equal parts of its samples, each with
R views. That sequence, cut to whole global batches, is shared out among the ranks in contiguous parts (so each image is
decoded once for its R views), and a shuffle pool decides in which order a rank's part is trained.

Everything is integer arithmetic over raw random words: the same order on every machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from student.faults import Fault, refuse
from teacher_cache.errors import PlanError
from teacher_cache.messages.shown import counted
from teacher_cache.replay.seeds import Stream, derive
from teacher_cache.storage.place import as_place
from teacher_cache.store.layout import enumerate_blocks

Order = Literal["apart", "together"]
STEPS_OFFERED = 8  # of an epoch, under the batch that is offered instead of one that is too large


@dataclass(frozen=True)
class PlanSettings:
    """What a plan depends on besides the blocks. batch_size is global; R is `repeats`.

    order "together" keeps a sample's R views next to each other, "apart" shuffles them singly.
    """

    seed: int
    batch_size: int
    world_size: int
    rank: int
    repeats: int
    order: Order
    views_in_use: int
    pool_batches: int

    @property
    def local_batch(self) -> int:
        """Views of one rank in a global batch."""
        return self.batch_size // self.world_size

    @property
    def pool_atoms(self) -> int:
        """Atoms in a rank's shuffle pool: samples with their views where they stay together, else single views."""
        views = self.pool_batches * self.batch_size // self.world_size
        return max(1, views // self.repeats if self.order == "together" else views)


@dataclass(frozen=True, eq=False)
class Blocks:
    """All blocks of an index, enumerated shard by shard. B blocks hold n samples; skipped samples are left out.

    samples (n,) int64: global sample numbers; block b holds samples[starts[b]:starts[b + 1]], perhaps none.
    first (B,) int64: global number of the sample at position 0. shards, numbers (B,) int64: a block's shard, and its
    number there.
    """

    samples: np.ndarray
    starts: np.ndarray
    first: np.ndarray
    shards: np.ndarray
    numbers: np.ndarray

    @property
    def num_samples(self) -> int:
        return len(self.samples)


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """One epoch of one rank: T views, `steps` batches of local_batch.

    samples, views (T,) int64: the base sequence, in which blocks are rendered. order (T,) int64: the t-th view trained
    is number order[t] of the base sequence. Task i renders block task_blocks[i] for the base sequence's
    task_starts[i]:task_starts[i + 1]; no block has two tasks.
    """

    epoch: int
    samples: np.ndarray
    views: np.ndarray
    order: np.ndarray
    task_starts: np.ndarray
    task_blocks: np.ndarray
    steps: int
    local_batch: int


@dataclass(frozen=True, eq=False)
class BlockTask:
    """A block to render at `views`, ascending, and the m items of the base sequence that come from it.

    Item bases[i] of the base sequence is position positions[i] of the block at view item_views[i]; all (m,) int64.
    """

    block: int
    shard: int
    number: int
    views: tuple[int, ...]
    bases: np.ndarray
    positions: np.ndarray
    item_views: np.ndarray


def pass_blocks(counts: np.ndarray, skipped: np.ndarray | None = None) -> Blocks:
    """Enumerate the blocks of shards of counts (S,) samples. skipped: global numbers of the samples to leave out."""
    counts = np.asarray(counts, dtype=np.int64)
    shards, numbers, first = enumerate_blocks(counts)
    kept = np.ones(int(counts.sum()), dtype=bool)
    if skipped is not None:
        kept[np.asarray(skipped, dtype=np.int64)] = False
    kept_before = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
    starts = kept_before[np.append(first, len(kept))]
    return Blocks(np.flatnonzero(kept), starts, first, shards, numbers)


def check_settings(settings: PlanSettings, blocks: Blocks, store_views: int, store: str = "STORE") -> None:
    """Refuse, with PlanError, settings that cannot be planned on these blocks. store: its path, for messages."""
    refuse(plan_faults(settings, blocks.num_samples, store_views, store))


def plan_faults(settings: PlanSettings, num_samples: int, store_views: int, store: str) -> Iterator[Fault]:
    """Everything about settings that cannot be planned. What mends one fault is taken for granted in the next."""
    batch, world_size = settings.batch_size, settings.world_size
    repeats, views = settings.repeats, settings.views_in_use
    if batch < 1 or repeats < 1 or settings.pool_batches < 0:
        pool = counted(settings.pool_batches, "batch")
        found = f"batch {batch}, repeats {repeats} and a pool of {pool} cannot be planned"
        yield Fault(PlanError, found, advice="batch and repeats start at 1, the pool at 0")
        return
    if not 0 <= settings.rank < world_size:
        yield Fault(
            PlanError, f"rank {settings.rank} is not one of {counted(world_size, 'rank')}", advice="ranks count from 0"
        )
    if not 1 <= views <= store_views:
        found = f"--views-used {views} is not within the store's 1 to {store_views}"
        more = f"`teacher-cache extend {as_place(store)} --views N` adds some"
        yield Fault(PlanError, found, ("--views-used", str(store_views)), more)
        views = store_views
    if (most := min(views, num_samples)) < repeats:
        found = (
            f"{counted(repeats, 'repeat', 'needs')} as many views of a sample, {counted(views, 'view', 'is')} in use"
        )
        if most < views:
            few = counted(num_samples, "sample", "is")
            found = f"{counted(repeats, 'repeat', 'is')} shared out among as many epochs: {few} too few"
        more = f"use more views; `teacher-cache extend {as_place(store)} --views N` adds some" if most == views else ""
        yield Fault(PlanError, found, ("--set", f"repeats={most}") if most else (), more)
        repeats = most
    yield from _batch_faults(batch, world_size, num_samples, num_samples // max(1, repeats) * repeats)


def _batch_faults(batch: int, world_size: int, num_samples: int, shortest: int) -> Iterator[Fault]:
    """A global batch that ranks do not divide, or that an epoch of `shortest` views does not fill."""
    if shortest < world_size:
        found = (
            f"an epoch has {counted(shortest, 'view')} ({counted(num_samples, 'sample')}), fewer than "
            f"{counted(world_size, 'rank')}"
        )
        yield Fault(PlanError, found, advice="train with fewer ranks, or on more samples")
        return
    rounded = -(-batch // world_size) * world_size
    fitting = rounded if rounded <= shortest else _offered_batch(world_size, shortest)
    mend = ("--set", f"batch_size={fitting}")
    if batch % world_size:
        yield Fault(
            PlanError, f"a global batch of {batch} cannot be shared out among {counted(world_size, 'rank')}", mend
        )
    if shortest < rounded:
        found = (
            f"an epoch has {counted(shortest, 'view')} ({counted(num_samples, 'sample')}), less than "
            f"one global batch of {batch}"
        )
        yield Fault(PlanError, found, mend)


def _offered_batch(world_size: int, shortest: int) -> int:
    """The largest power of two, times the ranks, of which an epoch has STEPS_OFFERED; one view a rank at least."""
    each = max(1, shortest // STEPS_OFFERED // world_size)
    return world_size * 2 ** (each.bit_length() - 1)


def epoch_steps(settings: PlanSettings, blocks: Blocks, epoch: int) -> int:
    """Number of global batches of an epoch. Epochs of one pass may differ by one sample, hence by a batch."""
    start, stop = _part(blocks.num_samples, settings.repeats, epoch % settings.repeats)
    return (stop - start) * settings.repeats // settings.batch_size


def views_needed(epochs: int, repeats: int, views_in_use: int) -> list[int]:
    """The views that training will read, ascending: R a pass of R epochs, as far as there are so many."""
    return list(range(min(num_views_read(epochs, repeats), views_in_use)))


def reuse_warning(epochs: int, repeats: int, views_in_use: int) -> str | None:
    """What to say when views are used again; None when each is trained on once at most."""
    read = num_views_read(epochs, repeats)
    if read <= views_in_use:
        return None
    need = "needs" if epochs == 1 else "need"
    return (
        f"{counted(epochs, 'epoch')} with {counted(repeats, 'repeat')} {need} {counted(read, 'view')} of a sample, "
        f"{counted(views_in_use, 'view', 'is')} in use: each is "
        f"trained on up to {counted(-(-read // views_in_use), 'time')}; `teacher-cache extend` adds more"
    )


def epoch_plan(settings: PlanSettings, blocks: Blocks, epoch: int) -> EpochPlan:
    """Plan one rank's epoch. The settings are those that check_settings accepts."""
    repeats, n = settings.repeats, blocks.num_samples
    number, part = divmod(epoch, repeats)
    start, stop = _part(n, repeats, part)
    num_views = (stop - start) * repeats // settings.batch_size * settings.batch_size // settings.world_size

    # this rank's items, numbered along the whole pass: sample-major, a sample's R views adjacent
    items = start * repeats + settings.rank * num_views + np.arange(num_views)
    pass_samples, pass_blocks = _pass_sequence(settings.seed, blocks, number)
    places, repeat = np.divmod(items, repeats)
    item_blocks = pass_blocks[places]
    task_starts = np.append(_run_starts(item_blocks), num_views)
    return EpochPlan(
        epoch=epoch,
        samples=pass_samples[places],
        views=(number * repeats + repeat) % settings.views_in_use,
        order=_pooled_order(settings, epoch, places),
        task_starts=task_starts,
        task_blocks=item_blocks[task_starts[:-1]],
        steps=num_views // settings.local_batch,
        local_batch=settings.local_batch,
    )


def block_tasks(plan: EpochPlan, blocks: Blocks, first_step: int = 0) -> Iterator[BlockTask]:
    """What to render for the epoch's batches from first_step on, in the order of the base sequence."""
    wanted = np.ones(len(plan.order), dtype=bool)
    wanted[plan.order[: first_step * plan.local_batch]] = False
    for task, block in enumerate(plan.task_blocks.tolist()):
        bases = np.arange(plan.task_starts[task], plan.task_starts[task + 1])
        bases = bases[wanted[bases]]
        if len(bases):
            item_views = plan.views[bases]
            yield BlockTask(
                block=block,
                shard=int(blocks.shards[block]),
                number=int(blocks.numbers[block]),
                views=tuple(np.unique(item_views).tolist()),
                bases=bases,
                positions=plan.samples[bases] - blocks.first[block],
                item_views=item_views,
            )


def pool_order(num_atoms: int, capacity: int, stream: Stream) -> np.ndarray:
    """The order in which a steady shuffle pool emits atoms 0..num_atoms-1, int64.

    The pool starts with the first `capacity` atoms in its slots. A draw picks a slot, emits what is in it, and puts the
    sequence's next atom there; once there is no next one, what is left comes in uniform random order.
    """
    capacity = min(capacity, num_atoms)
    num_draws = num_atoms - capacity
    slots = (stream.raw(num_draws) >> np.uint64(32)) * np.uint64(capacity) >> np.uint64(32)
    slots = slots.astype(np.uint16 if capacity <= 1 << 16 else np.int64)  # NumPy sorts 16 bits by radix
    # what a draw finds in its slot was put there by the slot's draw before, else at the start
    by_slot = np.argsort(slots, kind="stable")
    sorted_slots = slots[by_slot]
    follows = np.zeros(num_draws, dtype=bool)  # in slot order: not its slot's first draw
    follows[1:] = sorted_slots[1:] == sorted_slots[:-1]
    found = sorted_slots.astype(np.int64)
    found[follows] = capacity + by_slot[:-1][follows[1:]]
    drawn = np.empty(num_draws, dtype=np.int64)
    drawn[by_slot] = found
    left = np.arange(capacity)
    last_draws = by_slot[np.append(~follows[1:], True)[:num_draws]]
    left[slots[last_draws]] = capacity + last_draws
    return np.concatenate([drawn, left[stream.permutation(capacity)]])


def _pooled_order(settings: PlanSettings, epoch: int, places: np.ndarray) -> np.ndarray:
    """Order of training of a rank's items; places (T,): which sample of the pass an item shows."""
    # the world size is not needed in the identity: ranks of one run must differ, runs need not
    stream = Stream(derive(settings.seed, "plan", "pool", epoch, settings.rank))
    if settings.order == "apart":
        return pool_order(len(places), settings.pool_atoms, stream)
    starts = _run_starts(places)  # a sample that the rank's part cuts is a shorter atom
    lengths = np.diff(np.append(starts, len(places)))
    emitted = pool_order(len(starts), settings.pool_atoms, stream)
    return _ranges(starts[emitted], lengths[emitted])


def _pass_sequence(seed: int, blocks: Blocks, number: int) -> tuple[np.ndarray, np.ndarray]:
    """A pass's samples in order, and the block of each; both (n,) int64."""
    sizes = np.diff(blocks.starts)
    shuffled = Stream(derive(seed, "plan", "pass", number)).permutation(len(sizes))
    samples = blocks.samples[_ranges(blocks.starts[:-1][shuffled], sizes[shuffled])]
    return samples, np.repeat(shuffled, sizes[shuffled])


def _part(num_samples: int, repeats: int, part: int) -> tuple[int, int]:
    """Where the part-th of R parts of a pass starts and stops, in samples."""
    return part * num_samples // repeats, (part + 1) * num_samples // repeats


def num_views_read(epochs: int, repeats: int) -> int:
    """Views of a sample that training wants, each used once: R a pass of R epochs."""
    return repeats * -(-epochs // repeats)


def _run_starts(values: np.ndarray) -> np.ndarray:
    """Where runs of equal values start, int64."""
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    return np.concatenate([np.zeros(min(1, len(values)), dtype=np.int64), changes])


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """starts[0], starts[0] + 1, ... (lengths[0] of them), then starts[1], ...; int64."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)
