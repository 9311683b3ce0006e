"""Every kernel on Triton's interpreter, at 16 to 48 pixels, against the CPU: run with TRITON_INTERPRET=1, which Triton
reads when it is imported. Prints a line a comparison, its verdict first."""

from functools import partial

import torch

from teacher_cache.replay.gpu.render import INTERPRETED, Renderer, render_blocks
from teacher_cache.replay.gpu.tables import Tables
from tests.replay import equality
from tests.replay.gpu import on_device
from tests.support import images
from tests.support.decoded import decoded_block
from tests.support.interpreter import hasten

CPU = torch.device("cpu")


def small_budget() -> equality.Compared:
    """Weights that are forgotten between batches, as their budget is full, are made again."""
    decoded = [decoded_block(equality.pictures(3, 40, 30))]
    policy = equality.policies((16, 24))["transfer"]
    renderer, forgetful = Renderer(policy, CPU), Renderer(policy, CPU)
    forgetful._tables = Tables(CPU, weights_bytes=1)
    same = [
        torch.equal(*(render_blocks(each, equality.SEED, decoded, [view]).pixels for each in (renderer, forgetful)))
        for view in range(3)
    ]
    return equality.Compared("a small budget of weights", sum(same), len(same), 0)


def main() -> None:
    assert INTERPRETED
    torch.set_num_threads(1)
    hasten()
    sources = equality.pictures(4, 50, 60)
    lines = [
        *equality.crops(sources, (48, 32), 4, partial(on_device.rendered, CPU)),
        *equality.operations(sources, (17, 28), 4, partial(on_device.rendered, CPU)),
        *equality.erasing(sources, (32, 24), 4, partial(on_device.rendered, CPU)),
        *on_device.hashes(CPU),
        *on_device.normalised(CPU),
        small_budget(),
    ]
    odd = [images.picture(number, *shape) for number, shape in enumerate([(3, 5), (9, 4), (1, 1), (70, 9)])]
    decoded = [decoded_block(sources), decoded_block(odd, frozenset({1}), 1)]
    for name, policy in equality.policies((16, 24)).items():
        lines += on_device.blocks(policy, decoded, [0, 3], name, CPU)
    several = [decoded_block(sources[:2]), decoded_block(odd[:3], frozenset({1}), 1)]
    for name in ("deit, six operations", "AutoAugment and jitter, bilinear"):  # all plans: test_joined.py
        lines += on_device.joined(equality.policies((8, 12))[name], several, [0, 3], name, CPU)
    for line in lines:
        print("equal" if line.is_equal else "UNEQUAL", *line, sep="\t")


if __name__ == "__main__":
    main()
