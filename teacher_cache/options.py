"""Options of the command line that several commands have."""

import math
from typing import Any

import click

from teacher_cache.processes import RANK_TIMEOUT_S, TIMEOUT_S


class FiniteRange(click.FloatRange):
    """Numbers of a range; nan, which click lets into any, is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number", param, ctx)
        return number


SECONDS = click.IntRange(1, 7 * 24 * 3600)

worker_timeout_option = click.option(
    "--worker-timeout",
    "worker_timeout_s",
    default=int(TIMEOUT_S),
    show_default=True,
    type=SECONDS,
    metavar="SECONDS",
    help="A rendering process that gives no picture for so long is taken to hang.",
)
rank_timeout_option = click.option(
    "--rank-timeout",
    "rank_timeout_s",
    default=int(RANK_TIMEOUT_S),
    show_default=True,
    type=SECONDS,
    metavar="SECONDS",
    help="Under torchrun: without a sign of the other ranks for so long, one of them is taken to hang.",
)
device_option = click.option(
    "--device", help="cpu, cuda (under torchrun each rank's own), or cuda:N.  [default: a GPU if there is one]"
)
