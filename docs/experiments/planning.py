"""What the host pays a view before a device renders it: drawing view parameters, drawing mixes, planning kernels.

    PYTHONPATH=. python docs/experiments/planning.py            # CPU only, from a checkout

Microseconds of one processor a view, medians, of the `deit` policy at 224 pixels over blocks of 64 pictures of many
sizes; beside them the view parameters drawn number by number, as tests/replay/one_by_one.py does.
"""

import argparse
import platform
import time
from collections.abc import Callable, Sequence

import numpy as np

from teacher_cache.replay.block import Block, DecodedBlock, draw_blocks, view_mix
from teacher_cache.replay.gpu.batch import Parts
from teacher_cache.replay.mix import MixPlan
from teacher_cache.replay.native.plans import plan_views
from teacher_cache.replay.policy import Policy, load_policy
from teacher_cache.replay.seeds import Stream, derive
from tests.replay.one_by_one import draw_one

SEED = 7
SAMPLES = 64  # of a block


class Sized(DecodedBlock):
    """A block whose pictures have sizes alone."""

    def __init__(self, number: int) -> None:
        keys = tuple(f"n0{number}_{position}" for position in range(SAMPLES))
        super().__init__(Block("train-0000.tar", number, keys, np.zeros(SAMPLES, np.int32), (b"",) * SAMPLES), 0)
        words = Stream(derive(SEED, "size", number)).raw(2 * SAMPLES) >> 56
        self._sizes = {position: (250 + int(words[position]), 250 + int(words[-position])) for position in range(64)}


def microseconds(call: Callable[[], object], num_views: int, repeats: int) -> float:
    call()
    found = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        found.append(1e6 * (time.process_time() - began) / num_views)
    return float(np.median(found))


def one_by_one(policy: Policy, blocks: Sequence[DecodedBlock], views: Sequence[int]) -> None:
    for decoded in blocks:
        for view in views:
            for position, key in enumerate(decoded.block.keys):
                seed, noise = (derive(SEED, purpose, decoded.block.shard, key, view) for purpose in ("view", "noise"))
                draw_one(policy, Stream(seed), decoded.image_size(position), noise)


def mixes(policy: Policy, blocks: Sequence[DecodedBlock], views: Sequence[int]) -> list[MixPlan]:
    return [
        view_mix(
            policy,
            SEED,
            shard=decoded.block.shard,
            block=decoded.block.number,
            num_samples=SAMPLES,
            skipped=frozenset(),
            view=view,
        )
        for decoded in blocks
        for view in views
    ]


def row(num_blocks: int, repeats_of_a_sample: int, repeats: int) -> str:
    policy, views = load_policy("deit"), range(repeats_of_a_sample)
    blocks = [Sized(number) for number in range(num_blocks)]
    num = num_blocks * SAMPLES * repeats_of_a_sample
    drawn, mixed = draw_blocks(policy, SEED, blocks, views), mixes(policy, blocks, views)

    def planned() -> None:
        sources = Parts(blocks, len(views), drawn.crops).sources
        plan = plan_views(drawn, np.arange(num), sources, mixed, num)
        plan.write(np.empty(plan.num_bytes, np.uint8), np.zeros((num, 2, 4), np.int64))

    took = [
        microseconds(call, num, repeats)
        for call in (
            lambda: one_by_one(policy, blocks, views),
            lambda: draw_blocks(policy, SEED, blocks, views),
            lambda: mixes(policy, blocks, views),
            planned,
        )
    ]
    cells = [num_blocks, repeats_of_a_sample, *(f"{each:.1f}" for each in (*took, sum(took[1:])))]
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}\n")
    print("| blocks | R | drawn one by one | drawn | mixes | planned, written | all but one by one |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for num_blocks in (1, 4):
        for repeats_of_a_sample in (1, 3, 16):
            print(row(num_blocks, repeats_of_a_sample, repeats), flush=True)


if __name__ == "__main__":
    main()
