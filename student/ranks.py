"""What ranks must have in common: their gradients are averaged, whatever each has trained, and their counts added up,
whatever each has counted.
"""

from collections.abc import Mapping
from typing import Any

from teacher_cache.errors import RecipeError
from teacher_cache.job import Job
from teacher_cache.messages.shown import shown


def check_same(job: Job, ours: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse, on all ranks, what is not the same on each: RecipeError with the part and field of `ours`, and the rank.
    Every rank must call it."""
    first, *others = job.gather(ours, "the start")
    for rank, theirs in enumerate(others, start=1):
        for part, fields in first.items():
            for field in sorted(fields.keys() | theirs[part].keys()):
                here, there = fields.get(field), theirs[part].get(field)
                if here != there:
                    raise RecipeError(
                        f"rank {rank} has {part} {field} = {shown(str(there))}, the first rank has "
                        f"{shown(str(here))}: start all ranks by the same command, on the same store, shards and "
                        "checkpoint"
                    )
