"""Options of the command line that several commands have."""

import click

from teacher_cache.processes import RANK_TIMEOUT_S, TIMEOUT_S

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
